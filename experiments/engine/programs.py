"""The compiled programs of a plan; runs with equal plans share them."""

import functools
from typing import Any

import jax

from experiments.engine import steps
from experiments.engine.plan import Plan, hyper_of
from flatjax import models


class Programs:
    """The functions of `steps` for one plan, compiled when they are first called.

    Attributes:
      plan: static part of the runs.
      init: function (hyper, seed) -> state.
      draw: function (seed, epoch) -> random choices of an epoch.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        init = functools.partial(steps.init_state, plan)
        self._like = jax.eval_shape(init, hyper_of(plan.config), 0)
        self.init = plan.placement.jit_init(init, self._like)
        draw = functools.partial(steps.draw_epoch, plan)
        self.draw = plan.placement.jit_draw(draw, jax.eval_shape(draw, 0, 0))

    @functools.cached_property
    def order(self) -> Any:
        """Draws the order of an epoch for the host: (seed, epoch) -> positions."""
        return jax.jit(functools.partial(steps.epoch_order, self.plan))

    @functools.cached_property
    def step(self) -> Any:
        """Makes one step: (hyper, state, train, draw) -> (state, losses)."""
        fn = functools.partial(steps.train_next, self.plan)
        return self.plan.placement.jit_training(fn, self._like)

    @functools.cached_property
    def steps(self) -> Any:
        """Makes up to an epoch of steps in one program; see `steps.train_steps`."""
        fn = functools.partial(steps.train_steps, self.plan)
        return self.plan.placement.jit_training(fn, self._like)

    @functools.cached_property
    def coupling(self) -> Any:
        """Measures the coupling: (hyper, state) -> numbers."""
        return jax.jit(functools.partial(steps.coupling, self.plan))


# Studies use many plans; the oldest programs are dropped.
programs_of = functools.lru_cache(maxsize=32)(Programs)


@functools.lru_cache(maxsize=32)
def loops_on_device(plan: Plan) -> bool:
    """Whether many steps make one program, or each step its own."""
    # XLA's own convolutions are about ten times slower on a CPU inside a loop than outside.
    if jax.default_backend() != "cpu":
        return True
    hyper = hyper_of(plan.config)
    state = jax.eval_shape(functools.partial(steps.init_state, plan), hyper, 0)
    draw = jax.eval_shape(functools.partial(steps.draw_epoch, plan), 0, 0)
    train = plan.objective.problem.split_struct(plan.examples_shape)
    step = functools.partial(steps.train_next, plan)
    return not models.contains_convolution(step, hyper, state, train, draw)


def train_together() -> bool:
    """Whether a population trains all runs in one program, or one run after another."""
    # The weights of a single network stay in the caches of a CPU. For the MLP 784-256-256-10 and
    # batches of 32, one core takes 0.27 ms for a step of SGD alone, and 0.47 for each of 20
    # networks together. Networks of a hundredth of the size take as long alone as together.
    return jax.default_backend() != "cpu"
