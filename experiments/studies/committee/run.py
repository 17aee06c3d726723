"""Trains committees on two classes by every algorithm; measures flatness."""

import pathlib
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.task import dataset_fingerprint
from experiments.report import bars, store
from experiments.studies.committee import records
from experiments.studies.committee.description import CommitteeStudy, Solver
from experiments.studies.committee.measures import error_of, eval_fn, floats, unit_overlap
from experiments.studies.committee.solvers import solve
from experiments.studies.committee.task import make_patterns
from experiments.studies.units import lacking
from flatjax import committee, flatness


def run_study(study: CommitteeStudy, out: pathlib.Path, *, progress: bool = True) -> None:
    """Runs the missing parts: chooses settings, trains and measures every solution.

    Args:
      study: the study.
      out: directory of tuning.jsonl, solutions.jsonl, estimators.jsonl and tempering.jsonl.
      progress: show progress bars.
    """
    with store.claimed(out / "committee"):
        chosen = tune(study, out / "tuning.jsonl", progress=progress)
        measure_solutions(study, chosen, out / "solutions.jsonl", progress=progress)
        compare_estimators(study, chosen, out / "estimators.jsonl", progress=progress)
        temper(study, chosen, out / "tempering.jsonl", progress=progress)


def _missing(study, chosen, path, wanted, progress):
    """Yields the keys of missing records, with a progress bar."""
    known = records.read(study, chosen, path, dataset_fingerprint(study.task.dataset))
    return bars.bar(lacking(known, wanted, dict), progress=progress, desc=path.stem)


def _append(study, solver, path, record):
    identity = records.identity(study, path.stem, solver)
    identity |= {"data": dataset_fingerprint(study.task.dataset)}
    store.append_line(path, store.signed(record | {"identity": identity}))


# --- settings -----------------------------------------------------------------------------------


def tune(study: CommitteeStudy, path: pathlib.Path, *, progress: bool = True) -> dict[str, Solver]:
    """Chooses the settings of least validation error, on subsets not used again.

    Among equal ones, it chooses the settings of least training error.

    Returns:
      label -> settings.
    """
    tried = {label: records.candidates(study, label) for label in study.solvers}
    wanted = [
        {"solver": label, "settings": records.as_json(solver), "subset": subset}
        for label, solvers in tried.items()
        if len(solvers) > 1
        for solver in solvers
        for subset in study.tuning_subsets
    ]
    for keys in (bar := _missing(study, {}, path, wanted, progress)):
        bar.set_postfix_str(keys["solver"])
        train, validation, _ = make_patterns(study.task, keys["subset"])
        solver = type(study.solvers[keys["solver"]]).from_json(keys["settings"])
        weights = solve(solver, study.num_units, train, jax.random.key(keys["subset"]))
        found = {
            "train_error": error_of(weights, train),
            "validation_error": error_of(weights, validation),
        }
        _append(study, solver, path, keys | found)
    return records.choose(study, path)


# --- solutions ----------------------------------------------------------------------------------


def measure_solutions(
    study: CommitteeStudy,
    chosen: Mapping[str, Solver],
    path: pathlib.Path,
    *,
    progress: bool = True,
) -> None:
    """Trains every solution, and measures its errors and its flatness."""
    wanted = [
        {"subset": subset, "seed": seed, "solver": label}
        for subset in study.subsets
        for seed in study.seeds
        for label in study.solvers
    ]
    local_energy = flatness.local_energy(
        eval_fn, sigmas=study.sigmas, num_samples=study.num_samples
    )
    for keys in (bar := _missing(study, chosen, path, wanted, progress)):
        bar.set_postfix_str(keys["solver"])
        train, _, test = make_patterns(study.task, keys["subset"])
        weights, seconds = _timed_solution(study, chosen, keys, train)
        energy = local_energy(weights, [train], jax.random.key(0))
        start = time.perf_counter()
        entropy = committee.amp(
            train.x, train.y, reference=weights, overlap=np.array(study.overlaps)
        )
        counted = _count(study, weights, train)
        found = {
            "train_error": error_of(weights, train),
            "test_error": error_of(weights, test),
            "unit_overlap": unit_overlap(weights),
            "counted_phi": floats(counted.phi),
            "counted_sem": floats(counted.phi_sem),
            "hits": counted.hits.tolist(),
            "local_energy": floats(energy.mean["error"]),
            "phi": floats(entropy.phi),
            "converged": np.asarray(entropy.converged).tolist(),
            "seconds": round(seconds, 3),
            "phi_seconds": round(time.perf_counter() - start, 2),
        }
        _append(study, chosen[keys["solver"]], path, keys | found)


def _count(study, weights, train):
    return committee.direct_log_fraction(
        jax.random.key(0),
        *train,
        weights,
        overlap=np.array(study.sampled_overlaps),
        num_samples=study.direct_samples,
    )


def _timed_solution(study, chosen, keys, train):
    solver, key = chosen[keys["solver"]], jax.random.key(keys["seed"])
    _solve = lambda: jax.block_until_ready(solve(solver, study.num_units, train, key))
    if solver not in _COMPILED:
        _solve()
        _COMPILED.add(solver)
    start = time.perf_counter()
    return _solve(), time.perf_counter() - start


_COMPILED: set[Solver] = set()  # solvers whose next time does not include compilation


# --- estimators ---------------------------------------------------------------------------------


def compare_estimators(
    study: CommitteeStudy,
    chosen: Mapping[str, Solver],
    path: pathlib.Path,
    *,
    progress: bool = True,
) -> None:
    """Computes local entropies of one solution each, by counting, chains, EP and AMP."""
    train, _, _ = make_patterns(study.task, study.subsets[0])
    for keys, weights in _first_solutions(study, chosen, path, train, progress):
        around = {"reference": weights, "overlap": np.array([keys["overlap"]])}
        amp = committee.amp(train.x, train.y, **around)
        ep = committee.expectation_propagation(train.x, train.y, **around)
        found = {"amp": floats(amp.phi)[0], "ep": floats(ep.phi)[0]}
        counted = _count(study, weights, train)
        index = list(study.sampled_overlaps).index(keys["overlap"])
        found |= {"direct": floats(counted.phi)[index], "hits": int(counted.hits[index])}
        found["direct_sem"] = floats(counted.phi_sem)[index]
        if found["hits"] < 100:
            sampled = committee.sample_log_fraction(jax.random.key(1), *train, **around)
            names = ("phi", "phi_sem", "r_hat", "converged")
            found |= {f"sampled_{name}": float(getattr(sampled, name)[0]) for name in names}
        converged = {"amp": amp.converged, "ep": ep.converged}
        found |= {f"{name}_converged": bool(value[0]) for name, value in converged.items()}
        _append(study, chosen[keys["solver"]], path, keys | {"solved": True} | found)


def temper(
    study: CommitteeStudy,
    chosen: Mapping[str, Solver],
    path: pathlib.Path,
    *,
    progress: bool = True,
) -> None:
    """Computes the same by the general method: random steps at several temperatures.

    The network is the linen module with sign units. The volume is the same as in the other methods:
    uniform at an overlap with each unit of the solution.
    """
    model = committee.Committee(study.num_units)

    def eval_fn(params, patterns):
        votes = model.apply({"params": params}, patterns.x)
        return {"error": jnp.sum(votes * patterns.y <= 0), "count": len(patterns.y)}

    train, _, _ = make_patterns(study.task, study.subsets[0])
    for keys, weights in _first_solutions(study, chosen, path, train, progress):
        measure = flatness.local_entropy(
            eval_fn,
            distances=[1 - keys["overlap"]],
            betas=study.betas,
            threshold=0.0,
            prior=flatness.priors.fixed_overlap(axis=-1),
            num_steps=study.chain_steps,
            num_warmup=study.chain_steps // 2,
        )
        start = time.perf_counter()
        found = measure({"weights": weights}, [train], jax.random.key(2))
        record = {
            "phi": found.log_fraction[0] / found.num_weights,
            "phi_sem": found.log_fraction_sem[0] / found.num_weights,
        }
        record = {name: floats(value)[0] for name, value in record.items()}
        record |= {
            "r_hat": float(found.r_hat[0].max()),
            "ess": float(found.ess[0, 1:].min()),
            "converged": bool(found.converged[0]),
            "seconds": round(time.perf_counter() - start, 1),
        }
        _append(study, chosen[keys["solver"]], path, keys | {"solved": True} | record)


def _first_solutions(study, chosen, path, train, progress):
    """Yields missing records for the first solution of each algorithm.

    If the solution has errors there is nothing to measure, and this is recorded.
    """
    wanted = [
        {"solver": label, "overlap": overlap}
        for label in study.solvers
        for overlap in study.sampled_overlaps
    ]
    for keys in (bar := _missing(study, chosen, path, wanted, progress)):
        bar.set_postfix_str(keys["solver"])
        weights, _ = _timed_solution(study, chosen, keys | {"seed": study.seeds[0]}, train)
        if error_of(weights, train) > 0:
            _append(study, chosen[keys["solver"]], path, keys | {"solved": False})
        else:
            yield keys, weights
