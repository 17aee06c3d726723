"""Primitives that have a different program on a single CPU or GPU than elsewhere."""

from collections.abc import Callable
from typing import Any

from jax.extend.core import Primitive
from jax.interpreters import mlir


def register_lowerings(
    primitive: Primitive,
    *,
    single_cpu: Callable[..., Any],
    elsewhere: Callable[..., Any],
    single_gpu: Callable[..., Any] | None = None,
) -> None:
    """Gives a primitive a program for a single CPU or GPU, and one for all else.

    Args:
      primitive: the primitive.
      single_cpu: a traceable function of the primitive's operands and parameters.
      elsewhere: another function, for several devices and for all other platforms.
      single_gpu: a third function, for a single NVIDIA GPU; None for `elsewhere`.
    """
    lower = lambda fn: mlir.lower_fun(fn, multiple_results=primitive.multiple_results)
    rule_elsewhere = lower(elsewhere)
    mlir.register_lowering(primitive, rule_elsewhere)
    for platform, fn in (("cpu", single_cpu), ("cuda", single_gpu)):
        if fn is not None:
            rule = _by_number(lower(fn), rule_elsewhere)
            mlir.register_lowering(primitive, rule, platform=platform)


def _by_number(rule_single, rule_several):
    def rule(ctx, *operands, **params):
        chosen = rule_single if _num_devices(ctx) == 1 else rule_several
        return chosen(ctx, *operands, **params)

    return rule


def _num_devices(ctx: mlir.LoweringRuleContext) -> int:
    """Returns the number of devices: of the mesh inside `shard_map`, else of jit."""
    context: Any = ctx.module_context.axis_context
    mesh = getattr(context, "mesh", None)
    return context.num_devices if mesh is None else mesh.size
