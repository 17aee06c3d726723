"""Every test sees eight virtual CPU devices, and programs that are compiled quickly.

Most of the tests' time is compilation: with fewer optimizations they take about two thirds of it,
and nothing that they check depends on them. (With none at all, XLA 0.10.1 makes NaN of a training
step with batch norm.) Processes that tests start inherit it. Set before the first use of a backend.
"""

import os

import jax

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1"
jax.config.update("jax_num_cpu_devices", 8)
