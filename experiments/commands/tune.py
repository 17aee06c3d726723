"""`python -m experiments tune`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import require_at_least
from experiments.configs.comparisons import study_of
from experiments.studies.study import chosen
from experiments.studies.tune import report, tune


@dataclasses.dataclass(frozen=True)
class Tune:
    """Choose each algorithm's settings by a grid search on validation data.

    The grids are in experiments/configs/. Copy the best candidates there by hand.
    """

    dataset: str = "digits"
    """A data set, as for compare, or a row, as for reproduce."""
    only: tuple[str, ...] = ()
    """Labels of the algorithms to search; by default all that have a grid."""
    seeds: int = 2
    """Number of runs of each candidate."""
    out: pathlib.Path | None = None
    """Output directory; runs/tune-<dataset> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Searches and prints the candidates, the best first."""
        require_at_least(1, seeds=self.seeds)
        study = study_of(self.dataset)
        labels = tuple(chosen(self.only, study.grids))
        out = pathlib.Path("runs", f"tune-{self.dataset}") if self.out is None else self.out
        found = tune(study, out, labels=labels, seeds=self.seeds, progress=self.progress)
        print(report(found))
        return 0
