"""Kills training at difficult moments, and checks that resumed runs end alike."""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from experiments.engine import console
from experiments.engine.config import TrainConfig
from experiments.engine.run_directory import read_config, read_result
from experiments.engine.steps import arrays_of
from experiments.engine.train import load_run
from experiments.report.store import read_json
from experiments.report.tables import markdown_table

# Batch norm, augmentation, and a program for each step, so that epochs are interrupted, too.
CONFIG = TrainConfig.of(
    model="small_convnet",
    model_options=("batch_norm=True",),
    augment=("crop",),
    train_size=200,
    batch_size=40,
    epochs=9,
    local_energy_samples=2,
    local_energy_examples=100,
)
OWN: dict[str, dict[str, Any]] = {
    "esgd": {"inner_steps": 3, "gamma": 0.01},
    "rsgd": {"gamma": 0.01},
    "rsam": {"gamma": 0.01},
    "esam": {"inner_steps": 3, "gamma": 0.01},
    "parle": {"inner_steps": 3, "gamma": 0.01, "replica_gamma": 0.01},
    "diloco": {"replicas": 3, "period": 3},
}
PATIENCE_SECONDS = 600


def config_of(algorithm: str, **changes: Any) -> TrainConfig:
    """Returns the run of an algorithm, with some settings changed."""
    return CONFIG.changed(algorithm=algorithm, **OWN.get(algorithm, {}), **changes)


def _lines(run: pathlib.Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def _saved(run: pathlib.Path) -> set[str]:
    """The names of complete checkpoints."""
    return {path.name for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit()}


def _epochs(run: pathlib.Path) -> int:
    """Returns the epochs of each replica, the number of lines of a complete run."""
    config = read_config(run / "config.json")
    return round(config.epochs / config.num_replicas)


# When to kill: a quantity that must change, and the longest delay after that.
MOMENTS: dict[str, tuple[Callable[[pathlib.Path], Any], float]] = {
    "at the start": (lambda run: (run / "config.json").exists(), 5.0),
    "between checkpoints": (_saved, 0.2),
    "inside a checkpoint": (lambda run: any((run / "checkpoints").glob("*tmp*")), 0.02),
    "at the end of an epoch": (_lines, 0.02),
    "in the last evaluation": (lambda run: _lines(run) == _epochs(run), 0.2),
}


@dataclasses.dataclass(frozen=True)
class Faults:
    """Kill runs of several algorithms (SIGKILL), resume them and compare the results.

    Each algorithm trains once undisturbed, and once more, killed at every kind of moment and
    resumed. Weights, optimizer states, statistics and every number of the result must have the same
    bits.

    Example: python -m experiments.faults --rounds 2
    """

    algorithms: tuple[str, ...] = ("sgd", "esgd", "rsgd", "parle")
    """Algorithms to kill."""
    rounds: int = 1
    """Number of kills at each kind of moment; only one in the last evaluation."""
    seed: int = 0
    """Random seed of the delays."""
    out: pathlib.Path = pathlib.Path("runs", "faults")
    """Directory of the runs."""

    def run(self) -> int:
        """Prints the table; the exit status is 1 if anything differs."""
        delays = random.Random(self.seed)
        lines = [["algorithm", *MOMENTS, "resumed", "arrays that differ", "numbers that differ"]]
        different = 0
        for algorithm in self.algorithms:
            config = config_of(algorithm)
            straight, killed = self.out / algorithm / "straight", self.out / algorithm / "killed"
            finish(config, straight)
            *early, last = MOMENTS
            moments = [*early * self.rounds, last]
            for moment in tqdm.tqdm(moments, desc=algorithm, unit="kill", disable=None):
                kill(config, killed, moment, delays)
            finish(config, killed)
            arrays, numbers = differences(straight, killed)
            different += arrays + numbers
            counts = [str(moments.count(moment)) for moment in MOMENTS]
            lines.append([algorithm, *counts, str(len(moments)), str(arrays), str(numbers)])
        print(markdown_table(lines))
        return int(different > 0)


def flip(path: pathlib.Path, bit: int) -> None:
    """Flips a bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(content))


def start(config: TrainConfig, directory: pathlib.Path, **options: Any) -> subprocess.Popen:
    """Starts the command line in a separate process; it saves after every step."""
    arguments = ["--out", str(directory), "--no-progress", "--checkpoint-seconds", "0"]
    arguments += config.to_arguments()
    command = [sys.executable, "-m", "experiments", "train", *arguments]
    root = pathlib.Path(__file__).parents[1]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(root)},
        **{"stdout": subprocess.DEVNULL} | options,
    )


def finish(config: TrainConfig, directory: pathlib.Path) -> None:
    """Trains, or resumes, to the end.

    Raises:
      RuntimeError: the command failed.
    """
    if read_result(directory) is None and (status := start(config, directory).wait()):
        raise RuntimeError(f"the run in {directory} ended with status {status}.")


def kill(config: TrainConfig, run: pathlib.Path, moment: str, delays: random.Random) -> None:
    """Starts or resumes a run and kills it at the next moment of a kind.

    Raises:
      RuntimeError: the run ended too early to be killed.
    """
    sign, longest_delay = MOMENTS[moment]
    before = sign(run)
    process = start(config, run)
    deadline = time.monotonic() + PATIENCE_SECONDS
    # A run that was started earlier has its configuration from the start.
    while sign(run) == before and before is not True:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the run in {run} could not be killed {moment}.")
        time.sleep(0.001)
    time.sleep(delays.uniform(0, longest_delay))
    process.send_signal(signal.SIGKILL)
    process.wait()


def raw(leaf: jax.Array) -> np.ndarray:
    """The numbers of an array, or of random keys."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def differences(straight: pathlib.Path, other: pathlib.Path) -> tuple[int, int]:
    """Counts arrays, and lines of the result, that differ in at least one bit."""
    arrays, results = [], []
    for directory in (straight, other):
        arrays_saved = arrays_of(load_run(directory).state)
        arrays.append([raw(leaf).tobytes() for leaf in jax.tree.leaves(arrays_saved)])
        result = read_json(directory / "result.json")
        for record in (result, *result["history"]):
            del record["seconds"]
        results.append([(name, value) for name, value in result.items() if name != "history"])
        results[-1] += [tuple(record.items()) for record in result["history"]]
    count = lambda pair: sum(a != b for a, b in zip(*pair, strict=True))
    return count(arrays), count(results)


if __name__ == "__main__":
    sys.exit(console.run(Faults, "python -m experiments.faults"))
