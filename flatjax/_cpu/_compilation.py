"""Compiler options for programs that run once, such as an initialisation.

XLA's CPU backend spends most of the time of such a program on LLVM's optimizations of random
numbers. At a lower level of optimization a ResNet-18 is initialised in 7 seconds of CPU time
instead of 43 (jax 0.10, x86). The values are the same bit for bit. The option can be removed when
`jax.jit(init)` compiles as fast without it.
"""

import os

import jax

_OPTION = "xla_backend_optimization_level"


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
    if jax.default_backend() != "cpu" or _OPTION in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {_OPTION: 1}
