"""`python -m experiments first-contest`."""

import dataclasses
import itertools

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import first_contest as configs
from experiments.studies.first_contest.report import meetings, report
from experiments.studies.first_contest.run import read_contest, run_contest
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class FirstContest(InParts):
    """Tune all algorithms alike on validation data; test each once on fresh seeds.

    The protocol, the settings and the search spaces are in experiments/configs/first_contest.py.
    Prints a table (test error, paired difference to SGD, corrected p-values, local energy) and
    writes contest.json, contest.md and contest.png. If it is stopped, the same command continues.

    Example: python -m experiments first-contest --small
    """

    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k"; all by default."""

    def parts(self) -> Parts:
        """Describes the parts of the contest."""
        contest = configs.SMALL if self.small else configs.STUDY
        part = dataclasses.replace(
            contest,
            settings=chosen(self.settings, contest.settings, "settings"),
            spaces=chosen(self.algorithms, contest.spaces, "algorithms"),
        )
        wanted = [*itertools.product(contest.settings, contest.spaces)]
        functions = (run_contest, read_contest, report, meetings)
        return Parts("first-contest", contest, part, *functions, "arm", wanted)
