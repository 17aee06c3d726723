"""`python -m experiments flatness-study`."""

import dataclasses

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import flatness_study as configs
from experiments.studies.flatness_study.report import meetings, report
from experiments.studies.flatness_study.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class FlatnessStudy(InParts):
    """Does flatness predict the test error? Train a full factorial, measure all, rank.

    Prints Kendall's tau of every measure against the test error, overall and within groups that
    differ in one setting, and writes flatness_study.json, flatness_study.md and flatness_study.png.
    Stopped, it goes on where it was.

    Example: python -m experiments flatness-study --small
    """

    tasks: tuple[str, ...] = ()
    """Labels of the tasks to run now, for example "MLP, clean"; all by default."""

    def parts(self) -> Parts:
        """The study."""
        study = configs.SMALL if self.small else configs.STUDY
        part = dataclasses.replace(
            study,
            tasks=chosen(self.tasks, study.tasks, "tasks"),
            algorithms=chosen(self.algorithms, study.algorithms, "algorithms"),
        )
        return Parts(
            "flatness-study", study, part, run_study, read_study, report, meetings, "block"
        )
