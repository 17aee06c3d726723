"""Primitives that are lowered differently for a single CPU device than for anything else."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import mlir


def register_lowerings(
    primitive: Primitive, *, single_cpu: Callable[..., Any], elsewhere: Callable[..., Any]
) -> None:
    """Gives a primitive one program for a single CPU device and another one for all else.

    Args:
      primitive: the primitive.
      single_cpu: a traceable function of the primitive's operands and parameters.
      elsewhere: another one, for several CPU devices and for all other platforms.
    """
    several = primitive.multiple_results
    rule_elsewhere = mlir.lower_fun(elsewhere, multiple_results=several)
    rule_single_cpu = mlir.lower_fun(single_cpu, multiple_results=several)

    def rule_cpu(ctx, *operands, **params):
        rule = rule_single_cpu if _num_devices(ctx) == 1 else rule_elsewhere
        return rule(ctx, *operands, **params)

    mlir.register_lowering(primitive, rule_elsewhere)
    mlir.register_lowering(primitive, rule_cpu, platform="cpu")


def _num_devices(ctx: mlir.LoweringRuleContext) -> int:
    """How many devices run the program: those of the mesh inside `shard_map`, else those of jit."""
    context: Any = ctx.module_context.axis_context
    mesh = getattr(context, "mesh", None)
    return context.num_devices if mesh is None else mesh.size
