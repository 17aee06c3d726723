"""`python -m experiments compare`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import Limited, require_at_least
from experiments.commands.of_data import OfData
from experiments.studies.compare.run import compare
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Compare(OfData, Limited):
    """Compare SGD, Entropy-SGD, Replicated-SGD and others at equal gradient counts.

    Prints a table (test error, local energy, gradient evaluations, time; mean and standard error
    over seeds) and writes comparison.json, comparison.md and comparison.png. The settings of each
    algorithm are in experiments/configs/. Complete runs are not repeated.

    Example: python -m experiments compare --dataset digits
    """

    seeds: int | None = None
    """Number of seeds of each algorithm; the study's own number by default."""
    epochs_scale: float = 1.0
    """Factor of every budget, for example 0.1 for a first look; instead of --epochs."""
    only: tuple[str, ...] = ()
    """Labels of the runs to make, for example --only SGD "rSGD x 3"; all by default."""
    report_only: bool = False
    """Report the complete runs, and train nothing."""
    out: pathlib.Path | None = None
    """Output directory of the study; runs/compare-<dataset> by default, with what was changed."""
    progress: bool = True
    """Show progress bars on a terminal."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        limit = self.limit()
        require_at_least(1, seeds=self.seeds)
        study = self.study(epochs_scale=self.epochs_scale)
        runs = chosen(self.only, study.runs)
        study = dataclasses.replace(study, runs=runs, seeds=self.seeds or study.seeds)
        out = self.out or self.directory("compare", epochs_scale=self.epochs_scale)
        options = {"progress": self.progress, "report_only": self.report_only}
        return compare(study, out, **options, limit=limit)
