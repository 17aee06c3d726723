"""The ladder of lengths: SGD tuned at 1, 3 and 10 times the epochs; see `configs.ladder`.

Every round of candidates is a unit of work: its record is written, with what it belongs to, when
it is there, and the same command goes on from the records.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import scipy.stats.qmc

from experiments.configs import ladder as rules
from experiments.engine.population import Population, make_tasks
from experiments.report import store

# Runs of a convolutional network go one after another; a unit ends within about 20 minutes.
RUNS_PER_UNIT = 24


def candidates(space: dict[str, tuple[float, float]], number: int) -> list[dict[str, float]]:
    """Settings, log-uniform in the space.

    Examples:
      >>> candidates({"learning_rate": (0.01, 0.3)}, 2)
      [{'learning_rate': 0.111}, {'learning_rate': 0.0202}]
    """
    points = scipy.stats.qmc.Halton(len(space), rng=0).random(number)
    low, high = np.log(list(space.values())).T
    return [
        {name: float(f"{value:.3g}") for name, value in zip(space, np.exp(row), strict=True)}
        for row in low + points * (high - low)
    ]


def run(path: pathlib.Path, *, small: bool = False, progress: bool = True) -> None:
    """Runs what `path` has no record of: the shortest lengths of all settings first."""
    rounds = rules.SMALL["rounds"] if small else rules.ROUNDS
    for length in rules.SMALL["lengths"] if small else rules.LENGTHS:
        for setting in rules.SMALL["settings"] if small else rules.SETTINGS:
            if _is_decided(_read(path), setting, length, small):
                continue
            for keep, seeds in rounds:
                _run_round(path, setting, length, keep, seeds, small, progress)


def _config(setting, length, small):
    changes = (rules.SMALL["settings"] if small else rules.SETTINGS)[setting]
    return dataclasses.replace(
        rules.BASE, **(changes | {"epochs": float(length * changes["epochs"])})
    )


def _run_round(path, setting, length, keep, seeds, small, progress):
    """The best `keep` candidates on seeds 0 ... seeds - 1, as far as they are missing."""
    number = rules.SMALL["candidates"] if small else rules.CANDIDATES
    known = _read(path)
    ranked = _ranking(known, setting, length) or list(range(number))
    everyone = candidates(rules.SPACE, number)
    done = {(r["candidate"], r["seed"]) for r in _of(known, setting, length)}
    runs = [(c, s) for c in ranked[:keep] for s in range(seeds) if (c, s) not in done]
    config = _config(setting, length, small)
    for start in range(0, len(runs), RUNS_PER_UNIT):
        unit = runs[start : start + RUNS_PER_UNIT]
        data_seeds = sorted({seed for _, seed in unit})
        population = Population(config, make_tasks(config, data_seeds), list(rules.SPACE))
        began = time.perf_counter()
        trained = population.train(
            [everyone[candidate] for candidate, _ in unit],
            [seed for _, seed in unit],
            [data_seeds.index(seed) for _, seed in unit],
            progress=progress,
        )
        seconds = round((time.perf_counter() - began) / len(unit), 2)
        for (candidate, seed), model in zip(unit, trained, strict=True):
            found = model.task.evaluate(model.params, model.batch_stats)
            finite = bool(np.isfinite(found["loss"]))
            store.append_line(
                path,
                {
                    "setting": setting,
                    "length": length,
                    "candidate": candidate,
                    "seed": seed,
                    "validation_error": 100 * float(found["error"]) if finite else 100.0,
                    "validation_loss": float(found["loss"]) if finite else None,
                    "train_loss": model.train_loss if np.isfinite(model.train_loss) else None,
                    "settings": everyone[candidate],
                    "seconds": seconds,
                    "config": config.to_json(),
                    "commit": _commit(),
                },
            )


def _commit():
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _read(path):
    return store.read_lines(path)


def _of(records, setting, length):
    return [r for r in records if r["setting"] == setting and r["length"] == length]


def _ranking(records, setting, length):
    """Candidates by (most seeds, least mean error)."""
    errors: dict[int, list[float]] = {}
    for record in _of(records, setting, length):
        errors.setdefault(record["candidate"], []).append(record["validation_error"])
    return sorted(errors, key=lambda c: (-len(errors[c]), np.mean(errors[c])))


def best(records: list[dict[str, Any]], setting: str, length: int) -> dict[str, Any] | None:
    """The candidate with most seeds and least error: its settings, mean and standard error."""
    ranked = _ranking(records, setting, length)
    if not ranked:
        return None
    runs = [r for r in _of(records, setting, length) if r["candidate"] == ranked[0]]
    errors = [r["validation_error"] for r in runs]
    return {
        "settings": runs[0]["settings"],
        "seeds": len(errors),
        "error": float(np.mean(errors)),
        "sem": float(np.std(errors, ddof=1) / len(errors) ** 0.5) if len(errors) > 1 else 0.0,
    }


def _is_decided(records, setting, length, small):
    """Whether the two lengths before this one already differ by less than the least gain."""
    lengths = list(rules.SMALL["lengths"] if small else rules.LENGTHS)
    position = lengths.index(length)
    if position < 2:
        return False
    shorter, longer = (best(records, setting, at) for at in lengths[position - 2 : position])
    if shorter is None or longer is None:
        return False
    return shorter["error"] - longer["error"] < rules.LEAST_GAIN


def report(path: pathlib.Path) -> str:
    """The best candidate of each setting and length, as JSON lines."""
    records = _read(path)
    keys = dict.fromkeys((record["setting"], record["length"]) for record in records)
    return "\n".join(
        json.dumps({"setting": setting, "length": length} | best(records, setting, length))
        for setting, length in keys
    )


def main() -> int:
    """Runs and reports."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ladder", description=__doc__)
    parser.add_argument("--small", action="store_true", help="two minutes, to see how it works")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    parser.add_argument("--out", type=pathlib.Path, help="default runs/ladder.jsonl")
    arguments = parser.parse_args()
    out = arguments.out or pathlib.Path("runs", f"ladder{'-small' * arguments.small}.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not arguments.report_only:
        run(out, small=arguments.small)
    print(report(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
