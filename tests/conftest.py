"""Every test sees eight virtual CPU devices, and programs that are compiled quickly.

Most of the tests' time is compilation: with fewer optimizations and the older emitters of loops
they take half of it, and nothing that they check depends on them. Processes that
tests start inherit it. Set before the first use of a backend.

FLATJAX_TEST_DEFAULTS=1 leaves the flags and the number of devices as users have them: one device,
and all optimizations. Tests that need more devices (`devices`) are then skipped.
"""

import gc
import os
import tempfile

import jax
import jaxlib
import pytest
from private import read_no_sources, share_contexts

if os.environ.get("FLATJAX_TEST_DEFAULTS", "0") != "1":
    FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
    FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]  # programs are small
    if jaxlib.__version__.startswith("0.10."):  # later ones have the new emitters only
        FLAGS.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(FLAGS)
    jax.config.update("jax_num_cpu_devices", 8)
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # lowering takes a tenth less
    jax.config.update("jax_traceback_in_locations_limit", 0)
    # Without a folder for it, the key of each program would be computed all the same.
    has_folder = jax.config.jax_compilation_cache_dir is not None
    jax.config.update("jax_enable_compilation_cache", has_folder)
    share_contexts()

read_no_sources()


@pytest.fixture(scope="session", autouse=True)
def _temporary_folder(tmp_path_factory):
    """Temporary files of libraries, here and in processes that tests start, go with pytest's."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """What is imported stays, and the garbage collector need not look through it ever again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # traces are many short-lived objects
        gc.enable()


COMPILE_MUCH = ("committee", "data", "flatness", "gaussian_mixture", "models")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Examples in docstrings are slow in the packages where each compiles programs of its own."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.path.parent.name in COMPILE_MUCH:
            item.add_marker(pytest.mark.slow)
