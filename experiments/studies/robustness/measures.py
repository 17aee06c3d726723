"""Predictors and outcomes of a trained network, as JSON holds them, in %."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from experiments.engine.population import Trained
from experiments.engine.task import Task, load_splits
from experiments.report.statistics import rounded
from experiments.studies.contest import outcomes
from experiments.studies.predictors import Predictors
from experiments.studies.robustness.description import Robustness
from flatjax import data, flatness

SIGMA, ADDITIVE = 0.3, 0.02  # noise on the weights: relative, absolute


class Measures:
    """Measures the solutions of one group, by programs that serve all of them.

    Args:
      study: the description.
      task: a task of the group; its test examples are those of all.
    """

    def __init__(self, study: Robustness, task: Task):
        self._study, self._normalization = study, task.objective.problem.normalization
        self._few_test = task.batches(task.held_out[: study.outcomes.examples])
        self._changes = outcomes.Measures(study.outcomes, task)
        eval_fn, samples = task.objective.eval_fn, {"num_samples": study.outcomes.noise_samples}
        self._noises = {
            "relative noise": flatness.local_energy(eval_fn, sigmas=[SIGMA], **samples),
            "absolute noise": flatness.local_energy(
                eval_fn, sigmas=[ADDITIVE], noise="additive", **samples
            ),
        }
        self._numbers = Predictors(task)
        self._coefficient = flatness.learning_coefficient(eval_fn, **study.chains)
        self._fine_tuning = flatness.fine_tuning(
            eval_fn,
            self._batches(second_task(task, study.second_seed), task.config.batch_size),
            optax.sgd(study.rate, momentum=study.momentum),
            steps=study.steps,
        )

    def __call__(self, model: Trained) -> dict[str, Any]:
        """Measures a solution; of one that diverged only says so."""
        task, network = model.task, (model.params, model.batch_stats)
        found = task.evaluate(*network)
        if not np.isfinite(found["loss"]):
            return {"diverged": True}
        train = task.batches(task.train[: self._study.outcomes.examples])
        changes = self._changes.robustness(*network, train)
        return {
            "test_error": 100 * float(found["error"]),
            "test_loss": float(found["loss"]),
            "train_error": changes["train_error"],
            "predictors": self._predictors(model, train, changes),
            **self._outcomes(*network, changes["rises"]),
        }

    def _predictors(self, model, train, changes):
        params, batch_stats = model.params, model.batch_stats
        few = model.task.train[: self._study.chain_examples]
        near = self._batches(few, self._study.chain_batch)
        coefficient = self._coefficient(params, near, jax.random.key(0), batch_stats)
        return self._numbers(params, batch_stats, train) | {
            "local_energy": changes["local_energy"][changes["sigma"].index(SIGMA)],
            "learning_coefficient": rounded(coefficient.mean),
            "learning_coefficient_sem": rounded(coefficient.sem),
            "problems": list(coefficient.problems),
            "train_loss": changes["train_loss"],
        }

    def _outcomes(self, params, batch_stats, rises):
        key = jax.random.key(0)  # the same noise for all solutions
        noisy = {
            name: measure(params, self._few_test, key, batch_stats).mean
            for name, measure in self._noises.items()
        }
        tuned = self._fine_tuning(params, self._few_test, None, batch_stats)
        names = [f"{steps} steps" for steps in self._study.steps]
        rises = rises | {
            name: {"error": 100 * float(mean["error"][0]), "loss": float(mean["loss"][0])}
            for name, mean in noisy.items()
        }
        second = [tuned.second_reference["error"], *tuned.second["error"]]
        return {
            "rises": rises | outcomes.rises_of(tuned.rise, names),
            "second_task": dict(
                zip(["0 steps", *names], [100 * float(error) for error in second], strict=True)
            ),
            "moved": dict(zip(names, map(float, tuned.distance), strict=True)),
        }

    def _batches(self, split, batch_size):
        return data.eval_batches(split, self._normalization, batch_size)


def second_task(task: Task, seed: int) -> data.Split:
    """Returns images in a mirror, with right labels."""
    config = task.config.changed(label_noise=0.0, data_seed=seed)
    split, _, _ = load_splits(config.data)
    return dataclasses.replace(split, image=split.image[:, :, ::-1].copy())
