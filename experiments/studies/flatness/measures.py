"""How flat a solution is, by every measure of `flatjax.flatness`."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from experiments.engine.objective import Objective
from experiments.engine.task import Task
from experiments.studies.flatness.description import Effort
from flatjax import flatness


class Measures:
    """The measures of solutions of one objective, compiled when first asked for.

    Args:
      objective: network and loss.
      effort: how accurately.
    """

    def __init__(self, objective: Objective, effort: Effort):
        self.objective = objective
        self.effort = effort

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[..., Any]]:
        eval_fn, effort = self.objective.eval_fn, self.effort
        sums = lambda outputs, batch: {
            name: total
            for name, total in self.objective.problem.sums(outputs, batch).items()
            if name != "error"  # which has no curvature
        }
        predict = lambda params, batch, batch_stats: self.objective.logits(
            params, batch_stats, batch
        )
        hessian = flatness.hessian_operator(eval_fn)
        samples = {"num_samples": effort.num_samples}
        return {
            "local_energy": flatness.local_energy(eval_fn, sigmas=effort.sigmas, **samples),
            "additive": flatness.local_energy(eval_fn, sigmas=[0.02], noise="additive", **samples),
            "sam": flatness.sam_sharpness(eval_fn, rho=0.05),
            "asam": flatness.sam_sharpness(eval_fn, rho=0.5, adaptive=True),
            "worst_case": flatness.worst_case_sharpness(eval_fn, rho=0.05, steps=10),
            "pac_bayes": flatness.pac_bayes_sigma(eval_fn, target_rise=0.1, rtol=0.05, **samples),
            "top": flatness.top_eigenvalues(hessian, num_matvecs=effort.num_matvecs),
            "trace": flatness.trace(hessian, num_samples=effort.num_probes),
            "gauss_newton": flatness.trace(
                flatness.gauss_newton_operator(predict, sums), num_samples=effort.num_probes
            ),
        }

    def __call__(
        self, task: Task, params: chex.ArrayTree, batch_stats: chex.ArrayTree
    ) -> dict[str, Any]:
        """All measures of one solution, as JSON holds them.

        Args:
          task: with the solution's own training examples; errors and losses are measured there.
          params: parameters.
          batch_stats: batch statistics.

        Returns:
          measure -> value; `curve` holds the local energy at every sigma.
        """
        fns, batches = self._compiled, task.train_batches
        key = jax.random.key(0)  # the same noise for all solutions
        energy = fns["local_energy"](params, batches, key, batch_stats)
        at = self.effort.sigmas.index(self.effort.sigma)
        additive = fns["additive"](params, batches, key, batch_stats)
        sam = fns["sam"](params, batches, key, batch_stats)
        asam = fns["asam"](params, batches, key, batch_stats)
        worst = fns["worst_case"](params, batches, key, batch_stats)
        pac_bayes = fns["pac_bayes"](params, batches, key, batch_stats)
        top = fns["top"](params, batches, key, batch_stats)
        trace = fns["trace"](params, batches, key, batch_stats)
        gauss_newton = fns["gauss_newton"](params, batches, key, batch_stats)
        numbers = {
            "local_energy": 100 * energy.mean["error"][at],
            "local_energy_loss": energy.mean["loss"][at],
            "additive_local_energy": 100 * additive.mean["error"][0],
            "sam": sam.rise["loss"],
            "asam": asam.rise["loss"],
            "worst_case": worst.rise["loss"],
            "pac_bayes": pac_bayes.complexity,
            "top_eigenvalue": top.values[0],
            "trace": trace.mean,
            "gauss_newton_trace": gauss_newton.mean,
            "norm": optax.tree.norm(params),
            "train_loss": energy.reference["loss"],
            "train_error": 100 * energy.reference["error"],
        }
        curve = {
            "sigma": list(self.effort.sigmas),
            "error": (100 * energy.mean["error"]).tolist(),
            "error_sem": (100 * energy.sem["error"]).tolist(),
        }
        return {name: float(value) for name, value in numbers.items()} | {"curve": curve}
