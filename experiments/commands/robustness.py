"""`python -m experiments robustness`."""

import dataclasses

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import robustness as configs
from experiments.studies.robustness.report import meetings, report
from experiments.studies.robustness.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Robustness(InParts):
    """Measure what predicts the damage by rounding, pruning, noise and fine-tuning.

    The protocol is in experiments/configs/robustness.py. Trains and measures all networks. Prints
    Kendall's tau of every predictor with every outcome, and the outcomes of each algorithm. Writes
    robustness.json, robustness.md and robustness.png. If it is stopped, the same command continues.

    Example: python -m experiments robustness --small
    """

    groups: tuple[str, ...] = ()
    """Labels of the groups of networks to run now, for example "clean"; all by default."""

    def parts(self) -> Parts:
        """Describes the parts of the study."""
        study = configs.SMALL if self.small else configs.STUDY
        groups = {
            label: dataclasses.replace(
                group, centers=chosen(self.algorithms, group.centers, "algorithms")
            )
            for label, group in chosen(self.groups, study.groups, "groups").items()
        }
        part = dataclasses.replace(study, groups=groups)
        wanted = [(label, name) for label, group in study.groups.items() for name in group.centers]
        functions = (run_study, read_study, report, meetings)
        return Parts("robustness", study, part, *functions, "part", wanted)
