"""Numbers of a trained network that may predict its errors, as JSON holds them."""

from collections.abc import Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.task import Task
from experiments.report.statistics import rounded
from flatjax import flatness


class Predictors:
    """Sharpness, norm, outliers and margins, by programs that serve many networks.

    Args:
      task: a task of the networks.
    """

    def __init__(self, task: Task):
        eval_fn = task.objective.eval_fn
        self._sharpness = {
            "sam": flatness.sam_sharpness(eval_fn, rho=0.05),
            "asam": flatness.sam_sharpness(eval_fn, rho=0.5, adaptive=True),
        }
        self._logits = jax.jit(task.objective.logits)

    def __call__(
        self,
        params: chex.ArrayTree,
        batch_stats: chex.ArrayTree,
        batches: Iterable[dict[str, jax.Array]],
    ) -> dict[str, Any]:
        """Measures a network on training examples; all numbers are larger for worse ones."""
        sharpness = {
            name: rounded(measure(params, batches, None, batch_stats).rise["loss"])
            for name, measure in self._sharpness.items()
        }
        return sharpness | {
            "norm": rounded(optax.tree.norm(params)),
            "outliers": outliers(params),
            "narrowness": -self._margin(params, batch_stats, batches),
        }

    def _margin(self, params, batch_stats, batches):
        """Median gap between the two largest logits, in their standard deviations."""
        gaps = []
        for batch in batches:
            logits = np.sort(np.asarray(self._logits(params, batch_stats, batch)), axis=-1)
            gap = (logits[:, -1] - logits[:, -2]) / np.maximum(logits.std(axis=-1), 1e-12)
            gaps.append(gap[np.asarray(batch["weight"]) > 0])
        return float(np.median(np.concatenate(gaps)))


def outliers(params: chex.ArrayTree) -> float:
    """Computes the mean over matrices of log(largest weight / root mean square).

    Examples:
      >>> outliers({"kernel": jnp.array([[1.0, 1.0], [1.0, -1.0]]), "bias": jnp.array([9.0])})
      0.0
    """
    matrices = [leaf for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) >= 2]
    ratios = [jnp.max(jnp.abs(w)) / jnp.sqrt(jnp.mean(w**2)) for w in matrices]
    return float(np.mean(np.log(np.array(ratios, float))))
