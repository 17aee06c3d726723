"""How flat is a solution: every measure of `flatjax.flatness` on a saved run."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import plots
from experiments.engine.evaluate import final_model
from experiments.engine.task import Task
from experiments.engine.train import load_run
from experiments.report.store import write_json
from experiments.report.tables import markdown_table
from flatjax import flatness

# What each measure is called in tables; larger means sharper, for all of them.
MEASURES = {
    "local_energy": "local energy %, σ={sigma:g}",
    "local_energy_loss": "local energy of the loss, σ={sigma:g}",
    "additive_local_energy": "additive local energy %, σ=0.02",
    "sam": "SAM sharpness, ρ=0.05",
    "asam": "adaptive sharpness, ρ=0.5",
    "worst_case": "worst case, ρ=0.05",
    "pac_bayes": "PAC-Bayes 1/σ²",
    "top_eigenvalue": "largest eigenvalue",
    "trace": "trace of the Hessian",
    "gauss_newton_trace": "trace of Gauss-Newton",
    "norm": "norm of the weights",
    "train_loss": "training loss",
}


@dataclasses.dataclass(frozen=True)
class Effort:
    """How accurately a solution is measured.

    Attributes:
      sigmas: strengths of the noise of the local energy.
      sigma: the one of them that is tabled.
      num_samples: draws of the noise.
      num_matvecs: Lanczos steps for the largest eigenvalue.
      num_probes: random vectors for the traces.
    """

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    sigma: float = 0.3
    num_samples: int = 30
    num_matvecs: int = 30
    num_probes: int = 30


class Measures:
    """The measures of solutions of one task, compiled when first asked for.

    Args:
      task: its training examples are what errors and losses are measured on.
      effort: how accurately.
    """

    def __init__(self, task: Task, effort: Effort):
        self.task = task
        self.effort = effort

    @functools.cached_property
    def _compiled(self) -> dict[str, Callable[..., Any]]:
        eval_fn, effort = self.task.eval_fn, self.effort
        sums = lambda logits, batch: {
            "loss": jnp.sum(
                batch["weight"]
                * optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            ),
            "count": jnp.sum(batch["weight"]),
        }
        predict = lambda params, batch, batch_stats: self.task.logits(params, batch_stats, batch)
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
          task: with the solution's own training examples; its network is that of `self.task`.
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
        sam = fns["sam"](params, batches, batch_stats)
        asam = fns["asam"](params, batches, batch_stats)
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


def measure_runs(
    directories: list[pathlib.Path], out: pathlib.Path, effort: Effort, *, progress: bool = True
) -> str:
    """Measures saved runs; writes flatness.json, flatness.md and flatness.png.

    Args:
      directories: of complete or interrupted runs; the newest checkpoint of each is taken.
      out: directory of the report.
      effort: how accurately.
      progress: print a line for each run as it is measured.

    Returns:
      The table.

    Raises:
      FileNotFoundError: a directory that holds no run, or no checkpoint.
    """
    rows = []
    measures = None
    for directory in directories:
        trainer, state, config = load_run(directory)
        params, batch_stats = final_model(trainer, state)
        task = trainer.task
        held_out = task.evaluate(params, batch_stats)
        if measures is None or task.network != measures.task.network:
            measures = Measures(task, effort)
        found = measures(task, params, batch_stats)
        rows.append(
            {
                "run": str(directory),
                "algorithm": config.algorithm,
                "seed": config.seed,
                "test_error": 100 * float(held_out["error"]),
                **found,
            }
        )
        if progress:
            print(f"measured {directory}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "flatness.json", {"effort": dataclasses.asdict(effort), "runs": rows})
    plots.flatness_curves(rows, out / "flatness.png")
    text = table(rows, effort)
    (out / "flatness.md").write_text(text + "\n")
    return text


def table(rows: list[dict[str, Any]], effort: Effort) -> str:
    """One line for each measure, one column for each run, as Markdown."""
    names = [pathlib.Path(row["run"]) for row in rows]
    header = ["measure", *(f"{name.parent.name}/{name.name}" for name in names)]
    lines = [header, ["test error %", *(f"{row['test_error']:.2f}" for row in rows)]]
    lines.append(["training error %", *(f"{row['train_error']:.2f}" for row in rows)])
    for name, title in MEASURES.items():
        values = [np.format_float_positional(row[name], 4, fractional=False) for row in rows]
        lines.append([title.format(sigma=effort.sigma), *values])
    return markdown_table(lines)
