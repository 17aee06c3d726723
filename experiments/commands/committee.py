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
    """Committees learn Dress or Coat by every algorithm; their flatness is measured in every way.

    Chooses settings by validation patterns, trains, measures test error, local entropy (counted,
    by chains, AMP and EP) and local energy. Writes tuning.jsonl, solutions.jsonl, estimators.jsonl,
    tempering.jsonl (as they come; stopped, it goes on where it was), committee.md, committee.png.

    With `--weights binary`: how many random patterns message passing stores in weights of +-1,
    beside published thresholds, in ten minutes (binary.jsonl, binary.md, binary.png).

    Example: python -m experiments committee --small
    """

    small: bool = False
    """One subset, one seed, three algorithms, nothing tuned, in less than three minutes."""
    dataset: Literal["fashion_mnist", "digits"] = "fashion_mnist"
    """fashion_mnist (Dress against Coat), or digits (3 against 8), which are there instead where
    Fashion-MNIST is not."""
    weights: Literal["spherical", "binary"] = "spherical"
    """Weights on spheres learn the data; binary ones random patterns."""
    report_only: bool = False
    """Report what is complete, train nothing."""
    out: pathlib.Path | None = None
    """Directory; runs/committee-<dataset> or runs/committee-binary by default."""
    progress: bool = True
    """Show progress bars."""

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
