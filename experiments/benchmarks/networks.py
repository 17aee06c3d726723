"""Compile time, step time and operations of every network of the paper's table."""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.benchmarks.machine import describe_machine
from experiments.configs.deep import ROWS, row_of
from experiments.engine import console
from experiments.report.store import read_if_there, write_json
from experiments.report.tables import markdown_table
from experiments.studies.reproduce.costs import RECORD, Cost, flops_per_example
from experiments.studies.reproduce.description import Row
from flatjax._cpu import compiled_once
from flatjax.models._network import Network, make_network


@dataclasses.dataclass(frozen=True)
class Networks:
    """Time a step of SGD and of Replicated-SGD for each full network.

    `python -m experiments reproduce --table` estimates hours from the results. Each network is
    written when it is measured; networks that are already in --out are not timed again.

    Example: python -m experiments.benchmarks.networks --rows cifar10-resnet18 --out costs.json
    """

    rows: tuple[str, ...] = tuple(ROWS)
    """Names of rows of the table."""
    replicas: int = 3
    """y, the number of replicas of Replicated-SGD."""
    batch_size: int = 8
    """Images in each gradient; few, so that the largest networks fit a small machine."""
    steps: int = 3
    """Number of timed steps; the fastest counts. 0 counts operations and compiles nothing."""
    out: pathlib.Path = RECORD
    """JSON file of the costs."""

    def run(self) -> None:
        """Times the missing networks and prints the table."""
        costs = (read_if_there(self.out) or {"costs": {}})["costs"]
        for name in self.rows:
            if name not in costs or (self.steps and costs[name]["gflops_per_second"] is None):
                costs[name] = dataclasses.asdict(self._measure(row_of(name)))
                self.out.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.out, {"machine": describe_machine(), "costs": costs})
                print(f"{name} is done", flush=True)
        print(describe_machine() + "\n")
        print(table({name: Cost(**costs[name]) for name in self.rows}))

    def _measure(self, row: Row) -> Cost:
        shape = (row.image_side, row.image_side, row.channels)
        config = row.base
        network = make_network(
            config.network.model, config.network.model_options, row.num_classes, shape
        )
        variables = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        flops = flops_per_example(network, shape)
        if not self.steps:
            return Cost(parameters, flops)
        steps = {y: _Step(network, y, self.batch_size, shape) for y in (1, self.replicas)}
        milliseconds = {y: step.milliseconds(self.steps) for y, step in steps.items()}
        return Cost(
            parameters=parameters,
            flops_per_example=flops,
            gflops_per_second=1e-6 * flops * self.batch_size / milliseconds[1],
            compile_seconds=steps[1].compile_seconds,
            step_milliseconds=milliseconds[1],
            replica_compile_seconds=steps[self.replicas].compile_seconds,
            replica_step_milliseconds=milliseconds[self.replicas],
            replicas=self.replicas,
            batch_size=self.batch_size,
        )


class _Step:
    """A compiled step of SGD (y = 1) or Replicated-SGD on random images.

    Attributes:
      compile_seconds: time of tracing and compiling, summed over all cores.
    """

    def __init__(self, network: Network, replicas: int, batch_size: int, shape: Sequence[int]):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((replicas, batch_size, *shape), dtype=np.float32)
        labels = np.zeros((replicas, batch_size), np.int32)
        key = jax.random.key(0)
        tx = flatjax.replicated_sgd(0.01, 1e-3, replica_axis=0, decoupled=False)

        def loss(params, batch_stats, images, labels):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, batch_stats = network.train_logits(variables, images, key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), batch_stats

        gradient = flatjax.map_replicas(jax.grad(loss, has_aux=True))

        def step(params, batch_stats, opt_state):
            grads, batch_stats = gradient(params, batch_stats, images, labels)
            updates, opt_state = tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), batch_stats, opt_state

        # Equal replicas cost as much as different ones, and are initialised only once.
        variables = jax.jit(network.init, compiler_options=compiled_once())(key, images[0, :1])
        stack = lambda leaf: jnp.repeat(leaf[None], replicas, 0)
        params = jax.tree.map(stack, variables["params"])
        stats = jax.tree.map(stack, variables.get("batch_stats", {}))
        self._carry: Any = (params, stats, tx.init(params))
        # CPU time of this process hardly depends on other work of the machine.
        start = time.process_time()
        self._step: Callable[..., Any] = (
            jax.jit(step, donate_argnums=(0, 1, 2)).lower(*self._carry).compile()
        )
        self.compile_seconds = time.process_time() - start

    def milliseconds(self, steps: int) -> float:
        """Returns the time of the fastest of some steps."""
        times = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            self._carry = jax.block_until_ready(self._step(*self._carry))
            times.append(1e3 * (time.perf_counter() - start))
        return min(times)


def table(costs: dict[str, Cost]) -> str:
    """Formats costs as a Markdown table; ratios are to y times the plain step."""
    lines = [
        [
            "row",
            "parameters",
            "GFLOP an image",
            "GFLOP/s",
            "compile, core s",
            "step, ms",
            "rSGD compile / y",
            "rSGD step / y",
        ]
    ]
    for name, cost in costs.items():
        counted = [name, f"{cost.parameters:,}", f"{1e-9 * cost.flops_per_example:.3g}"]
        lines.append(counted + _timed(cost))
    return markdown_table(lines)


def _timed(cost: Cost) -> list[str]:
    if cost.gflops_per_second is None:
        return 5 * ["-"]
    y = cost.replicas
    return [
        f"{cost.gflops_per_second:.0f}",
        f"{cost.compile_seconds:.1f}",
        f"{cost.step_milliseconds:,.0f}",
        f"{cost.replica_compile_seconds / (y * cost.compile_seconds):.2f}",
        f"{cost.replica_step_milliseconds / (y * cost.step_milliseconds):.2f}",
    ]


if __name__ == "__main__":
    sys.exit(console.run(Networks, "python -m experiments.benchmarks.networks"))
