"""The report of a contest: paired, corrected differences to SGD."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import Meetings
from experiments.report.plots import COLORS
from experiments.report.statistics import (
    holm,
    mean_and_sem,
    paired_difference,
    with_interval,
    with_sem,
)
from experiments.report.tables import markdown_table
from experiments.studies.first_contest.description import Contest


def summarize(contest: Contest, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Makes a row per setting and contestant, with paired differences.

    Holm's correction covers all differences to SGD, separately for algorithms and for variants.
    """
    rows = []
    for setting, algorithms in results.items():
        baseline = _column(algorithms["sgd"], "test_error")
        for algorithm, found in algorithms.items():
            errors = _column(found, "test_error")
            at = found["runs"][0]["sigma"].index(contest.sigma)
            row = {
                "setting": setting,
                "algorithm": algorithm,
                "base": contest.algorithm_of(algorithm),
                "settings": found["settings"],
                "seeds": len(errors),
                "test_error": mean_and_sem(errors),
                "train_error": mean_and_sem(_column(found, "train_error")),
                "local_energy": mean_and_sem([run["local_energy"][at] for run in found["runs"]]),
                "gradient_evaluations": found["gradient_evaluations"],
            }
            if algorithm != "sgd":
                mean, interval, p = paired_difference(errors, baseline)
                row["difference"] = round(mean, 4)
                row["interval"] = [round(end, 4) for end in interval]
                row["p"] = p
            row["against"] = {
                other: _difference(errors, _column(algorithms[other], "test_error"))
                for other in contest.against
                if other in algorithms and algorithm not in ("sgd", other)
            }
            rows.append(row)
    for family in (False, True):
        compared = [
            row for row in rows if "p" in row and (row["algorithm"] in contest.variants) == family
        ]
        for row, corrected in zip(compared, holm([row["p"] for row in compared]), strict=True):
            row["p_holm"] = float(corrected)
    return rows


def _difference(errors, others):
    mean, interval, _ = paired_difference(errors, others)
    return [round(float(value), 4) for value in (mean, *interval)]


def _column(found, name):
    return np.array([run[name] for run in found["runs"]])


def table(rows: list[dict[str, Any]], sigma: float) -> str:
    """Formats the summary as a Markdown table."""
    others = list(dict.fromkeys(other for row in rows for other in row["against"]))
    header = ["setting", "algorithm", "test error %", "to SGD, 95% interval", "p (Holm)"]
    header += [f"to {other}" for other in others]
    header += ["train error %", f"local energy %, σ={sigma:g}"]
    lines = [header]
    for row in rows:
        compared = "p" in row
        lines.append(
            [
                row["setting"],
                row["algorithm"],
                with_sem(row["test_error"]),
                _interval([row["difference"], *row["interval"]] if compared else None),
                f"{row['p_holm']:.2g}" if compared else "",
                *(_interval(row["against"].get(other)) for other in others),
                with_sem(row["train_error"]),
                with_sem(row["local_energy"]),
            ]
        )
    return markdown_table(lines)


def _interval(difference):
    return with_interval(difference[0], difference[1:]) if difference else ""


def report(contest: Contest, results: dict[str, Any], out: pathlib.Path) -> str:
    """Writes contest.json, contest.md and contest.png; returns the table."""
    rows = summarize(contest, results)
    store.write_json(out / "contest.json", {"base": contest.base.to_json(), "rows": rows})
    text = table(rows, contest.sigma)
    store.write_text(out / "contest.md", text + "\n")
    draw(rows, out / "contest.png")
    return text


def meetings(results: dict[str, Any]) -> Meetings:
    """Returns the meetings of the tested runs of each algorithm, with their settings."""
    found: Meetings = {}
    for setting, algorithms in results.items():
        for algorithm, tested in algorithms.items():
            own = [(setting, run.get("meeting")) for run in tested["runs"]]
            found.setdefault(algorithm, []).extend(own)
    return found


_FAR = 3.0  # points above SGD; what is further would compress all others
_ROW = 0.2  # inches


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws paired differences to SGD: algorithms above, variants below.

    There is a panel for each setting, and one for each setting that has variants.
    """
    compared = [row for row in rows if "p" in row]
    is_variant = lambda row: row["algorithm"] != row["base"]
    families = {
        "": [row for row in compared if not is_variant(row)],
        ": variants": [row for row in compared if is_variant(row)],
    }
    families = {title: own for title, own in families.items() if own}
    labels = {title: _distinct(own, "algorithm") for title, own in families.items()}
    heights = [1.1 + _ROW * len(own) for own in labels.values()]
    with plots.page(path) as figure:
        figure.set_size_inches(plots.WIDTH, sum(heights) + 0.3)
        figure.suptitle("test error minus SGD's, in points, with 95% intervals", x=0.01, ha="left")
        parts = np.atleast_1d(figure.subfigures(len(families), height_ratios=heights))
        for part, (title, own) in zip(parts, families.items(), strict=True):
            settings = _distinct(own, "setting")
            panels = part.subplots(1, len(settings), sharey=True, squeeze=False)[0]
            for panel, setting in zip(panels, settings, strict=True):
                _draw_panel(panel, [r for r in own if r["setting"] == setting], labels[title])
                (sgd,) = (r for r in rows if r["setting"] == setting and "p" not in r)
                panel.set_title(f"{setting}{title}")
                panel.set_xlabel(f"SGD: {with_sem(sgd['test_error'])} %")


def _distinct(rows, name):
    return list(dict.fromkeys(row[name] for row in rows))


def _draw_panel(panel, rows, labels):
    for row in rows:
        height, color = labels.index(row["algorithm"]), COLORS[row["base"]]
        if row["difference"] > _FAR:
            diverged = ", diverged" if row["difference"] > 10 * _FAR else ""
            note = f"{row['difference']:+.1f}{diverged} →"
            side = {"transform": panel.get_yaxis_transform(), "ha": "right", "va": "center"}
            panel.text(1, height, note, color=color, fontsize=plots.SMALLEST, **side)
            continue
        panel.plot(row["interval"], [height] * 2, color=color, **plots.BAR | {"lw": 2})
        panel.plot(row["difference"], height, plots.MARKERS.get(row["base"], "o"), color=color)
    panel.axvline(0, color=COLORS["sgd"], lw=0.8)
    words = [label.split(", ") for label in labels]
    names = [", ".join([plots.NAMES.get(first, first), *rest]) for first, *rest in words]
    panel.set_yticks(range(len(labels)), names)
    panel.set_ylim(len(labels) - 0.5, -0.5)
