"""Tunes every algorithm alike on validation data, then tests each once, on fresh seeds."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.engine.population import Population, Trained, make_tasks
from experiments.report import store
from experiments.report.statistics import mean_and_sem
from experiments.report.store import slug
from experiments.studies.contest.description import Contest


def run_contest(contest: Contest, out: pathlib.Path, *, progress: bool = True) -> dict[str, Any]:
    """Tunes and tests what has no result in `out` yet; goes on where it was stopped.

    Args:
      contest: what to run.
      out: directory; each setting and algorithm has tuning.json and test.json in its own.
      progress: show progress bars.

    Returns:
      setting -> algorithm -> what test.json holds.
    """
    return {
        setting: {
            name: _tune_and_test(contest, setting, name, out / slug(setting) / slug(name), progress)
            for name in contest.spaces
        }
        for setting in contest.settings
    }


def _tune_and_test(contest, setting, algorithm, directory, progress):
    part = (contest, setting, algorithm, progress)
    best, *_ = store.cached(directory / "tuning.json", lambda: _tune(*part))
    return store.cached(directory / "test.json", lambda: _test(*part, best["settings"]))


def read_contest(contest: Contest, out: pathlib.Path) -> dict[str, Any]:
    """The results that are complete, as `run_contest` returns them."""
    results: dict[str, Any] = {}
    for setting in contest.settings:
        paths = {name: out / slug(setting) / slug(name) / "test.json" for name in contest.spaces}
        found = {name: store.read_if_there(path) for name, path in paths.items()}
        found = {name: test for name, test in found.items() if test is not None}
        if "sgd" in found:
            results[setting] = found
    return results


def _tune(contest, setting, algorithm, progress) -> list[dict[str, Any]]:
    """Candidates, best first; one that diverged has no error and stands last."""
    candidates = contest.candidates(algorithm)
    seeds = list(contest.tuning_seeds)
    config = contest.config(setting, algorithm, "validation")
    population = Population(config, make_tasks(config, seeds), list(contest.spaces[algorithm]))
    runs = [(candidate, position) for candidate in candidates for position in range(len(seeds))]
    trained = population.train(
        [candidate for candidate, _ in runs],
        [seeds[position] for _, position in runs],
        [position for _, position in runs],
        progress=progress,
    )
    errors = np.reshape([_errors(run)["test_error"] for run in trained], (len(candidates), -1))
    found = [
        {"settings": candidate, "validation_error": mean_and_sem(row) if all(row < 90) else None}
        for candidate, row in zip(candidates, errors, strict=True)
    ]
    return sorted(found, key=lambda row: (row["validation_error"] or (np.inf,))[0])


def _test(contest, setting, algorithm, progress, settings) -> dict[str, Any]:
    seeds = list(contest.test_seeds)
    config = contest.config(setting, algorithm, "test")
    population = Population(config, make_tasks(config, seeds), list(settings))
    trained = population.train(
        [settings] * len(seeds), seeds, list(range(len(seeds))), progress=progress
    )
    return {
        "settings": settings,
        "gradient_evaluations": population.trainer.gradient_evaluations,
        "runs": [
            {"seed": seed} | _errors(run) | _local_energy(run)
            for seed, run in zip(seeds, trained, strict=True)
        ],
    }


def _errors(run: Trained) -> dict[str, float]:
    """Held-out error in %; 100 for a run that diverged."""
    found = run.task.evaluate(run.params, run.batch_stats)
    finite = bool(np.isfinite(found["loss"]))
    return {
        "test_error": 100 * float(found["error"]) if finite else 100.0,
        "test_loss": float(found["loss"]) if finite else None,
    }


def _local_energy(run: Trained) -> dict[str, Any]:
    task = run.task
    energy = task.local_energy(run.params, task.train_batches, jax.random.key(0), run.batch_stats)
    return {
        "train_error": 100 * float(energy.reference["error"]),
        "train_loss": float(energy.reference["loss"]),
        "sigma": energy.sigma.tolist(),
        "local_energy": (100 * energy.mean["error"]).tolist(),
    }
