"""`python -m experiments flatness`."""

import dataclasses
import pathlib
from typing import Literal

import tyro

from experiments.commands.in_parts import require_at_least
from experiments.studies.flatness.files import Description
from experiments.studies.flatness.run import Effort, measure_files, measure_runs


@dataclasses.dataclass(frozen=True)
class Flatness:
    """Measure how flat networks are: saved runs, or networks trained elsewhere.

    Prints a table of all numbers with their standard errors. For several networks with the same
    data, also says which of them is flatter, how high the barrier between them is, and how good the
    mean of their weights. Of a run with replicas, prints the same for its replicas. Writes
    flatness.json, flatness.md and flatness.png.

    Examples: python -m experiments flatness runs/compare-digits/sgd/seed-0
    runs/compare-digits/rsgd/seed-0

    python -m experiments flatness --model my_module:MyNet --params sgd.npz rsgd.safetensors
    --dataset digits
    """

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]] = ()
    """Directories of runs: directories that train wrote, or those below the directory of compare or
    tune, such as runs/compare-digits/sgd/seed-0."""
    model: str | None = None
    """A network that was trained elsewhere: package.module:Name of a linen module (its code is
    run), or a name of flatjax.models."""
    params: tuple[pathlib.Path, ...] = ()
    """Its parameters and, if it has any, batch statistics: .npz, .safetensors or .msgpack (flax)
    files, or folders (orbax)."""
    model_options: tuple[str, ...] = ()
    """Attributes of the model, as name=value."""
    dataset: str = "digits"
    """The data of the model, see train --help."""
    examples: int = 1000
    """Number of training examples on which the model is measured."""
    images: Literal["normalized", "scaled"] = "normalized"
    """Scale of the images on which the model was trained: channels of mean 0 and standard deviation
    1, or values in [0, 1]. Targets of a regression: mean 0 and standard deviation 1, or as they
    are."""
    level: Literal["quick", "standard", "thorough"] = "standard"
    """How many measures are made, and how accurately: see flatjax.flatness.report."""
    samples: int | None = None
    """Draws of the noise, and random vectors of the trace; the level's number by default."""
    out: pathlib.Path = pathlib.Path("runs", "flatness")
    """Output directory of the report."""
    trust: bool = False
    """Import modules of your own that the runs' configurations name as models or data."""
    progress: bool = True
    """Print a line for each measured network, and a progress bar on a terminal."""

    def run(self) -> int:
        """Measures networks and prints the tables."""
        require_at_least(2, samples=self.samples)
        require_at_least(1, examples=self.examples)
        effort = Effort(self.level, self.samples, self.progress)
        if self.model is None:
            if self.params:
                raise ValueError(
                    "params must be given with --model, the network to which they belong."
                )
            if not self.runs:
                raise ValueError(
                    "runs must name at least one directory of a run; or give --model and --params."
                )
            print(measure_runs(self.runs, self.out, effort, trust=self.trust))
            return 0
        if self.runs or not self.params:
            raise ValueError(
                "model must be given with at least one file in --params, and without runs."
            )
        description = Description(
            self.model, self.model_options, self.dataset, self.examples, self.images == "scaled"
        )
        print(measure_files(description, self.params, self.out, effort))
        return 0
