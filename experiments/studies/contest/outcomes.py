"""Outcomes of a trained model, as JSON holds them, in %."""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.task import Task
from experiments.report.statistics import rounded
from experiments.studies.contest.description import Outcomes
from flatjax import calibration, flatness

SCALES = {
    "tensor": {"scale": "tensor"},
    "channel": {"scale": "channel"},
    "clipped": {"scale": "tensor", "clipped": True},
}
Batches = Sequence[dict[str, jax.Array]]


class Measures:
    """Measures the models of one setting, by programs that serve all of them.

    Attributes:
      examples: how many training examples rises under noise are measured on.

    Args:
      outcomes: their description.
      task: a task of the setting; its test examples are those of all.
    """

    def __init__(self, outcomes: Outcomes, task: Task):
        self._outcomes = outcomes
        self.examples = outcomes.examples
        self._logits = jax.jit(task.objective.logits)
        self._test = task.batches(task.held_out)
        self._few_test = task.batches(task.held_out[: outcomes.examples])
        self._noise = flatness.weight_noise(
            task.objective.eval_fn,
            sigmas=outcomes.sigmas,
            target_rise=[rise / 100 for rise in outcomes.noise_rises],
            num_samples=outcomes.noise_samples,
        )
        self._rounding = {
            name: flatness.quantization(task.objective.eval_fn, bits=outcomes.bits, **options)
            for name, options in SCALES.items()
        }
        self._pruning = flatness.pruning(task.objective.eval_fn, sparsity=outcomes.sparsity)

    def quality(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, validation: Batches
    ) -> dict[str, float | None]:
        """Test error, loss and calibration; validation data fit the temperature."""
        logits, labels = self._scores(params, batch_stats, self._test)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels
        if not bool(jnp.isfinite(logits).all()):  # diverged
            return {"test_error": 100.0} | dict.fromkeys(_QUALITIES)
        temperature = calibration.fit_temperature(*self._scores(params, batch_stats, validation))
        found = (
            losses(logits, labels).mean(),
            losses(logits / temperature, labels).mean(),
            temperature,
            100 * calibration.expected_calibration_error(logits, labels),
            calibration.brier_score(logits, labels),
        )
        error = 100 * np.mean(np.argmax(logits, axis=-1) != labels)
        return {"test_error": rounded(error)} | dict(
            zip(_QUALITIES, map(rounded, found), strict=True)
        )

    def robustness(
        self, params: chex.ArrayTree, batch_stats: chex.ArrayTree, train: Batches
    ) -> dict[str, Any]:
        """Training error, its rise under noise, and rises when weights change."""
        # One key for all runs: differences between solutions are less noisy than each of them.
        noise = self._noise(params, train, jax.random.key(0), batch_stats)
        names = [f"{rise:g}" for rise in self._outcomes.noise_rises]
        found = {
            "train_error": rounded(100 * noise.energy.reference["error"]),
            "train_loss": rounded(noise.energy.reference["loss"]),
            "sigma": list(self._outcomes.sigmas),
            "local_energy": _numbers(100 * noise.energy.mean["error"]),
            "tolerance": dict(zip(names, _numbers(noise.tolerance), strict=True)),
            "tolerance_sem": dict(zip(names, _numbers(noise.sem), strict=True)),
        }
        rises: dict[str, dict[str, float | None]] = {}
        for scale, measure in self._rounding.items():
            changed = measure(params, self._few_test, None, batch_stats)
            rises |= rises_of(changed.rise, [f"{b} bits, {scale}" for b in changed.bits])
        pruned = self._pruning(params, self._few_test, None, batch_stats)
        return found | {
            "rises": rises
            | rises_of(pruned.rise, [f"{100 * s:g}% pruned" for s in pruned.sparsity])
        }

    def _scores(self, params, batch_stats, batches):
        """Logits and labels of all examples, without those that fill up the last batch."""
        logits, labels = [], []
        for batch in batches:
            is_real = np.asarray(batch["weight"]) > 0
            logits.append(np.asarray(self._logits(params, batch_stats, batch))[is_real])
            labels.append(np.asarray(batch["label"])[is_real])
        return jnp.concatenate(logits), jnp.concatenate(labels)


_QUALITIES = ("test_loss", "scaled_loss", "temperature", "calibration_error", "brier_score")


def rises_of(
    rise: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Names the rises of the error, in points, and of the loss at each setting."""
    return {
        name: {"error": rounded(100 * rise["error"][i]), "loss": rounded(rise["loss"][i])}
        for i, name in enumerate(names)
    }


def _numbers(values) -> list[float | None]:
    return [rounded(value) for value in values]
