"""`python -m experiments flatness`."""

import dataclasses
import pathlib

import tyro

from experiments.commands.in_parts import require_at_least
from experiments.studies.flatness.description import Effort
from experiments.studies.flatness.run import measure_runs


@dataclasses.dataclass(frozen=True)
class Flatness:
    """Measure how flat saved runs are.

    Prints a table (local energy, sharpness, PAC-Bayes, Hessian, Gauss-Newton) and writes
    flatness.json, flatness.md and flatness.png.

    Example: python -m experiments flatness runs/compare-digits/sgd/seed-0
    runs/compare-digits/rsgd/seed-0
    """

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Directories that train or compare wrote."""
    samples: int = 30
    """Draws of the noise, and random vectors of the traces."""
    out: pathlib.Path = pathlib.Path("runs", "flatness")
    """Directory of the report."""
    trust: bool = False
    """Import the modules that the runs' configurations name, where models or data are your own."""
    progress: bool = True
    """Print a line as each run is measured."""

    def run(self) -> int:
        """Measures and prints the table."""
        require_at_least(2, samples=self.samples)
        effort = Effort(num_samples=self.samples, num_probes=self.samples)
        if not self.runs:
            raise ValueError("runs must name at least one directory of a run.")
        print(
            measure_runs(
                list(self.runs), self.out, effort, progress=self.progress, trust=self.trust
            )
        )
        return 0
