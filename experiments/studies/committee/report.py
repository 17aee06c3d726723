"""The report of the study of committees: tables and figures."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.statistics import LEAST_FOR_TAU, mean_and_sem, with_error
from experiments.report.tables import markdown_table
from experiments.studies.committee import records
from experiments.studies.committee.description import CommitteeStudy
from flatjax.flatness import kendall_tau

Records = Sequence[dict[str, Any]]

LEAST_HITS = 50  # then a count has an error of about 15%

COLORS = {
    "SGD fast": "#000000",
    "SGD slow": "#999999",
    "rSGD fast": "#E69F00",
    "rSGD slow": "#D55E00",
    "eSGD fast": "#56B4E9",
    "eSGD slow": "#009E73",
    "fBP": "#0072B2",
    "fBP rising": "#7B3FA0",
    "BP": "#CC79A7",
    "SGD 0.3": "#8C564B",
    "rSGD 0.3": "#C49C94",
}


def report(study: CommitteeStudy, out: pathlib.Path) -> str:
    """Writes committee.md and committee.png, and returns the tables."""
    chosen = records.choose(study, out / "tuning.jsonl")
    solutions = records.read(study, chosen, out / "solutions.jsonl")
    if not solutions:
        raise ValueError(f"out ({out}) holds no solution of this study yet.")
    estimators = records.read(study, chosen, out / "estimators.jsonl")
    tempering = records.read(study, chosen, out / "tempering.jsonl")
    parts = [algorithms_table(study, solutions), ranking_table(study, solutions)]
    parts += [estimators_table(estimators, tempering)] if estimators else []
    text = "\n\n".join(parts)
    store.write_text(out / "committee.md", text + "\n")
    draw(study, solutions, estimators, out / "committee.png")
    return text


def algorithms_table(study: CommitteeStudy, solutions: Records) -> str:
    """Makes a line for each algorithm; errors of means are computed between subsets."""
    shown = study.sampled_overlaps
    sigmas = [sigma for sigma in (0.5, 1.0) if sigma in study.sigmas]
    first = next(iter(study.solvers))
    lines = [["algorithm", "solved", "training error %", "test error %", f"to {first}"]]
    lines[0] += [f"-10⁶Φ(d={1 - p:.1f})" for p in shown]
    lines[0] += [f"δE(σ={sigma:g}) %" for sigma in sigmas]
    lines[0] += ["overlap of units", "seconds"]
    for label in study.solvers:
        runs = [run for run in solutions if run["solver"] == label]
        if not runs:
            continue
        solved = [run for run in runs if run["train_error"] == 0]
        errors = _by_subset(runs, lambda run: 100 * run["test_error"])
        error = with_error(*mean_and_sem(errors), len(errors))
        line = [label, f"{len(solved)}/{len(runs)}"]
        line += [f"{100 * np.mean([run['train_error'] for run in runs]):.2f}"]
        line += [error, _difference(solutions, label, first)]
        for p in shown:
            counted = np.array([_flatness(study, run, p) for run in solved])
            by_amp = [-run["phi"][list(study.overlaps).index(p)] for run in solved]
            if np.isfinite(counted).all() and solved:
                line.append(f"{1e6 * np.mean(counted):.1f}")
            else:  # some solutions have too few hits
                line.append(f"{1e6 * np.mean(by_amp):.0f} (AMP)" if solved else "")
        for sigma in sigmas:
            index = list(study.sigmas).index(sigma)
            line.append(f"{100 * np.mean([run['local_energy'][index] for run in runs]):.2f}")
        line.append(f"{np.mean([run['unit_overlap'] for run in runs]):.2f}")
        line.append(f"{np.median([run['seconds'] for run in runs]):.1f}")
        lines.append(line)
    return markdown_table(lines)


def ranking_table(study: CommitteeStudy, solutions: Records) -> str:
    """Computes Kendall's tau of both measures with the test error."""
    solved = [run for run in solutions if run["train_error"] == 0]
    phis = study.sampled_overlaps
    sigmas = [sigma for sigma in (0.5, 1.0) if sigma in study.sigmas]
    measures = {f"-Φ(d={1 - p:.1f})": lambda run, p=p: _flatness(study, run, p) for p in phis}
    for sigma in sigmas:
        index = list(study.sigmas).index(sigma)
        name = f"δE(σ={sigma:g})"
        measures[name] = lambda run, index=index: run["local_energy"][index]
    others = measures | {"test error": lambda run: run["test_error"]}
    lines = [["τ within subsets", *others]]
    for name, measure in measures.items():
        line = [name]
        for other in others.values():
            taus = []
            for subset in study.subsets:
                runs = [run for run in solved if run["subset"] == subset]
                pairs = [(measure(run), other(run)) for run in runs]
                pairs = [pair for pair in pairs if np.isfinite(pair).all()]
                if len(pairs) >= LEAST_FOR_TAU:
                    taus.append(kendall_tau(*np.transpose(pairs)))
            line.append(with_error(*mean_and_sem(taus), len(taus), sign="+") if taus else "")
        lines.append(line)
    return markdown_table(lines)


def estimators_table(estimators: Records, tempering: Records = ()) -> str:
    """Tabulates local entropies by all methods, relative to the best sampled one."""
    tempered = {(record["solver"], record["overlap"]): record for record in tempering}
    lines = [["solution", "d", "-10⁶Φ sampled", "by", "tempered", "EP / sampled", "AMP / sampled"]]
    for record in estimators:
        if not record["solved"]:
            continue
        value, sem, method = best_sampled(record)
        line = [record["solver"], f"{1 - record['overlap']:.2f}"]
        line += [f"{-1e6 * value:.1f} ± {1e6 * sem:.1f}" if method else "", method]
        line.append(_tempered(tempered.get((record["solver"], record["overlap"]))))
        for name in ("ep", "amp"):
            ok = method and record[name] is not None
            mark = "" if record[f"{name}_converged"] else " (not converged)"
            line.append(f"{record[name] / value:.2f}{mark}" if ok else "")
        lines.append(line)
    return markdown_table(lines)


def _tempered(record):
    """Formats the result of `flatjax.flatness.local_entropy`."""
    if record is None or not record["solved"] or record["phi"] is None:
        return ""
    if record["phi"] == 0:
        return "0"  # no sample has errors
    mark = "" if record["converged"] else " (not converged)"
    return f"{-1e6 * record['phi']:.1f} ± {1e6 * record['phi_sem']:.1f}{mark}"


def best_sampled(record: dict[str, Any]) -> tuple[float, float, str]:
    """Returns Phi, its standard error and its method (counting if possible)."""
    if record["hits"] >= LEAST_HITS and record["direct_sem"] < 0.15 * abs(record["direct"]):
        return record["direct"], record["direct_sem"], "counting"
    if record.get("sampled_converged"):
        return record["sampled_phi"], record["sampled_phi_sem"], "chains"
    return np.nan, np.nan, ""


def _flatness(study, run, overlap):
    """Returns -Phi by counting; NaN if too few draws have no errors."""
    index = list(study.sampled_overlaps).index(overlap)
    return -run["counted_phi"][index] if run["hits"][index] >= LEAST_HITS else np.nan


def _difference(solutions, label, other):
    """Computes the difference of mean test errors on the same patterns, in points."""
    errors = [
        _by_subset([r for r in solutions if r["solver"] == name], lambda run: run["test_error"])
        for name in (label, other)
    ]
    if label == other or len(errors[0]) != len(errors[1]):
        return ""
    differences = 100 * np.subtract(*errors)
    return with_error(*mean_and_sem(differences), len(differences), sign="+")


def _by_subset(runs, value):
    """Computes means over the seeds of each subset."""
    subsets = dict.fromkeys(run["subset"] for run in runs)
    return [np.mean([value(run) for run in runs if run["subset"] == subset]) for subset in subsets]


def draw(
    study: CommitteeStudy, solutions: Records, estimators: Records, path: pathlib.Path
) -> None:
    """Draws local entropy, local energy, test error against both, and the estimators."""
    with plots.drawing(path, 1, 4, figsize=(15, 3.8)) as (_, panels):
        mean_errors = {
            subset: np.mean([run["test_error"] for run in solutions if run["subset"] == subset])
            for subset in study.subsets
        }
        for label in study.solvers:
            runs = [run for run in solutions if run["solver"] == label]
            solved = [run for run in runs if run["train_error"] == 0]
            color = COLORS.get(label, "0.5")
            if solved:
                _draw_entropies(panels[0], study, solved, label, color)
                _draw_flatness_and_error(panels[2], study, solved, mean_errors, color)
            if runs:
                energies = [run["local_energy"] for run in runs]
                panels[1].plot(
                    study.sigmas, 100 * np.mean(energies, axis=0), "o-", ms=3, color=color
                )
            _draw_estimators(panels[3], [e for e in estimators if e["solver"] == label], color)
        panels[0].set(xlabel="distance d = 1 - p", ylabel="local entropy Φ(d)")
        panels[0].set_yscale("symlog", linthresh=1e-5)
        panels[0].set_title("solutions without training error", loc="left", fontweight="bold")
        panels[0].legend(frameon=False, fontsize=8)
        panels[1].set(xlabel="noise σ (multiplicative)", ylabel="rise of training error (%)")
        panels[1].set_title("local energy", loc="left", fontweight="bold")
        panels[2].set(xlabel="-Φ(d=0.2)", ylabel="test error - mean of subset (%)", xscale="log")
        panels[2].set_title("flatness and generalisation", loc="left", fontweight="bold")
        panels[3].axhline(1, color="0.6", lw=0.8)
        panels[3].set(xlabel="distance d", ylabel="Φ relative to the sampled one")
        panels[3].set_title("● EP, ○ AMP", loc="left", fontweight="bold")


def _draw_entropies(panel, study, runs, label, color):
    phi = np.array([[np.nan if v is None else v for v in run["phi"]] for run in runs], dtype=float)
    good = np.array([run["converged"] for run in runs])
    mean = np.nanmean(np.where(good, phi, np.nan), axis=0)
    panel.plot(1 - np.array(study.overlaps), mean, "o-", ms=3, color=color, label=label)


def _draw_flatness_and_error(panel, study, runs, mean_errors, color):
    for run in runs:
        panel.scatter(
            _flatness(study, run, 0.8),
            100 * (run["test_error"] - mean_errors[run["subset"]]),
            color=color,
            s=14,
            alpha=0.7,
            lw=0,
        )


def _draw_estimators(panel, records, color):
    for name, face in (("ep", color), ("amp", "none")):
        found = [(1 - r["overlap"], r[name] / best_sampled(r)[0]) for r in records if r["solved"]]
        if found:
            panel.scatter(*np.transpose(found), edgecolor=color, facecolor=face, s=20)
