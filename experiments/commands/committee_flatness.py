"""`python -m experiments committee-flatness`."""

import dataclasses

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import committee_flatness as configs
from experiments.studies.committee_flatness.report import meetings, report
from experiments.studies.committee_flatness.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class CommitteeFlatness(InParts):
    """Find for which data flat committees test better: sizes and wrong labels.

    Trains committees with many random settings for each number of patterns and each fraction of
    wrong labels. Prints Kendall's tau of local energy and test error at matched training error. The
    protocol is in experiments/configs/committee_flatness.py. Writes a file of JSON lines for each
    cell, and committee_flatness.json, .md and .png. If it is stopped, the same command continues.

    Example: python -m experiments committee-flatness --small
    """

    sizes: tuple[int, ...] = ()
    """Numbers of patterns to run now; all by default."""

    def parts(self) -> Parts:
        """Describes the parts of the study."""
        study = configs.SMALL if self.small else configs.STUDY
        sizes = chosen(
            [str(size) for size in self.sizes], {str(size): size for size in study.sizes}, "sizes"
        )
        part = dataclasses.replace(
            study,
            sizes=tuple(sizes.values()),
            solvers=chosen(self.algorithms, study.solvers, "algorithms"),
        )
        name = "committee-flatness"
        wanted = [(cell,) for cell in study.cells()]
        return Parts(name, study, part, run_study, read_study, report, meetings, "cell", wanted)
