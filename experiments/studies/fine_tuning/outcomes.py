"""Outcomes of a fine-tuned network, as values for JSON; errors are in %."""

import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.report.statistics import rounded
from experiments.studies.fine_tuning.description import LORA, FineTuning
from experiments.studies.fine_tuning.methods import mode_of
from experiments.studies.fine_tuning.task import Batches, Task, Tasks
from flatjax import flatness


class Measures:
    """Measures networks by programs that serve all of them.

    Args:
      study: the study.
      tasks: its tasks.
    """

    def __init__(self, study: FineTuning, tasks: Tasks):
        self._study, self._tasks = study, tasks
        self._eval_fn = flatness.classification(tasks.net)
        self._all_classes = flatness.classification(self._logits_of_all_classes)
        self._energy = flatness.local_energy(
            self._eval_fn, sigmas=study.sigmas, num_samples=study.noise_samples
        )
        self._center = functools.cache(self._make_center)

    def __call__(
        self, mode: str, fixed: Mapping[str, Any], task: Task, stack: Any, *, is_test: bool
    ) -> dict[str, Any]:
        """Measures the mean of a stack of replicas.

        Returns:
          Errors and losses on both tasks: the old task has its old head. For a test, these are of
          test examples, and there are more outcomes.
        """
        tasks, held_out = self._tasks, (task.validation, task.old_validation)
        new, old = (tasks.test, tasks.old_test) if is_test else held_out
        params = self._center(mode, tuple(fixed.items()))(task.pretrained, stack)
        found = self._of("new", params, new) | self._of(
            "old", self._with_old_head(task, params), old
        )
        if not is_test:
            return found
        found |= self._of("pretrained_old", task.pretrained, old)
        found |= self._of("train", params, task.train_batches)
        found |= self._among_all(task, params)
        # One key for all runs: differences between solutions are less noisy than each of them.
        energy = self._energy(params, task.train_batches, jax.random.key(0))
        found |= {"sigma": list(self._study.sigmas)}
        found["energy_error"] = [rounded(100 * rise) for rise in energy.mean["error"]]
        found["energy_loss"] = [rounded(rise) for rise in energy.mean["loss"]]
        if len(jax.tree.leaves(stack)[0]) > 1:
            found |= self._of_replicas(mode, fixed, task, stack, found["new_error"])
        return found

    def _of(self, name: str, params: chex.ArrayTree, batches: Batches) -> dict[str, float | None]:
        values = flatjax.evaluate(self._eval_fn, params, batches)
        loss = rounded(values["loss"])
        error = 100.0 if loss is None else rounded(100 * values["error"])  # 100: it diverged
        return {f"{name}_error": error, f"{name}_loss": loss}

    def _with_old_head(self, task, params):
        return params | {self._tasks.head: task.pretrained[self._tasks.head]}

    def _logits_of_all_classes(self, pair, images):
        logits = [self._tasks.net.apply({"params": own}, images, train=False) for own in pair]
        return jnp.concatenate(logits, axis=-1)

    def _among_all(self, task, params) -> dict[str, float | None]:
        """Measures errors of both tasks if the classes of both compete."""
        pair, classes = (self._with_old_head(task, params), params), len(self._study.data.old)
        new = [batch | {"label": batch["label"] + classes} for batch in self._tasks.test]
        values = {"old": self._tasks.old_test, "new": new}
        return {
            f"{name}_error_among_all": rounded(
                100 * flatjax.evaluate(self._all_classes, pair, batches)["error"]
            )
            for name, batches in values.items()
        }

    def _of_replicas(self, mode, fixed, task, stack, center_error) -> dict[str, Any]:
        """Measures replicas alone, their distance, and the mean of LoRA's factors."""
        own = mode_of(self._study, self._tasks, mode, fixed)
        replicas = [own.network(task.pretrained, one) for one in flatjax.unstack_replicas(stack)]
        errors = [self._of("new", one, self._tasks.test)["new_error"] for one in replicas]
        meeting = {"center": center_error, "replicas": float(np.mean(errors))}
        meeting |= {"distance": self._distance(task, replicas)}
        found: dict[str, Any] = {"meeting": meeting}
        if mode == LORA:
            mean = flatjax.replica_center(stack, replica_axis=0)
            factors = self._of("factors", own.network(task.pretrained, mean), self._tasks.test)
            found |= {"mean_of_factors_error": factors["factors_error"]}
        return found

    def _distance(self, task, replicas) -> float | None:
        """Measures the distance of replicas from their mean.

        Its unit is the distance of the mean from the pretrained weights. Heads do not count.
        """
        bodies = [
            tuple(w for name, w in one.items() if name != self._tasks.head) for one in replicas
        ]
        start = tuple(w for name, w in task.pretrained.items() if name != self._tasks.head)
        stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *bodies)
        center = flatjax.replica_center(stack, replica_axis=0)
        moved = optax.tree.norm(optax.tree.sub(center, start), squared=True)
        return rounded(np.sqrt(flatjax.replica_distance(stack, replica_axis=0) / moved))

    def _make_center(self, mode, fixed):
        return jax.jit(mode_of(self._study, self._tasks, mode, dict(fixed)).center)
