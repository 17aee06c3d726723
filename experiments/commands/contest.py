"""`python -m experiments contest`."""

import dataclasses

from experiments.commands.in_parts import InParts
from experiments.configs import contest as configs
from experiments.studies.contest.report import read_contest, report
from experiments.studies.contest.run import run_contest
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Contest(InParts):
    """Tune every algorithm alike on validation data, then test each once, on fresh seeds.

    The protocol, the settings and the search spaces are in experiments/configs/contest.py. Writes a
    file of JSON lines for each setting and algorithm, one line for each run; if it is stopped, the
    same command continues from them, and several processes may share a directory. Prints tables and
    writes contest.json, contest.md and map.png.

    Example: python -m experiments contest --small
    """

    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k, clean"; all by default. A setting
    whose length the ladder has not fixed yet is refused."""

    def run(self) -> int:
        """Runs and reports."""
        contest = configs.SMALL if self.small else configs.STUDY
        out = self.directory("contest")
        if not self.report_only:
            part = dataclasses.replace(
                contest,
                settings=chosen(self.settings, contest.settings, "settings"),
                contestants=chosen(self.algorithms, contest.contestants, "algorithms"),
            )
            run_contest(part, out, progress=self.progress)
        results = read_contest(contest, out)
        if not results:
            raise ValueError(f"out ({out}) holds no complete setting of this contest yet.")
        print(report(contest, results, out))
        return 0
