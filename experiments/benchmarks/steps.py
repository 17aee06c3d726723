"""Training steps of every algorithm, compared with SGD and PyTorch."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks.jax_steps import JaxSteps
from experiments.benchmarks.machine import available_cores, describe_machine, hint_at_torch
from experiments.benchmarks.race import Clock, race
from experiments.engine import console
from experiments.report.store import write_json
from experiments.report.tables import markdown_table


class Images(NamedTuple):
    """The images on which a network is timed.

    Attributes:
      side: side of an image, in pixels.
      channels: channels of an image.
      batch_size: images in each gradient.
      units: number of updates in each timing.
    """

    side: int
    channels: int
    batch_size: int
    units: int


MODELS = {
    "mlp": Images(28, 1, batch_size=128, units=20),
    "small_convnet": Images(28, 1, batch_size=128, units=3),
    "resnet18": Images(32, 3, batch_size=32, units=1),
}


@dataclasses.dataclass(frozen=True)
class Steps:
    """Measure the cost of rSGD, eSGD, SAM and Parle in units of plain SGD steps.

    Example: python -m experiments.benchmarks.steps --models mlp
    """

    models: tuple[str, ...] = tuple(MODELS)
    """mlp and small_convnet use batches of 128 images of 28 x 28, resnet18 32 of 32 x 32 x 3."""
    replicas: int = 3
    """y, the number of replicas of Replicated-SGD and Parle."""
    inner_steps: int = 5
    """L, the inner steps of opaque Entropy-SGD."""
    batch_size: int | None = None
    """Images in each gradient, instead of the defaults."""
    rounds: int = 10
    """Number of rounds. Each round times every candidate once, in turn; median ratios count."""
    clock: Clock = "wall"
    """wall, or cpu: time of this process on all cores, for a busy machine."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def __post_init__(self) -> None:
        unknown = set(self.models) - set(MODELS)
        if unknown:
            raise ValueError(f"models must be of {list(MODELS)}, got {sorted(unknown)}.")

    def run(self) -> None:
        """Times everything and prints the table."""
        found = self.measure()
        hint_at_torch()
        print(f"{describe_machine()}\n\n{table(found)}")
        if self.out is not None:
            settings = dataclasses.asdict(self) | {"out": None}
            head = {"settings": settings, "machine": describe_machine()}
            write_json(self.out.absolute(), head | {"models": found})

    def measure(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Returns model -> ratios, milliseconds of a gradient and seconds of compilation."""
        return {model: self._measure(model) for model in self.models}

    def _measure(self, model: str) -> dict[str, dict[str, Any]]:
        units = MODELS[model].units
        candidates = self._candidates(model)

        def several(step):
            return lambda: [step() for _ in range(units)]

        calls = {name: several(step) for name, step in candidates.items()}
        times = race(calls, self.rounds, self.clock, rest=0.2)  # the other's threads become idle
        ratio = lambda name, other, gradients: float(
            np.median(times[name] / (gradients * times[other]))
        )
        y, loop = self.replicas, self.inner_steps
        ratios = {
            f"rSGD y={y} / {y} plain": ratio("rSGD", "plain", y),
            f"rSGD y={y}, vmapped / {y} plain": ratio("rSGD vmapped", "plain", y),
            f"rSGD y={y}, pull / {y} plain": ratio("rSGD pull", "plain", y),
            "eSGD, a gradient / plain": ratio("eSGD", "plain", 1),
            f"eSGD, a loop of L={loop} / {loop} plain": ratio("eSGD loop", "plain", loop),
            "SAM, a gradient / plain": ratio("SAM", "plain", 1),
            f"Parle y={y}, a gradient each / {y} plain": ratio("Parle", "plain", y),
        }
        if "PyTorch plain" in times:
            ratios |= {
                "plain: JAX / PyTorch": ratio("plain", "PyTorch plain", 1),
                f"rSGD y={y}: JAX / PyTorch": ratio("rSGD", "PyTorch rSGD", 1),
                f"eSGD, a loop of L={loop}: JAX / PyTorch": ratio("eSGD loop", "PyTorch eSGD", 1),
                f"PyTorch: rSGD y={y} / {y} plain": ratio("PyTorch rSGD", "PyTorch plain", y),
                f"PyTorch: eSGD / {loop} plain": ratio("PyTorch eSGD", "PyTorch plain", loop),
            }
        milliseconds = {
            name: round(1e3 * float(seconds.min()) / units, 3) for name, seconds in times.items()
        }
        compiled = {
            name: round(step.compile_seconds, 2)
            for name, step in candidates.items()
            if hasattr(step, "compile_seconds")
        }
        return {"ratios": ratios, "milliseconds": milliseconds, "compile_seconds": compiled}

    def _candidates(self, model: str) -> dict[str, Callable[[], None]]:
        rng = np.random.default_rng(0)
        images_of = MODELS[model]
        batch_size = self.batch_size or images_of.batch_size
        shape = (self.replicas, batch_size, images_of.side, images_of.side, images_of.channels)
        images = rng.standard_normal(shape, dtype=np.float32)
        labels = rng.integers(0, 10, shape[:2])
        ours = JaxSteps(model, images, labels)
        candidates: dict[str, Callable[[], None]] = {
            "plain": ours.plain(),
            "rSGD": ours.rsgd(),
            "rSGD vmapped": ours.rsgd("vmap"),
            "rSGD pull": ours.rsgd(decoupled=True),
            "eSGD": ours.esgd(),
            "eSGD loop": ours.esgd_loop(self.inner_steps),
            "SAM": ours.sam(),
            "Parle": ours.parle(),
        }
        try:
            from experiments.benchmarks.torch_steps import TorchSteps
        except ImportError:
            return candidates
        make = lambda: TorchSteps(model, images, labels, threads=len(available_cores()))
        num_params = sum(leaf.size for leaf in jax.tree.leaves(ours.replicas)) // self.replicas
        theirs = make()
        if theirs.num_params() != num_params:
            raise RuntimeError(
                f"the networks differ: {num_params} parameters here, "
                f"{theirs.num_params()} in PyTorch."
            )
        return candidates | {
            "PyTorch plain": theirs.plain(),
            "PyTorch rSGD": make().rsgd(),
            "PyTorch eSGD": make().esgd(self.inner_steps),
        }


def table(models: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Formats ratios, times and compilation of all models as Markdown."""
    parts = {"ratios": "ratio", "milliseconds": "ms", "compile_seconds": "compile, core s"}
    tables = []
    for part, title in parts.items():
        lines = [[title, *models]]
        for name in next(iter(models.values()))[part]:
            lines.append([name] + [f"{found[part][name]:.2f}" for found in models.values()])
        tables.append(markdown_table(lines))
    return "\n\n".join(tables)


if __name__ == "__main__":
    sys.exit(console.run(Steps, "python -m experiments.benchmarks.steps"))
