"""Damages files, starts races and sends signals, and checks that no wrong number comes of it."""

import collections
import dataclasses
import gzip
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tqdm

from experiments import faults
from experiments.engine import console
from experiments.engine.config import TrainConfig
from experiments.engine.task import make_task
from experiments.engine.train import train
from experiments.report import store
from experiments.report.tables import markdown_table
from flatjax.data._idx import read_idx

CONFIG = TrainConfig.of(
    algorithm="rsgd",
    gamma=0.01,
    train_size=200,
    batch_size=50,
    epochs=6,
    held_out_size=200,
    curve_examples=100,
    local_energy_samples=2,
    local_energy_examples=100,
)
OUTCOMES = ("detected", "harmless", "unnamed", "silent")
Counts = collections.Counter


@dataclasses.dataclass(frozen=True)
class Damage:
    """Damage the files of a small run, of caches and of data, and count what is noticed.

    A try is `detected` if an error names the file or its directory, `harmless` if all numbers are
    the right ones, `unnamed` if an error does not say where, and `silent` if a number is wrong. The
    exit status is 1 if any try is unnamed or silent.

    Example: python -m experiments.damage --tries 20
    """

    tries: int = 100
    """Flipped bits for each kind of file; a fifth as many files are cut short."""
    processes: bool = True
    """Also start two processes in one directory, and send signals to runs."""
    seed: int = 0
    """Draws the places."""

    def run(self) -> int:
        """Prints the table."""
        draw = random.Random(self.seed)
        rows: dict[tuple[str, str], Counts] = {}
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            self._damage_run(place / "runs", draw, rows)
            self._damage_caches(place / "caches", draw, rows)
            self._damage_data(place / "data", draw, rows)
            if self.processes:
                rows["run directory", "two processes at once"] = Counts([_race(place / "race")])
                rows["run directory", "SIGINT, SIGTERM"] = Counts(_signals(place / "signal", draw))
        lines = [["files", "damage", "tries", *OUTCOMES]]
        for (what, kind), counts in rows.items():
            numbers = [counts.total(), *(counts[outcome] for outcome in OUTCOMES)]
            lines.append([what, kind, *map(str, numbers)])
        print(markdown_table(lines))
        bad = sum(counts["silent"] + counts["unnamed"] for counts in rows.values())
        return int(bad > 0)

    def _damages(self, path: pathlib.Path, draw: random.Random, tries: int) -> Iterator[str]:
        """Damages a file in one way after another; the caller looks, then it is restored."""
        good = path.read_bytes()
        kinds = ["flipped bit"] * tries + ["cut short"] * max(tries // 5, 1)
        for kind in kinds if good else []:
            if kind == "flipped bit":
                faults.flip(path, draw.randrange(8 * len(good)))
            else:
                path.write_bytes(good[: draw.randrange(len(good))])
            yield kind
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(good)

    # --- a run's directory ----------------------------------------------------------------------

    def _damage_run(self, place, draw, rows):
        task = make_task(CONFIG)
        good, other = place / "good", place / "other"
        wanted = _numbers(train(CONFIG, task, directory=good, progress=False, checkpoint_seconds=0))
        second = dataclasses.replace(CONFIG, seed=1)
        train(second, task, directory=other, progress=False, checkpoint_seconds=0)
        run = place / "run"

        def look():
            return _numbers(
                train(CONFIG, task, directory=run, progress=False, evaluate_epochs=True)
            )

        step = max(int(path.name) for path in (good / "checkpoints").iterdir())
        names = ["config.json", "result.json", "metrics.jsonl"]
        for root in ("about", "state"):
            paths = (good / "checkpoints" / str(step) / root).rglob("*")
            names += sorted(str(path.relative_to(good)) for path in paths if path.is_file())
        for name in tqdm.tqdm(names, desc="run directory"):
            parts = pathlib.Path(name).parts
            label = f"checkpoint, {parts[2]}" if parts[0] == "checkpoints" else name
            in_label = sum(other_name.startswith("/".join(parts[:3])) for other_name in names)
            prepare = lambda name=name: _copy(good, run, with_result=name == "result.json")
            prepare()
            for kind in self._damages(run / name, draw, max(self.tries // in_label, 1)):
                outcome = _outcome(look, wanted, run)
                rows.setdefault((label, kind), Counts())[outcome] += 1
                prepare()
            if (other / name).exists():
                shutil.copy(other / name, run / name)
                outcome = _outcome(look, wanted, run)
                rows.setdefault((label, "another run's"), Counts())[outcome] += 1

        _copy(good, run, with_result=False)
        shutil.rmtree(run / "checkpoints")
        shutil.copytree(other / "checkpoints", run / "checkpoints")
        rows["all checkpoints", "another run's"] = Counts([_outcome(look, wanted, run)])

    # --- caches and data ------------------------------------------------------------------------

    def _damage_caches(self, place, draw, rows):
        identity = {"config": CONFIG.to_json(), "seeds": [0, 1]}
        value = [{"settings": {"learning_rate": 0.1}, "error": [12.5, 0.25]} for _ in range(4)]
        path = place / "tuning.json"
        store.cached(path, identity, lambda: value)
        look = lambda: store.read_cached(path, identity)
        for kind in self._damages(path, draw, self.tries):
            rows.setdefault(("cached value", kind), Counts())[_outcome(look, value, place)] += 1
        path.unlink()
        store.cached(path, identity | {"seeds": [0]}, lambda: value[:2])
        key = ("cached value", "another study's")
        rows[key] = Counts([_outcome(look, value, place)])
        lines = place / "records.jsonl"
        for record in value:
            store.append_line(lines, record)
        read = lambda: store.read_lines(lines, must_be_sealed=True, mend=False)
        for kind in self._damages(lines, draw, self.tries):
            outcome = _outcome(read, value, place)
            if outcome == "silent" and read() == value[: len(read())]:
                outcome = "harmless"  # the last records are missing, and are made again
            rows.setdefault(("lines of records", kind), Counts())[outcome] += 1

    def _damage_data(self, place, draw, rows):
        """Of plain IDX files, which have no checksums of their own."""
        from flatjax.data._fashion_mnist import DEBIAN_FOLDER, FashionMNIST

        place.mkdir(parents=True)
        for name, digest in FashionMNIST.SHA256.items():
            packed = DEBIAN_FOLDER / f"{name}.gz"
            if not packed.exists():
                continue
            path = place / name
            path.write_bytes(gzip.decompress(packed.read_bytes()))
            count = FashionMNIST.NUM_EXAMPLES["train" if name.startswith("train") else "test"]
            shape = (count, 28, 28) if "images" in name else (count,)
            look = lambda path=path, shape=shape, digest=digest: read_idx(
                path, shape, sha256=digest
            ).tobytes()
            wanted = look()
            for kind in self._damages(path, draw, max(self.tries // 4, 1)):
                outcome = _outcome(look, wanted, place)
                rows.setdefault(("Fashion-MNIST, unpacked", kind), Counts())[outcome] += 1


def _copy(good, run, *, with_result):
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(good, run)
    if not with_result:
        (run / "result.json").unlink()


def _numbers(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its times."""
    history = [{**record, "seconds": 0} for record in result["history"]]
    return {**result, "seconds": 0, "history": history}


def _outcome(look: Callable[[], Any], wanted: Any, place: pathlib.Path) -> str:
    try:
        return "harmless" if look() == wanted else "silent"
    except Exception as error:
        return "detected" if str(place) in str(error) else "unnamed"


# --- processes ----------------------------------------------------------------------------------


def _race(run: pathlib.Path) -> str:
    """Starts two processes in one directory: one trains, the other is told so, or finds it done."""
    options = {"stderr": subprocess.PIPE, "text": True}
    racers = [faults.start(CONFIG, run, **options) for _ in range(2)]
    errors = [racer.communicate()[1] for racer in racers]
    codes = [racer.returncode for racer in racers]
    wanted = _numbers(train(CONFIG, progress=False))
    if _numbers(train(CONFIG, directory=run, progress=False)) != wanted:
        return "silent"
    if sorted(codes) == [0, 1]:
        return "detected" if "in use by process" in errors[codes.index(1)] else "unnamed"
    return "harmless" if codes == [0, 0] else "unnamed"


def _signals(place: pathlib.Path, draw: random.Random) -> Iterator[str]:
    """Sends signals to runs in the middle: they say where they saved, and have saved all."""
    for number in (signal.SIGINT, signal.SIGTERM):
        run = place / number.name
        options = {"stderr": subprocess.PIPE, "text": True}
        process = faults.start(dataclasses.replace(CONFIG, epochs=600.0), run, **options)
        while not (run / "metrics.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.send_signal(number)
        _, error = process.communicate()
        is_said = process.returncode == 128 + number and "saved in" in error
        steps = [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
        lines = store.read_lines(run / "metrics.jsonl", mend=False)
        is_whole = bool(steps) and max(steps) >= np.max([line["step"] for line in lines])
        yield ("detected" if is_said else "unnamed") if is_whole else "silent"


if __name__ == "__main__":
    raise SystemExit(console.run(Damage, "python -m experiments.damage"))
