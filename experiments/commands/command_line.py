"""All commands of `python -m experiments`."""

from typing import Any

import tyro

from experiments.commands.committee import Committee
from experiments.commands.committee_flatness import CommitteeFlatness
from experiments.commands.compare import Compare
from experiments.commands.contest import Contest
from experiments.commands.cost_model import CostModel
from experiments.commands.fine_tuning import FineTuning
from experiments.commands.first_contest import FirstContest
from experiments.commands.flatness import Flatness
from experiments.commands.flatness_study import FlatnessStudy
from experiments.commands.gaussian_mixture import GaussianMixture
from experiments.commands.ladder import Ladder
from experiments.commands.language import Language
from experiments.commands.matched_flatness import MatchedFlatness
from experiments.commands.reproduce import Reproduce
from experiments.commands.robustness import Robustness
from experiments.commands.train import train_command
from experiments.commands.tune import Tune
from experiments.engine import console

Comparisons = Compare | Tune | Reproduce
Measures = Flatness | FlatnessStudy | MatchedFlatness | CommitteeFlatness | Robustness | CostModel
Studies = Contest | FirstContest | FineTuning | Ladder | Language | GaussianMixture | Committee


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs; user errors print one line and no traceback."""
    return console.run(
        _command,
        "python -m experiments",
        arguments,
        description="Command line of the experiments.",
        config=(tyro.conf.OmitArgPrefixes,),
    )


def _command(arguments: list[str]) -> Any:
    is_training = arguments[:1] == ["train"]
    return train_command(arguments if is_training else []) | Comparisons | Studies | Measures
