"""Every test sees eight virtual CPU devices; most compile without optimization, in less time."""

import re

import jax
import pytest

# Set before the first use of a backend.
jax.config.update("jax_num_cpu_devices", 8)

# Where arithmetic itself is tested, or programs run for longer than they compile.
OPTIMIZED = re.compile(r"test_(against_numpy|compiler|committee|gaussian_mixture|local_entropy)")


@pytest.fixture(autouse=True)
def _compilation(request):
    optimized = OPTIMIZED.match(request.path.name)
    jax.config.update("jax_disable_most_optimizations", not optimized)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
