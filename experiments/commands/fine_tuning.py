"""`python -m experiments fine-tuning`."""

import dataclasses
import itertools

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import fine_tuning as configs
from experiments.studies.contest.report import meetings
from experiments.studies.fine_tuning.report import report
from experiments.studies.fine_tuning.run import arms_of, read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class FineTuning(InParts):
    """Fine-tune on new classes, and see what is lost of the old ones.

    Trains the last layers, or low-rank changes (LoRA). The protocol and the search spaces are in
    experiments/configs/fine_tuning.py. Writes a file of JSON lines for each mode and algorithm,
    with one line for each run. If it is stopped, the same command continues from them. Several
    processes may share a directory. Prints tables and writes fine_tuning.json, fine_tuning.md and
    fine_tuning.png.

    Example: python -m experiments fine-tuning --small
    """

    modes: tuple[str, ...] = ()
    """Modes to run now, "last layers" or "LoRA"; both by default."""

    def parts(self) -> Parts:
        """Describes the parts of the study."""
        study = configs.SMALL if self.small else configs.STUDY
        modes = chosen(self.modes, dict.fromkeys(study.modes), "modes")
        part = dataclasses.replace(
            study,
            modes=tuple(modes),
            contestants=chosen(self.algorithms, study.contestants, "algorithms"),
        )
        wanted = [*itertools.product(study.modes, arms_of(study))]
        functions = (run_study, read_study, report, meetings)
        return Parts("fine-tuning", study, part, *functions, "arm", wanted)
