"""`python -m experiments gaussian-mixture`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import directory, require_at_least
from experiments.configs import gaussian_mixture as configs
from experiments.studies.gaussian_mixture.chapter import run_chapter
from experiments.studies.gaussian_mixture.description import Part


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Solve the theory of the Gaussian mixture, confirm it by simulation, and draw the chapter.

    Prints a table theory / simulation / z and writes simulations.jsonl (as they come; stopped, it
    goes on where it was), comparison.json, comparison.md and the figures.

    Example: python -m experiments gaussian-mixture --small
    """

    small: bool = False
    """Simulate minima only, of few features and samples, and draw the theory's curves of the local
    entropy: about two minutes, to see how it works."""
    parts: tuple[Part, ...] = ()
    """Parts of the chapter; all by default."""
    features: int | None = None
    """N; 1000 by default, 200 with --small. Slow simulations have fewer, and more samples."""
    seeds: int | None = None
    """Samples of each point; 10 by default, 6 with --small."""
    report_only: bool = False
    """Report the simulations that are there, make none."""
    out: pathlib.Path | None = None
    """Directory; runs/gaussian-mixture by default."""
    progress: bool = True
    """Show a progress bar."""

    def run(self) -> int:
        """Simulates, compares, draws."""
        require_at_least(2, features=self.features, seeds=self.seeds)
        whole = configs.SMALL if self.small else configs.STUDY
        chapter = dataclasses.replace(
            whole,
            parts=self.parts or whole.parts,
            num_features=self.features or whole.num_features,
            seeds=self.seeds or whole.seeds,
        )
        out = directory(self.out, "gaussian-mixture", small=self.small)
        simulate = not self.report_only
        print(run_chapter(chapter, out, simulate=simulate, progress=self.progress))
        return 0
