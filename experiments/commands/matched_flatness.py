"""`python -m experiments matched-flatness`."""

import dataclasses
import itertools

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import matched_flatness as configs
from experiments.studies.matched_flatness.report import meetings, report
from experiments.studies.matched_flatness.run import read_study, run_study
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class MatchedFlatness(InParts):
    """Rank networks of equal training error by flatness and by test error.

    Trains several networks with random settings of five algorithms on five data samples. Prints
    Kendall's tau of each predictor with test error and loss, and partial tau given training loss,
    norm and margins. The protocol is in experiments/configs/matched_flatness.py. Writes
    matched_flatness.json, .md and .png. If it is stopped, the same command continues.

    Example: python -m experiments matched-flatness --small
    """

    networks: tuple[str, ...] = ()
    """Labels of the networks to run now, for example "conv net"; all by default."""

    def parts(self) -> Parts:
        """Describes the parts of the study."""
        study = configs.SMALL if self.small else configs.STUDY
        part = dataclasses.replace(
            study,
            networks=chosen(self.networks, study.networks, "networks"),
            algorithms=chosen(self.algorithms, study.algorithms, "algorithms"),
        )
        name = "matched-flatness"
        wanted = [*itertools.product(study.networks, study.algorithms)]
        return Parts(name, study, part, run_study, read_study, report, meetings, "part", wanted)
