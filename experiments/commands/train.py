"""`python -m experiments train`."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Generic

import jax
import tyro

from experiments.commands.in_parts import require_at_least
from experiments.engine import processes
from experiments.engine.algorithm_settings import SETTINGS, AlgorithmName, refuse_others
from experiments.engine.config import A, TrainConfig
from experiments.engine.loggers import LoggerName
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.train import train
from experiments.report.store import slug


@dataclasses.dataclass(frozen=True)
class Train(Generic[A]):
    """Train one network (or y replicas) with one algorithm, and measure it.

    Metrics, checkpoints, the result and the final model (model/, for flatjax.models.load) are
    written to --out; an interrupted run resumes there and ends in the same parameters, bit for bit.
    It may resume on another mesh, or on another number of devices or processes: it is the same run,
    to rounding.

    The options of one algorithm are shown; --algorithm NAME --help shows those of another one.

    Example: python -m experiments train --algorithm rsgd --dataset fashion_mnist
    --model small_convnet --epochs 10
    """

    config: Annotated[TrainConfig[A], tyro.conf.arg(name="")]
    algorithm: Annotated[AlgorithmName, tyro.conf.arg(help_behavior_hint="(default: rsgd)")] = (
        "rsgd"
    )
    """sgd; sam (sharpness-aware); swa or ema (averages of SGD's weights); esgd (Entropy-SGD); rsgd
    (Replicated-SGD); rsam (replicas of SAM, coupled); parle (replicas of Entropy-SGD); esam (SAM in
    the loop of Entropy-SGD); diloco (replicas that share an outer optimizer's step)."""
    out: pathlib.Path | None = None
    """Directory of the run; runs/<dataset>-<model>-<algorithm>-seed-<seed> by default."""
    checkpoint_seconds: float = 20.0
    """Save at the first end of an epoch after this long."""
    progress: bool = True
    """Show a progress bar."""
    log: tuple[LoggerName, ...] = ()
    """Send the metrics of each epoch to tensorboard (written to --out) or wandb as well."""
    mesh: str | None = None
    """Spread replicas and their batches over devices, for example replica=3,data=2 on six; auto for
    all devices there are. By default one device, or auto with several processes."""
    coordinator: str | None = None
    """Train with several processes: ADDRESS:PORT of the first, or auto under SLURM or Open MPI; see
    docs/distributed.md."""
    num_processes: int | None = None
    """How many processes, with --coordinator ADDRESS:PORT."""
    process_id: int | None = None
    """Which of them this one is, 0 to num_processes - 1."""

    def run(self) -> int:
        """Trains and prints the result as one JSON line."""
        require_at_least(0, checkpoint_seconds=self.checkpoint_seconds)
        processes.join(self.coordinator, self.num_processes, self.process_id)
        with processes.explained():
            return self._run()

    def _run(self) -> int:
        c = self.config
        name = f"{c.data.dataset}-{c.network.model}-{c.algorithm.name}-seed-{c.seed}"
        out = pathlib.Path("runs", slug(name)) if self.out is None else self.out
        mesh = self.mesh or ("auto" if jax.process_count() > 1 else None)
        result = train(
            c,
            placement=None if mesh is None else OnMesh(make_mesh(mesh, c)),
            directory=out,
            progress=self.progress,
            checkpoint_seconds=self.checkpoint_seconds,
            log=self.log,
        )
        if not processes.is_main():
            return 0
        shown = ("test_error", "replica_test_errors", "ensemble_test_error", "train_error")
        shown += ("gradient_evaluations", "seconds", "local_energy")
        print(json.dumps({name: result[name] for name in shown}))
        return 0


def train_command(arguments: Sequence[str]) -> Any:
    """The command whose options are those of the algorithm that a command line names.

    Args:
      arguments: of the command line.

    Raises:
      ValueError: an option belongs to other algorithms; the message says to which.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm", nargs="?", default="rsgd")
    algorithm = parser.parse_known_args(arguments)[0].algorithm
    if algorithm not in SETTINGS:
        algorithm = "rsgd"  # the parser of all options refuses the name
    options = {argument.partition("=")[0] for argument in arguments if argument[:2] == "--"}
    as_field = lambda option: option[2:].removeprefix("no-").replace("-", "_")
    refuse_others(algorithm, set(map(as_field, options)))
    command = Train[SETTINGS[algorithm]]  # type: ignore[misc]
    return Annotated[command, tyro.conf.subcommand("train")]
