"""Compiler options for programs that run once, such as an initialisation.

XLA's CPU backend spends most of the time of such a program on LLVM's optimizations of random
numbers. At a lower level of optimization a ResNet-18 is initialised in 7 seconds of CPU time
instead of 43 (jax 0.10, x86). The rest is mostly the time to compile a small loop for each shape.
Without the "fusion emitters" of jax 0.10 this takes a third of the time (18 to 24 s instead of 53 s
for PyramidNet-272). jax 0.11 does not have this option. The values are the same bit for bit. The
options can be removed when `jax.jit(init)` compiles as fast without them.
"""

import functools
import os

import jax

_LEVEL = "xla_backend_optimization_level"
_OPTIONS = {_LEVEL: 1, "xla_cpu_use_fusion_emitters": False}


def compiled_once() -> dict[str, int]:
    """Options for `jax.jit(..., compiler_options=...)`; none elsewhere than on a CPU.

    A level in the environment variable XLA_FLAGS stays.

    Examples:
      >>> import jax
      >>> from flatjax import _cpu
      >>> program = jax.jit(jax.random.normal, compiler_options=_cpu.compiled_once())
      >>> program(jax.random.key(0)).shape
      ()
    """
    if jax.default_backend() != "cpu" or _LEVEL in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {name: value for name, value in _OPTIONS.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: int) -> bool:
    """Whether XLA has the option; with an unknown one it refuses to compile."""
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
