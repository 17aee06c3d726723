"""`python -m experiments language`."""

import dataclasses
import itertools

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import language as configs
from experiments.studies.language.report import meetings, report, report_tuned, tuned_meetings
from experiments.studies.language.run import read_study, run_study
from experiments.studies.language.tuned import read_tuned, run_tuned
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Language(InParts):
    """Train a small transformer on Python's library: AdamW, DiLoCo, rSGD, Parle.

    The text is Python's standard library. Prints held-out bits per byte at equal tokens and at
    equal steps, the messages that workers sent, and the flatness of the solutions. Writes
    language.json, language.md, language.png, and page.md, a draft of the chapter. The settings are
    in experiments/configs/language.py. If it is stopped, the same command continues with the first
    arm and seed without a record.

    Example: python -m experiments language --small
    """

    tuned: bool = False
    """Choose settings for the primary arms on validation data, and run these arms with them on
    fresh seeds, in the folder `tuned` of the output directory. The next report without this option
    adds them to the chapter."""

    def parts(self) -> Parts:
        """The study, or its tuned part."""
        study = configs.SMALL if self.small else configs.STUDY
        arms = chosen(self.algorithms, study.arms, "algorithms")
        part = dataclasses.replace(study, arms=arms)
        functions = (run_study, read_study, report, meetings)
        wanted = [*itertools.product(study.arms, study.seeds)]
        if self.tuned:
            functions, wanted = (run_tuned, read_tuned, report_tuned, tuned_meetings), []
        return Parts("language", study, part, *functions, "run", wanted)
