"""Every test sees eight virtual CPU devices, and programs that are compiled quickly.

Most of the tests' time is compilation: with fewer optimizations and the older emitters of loops
they take half of it, and nothing that they check depends on them. Processes that
tests start inherit it. Set before the first use of a backend.

FLATJAX_TEST_DEFAULTS=1 leaves the flags and the number of devices as users have them: one device,
and all optimizations. Tests that need more devices (`devices`) are then skipped.
"""

import functools
import gc
import itertools
import os
import tempfile

import jax
import jaxlib
import pytest
from jax._src.interpreters import mlir

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


def share_contexts(programs=100):
    """Lower so many programs in the same context of MLIR, which jax makes anew for each program.

    Making one registers some thousand operations: about 8 ms, a third of the time of a small
    program. A context keeps the constants of its programs, so that it is replaced at times. This
    is a private function of jax, and tests pass without it.
    """
    make, numbers = mlir.make_ir_context, itertools.count()
    contexts = functools.lru_cache(maxsize=1)(lambda _: make())
    mlir.make_ir_context = lambda: contexts(next(numbers) // programs)


if os.environ.get("FLATJAX_TEST_DEFAULTS", "0") != "1" and hasattr(mlir, "make_ir_context"):
    share_contexts()


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
        gc.enable()


COMPILE_MUCH = ("committee", "data", "flatness", "gaussian_mixture", "models")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Examples in docstrings are slow in the packages where each compiles programs of its own."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.path.parent.name in COMPILE_MUCH:
            item.add_marker(pytest.mark.slow)
