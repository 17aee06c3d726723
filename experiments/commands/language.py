"""`python -m experiments language`."""

import dataclasses

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import language as configs
from experiments.studies.language.report import meetings, report
from experiments.studies.language.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Language(InParts):
    """Train a small transformer on Python's standard library: AdamW, DiLoCo, rSGD, Parle.

    Prints held-out bits a byte at equal tokens and at equal steps, the messages that workers sent,
    and how flat the solutions are; writes language.json, language.md and language.png. The settings
    are in experiments/configs/language.py. Stopped, it continues with the first arm and seed that
    has no record.

    Example: python -m experiments language --small
    """

    def parts(self) -> Parts:
        """The study."""
        study = configs.SMALL if self.small else configs.STUDY
        arms = chosen(self.algorithms, study.arms, "algorithms")
        part = dataclasses.replace(study, arms=arms)
        return Parts("language", study, part, run_study, read_study, report, meetings, "run")
