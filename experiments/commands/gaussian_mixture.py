"""`python -m experiments gaussian-mixture`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import directory, require_at_least
from experiments.configs import gaussian_mixture as configs
from experiments.studies.gaussian_mixture.chapter import run_chapter
from experiments.studies.gaussian_mixture.description import Part


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Solve the theory of the Gaussian mixture, and confirm it by simulations.

    Prints a table of theory, simulation and z-score. Writes simulations.jsonl during the study, and
    comparison.json, comparison.md and the figures at the end. If it is stopped, the same command
    continues.

    Example: python -m experiments gaussian-mixture --small
    """

    small: bool = False
    """Simulate only minima, with few features and samples, and draw the theory's curves of the
    local entropy; this takes about two minutes and shows how the study works."""
    parts: tuple[Part, ...] = ()
    """Parts of the chapter; all by default."""
    features: int | None = None
    """N; 1000 by default, 200 with --small. Slow simulations use smaller N and more samples."""
    seeds: int | None = None
    """Number of samples of each point; 10 by default, 6 with --small."""
    report_only: bool = False
    """Report the existing simulations, and make none."""
    out: pathlib.Path | None = None
    """Output directory; runs/gaussian-mixture by default."""
    progress: bool = True
    """Show a progress bar on a terminal."""

    def run(self) -> int:
        """Simulates, compares and draws."""
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
