"""`python -m experiments train`."""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic

import jax
import numpy as np
import tyro

from experiments.commands.in_parts import require_at_least
from experiments.engine import processes
from experiments.engine.algorithm_settings import SETTINGS, AlgorithmName, refuse_others
from experiments.engine.config import A, TrainConfig
from experiments.engine.loggers import LoggerName
from experiments.engine.placement import OnMesh, make_mesh
from experiments.engine.restart import continued
from experiments.engine.run_directory import read_config
from experiments.engine.train import train, trusted_config
from experiments.report.meeting import meeting_of, not_met
from experiments.report.store import slug


@dataclasses.dataclass(frozen=True)
class Train(Generic[A]):
    """Train one network (or y replicas) with one algorithm, and measure it.

    Metrics, checkpoints, the result and the final model (model/, for flatjax.models.load) are
    written to --out. An interrupted run resumes there and ends in the same parameters, bit for bit.
    It may resume on another mesh, or with another number of devices or processes; the results are
    then the same up to rounding.

    This help shows the options of one algorithm; --algorithm NAME --help shows those for NAME.

    --resume DIR continues the run in DIR with its settings. If you give another number of replicas,
    for example after a lost host, they are merged or forked, and the run continues in a new
    directory.

    Example: python -m experiments train --algorithm rsgd --dataset fashion_mnist
    --model small_convnet --epochs 10
    """

    config: Annotated[TrainConfig[A], tyro.conf.arg(name="")]
    algorithm: Annotated[AlgorithmName, tyro.conf.arg(help_behavior_hint="(default: rsgd)")] = (
        "rsgd"
    )
    """sgd; sam (sharpness-aware); swa or ema (averages of SGD's weights); esgd (Entropy-SGD); rsgd
    (Replicated-SGD). Combinations: rsam (coupled replicas of SAM); parle (replicas of Entropy-SGD);
    esam (SAM in the loop of Entropy-SGD); diloco (replicas whose center has an optimizer);
    fork (one network that becomes several, and their mean)."""
    out: pathlib.Path | None = None
    """Directory of the run; runs/<dataset>-<model>-<algorithm>-seed-<seed> by default."""
    resume: pathlib.Path | None = None
    """Directory of a run to continue, with its settings. With another number N of replicas, --out
    is DIR-N-replicas by default."""
    trust: bool = False
    """With --resume: import the modules that the run names, if model or data are your own."""
    checkpoint_seconds: float = 20.0
    """Save at the first end of an epoch after this many seconds."""
    progress: bool = True
    """Show a progress bar on a terminal."""
    json: bool = False
    """Print the result as one line of JSON, for other programs."""
    log: tuple[LoggerName, ...] = ()
    """Also send the metrics of each epoch to tensorboard (written to --out) or wandb."""
    mesh: str | None = None
    """Spread replicas and their batches over devices, for example replica=3,data=2 on six devices.
    auto uses all devices. The default is one device, or auto with several processes."""
    shard: bool = False
    """Also spread weights, gradients and optimizer state of each replica over the mesh axis data
    (FSDP), instead of keeping them whole on each of its devices."""
    coordinator: str | None = None
    """Train with several processes: ADDRESS:PORT of the first process, or auto under SLURM or Open
    MPI. See docs/distributed.md."""
    num_processes: int | None = None
    """Number of processes, with --coordinator ADDRESS:PORT."""
    process_id: int | None = None
    """Number of this process, from 0 to num_processes - 1."""

    def run(self) -> int:
        """Trains and prints the result, in a sentence or in one line of JSON."""
        require_at_least(0, checkpoint_seconds=self.checkpoint_seconds)
        processes.join(self.coordinator, self.num_processes, self.process_id)
        with processes.explained():
            return self._run()

    def _run(self) -> int:
        c = self.config
        name = f"{c.data.dataset}-{c.network.model}-{c.algorithm.name}-seed-{c.seed}"
        out = pathlib.Path("runs", slug(name)) if self.out is None else self.out
        go_on_from = None
        if self.resume is not None:
            c = continued(trusted_config(self.resume, self.trust), c)
            out, go_on_from = self._continued_in(c)
        mesh = self.mesh or ("auto" if jax.process_count() > 1 else None)
        if self.shard and mesh is None:
            raise ValueError("shard needs --mesh, for example --mesh replica=2,data=2.")
        was_complete = (out / "result.json").exists()
        result = train(
            c,
            placement=None if mesh is None else OnMesh(make_mesh(mesh, c), self.shard),
            directory=out,
            progress=self.progress,
            checkpoint_seconds=self.checkpoint_seconds,
            log=self.log,
            go_on_from=go_on_from,
        )
        if not processes.is_main():
            return 0
        if was_complete:
            said = f"{out} holds this run, which is complete: nothing was trained."
            print(said, file=sys.stderr if self.json else sys.stdout)
        if self.json:
            print(json.dumps({name: result[name] for name in _SHOWN}))
        else:
            print(f"{name}: {_sentence(result, out)}")
        if (warning := not_met([meeting_of(result)])) is not None:
            print(f"warning: {warning}", file=sys.stderr)
        return 0

    def _continued_in(self, config: TrainConfig) -> tuple[pathlib.Path, pathlib.Path | None]:
        """Returns where a run continues, and from where if that is another directory."""
        assert self.resume is not None
        y, name = config.num_replicas, self.resume.name
        if read_config(self.resume / "config.json").num_replicas != y:
            return self.out or self.resume.with_name(f"{name}-{y}-replicas"), self.resume
        if self.out not in (None, self.resume):
            raise ValueError(f"out must be left out if a run continues as it was, got {self.out}.")
        return self.resume, None


_SHOWN = ("test_error", "replica_test_errors", "ensemble_test_error", "train_error")
_SHOWN += ("gradient_evaluations", "seconds", "local_energy")


def _sentence(result: Mapping[str, Any], out: pathlib.Path) -> str:
    """Describes the result of a run, and where its model is."""
    errors = f"test error {result['test_error']:.2f} %"
    if len(result["replica_test_errors"]) > 1:
        replicas = np.mean(result["replica_test_errors"])
        errors += f" (its replicas {replicas:.2f} %)"
    energy = result["local_energy"]
    return (
        f"{errors}, training error {result['train_error']:.2f} %. Noise of σ = "
        f"{energy['sigma'][-1]:g} on the weights raises it by {energy['error'][-1]:.2f} points. "
        f"The run took {result['gradient_evaluations']:,} gradients and {result['seconds']:.0f} s. "
        f"The model is in {out / 'model'}."
    )


def train_command(arguments: Sequence[str]) -> Any:
    """Returns the command with the options of the named algorithm.

    Args:
      arguments: arguments of the command line.

    Raises:
      ValueError: an option belongs only to other algorithms (the message names them), or the run to
        continue cannot be read.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algorithm", nargs="?", default="rsgd")
    parser.add_argument("--resume", nargs="?", type=pathlib.Path)
    resume = parser.parse_known_args(arguments)[0].resume
    resumed = None if resume is None else read_config(resume / "config.json")
    if resumed is not None:
        parser.set_defaults(algorithm=resumed.algorithm.name)
    algorithm = parser.parse_known_args(arguments)[0].algorithm
    if algorithm not in SETTINGS:
        algorithm = "rsgd"  # the parser of all options refuses the name
    options = {argument.partition("=")[0] for argument in arguments if argument[:2] == "--"}
    as_field = lambda option: option[2:].removeprefix("no-").replace("-", "_")
    refuse_others(algorithm, set(map(as_field, options)))
    command = Train[SETTINGS[algorithm]]  # type: ignore[misc]
    if resumed is None or resumed.algorithm.name != algorithm:
        return Annotated[command, tyro.conf.subcommand("train")]
    return Annotated[command, tyro.conf.subcommand("train", default=command(resumed, algorithm))]
