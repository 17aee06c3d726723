"""Measurements of a run: final model, replicas, their ensemble, and flatness."""

import math
import sys
from collections.abc import Iterable
from typing import Any

import chex
import jax
import jax.numpy as jnp

import flatjax
from experiments.engine.algorithms import Hyper
from experiments.engine.config import TrainConfig
from experiments.engine.plan import Plan
from experiments.engine.programs import programs_of
from experiments.engine.steps import State
from experiments.engine.task import Task


def final_model(plan: Plan, task: Task, state: State) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """Returns parameters and batch statistics of the model that a run produces.

    This is the center of the replicas, of the anchors of Entropy-SGD or of the averages of SWA.
    Training never visits this point, so its batch statistics are measured on training batches.
    """
    members = flatjax.eval_params(state.opt_state, state.params)
    center = plan.placement.local(flatjax.replica_center(members, replica_axis=0))
    return center, statistics(task, center, state.batch_stats)


def held_out_errors(
    plan: Plan, task: Task, state: State, batches: Iterable[Any]
) -> dict[str, float]:
    """Measures the error, in %, of the final model if training stopped here.

    For networks with batch norm, also measures the error with the statistics left by training,
    averaged over the replicas, instead of re-estimated ones.

    Args:
      plan: the static part of the run.
      task: data of the run.
      state: a state during training, or at its end.
      batches: batches on which the error is measured.
    """
    params, batch_stats = final_model(plan, task, state)
    test = task.evaluate(params, batch_stats, batches)
    return _errors(plan, task, state, params, test, batches)


def _errors(plan, task, state, params, test, batches=None) -> dict[str, float]:
    """Computes `held_out_errors` for a model evaluated with re-estimated statistics."""
    errors = {"test_error": _percent(test["error"])}
    if jax.tree.leaves(state.batch_stats):
        averaged = flatjax.batch_stats.average(state.batch_stats, replica_axis=0)
        averaged = plan.placement.local(averaged)
        found = task.evaluate(params, averaged, batches)
        errors["test_error_averaged_statistics"] = _percent(found["error"])
    return errors


def coupling_record(plan: Plan, hyper: Hyper, state: State) -> dict[str, float]:
    """Records the coupling: gamma, learning rate x gamma, distance, energy."""
    if plan.num_replicas == 1:
        return {}
    diagnostics = programs_of(plan).coupling(hyper, state)
    # An infinite gamma (DiLoCo) has an infinite energy, which JSON cannot hold.
    found = {name: float(value) for name, value in diagnostics.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def final_result(
    plan: Plan,
    task: Task,
    config: TrainConfig,
    state: State,
    history: list[dict[str, Any]],
    model: tuple[chex.ArrayTree, chex.ArrayTree],
) -> dict[str, Any]:
    """Returns the record of a complete run, as values for JSON.

    Errors are in %. `test_*` is measured on the held-out examples (see `config.evaluate_on`),
    `train_*` and `local_energy` on the first training examples. `model` is the final model, see
    `final_model`.

    Raises:
      ValueError: the final model is not finite.
    """
    params, batch_stats = model
    test = task.evaluate(params, batch_stats)
    if not math.isfinite(test["loss"]):
        raise ValueError(f"the final model's loss on held-out examples is {test['loss']}.")
    stack = flatjax.eval_params(state.opt_state, state.params)
    members = plan.placement.local(flatjax.unstack_replicas(stack))
    member_stats = [statistics(task, member, state.batch_stats) for member in members]
    replica_errors = [
        task.evaluate(*member)["error"] for member in zip(members, member_stats, strict=True)
    ]
    energy = measure_local_energy(task, params, batch_stats, seed=config.data.data_seed)
    return {
        "config": config.to_json(),
        "gradient_evaluations": plan.gradient_evaluations,
        "epochs_per_replica": plan.total_steps / plan.batches_per_epoch,
        "seconds": history[-1]["seconds"],
        **_errors(plan, task, state, params, test),
        "test_loss": float(test["loss"]),
        "train_error": energy["reference_error"],
        "train_loss": energy["reference_loss"],
        "replica_test_errors": [_percent(error) for error in replica_errors],
        "ensemble_test_error": _percent(task.ensemble_error(members, member_stats)),
        "local_energy": energy,
        "history": history,
    }


def measure_local_energy(
    task: Task, params: chex.ArrayTree, batch_stats: chex.ArrayTree, seed: int
) -> dict[str, Any]:
    """Measures the rise of training error (in %) and loss under multiplicative noise."""
    measure = task.objective.local_energy
    # All runs use the same key: differences between solutions are less noisy than their values.
    energy = measure(params, task.train_batches, jax.random.key(seed), batch_stats)
    return {
        "sigma": list(task.objective.sigmas),
        "error": [_percent(value) for value in energy.mean["error"]],
        "error_sem": [_percent(value) for value in energy.sem["error"]],
        "loss": energy.mean["loss"].tolist(),
        "loss_sem": energy.sem["loss"].tolist(),
        "reference_error": _percent(energy.reference["error"]),
        "reference_loss": float(energy.reference["loss"]),
    }


def meeting(
    task: Task, stack: chex.ArrayTree, batch_stats: chex.ArrayTree, stats: chex.ArrayTree
) -> dict[str, float] | None:
    """Compares replicas with their center at the end, see `report.meeting`.

    Errors are measured on the held-out examples on which training is followed.

    Args:
      task: its data.
      stack: stacked parameters of the networks whose center is the final model.
      batch_stats: stacked statistics, for their structure.
      stats: batch statistics of the final model.

    Returns:
      The meeting; None of a single network, and of networks that diverged.
    """
    members = flatjax.unstack_replicas(stack)
    if len(members) == 1 or not jnp.isfinite(flatjax.replica_distance(stack, replica_axis=0)):
        return None
    member_stats = [statistics(task, member, batch_stats) for member in members]
    found = flatjax.check_collapsed(
        task.objective.eval_fn,
        stack,
        task.batches(task.held_out[: task.config.measures.curve_examples]),
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *member_stats),
        center_state=(stats,),
        tolerance=sys.float_info.max,  # the command warns, once, of all runs
    )
    return {
        "center": _percent(found.center),
        "replicas": _percent(found.replicas),
        "distance": round(found.relative_distance, 6),
    }


def statistics(task: Task, params: chex.ArrayTree, batch_stats: chex.ArrayTree) -> chex.ArrayTree:
    """Measures batch statistics of `params`, if the network has any.

    Args:
      task: task that provides training batches.
      params: parameters of one network.
      batch_stats: stacked statistics, used for their structure.
    """
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), batch_stats)
    return flatjax.batch_stats.reestimate(
        task.objective.update_stats, params, stats, task.statistics_batches
    )


def _percent(fraction) -> float:
    return round(100 * float(fraction), 4)
