"""The report of the study of committees: tables and figures."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.statistics import LEAST_FOR_TAU, mean_and_sem, or_nan, with_error
from experiments.report.tables import markdown_table
from experiments.studies.committee import records
from experiments.studies.committee.description import CommitteeStudy
from flatjax.flatness import kendall_tau

Records = Sequence[dict[str, Any]]

LEAST_HITS = 50  # then a count has an error of about 15%

# First word of a label -> its name in the palette.
FAMILIES = {
    "SGD": "sgd",
    "rSGD": "rsgd",
    "eSGD": "esgd",
    "fBP": "focusing bp",
    "fBP rising": "focusing bp, y rises",
    "BP": "bp",
}
MARKERS = {"SGD": "o", "rSGD": "^", "eSGD": "o", "fBP": "s", "fBP rising": "D", "BP": "X"}
# Slow runs have the minima of fast ones, and rSGD 0.3 those of SGD 0.3: their curves coincide.
CURVES = ("SGD slow", "rSGD slow", "eSGD slow", "fBP", "fBP rising", "SGD 0.3")


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


# --- the picture --------------------------------------------------------------------------------


def draw(
    study: CommitteeStudy, solutions: Records, estimators: Records, path: pathlib.Path
) -> None:
    """Draws a row for each algorithm, and below curves and single solutions."""
    runs = {name: [run for run in solutions if run["solver"] == name] for name in study.solvers}
    runs = {name: own for name, own in runs.items() if own}
    with plots.drawing(path, 2, 3, height=6.4) as (figure, panels):
        figure.get_layout_engine().set(h_pad=0.08)
        for panel in panels[0][1:]:
            panel.sharey(panels[0][0])
        for height, (label, own) in enumerate(runs.items()):
            _draw_row(panels[0], study, own, label, height, next(iter(runs.values())))
        _label_rows(panels[0], list(runs))
        entropies, errors, estimates = panels[1]
        means = _mean_errors(solutions)
        for label, own in runs.items():
            solved = [run for run in own if run["train_error"] == 0]
            if solved and label in CURVES:
                _draw_entropies(entropies, study, solved, label)
            _draw_flatness_and_error(errors, study, solved, means, label)
            _draw_estimators(estimates, [e for e in estimators if e["solver"] == label], label)
        entropies.set(xlabel="distance d = 1 - p", ylabel="Φ(d), by AMP", title="local entropy")
        entropies.set_yscale("symlog", linthresh=1e-5)
        errors.set(xlabel="-Φ(d=0.2), counted", ylabel="test error - subset's (%)", xscale="log")
        errors.set_title("single solutions")
        estimates.axhline(1, color="0.6", lw=0.8)
        estimates.set(xlabel="distance d", ylabel="Φ / counted or sampled Φ")
        estimates.set_title("● EP, ○ AMP")
        handles, labels = entropies.get_legend_handles_labels()
        plots.legend_below(figure, handles, labels, 6)


def _style(label):
    """Returns line and marker: slow runs are open, those at rate 0.3 small."""
    family = label if label in FAMILIES else label.split()[0]
    color = plots.COLORS.get(FAMILIES.get(family, ""), "0.5")
    style = {"color": color, "marker": MARKERS.get(family, "o"), "ms": 4.5, "mec": color}
    if label.endswith("slow"):
        style |= {"mfc": "white", "ls": "--"}
    elif label.endswith("0.3"):
        style |= {"ms": 3, "ls": ":"}
    return style


def _draw_row(panels, study, runs, label, height, first):
    """Draws the means of the tables, and a faint point for each subset."""
    entropy, energy, error = panels
    if solved := [run for run in runs if run["train_error"] == 0]:
        value = lambda run: 1e6 * _flatness(study, run, 0.8)
        if not np.isfinite([value(run) for run in solved]).all():  # as in the tables
            at = list(study.overlaps).index(0.8)
            value = lambda run: -1e6 * run["phi"][at]
            place = (np.mean([value(run) for run in solved]), height)
            entropy.annotate("AMP", place, (7, -3), textcoords="offset points")
        _draw_mean(entropy, solved, value, label, height)
    at = list(study.sigmas).index(1.0)
    _draw_mean(energy, runs, lambda run: 100 * run["local_energy"][at], label, height)
    base = _mean_errors(first)
    compared = [run for run in runs if run["subset"] in base]
    rise = lambda run: 100 * (run["test_error"] - base[run["subset"]])
    _draw_mean(error, compared, rise, label, height)


def _mean_errors(runs):
    """Subset -> mean test error."""
    errors = {run["subset"]: [] for run in runs}
    for run in runs:
        errors[run["subset"]].append(run["test_error"])
    return {subset: np.mean(own) for subset, own in errors.items()}


def _draw_mean(panel, runs, value, label, height):
    style, subsets = _style(label), _by_subset(runs, value)
    panel.plot(subsets, [height] * len(subsets), "|", color=style["color"], alpha=0.5, ms=8)
    panel.plot(np.mean([value(run) for run in runs]), height, **style | {"ls": ""})


def _label_rows(panels, labels):
    entropy, energy, error = panels
    entropy.set_yticks(range(len(labels)), labels)
    entropy.set_ylim(len(labels) - 0.5, -0.5)
    for panel in panels[1:]:
        panel.tick_params(labelleft=False)
    for panel in panels:
        panel.grid(axis="y", color="0.92", lw=0.8)
        panel.set_axisbelow(True)
    entropy.set(xscale="log", xlabel="-10⁶Φ(d=0.2); smaller is flatter", title="local entropy")
    energy.set(xlabel="rise at σ = 1 (%)", title="local energy")
    error.set(xlabel=f"test error - {labels[0]}'s (%)", title="test error")
    error.axvline(0, color="0.6", lw=0.8, zorder=0)


def _draw_entropies(panel, study, runs, label):
    phi = np.array([[or_nan(value) for value in run["phi"]] for run in runs])
    good = np.array([run["converged"] for run in runs])
    mean = np.nanmean(np.where(good, phi, np.nan), axis=0)
    style = _style(label) | {"lw": 1.2, "ms": 3}
    panel.plot(1 - np.array(study.overlaps), mean, label=label, **style)


def _draw_flatness_and_error(panel, study, runs, means, label):
    flatness = [_flatness(study, run, 0.8) for run in runs]
    errors = [100 * (run["test_error"] - means[run["subset"]]) for run in runs]
    panel.plot(flatness, errors, **_style(label) | {"ls": "", "ms": 3, "mew": 0.7}, alpha=0.8)


def _draw_estimators(panel, records, label):
    style = _style(label) | {"ls": "", "ms": 4}
    for name, face in (("ep", style["color"]), ("amp", "white")):
        found = [(1 - r["overlap"], r[name] / best_sampled(r)[0]) for r in records if r["solved"]]
        if found:
            panel.plot(*np.transpose(found), **style | {"mfc": face})
