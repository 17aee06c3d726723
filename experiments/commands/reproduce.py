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
    """Reproduce a row of the paper's table of deep networks, or list all rows.

    The settings of each row are in experiments/configs/deep/. Interrupted runs resume. Results are
    written as by compare.

    Example: python -m experiments reproduce cifar10-resnet18 --reduced
    """

    row: tyro.conf.Positional[Literal[tuple(deep.ROWS)] | None] = None
    """Name of the row: a network and a data set."""
    table: bool = False
    """List all rows: the paper's results, the state here and the time needed. Runs nothing."""
    curves: pathlib.Path | None = None
    """Picture to draw of the row's recorded runs on an accelerator: training error, local energy
    and distance of the replicas during training. Also prints their table. Runs nothing."""
    reduced: bool = False
    """Train a small network for a few epochs on Fashion-MNIST (or digits, if it is missing). This
    takes minutes on two CPU cores and shows that everything runs; it says nothing about the
    algorithms."""
    only: tuple[str, ...] = ()
    """Labels of the runs to make, for example --only SGD "rSGD x 3"; all except variants by
    default. Variants, such as "rSGD, as published", are in --table and in the row's file."""
    dataset: str | None = None
    """Source of the same images if not TensorFlow Datasets, as for train: folder:PATH, npz:PATH."""
    seeds: int | None = None
    """Number of seeds of each algorithm; the row's own number by default."""
    out: pathlib.Path | None = None
    """Output directory; runs/reproduce/<row> by default."""
    teraflops: float | None = None
    """For --table: speed that your accelerator sustains, in 10^12 operations per second. The
    default is a recorded speed of a ResNet-18 step if a slot has measured one, otherwise 20."""
    progress: bool = True
    """Show progress bars on a terminal."""

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
