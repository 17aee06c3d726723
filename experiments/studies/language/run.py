"""Trains every arm with every seed, and measures it along the way."""

import dataclasses
import functools
import math
import pathlib
import time
from typing import Any

import jax

import flatjax
from experiments.engine import evaluate, fingerprints
from experiments.engine.loop import take_steps
from experiments.engine.plan import Plan, hyper_of, make_plan
from experiments.engine.programs import programs_of
from experiments.engine.steps import State
from experiments.engine.task import Task, make_task
from experiments.engine.time_limit import TimeLimit
from experiments.report import provenance, store
from experiments.report.store import slug
from experiments.studies.language.description import Language
from experiments.studies.units import run_units
from flatjax import data, flatness


def run_study(
    study: Language, out: pathlib.Path, *, progress: bool = True, limit: TimeLimit | None = None
) -> None:
    """Trains and measures what has no record in `out` yet.

    Args:
      study: the study.
      out: directory with a file for each arm and seed.
      progress: print a line for each complete unit.
      limit: limit of the wall time; an arm and seed that would not end in time is not started.
    """
    limit = limit or TimeLimit()
    text = make_task(study.base)
    found = fingerprints.of_split(text.train)

    def unit(arm, seed):
        make = functools.partial(_run_unit, study, text, arm, seed)
        identity = identity_of(study, arm, seed, len(text.train)) | {"data": found}
        path = path_of(out, arm, seed)
        if path.exists():
            return store.read_cached(path, identity)
        with limit.part(arm, "unit"):
            return store.cached(path, identity, make)

    pairs = ((one, functools.partial(unit, *one)) for one in study.units())
    for (arm, seed), record in run_units(pairs, limit):
        if progress:
            print(f"{arm}, seed {seed}: {record['final']['bits']:.4f} bits a byte", flush=True)


def read_study(study: Language, out: pathlib.Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Reads the records of the complete units: arm -> seed -> record."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in study.arms:
        for seed in study.seeds:
            path = path_of(out, arm, seed)
            if not path.exists():
                continue
            # Passes over the text depend on its number of sequences, which is in the record.
            count = store.read_json(path)["identity"]["data"]["examples"]
            record = store.read_cached(path, identity_of(study, arm, seed, count))
            found.setdefault(arm, {})[seed] = record
    return found


def path_of(out: pathlib.Path, arm: str, seed: int) -> pathlib.Path:
    """Returns the file of a unit."""
    return out / slug(arm) / f"seed-{seed}.json"


def identity_of(study: Language, arm: str, seed: int, num_train: int) -> dict[str, Any]:
    """Returns everything on which a unit's record depends, except the text."""
    return {
        "config": study.config(arm, num_train).changed(seed=seed).to_json(),
        "points": study.points,
        "flat_points": study.flat_points,
        "coefficient": dataclasses.asdict(study.coefficient),
        "revision": provenance.TRAINING,
    }


def _run_unit(study: Language, text: Task, arm: str, seed: int) -> dict[str, Any]:
    """Runs one arm with one seed; returns its record, as values for JSON."""
    config = study.config(arm, len(text.train)).changed(seed=seed)
    task = dataclasses.replace(text, config=config)
    plan = make_plan(config, task)
    compiled, hyper = programs_of(plan), hyper_of(config)
    state = compiled.init(hyper, seed)
    draws = functools.lru_cache(maxsize=1)(functools.partial(compiled.draw, seed))
    stops = [plan.total_steps * i // study.points for i in range(1, study.points + 1)]
    every = study.points // study.flat_points if study.flat_points else 0
    with_flatness = stops[every - 1 :: every] if every else []
    seconds, step = 0.0, 0
    curve: list[dict[str, Any]] = []
    flat: list[dict[str, Any]] = []
    for stop in stops:
        start = time.process_time()
        while step < stop:
            epoch, done = divmod(step, plan.steps_per_epoch)
            count = min(stop - step, plan.steps_per_epoch - done)
            state, losses = take_steps(
                compiled, hyper, state, task.device_train, draws(epoch), count
            )
            step += count
        seconds += time.process_time() - start
        at = {"step": step, "tokens": step * plan.num_replicas * config.batch_size * _length(task)}
        train_bits = float(losses.mean()) / math.log(2)
        curve.append(at | {"train_bits": train_bits} | _held_out(plan, task, state, config))
        if stop in with_flatness:
            has_coefficient = seed in study.coefficient.seeds
            flat.append(at | _flatness(plan, task, state, study, with_coefficient=has_coefficient))
    return {"curve": curve, "flatness": flat} | {
        "final": _final(plan, task, state),
        "num_weights": _num_weights(state, plan),
        "cpu_seconds": round(seconds, 2),
    }


def _length(task: Task) -> int:
    return task.objective.problem.input_shape[0]


def _bits(found) -> float:
    """Converts a mean loss in nats to bits per token."""
    return float(found["loss"]) / math.log(2)


def _held_out(plan: Plan, task: Task, state: State, config) -> dict[str, float]:
    """Measures held-out bits of the current final model, and the coupling."""
    model = evaluate.final_model(plan, task, state)
    found = {"bits": _bits(task.evaluate(*model, task.curve_batches))}
    return found | evaluate.coupling_record(plan, hyper_of(config), state)


def _final(plan: Plan, task: Task, state: State) -> dict[str, Any]:
    """Measures held-out bits of model and replicas, and a barrier."""
    params, stats = evaluate.final_model(plan, task, state)
    found = task.evaluate(params, stats)
    stack = flatjax.eval_params(state.opt_state, state.params)
    members = flatjax.unstack_replicas(stack)
    meeting = evaluate.meeting(task, stack, state.batch_stats, stats)
    result: dict[str, Any] = {} if meeting is None else {"meeting": meeting}
    result |= {
        "bits": _bits(found),
        "error": 100 * float(found["error"]),
        # Fewer sequences, as for the curve.
        "replica_bits": [_bits(task.evaluate(own, stats, task.curve_batches)) for own in members],
    }
    if len(members) > 1 and float(flatjax.replica_distance(state.params, replica_axis=0)) > 0:
        measure = flatness.barrier(task.objective.eval_fn, num_points=3)
        height = measure(members[0], members[1], task.curve_batches, stats).height["loss"]
        result["barrier_bits"] = height / math.log(2)
    return result


def _flatness(
    plan: Plan, task: Task, state: State, study: Language, *, with_coefficient: bool
) -> dict[str, Any]:
    """Measures local energy, in bits, and learning coefficient on training sequences."""
    params, stats = evaluate.final_model(plan, task, state)
    # All runs use the same key: differences between solutions are less noisy than their values.
    energy = task.objective.local_energy(params, task.train_batches, jax.random.key(0), stats)
    found: dict[str, Any] = {
        "sigma": list(task.objective.sigmas),
        "rise_bits": [float(rise) / math.log(2) for rise in energy.mean["loss"]],
    }
    if with_coefficient:
        own = study.coefficient
        few = data.eval_batches(task.train[: own.sequences], None, own.batch_size)
        measured = _chains(task, own)(params, few, jax.random.key(0), stats)
        found |= {
            "coefficient": measured.mean,
            "coefficient_sem": measured.sem,
            "coefficient_problems": list(measured.problems),
        }
    return found


@functools.lru_cache(maxsize=1)
def _chains_of(objective, num_chains, num_steps, num_warmup):
    return flatness.learning_coefficient(
        objective.eval_fn, num_chains=num_chains, num_steps=num_steps, num_warmup=num_warmup
    )


def _chains(task, own):
    return _chains_of(task.objective, own.num_chains, own.num_steps, own.num_warmup)


def _num_weights(state: State, plan: Plan) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state.params)) // plan.num_replicas
