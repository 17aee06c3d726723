"""`python -m experiments ladder`."""

import dataclasses
import pathlib

from experiments.commands.in_parts import directory
from experiments.configs import ladder as configs
from experiments.report.meeting import warn_of
from experiments.studies.ladder.report import meetings, report
from experiments.studies.ladder.run import read_records, run_ladder
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Find how long SGD must train: tune it at 1, 3 and 10 times the epochs.

    The ladder of a setting ends when a longer run gains little. The protocol and the settings are
    in experiments/configs/ladder.py. Writes sgd.jsonl during the study, and ladder.json and
    ladder.md at the end. If it is stopped, the same command continues.

    Example: python -m experiments ladder --small
    """

    small: bool = False
    """Run one setting, two lengths and three candidates, in two minutes, to see how it works."""
    report_only: bool = False
    """Report the existing runs, and train nothing."""
    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k, clean"; all by default."""
    out: pathlib.Path | None = None
    """Output directory; runs/ladder by default."""
    progress: bool = True
    """Show progress bars on a terminal."""

    def run(self) -> int:
        """Runs and reports."""
        out = directory(self.out, "ladder", small=self.small)
        path = out / "sgd.jsonl"
        ladder = configs.SMALL if self.small else configs.STUDY
        if not self.report_only:
            settings = chosen(self.settings, ladder.settings, "settings")
            run_ladder(ladder, path, settings=settings, progress=self.progress)
        records = read_records(ladder, path)
        if not records:
            raise ValueError(f"out ({out}) holds no run of this ladder yet.")
        print(report(ladder, records, out))
        warn_of(meetings(ladder, records))
        return 0
