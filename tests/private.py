"""Replaces private functions of other packages, whose work takes a sixth of the tests' time.

Tests pass without this. A package that no longer has such a function is left as it is.
"""

import functools
import importlib
import itertools
import threading


def replace(module, name, make):
    """Replaces a function by that which `make` returns for it, if the module has it."""
    try:
        found = importlib.import_module(module)
    except ImportError:
        return
    if hasattr(found, name):
        setattr(found, name, make(found, getattr(found, name)))


def share_contexts(programs=100):
    """Lowers so many programs in the same context of MLIR; jax makes one for each program.

    Making one registers some thousand operations: about 8 ms, a third of the time of a small
    program. A context keeps the constants of its programs, so that it is replaced at times.
    """

    def shared(_, make):
        numbers = itertools.count()
        contexts = functools.lru_cache(maxsize=4)(lambda thread, number: make())
        return lambda: contexts(threading.get_ident(), next(numbers) // programs)

    replace("jax._src.interpreters.mlir", "make_ir_context", shared)


def read_no_sources():
    """Lets Hypothesis draw no numbers from the sources of the modules that are imported.

    It would parse these, 20 seconds of each run, and examples would depend on the tests that ran
    before.
    """
    nothing = lambda module, _: lambda: module._local_constants
    replace("hypothesis.internal.conjecture.providers", "_get_local_constants", nothing)
