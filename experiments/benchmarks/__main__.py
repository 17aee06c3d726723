"""All benchmarks of one machine: tables of ratios, a JSON and a picture."""

import dataclasses
import pathlib
import sys
from typing import Any, Literal

from experiments.benchmarks import convolution, steps, suite_figure
from experiments.benchmarks.convolution import Convolution
from experiments.benchmarks.local_energy import LocalEnergyBenchmark
from experiments.benchmarks.machine import describe_machine, torch_version
from experiments.benchmarks.race import Clock
from experiments.benchmarks.scaling import Scaling
from experiments.benchmarks.steps import Steps
from experiments.engine import console
from experiments.report.store import FIGURES, RESULTS, read_if_there, write_json
from experiments.report.tables import markdown_table

Part = Literal["steps", "local-energy", "convolution", "scaling"]
PARTS: tuple[Part, ...] = ("steps", "local-energy", "convolution", "scaling")
LOCAL_ENERGY_MODELS = ("mlp", "small_convnet")


@dataclasses.dataclass(frozen=True)
class Suite:
    """Measure ratios of times, which depend on the machine less than absolute times.

    The ratios are: steps of every algorithm to steps of SGD and to PyTorch's (if it is installed:
    pip install -e '.[benchmarks]'), local energy to forward passes, and convolutions to XLA's. The
    last part is scaling over two cores. Each part is also a separate command with more options:
    experiments.benchmarks.steps, .local_energy, .convolution, .scaling.

    Example: python -m experiments.benchmarks --parts steps --models mlp
    """

    parts: tuple[Part, ...] = PARTS
    """Parts to measure; other parts keep the results in --out."""
    models: tuple[str, ...] = tuple(steps.MODELS)
    """Networks whose steps are timed."""
    rounds: int = 7
    """Number of rounds. Each round times everything once, in turn; medians count."""
    clock: Clock = "wall"
    """wall, or cpu: time of this process on all cores, for a busy machine. scaling uses wall."""
    out: pathlib.Path = RESULTS / "benchmarks" / "suite.json"
    """JSON file of the results; scaling.json is written next to it."""
    figure: pathlib.Path = FIGURES / "benchmarks.png"
    """Picture of the ratios; scaling.png is written next to it."""

    def run(self) -> None:
        """Measures and writes one part after another; then prints and draws."""
        found: dict[str, Any] = read_if_there(self.out) or {}
        for part in self.parts:
            if part == "scaling":
                scaling = Scaling(
                    out=self.out.with_name("scaling.json"),
                    figure=self.figure.with_name("scaling.png"),
                )
                scaling.run()
                continue
            head = {"machine": describe_machine(), "torch": torch_version(), "clock": self.clock}
            found[part] = head | {"rounds": self.rounds, "found": self._measure(part)}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out.absolute(), found)
        print(tables(found))
        self.figure.parent.mkdir(parents=True, exist_ok=True)
        suite_figure.draw(found, self.figure)

    def _measure(self, part):
        options: dict[str, Any] = {"rounds": self.rounds, "clock": self.clock}
        if part == "steps":
            return Steps(models=self.models, **options).measure()
        if part == "convolution":
            return Convolution(**options).measure()
        return {
            model: LocalEnergyBenchmark(model=model, **options).measure()
            for model in LOCAL_ENERGY_MODELS
        }


def tables(found: dict[str, Any]) -> str:
    """Formats all measured parts as Markdown."""
    makers = {"steps": steps.table, "local-energy": _local_energy, "convolution": convolution.table}
    parts = []
    for part, make in makers.items():
        if part in found:
            part_found = found[part]
            torch = f"PyTorch {part_found['torch']}" if part_found["torch"] else "no PyTorch"
            head = f"{part}: {part_found['machine']}, {torch}, {part_found['clock']} time"
            parts.append(f"{head}, {part_found['rounds']} rounds\n\n{make(part_found['found'])}")
    return "\n\n".join(parts)


def _local_energy(models):
    names = next(iter(models.values()))["ratios"]
    lines = [["ratio", *models]]
    lines += [[name, *(f"{one['ratios'][name]:.2f}" for one in models.values())] for name in names]
    return markdown_table(lines)


if __name__ == "__main__":
    sys.exit(console.run(Suite, "python -m experiments.benchmarks"))
