"""`python -m experiments tune`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import require_at_least
from experiments.configs.comparisons import study_of
from experiments.studies.study import chosen
from experiments.studies.tune import report, tune


@dataclasses.dataclass(frozen=True)
class Tune:
    """Choose the settings of each algorithm on validation data, by the same grid search for all.

    The grids stand in experiments/configs/; the best candidates are to be copied there by hand.
    """

    dataset: str = "digits"
    """A data set, as for compare, or a row, as for reproduce."""
    only: tuple[str, ...] = ()
    """Labels to search; all that have a grid by default."""
    seeds: int = 2
    """Runs of each candidate."""
    out: pathlib.Path | None = None
    """Directory; runs/tune-<dataset> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Searches and prints the candidates, best first."""
        require_at_least(1, seeds=self.seeds)
        study = study_of(self.dataset)
        labels = tuple(chosen(self.only, study.grids))
        out = pathlib.Path("runs", f"tune-{self.dataset}") if self.out is None else self.out
        found = tune(study, out, labels=labels, seeds=self.seeds, progress=self.progress)
        print(report(found))
        return 0
