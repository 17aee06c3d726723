"""`python -m experiments compare`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import Limited, require_at_least
from experiments.configs.comparisons import study_of
from experiments.studies.compare.run import compare
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Compare(Limited):
    """Compare SGD, Entropy-SGD, Replicated-SGD and others at equal gradient counts.

    Prints a table (test error, local energy, gradient evaluations, time; mean and standard error
    over seeds) and writes comparison.json, comparison.md and comparison.png. The settings of each
    algorithm are in experiments/configs/. Complete runs are not repeated.

    Example: python -m experiments compare --dataset digits
    """

    dataset: str = "digits"
    """digits (included, under two minutes on two cores), fashion_mnist, or any image classification
    set of TensorFlow Datasets."""
    seeds: int | None = None
    """Number of seeds of each algorithm; the study's own number by default."""
    epochs_scale: float = 1.0
    """Factor of every budget, for example 0.1 for a first look."""
    only: tuple[str, ...] = ()
    """Labels of the runs to make, for example --only SGD "rSGD x 3"; all by default."""
    report_only: bool = False
    """Report the complete runs, and train nothing."""
    out: pathlib.Path | None = None
    """Output directory of the study; runs/compare-<dataset> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        limit = self.limit()
        require_at_least(1, seeds=self.seeds)
        require_at_least(0, epochs_scale=self.epochs_scale)
        study = study_of(self.dataset)
        runs = chosen(self.only, study.runs)
        if self.epochs_scale != 1.0:
            runs = {
                k: v | {"epochs": self.epochs_scale * v.get("epochs", study.base.epochs)}
                for k, v in runs.items()
            }
        study = dataclasses.replace(study, runs=runs, seeds=self.seeds or study.seeds)
        name = f"compare-{self.dataset}"
        name += f"-{self.epochs_scale:g}" if self.epochs_scale != 1.0 else ""
        out = pathlib.Path("runs", name) if self.out is None else self.out
        options = {"progress": self.progress, "report_only": self.report_only}
        return compare(study, out, **options, limit=limit)
