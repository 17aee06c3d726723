"""Tunes every algorithm alike on validation data, then tests each once, on fresh seeds."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats.qmc

from experiments import plots
from experiments.engine.config import TrainConfig
from experiments.engine.population import Population, Trained, make_tasks
from experiments.report import store
from experiments.report.statistics import holm, mean_and_sem, paired_difference
from experiments.report.store import slug
from experiments.report.tables import markdown_table


@dataclasses.dataclass(frozen=True)
class Contest:
    """What is compared, and how; see `experiments.configs.contest` for the protocol.

    Attributes:
      base: what all runs share.
      settings: label -> what the setting changes.
      spaces: contestant -> field -> least and largest value tried.
      variants: contestant -> what it fixes, its algorithm included; the others are algorithms.
      trials: candidates of each contestant in each setting.
      trials_of: contestant -> candidates, where they are more than those.
      against: contestants with which others are compared besides SGD, without a test.
      tuning_seeds: seeds (and data) of every candidate.
      test_seeds: seeds (and data) of the test.
      sigma: noise strength at which local energies are tabled.
    """

    base: TrainConfig
    settings: Mapping[str, Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, tuple[float, float]]]
    trials: int
    tuning_seeds: Sequence[int]
    test_seeds: Sequence[int]
    sigma: float
    variants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    trials_of: Mapping[str, int] = dataclasses.field(default_factory=dict)
    against: Sequence[str] = ()

    def candidates(self, algorithm: str) -> list[dict[str, float]]:
        """The settings that are tried, log-uniform in the algorithm's space."""
        space = self.spaces[algorithm]
        trials = self.trials_of.get(algorithm, self.trials)
        points = scipy.stats.qmc.Halton(len(space), rng=0).random(trials)
        low, high = np.log(list(space.values())).T
        return [
            {name: float(f"{value:.3g}") for name, value in zip(space, np.exp(row), strict=True)}
            for row in low + points * (high - low)
        ]

    def config(self, setting: str, algorithm: str, evaluate_on: str) -> TrainConfig:
        """What all candidates of a contestant share; couplings stand where none may be missing."""
        lowest = {name: bounds[0] for name, bounds in self.spaces[algorithm].items()}
        changes = {"algorithm": algorithm, "evaluate_on": evaluate_on} | lowest
        changes |= self.settings[setting] | self.variants.get(algorithm, {})
        return dataclasses.replace(self.base, **changes)

    def algorithm_of(self, contestant: str) -> str:
        """What it runs."""
        return self.variants.get(contestant, {}).get("algorithm", contestant)


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
        found = {name: store.read_json(path) for name, path in paths.items() if path.exists()}
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


# --- the report ---------------------------------------------------------------------------------


def summarize(contest: Contest, results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each setting and contestant, with its paired differences to SGD and others.

    Holm's correction is over all differences to SGD: one of the algorithms, one of the variants.
    """
    rows = []
    for setting, algorithms in results.items():
        baseline = _column(algorithms["sgd"], "test_error")
        for algorithm, found in algorithms.items():
            errors = _column(found, "test_error")
            at = found["runs"][0]["sigma"].index(contest.sigma)
            row = {
                "setting": setting,
                "algorithm": algorithm,
                "base": contest.algorithm_of(algorithm),
                "settings": found["settings"],
                "seeds": len(errors),
                "test_error": mean_and_sem(errors),
                "train_error": mean_and_sem(_column(found, "train_error")),
                "local_energy": mean_and_sem([run["local_energy"][at] for run in found["runs"]]),
                "gradient_evaluations": found["gradient_evaluations"],
            }
            if algorithm != "sgd":
                mean, interval, p = paired_difference(errors, baseline)
                row["difference"] = round(mean, 4)
                row["interval"] = [round(end, 4) for end in interval]
                row["p"] = p
            row["against"] = {
                other: _difference(errors, _column(algorithms[other], "test_error"))
                for other in contest.against
                if other in algorithms and algorithm not in ("sgd", other)
            }
            rows.append(row)
    for family in (False, True):
        compared = [
            row for row in rows if "p" in row and (row["algorithm"] in contest.variants) == family
        ]
        for row, corrected in zip(compared, holm([row["p"] for row in compared]), strict=True):
            row["p_holm"] = float(corrected)
    return rows


def _difference(errors, others):
    mean, interval, _ = paired_difference(errors, others)
    return [round(float(value), 4) for value in (mean, *interval)]


def _column(found, name):
    return np.array([run[name] for run in found["runs"]])


def table(rows: list[dict[str, Any]], sigma: float) -> str:
    """The summary as a Markdown table."""
    others = list(dict.fromkeys(other for row in rows for other in row["against"]))
    header = ["setting", "algorithm", "test error %", "to SGD, 95% interval", "p (Holm)"]
    header += [f"to {other}" for other in others]
    header += ["train error %", f"local energy %, σ={sigma:g}"]
    lines = [header]
    for row in rows:
        compared = "p" in row
        lines.append(
            [
                row["setting"],
                row["algorithm"],
                "{:.2f} ± {:.2f}".format(*row["test_error"]),
                _interval([row["difference"], *row["interval"]] if compared else None),
                f"{row['p_holm']:.2g}" if compared else "",
                *(_interval(row["against"].get(other)) for other in others),
                "{:.2f} ± {:.2f}".format(*row["train_error"]),
                "{:.2f} ± {:.2f}".format(*row["local_energy"]),
            ]
        )
    return markdown_table(lines)


def _interval(difference):
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*difference) if difference else ""


def report(contest: Contest, results: dict[str, Any], out: pathlib.Path) -> str:
    """Writes contest.json, contest.md and contest.png; returns the table."""
    rows = summarize(contest, results)
    store.write_json(out / "contest.json", {"base": contest.base.to_json(), "rows": rows})
    text = table(rows, contest.sigma)
    (out / "contest.md").write_text(text + "\n")
    plots.contest(rows, out / "contest.png")
    return text
