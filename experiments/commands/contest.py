"""`python -m experiments contest`."""

import dataclasses

from experiments.commands.in_parts import InParts
from experiments.configs import contest as configs
from experiments.studies.contest.report import report
from experiments.studies.contest.run import read_contest, run_contest
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Contest(InParts):
    """Tune every algorithm alike on validation data, then test each once, on fresh seeds.

    The protocol, the settings and the search spaces stand in experiments/configs/contest.py. Prints
    a table (test error, paired difference to SGD, corrected p-values, local energy) and writes
    contest.json, contest.md and contest.png. Stopped, it goes on where it was.

    Example: python -m experiments contest --small
    """

    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k"; all by default."""

    def run(self) -> int:
        """Runs and reports; 1 if there is nothing to report."""
        contest = configs.SMALL if self.small else configs.STUDY
        out = self.directory("contest")
        if not self.report_only:
            part = dataclasses.replace(
                contest,
                settings=chosen(self.settings, contest.settings, "settings"),
                spaces=chosen(self.algorithms, contest.spaces, "algorithms"),
            )
            run_contest(part, out, progress=self.progress)
        results = read_contest(contest, out)
        if not results:
            raise ValueError(f"out ({out}) holds no complete setting of this contest yet.")
        print(report(contest, results, out))
        return 0
