"""`python -m experiments contest`."""

import dataclasses
import itertools
from typing import Literal

from experiments.commands.in_parts import InParts, Parts
from experiments.configs import contest as configs
from experiments.studies.contest.report import meetings, read_contest, report
from experiments.studies.contest.run import run_contest
from experiments.studies.study import chosen


@dataclasses.dataclass(frozen=True)
class Contest(InParts):
    """Tune all algorithms alike on validation data; test each once on fresh seeds.

    The protocol, the settings and the search spaces are in experiments/configs/contest.py. Writes a
    file of JSON lines for each setting and algorithm, with one line for each run. If it is stopped,
    the same command continues from them. Several processes may share a directory. Prints tables and
    writes contest.json, contest.md and map.png, or coupling.json, coupling-forest.png and so on for
    another stage.

    Example: python -m experiments contest --small
    """

    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k, clean"; all by default. A setting is
    refused if the ladder has not fixed its length yet."""
    stage: Literal["main", "coupling", "paper", "variants", "workers-4", "workers-16"] = "main"
    """The stage to run. "coupling" tests whether the coupling of rSGD matters: it runs rSGD with
    gamma = 0 and with gamma = 1e6, at the other settings that rSGD chose in the main stage. Run the
    main stage first, with the same --out. "paper" gives all algorithms the paper's weight decay and
    tunes their learning rates only. "variants" tries changes of the algorithms. "workers-4" and
    "workers-16" compare replicas with large batches at equal numbers of sequential gradients, and
    count messages."""

    def parts(self) -> Parts:
        """Describes the parts of the contest."""
        contest = (configs.SMALLS if self.small else configs.STAGES)[self.stage]
        part = dataclasses.replace(
            contest,
            settings=chosen(self.settings, contest.settings, "settings"),
            contestants=chosen(self.algorithms, contest.contestants, "algorithms"),
        )
        wanted = [*itertools.product(contest.settings, contest.contestants)]
        functions = (run_contest, read_contest, report, meetings)
        return Parts("contest", contest, part, *functions, "arm", wanted)
