"""Tunes every algorithm alike on validation data, then tests each on fresh seeds."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.engine.population import Population, Trained, meeting_record
from experiments.engine.task import dataset_fingerprint, make_tasks
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance, store
from experiments.report.statistics import mean_and_sem
from experiments.report.store import slug
from experiments.studies.first_contest.description import Contest
from experiments.studies.runs import held_out_errors, unit_file
from experiments.studies.units import run_units


def run_contest(
    contest: Contest, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> dict[str, Any]:
    """Tunes and tests what has no result in `out` yet.

    Args:
      contest: the contest.
      out: directory; each setting and algorithm has a directory with tuning.json and test.json.
      progress: show progress bars.
      limit: limit of the wall time; it counts the parts that are left.

    Returns:
      setting -> algorithm -> content of test.json, without parts that other processes work on.

    Raises:
      ValueError: a file in `out` is damaged, or of another contest.
    """
    options = {"progress": progress, "limit": limit}
    units = [
        ((setting, name), functools.partial(_tune_and_test, contest, setting, name, out, options))
        for setting in contest.settings
        for name in contest.spaces
    ]
    results: dict[str, Any] = {setting: {} for setting in contest.settings}
    for (setting, name), found in run_units(units, limit):
        results[setting][name] = found
    return results


def _tune_and_test(contest, setting, algorithm, out, options):
    part = (contest, setting, algorithm)
    directory = directory_of(out, setting, algorithm)
    data = {"data": dataset_fingerprint(contest.base.data.dataset)}

    def made(name, identity, make, *given):
        # The networks of an interrupted part are next to its file.
        networks = directory / f"{name}.npz"
        path, options_of_part = directory / f"{name}.json", options | {"networks": networks}
        value = store.cached(path, identity | data, lambda: make(*part, options_of_part, *given))
        networks.unlink(missing_ok=True)
        return value

    settings = made("tuning", tuning_identity(*part), _tune)[0]["settings"]
    return made("test", test_identity(*part, settings), _test, settings)


def directory_of(out: pathlib.Path, setting: str, algorithm: str) -> pathlib.Path:
    """Returns the directory of a contestant."""
    return out / slug(setting) / slug(algorithm)


def tuning_identity(contest: Contest, setting: str, algorithm: str) -> dict[str, Any]:
    """Returns everything on which the candidates' errors depend."""
    return {
        "config": contest.config(setting, algorithm, "validation").to_json(),
        "candidates": contest.candidates(algorithm),
        "seeds": list(contest.tuning_seeds),
        "revision": provenance.TRAINING,
    }


def test_identity(
    contest: Contest, setting: str, algorithm: str, settings: dict[str, float]
) -> dict[str, Any]:
    """Returns everything on which the test errors depend."""
    return {
        "config": contest.config(setting, algorithm, "test").to_json(),
        "settings": settings,
        "seeds": list(contest.test_seeds),
        "revision": provenance.TRAINING,
    }


def read_contest(contest: Contest, out: pathlib.Path) -> dict[str, Any]:
    """Reads the complete results, as `run_contest` returns them."""
    results: dict[str, Any] = {}
    for setting in contest.settings:
        tests = {name: _read_test(contest, setting, name, out) for name in contest.spaces}
        found = {name: test for name, test in tests.items() if test is not None}
        if "sgd" in found:
            results[setting] = found
    return results


def _read_test(contest, setting, algorithm, out) -> dict[str, Any] | None:
    part, directory = (contest, setting, algorithm), directory_of(out, setting, algorithm)
    tuning = store.read_cached(directory / "tuning.json", tuning_identity(*part))
    if tuning is None:
        return None
    identity = test_identity(*part, tuning[0]["settings"])
    return store.read_cached(directory / "test.json", identity)


def _tune(contest, setting, algorithm, options) -> list[dict[str, Any]]:
    """Returns the candidates, best first; diverged ones have no error and are last."""
    candidates = contest.candidates(algorithm)
    seeds = list(contest.tuning_seeds)
    config = contest.config(setting, algorithm, "validation")
    population = Population(config, make_tasks(config, seeds))
    runs = [(candidate, position) for candidate in candidates for position in range(len(seeds))]
    trained = _train(population, runs, seeds, options)
    errors = [held_out_errors(run, "validation")["validation_error"] for run in trained]
    found = [
        {"settings": candidate, "validation_error": mean_and_sem(row) if all(row < 90) else None}
        for candidate, row in zip(
            candidates, np.reshape(errors, (len(candidates), -1)), strict=True
        )
    ]
    return sorted(found, key=lambda row: (row["validation_error"] or (np.inf,))[0])


def _test(contest, setting, algorithm, options, settings) -> dict[str, Any]:
    seeds = list(contest.test_seeds)
    config = contest.config(setting, algorithm, "test")
    population = Population(config, make_tasks(config, seeds))
    runs = [(settings, position) for position in range(len(seeds))]
    trained = _train(population, runs, seeds, options)
    return {
        "settings": settings,
        "gradient_evaluations": population.plan.gradient_evaluations,
        "runs": [
            {"seed": seed} | held_out_errors(run, "test") | _local_energy(run) | meeting_record(run)
            for seed, run in zip(seeds, trained, strict=True)
        ],
    }


def _train(population, runs, seeds, options) -> list[Trained]:
    """Trains runs, given as settings and position of the seed (and data)."""
    positions = [position for _, position in runs]
    return population.train(
        [settings for settings, _ in runs],
        [seeds[position] for position in positions],
        positions,
        progress=options["progress"],
        limit=options["limit"],
        file=unit_file(options["networks"], population.config, runs),
    )


def _local_energy(run: Trained) -> dict[str, Any]:
    task = run.task
    measure, key = task.objective.local_energy, jax.random.key(0)
    energy = measure(run.params, task.train_batches, key, run.batch_stats)
    return {
        "train_error": 100 * float(energy.reference["error"]),
        "train_loss": float(energy.reference["loss"]),
        "sigma": energy.sigma.tolist(),
        "local_energy": (100 * energy.mean["error"]).tolist(),
    }
