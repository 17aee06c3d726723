"""`python -m experiments reproduce`."""

import dataclasses
import pathlib
from typing import Literal

import tyro

from experiments.commands.in_parts import Limited, require_at_least
from experiments.configs import deep
from experiments.studies.compare.description import Comparison
from experiments.studies.reproduce import slots
from experiments.studies.reproduce.report import default_directory, table
from experiments.studies.reproduce.run import available_dataset, reproduce


@dataclasses.dataclass(frozen=True)
class Reproduce(Limited):
    """Reproduce a row of the paper's table of deep networks, or list all rows with their state.

    The settings of each row stand in experiments/configs/deep/. Runs resume; results are written
    as by compare.

    Example: python -m experiments reproduce cifar10-resnet18 --reduced
    """

    row: tyro.conf.Positional[Literal[tuple(deep.ROWS)] | None] = None
    """Which network on which data."""
    table: bool = False
    """List all rows: what the paper reports, what is here, how long it takes. Runs nothing."""
    curves: pathlib.Path | None = None
    """Picture to write of the row's recorded runs on an accelerator: training error, local energy
    and distance of the replicas during training. Prints their table, too. Runs nothing."""
    reduced: bool = False
    """A small network for a few epochs on Fashion-MNIST (digits, where that is missing): minutes on
    two CPU cores, and everything runs, nothing is learned about the algorithms."""
    only: tuple[str, ...] = ()
    """Labels of the runs wanted, for example --only SGD "rSGD x 3"; all but variants by default.
    Variants, such as "rSGD, as published", are in --table and in the row's file."""
    dataset: str | None = None
    """The same images from elsewhere than TensorFlow Datasets, as for train: folder:PATH, npz:PATH.
    """
    seeds: int | None = None
    """Seeds of each algorithm; the row's own number by default."""
    out: pathlib.Path | None = None
    """Directory; runs/reproduce/<row> by default."""
    teraflops: float | None = None
    """For --table: 10^12 operations a second that your accelerator sustains. By default those of a
    step of ResNet-18 that a slot has measured, else 20."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        limit = self.limit()
        require_at_least(1, seeds=self.seeds)
        require_at_least(1e-9, teraflops=self.teraflops)
        if self.table:
            print(table(deep.ROWS, teraflops=self.teraflops))
            return 0
        if self.row is None:
            raise ValueError(f"row must be one of {', '.join(deep.ROWS)}, or give --table.")
        if self.curves is not None:
            slots.draw_curves(self.row, self.curves)
            print(slots.table(self.row, deep.row_of(self.row).reported))
            return 0
        row: Comparison = deep.row_of(self.row).with_runs(self.only)
        if self.reduced:
            row = deep.row_of(self.row).with_runs(self.only).reduced(available_dataset())
        elif self.dataset is not None:
            row = dataclasses.replace(row, base=row.changed({"dataset": self.dataset}))
        study = dataclasses.replace(row, seeds=self.seeds or row.seeds)
        out = self.out or default_directory(self.row, reduced=self.reduced)
        options = {"reduced": self.reduced, "progress": self.progress}
        return reproduce(study, out, **options, limit=limit)
