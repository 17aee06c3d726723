"""`python -m experiments reproduce`."""

import dataclasses
import pathlib
from typing import Literal

import tyro

from experiments.commands.in_parts import require_at_least
from experiments.configs import deep
from experiments.studies.reproduce.report import default_directory, table
from experiments.studies.reproduce.run import available_dataset, reproduce
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Reproduce a row of the paper's table of deep networks, or list all rows with their state.

    The settings of each row stand in experiments/configs/deep/. Runs resume; results are written
    as by compare.

    Example: python -m experiments reproduce cifar10-resnet18 --reduced
    """

    row: tyro.conf.Positional[Literal[tuple(deep.ROWS)] | None] = None
    """Which network on which data."""
    table: bool = False
    """List all rows: what the paper reports, what is here, how long it takes. Runs nothing."""
    reduced: bool = False
    """A small network for a few epochs on Fashion-MNIST (digits, where that is missing): minutes on
    two CPU cores, and everything runs, nothing is learned about the algorithms."""
    only: tuple[str, ...] = ()
    """Labels of the algorithms wanted, for example --only SGD "rSGD x 3"; all by default."""
    seeds: int | None = None
    """Seeds of each algorithm; the row's own number by default."""
    out: pathlib.Path | None = None
    """Directory; runs/reproduce/<row> by default."""
    teraflops: float = 20.0
    """For --table: 10^12 operations a second that your accelerator sustains."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        require_at_least(1, seeds=self.seeds)
        require_at_least(1e-9, teraflops=self.teraflops)
        if self.table:
            print(table(deep.ROWS, teraflops=self.teraflops))
            return 0
        if self.row is None:
            raise ValueError(f"row must be one of {', '.join(deep.ROWS)}, or give --table.")
        row = deep.row_of(self.row)
        study = row.reduced(available_dataset()) if self.reduced else row
        runs = chosen(self.only, study.runs)
        study = dataclasses.replace(study, runs=runs, seeds=self.seeds or study.seeds)
        out = self.out or default_directory(self.row, reduced=self.reduced)
        return reproduce(study, out, reduced=self.reduced, progress=self.progress)
