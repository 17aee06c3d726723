"""`python -m experiments committee`."""

import dataclasses
import pathlib
from typing import Literal

from experiments.commands.in_parts import directory
from experiments.configs import committee as configs
from experiments.studies.committee.binary import run_binary
from experiments.studies.committee.report import report
from experiments.studies.committee.run import run_study
from experiments.studies.committee.task import available


@dataclasses.dataclass(frozen=True)
class Committee:
    """Train committees on two classes by every algorithm, and measure their flatness.

    Chooses settings by validation patterns and trains. Then measures test error, local energy, and
    local entropy (by counting, chains, AMP and EP). Writes tuning.jsonl, solutions.jsonl,
    estimators.jsonl and tempering.jsonl during the study, and committee.md and committee.png at the
    end. If it is stopped, the same command continues.

    With `--weights binary`: measures how many random patterns message passing stores in weights of
    +-1, and compares with published thresholds, in ten minutes (binary.jsonl, binary.md,
    binary.png).

    Example: python -m experiments committee --small
    """

    small: bool = False
    """Train one subset, one seed, three algorithms, without tuning, in under three minutes."""
    dataset: Literal["fashion_mnist", "digits"] = "fashion_mnist"
    """fashion_mnist (Dress against Coat), or digits (3 against 8). Digits are also used if
    Fashion-MNIST is missing."""
    weights: Literal["spherical", "binary"] = "spherical"
    """Weights on spheres learn the data; binary weights learn random patterns."""
    report_only: bool = False
    """Report the complete parts, and train nothing."""
    out: pathlib.Path | None = None
    """Output directory; runs/committee-<dataset> or runs/committee-binary by default."""
    progress: bool = True
    """Show progress bars on a terminal."""

    def run(self) -> int:
        """Trains, measures, reports."""
        if self.weights == "binary":
            out = directory(self.out, "committee-binary", small=False)
            options = {"simulate": not self.report_only, "progress": self.progress}
            print(run_binary(out, seeds=2 if self.small else 16, **options))
            return 0
        study = configs.SMALL if self.small else configs.STUDY
        task = available(configs.TASKS[self.dataset], configs.TASKS)
        study = dataclasses.replace(study, task=task)
        out = directory(self.out, f"committee-{task.dataset}", small=self.small)
        if not self.report_only:
            run_study(study, out, progress=self.progress)
        print(report(study, out))
        return 0
