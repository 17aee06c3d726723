"""`python -m experiments tune`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import require_at_least
from experiments.commands.of_data import OfData
from experiments.studies.study import chosen
from experiments.studies.tune import report, tune


@dataclasses.dataclass(frozen=True)
class Tune(OfData):
    """Choose each algorithm's settings by a grid search on validation data.

    The grids are in experiments/configs/. Copy the best candidates there by hand.
    """

    only: tuple[str, ...] = ()
    """Labels of the algorithms to search; by default all that have a grid."""
    seeds: int = 2
    """Number of runs of each candidate."""
    out: pathlib.Path | None = None
    """Output directory; runs/tune-<dataset> by default, with what was changed."""
    progress: bool = True
    """Show progress bars on a terminal."""

    def run(self) -> int:
        """Searches and prints the candidates, the best first."""
        require_at_least(1, seeds=self.seeds)
        study = self.study(for_tuning=True)
        labels = tuple(chosen(self.only, study.grids))
        out = self.out or self.directory("tune")
        found = tune(study, out, labels=labels, seeds=self.seeds, progress=self.progress)
        print(report(found))
        return 0
