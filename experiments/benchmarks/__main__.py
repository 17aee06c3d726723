"""Times training steps and prints ratios: absolute times depend on the machine, these hardly do."""

import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
import tyro

from experiments.benchmarks.jax_steps import JaxSteps
from experiments.benchmarks.machine import describe_machine
from experiments.run_directory import write_json


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Cost of Replicated-SGD and Entropy-SGD in units of plain SGD steps, and beside PyTorch.

    Example: python -m experiments.benchmarks --model small_convnet
    """

    model: str = "small_convnet"
    """small_convnet or mlp, on batches of 28 x 28 images."""
    replicas: int = 3
    """y of Replicated-SGD."""
    inner_steps: int = 5
    """L of Entropy-SGD."""
    batch_size: int = 128
    """Images in each gradient."""
    rounds: int = 10
    """Every candidate is timed once a round, in turn, so that a slow spell hits all alike."""
    steps: int = 10
    """Steps in each round; the fastest counts."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Times everything and prints the table."""
        times = _race(self._candidates(), self.rounds, self.steps)
        y, loop = self.replicas, self.inner_steps
        # Rounds are compared one by one, and the median taken: a slow spell hits both sides.
        ratio = lambda name, other, units: float(np.median(times[name] / (units * times[other])))
        ratios = {
            f"rSGD y={y} / {y} plain steps": ratio("JAX rSGD", "JAX plain", y),
            f"rSGD y={y}, vmapped / {y} plain steps": ratio("JAX rSGD vmap", "JAX plain", y),
            f"rSGD y={y}, pull / {y} plain steps": ratio("JAX rSGD pull", "JAX plain", y),
            "eSGD / plain step (a gradient each)": ratio("JAX eSGD", "JAX plain", 1),
            f"eSGD opaque L={loop} / {loop} plain steps": ratio("JAX eSGD loop", "JAX plain", loop),
            "SAM / plain step (a gradient each)": ratio("JAX SAM", "JAX plain", 1),
        }
        if "PyTorch plain" in times:
            ratios |= {
                "plain: JAX / PyTorch": ratio("JAX plain", "PyTorch plain", 1),
                f"rSGD y={y}: JAX / PyTorch": ratio("JAX rSGD", "PyTorch rSGD", 1),
                f"PyTorch rSGD / {y} plain steps": ratio("PyTorch rSGD", "PyTorch plain", y),
            }
        width = max(map(len, ratios))
        print(f"{self.model}, batch {self.batch_size}, {describe_machine()}\n")
        for name, ratio in ratios.items():
            print(f"{name:<{width}}  {ratio:5.2f}")
        fastest = {name: round(float(rounds.min()), 2) for name, rounds in times.items()}
        print("\nfastest step, ms: " + ", ".join(f"{k} {v:.1f}" for k, v in fastest.items()))
        if "PyTorch plain" not in times:
            print("PyTorch is not installed: pip install -e '.[benchmarks]'", file=sys.stderr)
        if self.out is not None:
            found = {
                "settings": dataclasses.asdict(self) | {"out": None},
                "machine": describe_machine(),
            }
            write_json(self.out.absolute(), found | {"ratios": ratios, "milliseconds": fastest})

    def _candidates(self) -> dict[str, Callable[[], None]]:
        rng = np.random.default_rng(0)
        shape = (self.replicas, self.batch_size)
        images = rng.standard_normal((*shape, 28, 28, 1), dtype=np.float32)
        labels = rng.integers(0, 10, shape)
        ours = JaxSteps(self.model, images, labels)
        candidates = {
            "JAX plain": ours.plain(),
            "JAX rSGD": ours.rsgd(),
            "JAX rSGD vmap": ours.rsgd("vmap"),
            "JAX rSGD pull": ours.rsgd(decoupled=True),
            "JAX eSGD": ours.esgd(),
            "JAX eSGD loop": ours.esgd_loop(self.inner_steps),
            "JAX SAM": ours.sam(),
        }
        try:
            from experiments.benchmarks.torch_steps import TorchSteps
        except ImportError:
            return candidates
        theirs = TorchSteps(self.model, images, labels, threads=os.cpu_count() or 1)
        num_params = sum(leaf.size for leaf in jax.tree.leaves(ours.replicas)) // self.replicas
        if theirs.num_params() != num_params:
            raise RuntimeError(
                f"the networks differ: {num_params} parameters here, "
                f"{theirs.num_params()} in PyTorch."
            )
        return candidates | {"PyTorch plain": theirs.plain(), "PyTorch rSGD": theirs.rsgd()}


def _race(candidates, rounds: int, steps: int) -> dict[str, np.ndarray]:
    """The fastest step of each candidate in each round, in milliseconds."""
    for run in candidates.values():  # compile and warm up
        for _ in range(3):
            run()
    best = {name: np.full(rounds, np.inf) for name in candidates}
    for i in range(rounds):
        for name, run in candidates.items():
            time.sleep(0.2)  # lets the other library's threads go to sleep
            run()
            for _ in range(steps):
                start = time.perf_counter()
                run()
                best[name][i] = min(best[name][i], 1e3 * (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    tyro.cli(Benchmark, prog="python -m experiments.benchmarks").run()
