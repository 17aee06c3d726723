"""`python -m experiments flatness-study`."""

import dataclasses
import itertools
from typing import Any

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import flatness_study as configs
from experiments.studies.flatness_study.report import meetings, report
from experiments.studies.flatness_study.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class FlatnessStudy(InParts):
    """Measure whether flatness predicts the test error, on many settings.

    Trains and measures all networks. Prints Kendall's tau of every measure against the test error,
    overall and within groups that differ in one setting. Writes flatness_study.json,
    flatness_study.md and flatness_study.png. If it is stopped, the same command continues.

    Example: python -m experiments flatness-study --small
    """

    tasks: tuple[str, ...] = ()
    """Labels of the tasks to run now, for example "MLP, clean"; all by default."""

    def parts(self) -> Parts:
        """Describes the parts of the study."""
        study = configs.SMALL if self.small else configs.STUDY
        part = dataclasses.replace(
            study,
            tasks=chosen(self.tasks, study.tasks, "tasks"),
            algorithms=chosen(self.algorithms, study.algorithms, "algorithms"),
        )
        wanted = [*itertools.product(study.tasks, study.algorithms, study.batch_sizes)]
        functions = (run_study, read_study, report, meetings)
        return Parts("flatness-study", study, part, *functions, "block", wanted, _has)


def _has(solutions: dict[str, list[dict[str, Any]]], block: tuple[str, str, int]) -> bool:
    task, *own = block
    factors = [row["factors"] for row in solutions.get(task, ())]
    return any([one["algorithm"], one["batch_size"]] == own for one in factors)
