"""Every test sees eight virtual CPU devices; set before the first use of a backend."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
