"""Command line of the experiments; `python -m experiments --help`."""

import sys

import tyro

from experiments.commands.committee import Committee
from experiments.commands.compare import Compare
from experiments.commands.contest import Contest
from experiments.commands.cost_model import CostModel
from experiments.commands.flatness import Flatness
from experiments.commands.flatness_study import FlatnessStudy
from experiments.commands.gaussian_mixture import GaussianMixture
from experiments.commands.ladder import Ladder
from experiments.commands.reproduce import Reproduce
from experiments.commands.train import Train
from experiments.commands.tune import Tune
from experiments.engine import interruption, processes

Training = Train | Compare | Tune | Reproduce
Studies = Contest | Ladder | Flatness | FlatnessStudy | GaussianMixture | Committee | CostModel


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs; mistakes of the user end in one line, not a traceback."""
    command = tyro.cli(
        Training | Studies,
        prog="python -m experiments",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        return command.run()
    except interruption.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except processes.ProcessLostError as error:
        processes.leave(f"{type(error).__name__}: {error}")
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
