"""Compiler options for a program that runs once, such as the initialisation of a network.

XLA's CPU backend spends most of such a program's time on LLVM's optimizations of random numbers.
With fewer of them a network of two convolutions is initialised in 3 seconds of CPU time instead of
18, and a ResNet-18 is compiled in 7 instead of 43, with the same values bit for bit (jax 0.10,
x86). It can go when `jax.jit(init)` compiles as fast without.
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
