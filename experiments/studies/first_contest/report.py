"""The report of a contest: paired, corrected differences to SGD."""

import pathlib
from typing import Any

import numpy as np

from experiments.report import plots, store
from experiments.report.meeting import Meetings
from experiments.report.plots import COLORS
from experiments.report.statistics import holm, mean_and_sem, paired_difference
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
                "{:.2f} ± {:.2f}".format(*row["test_error"]),
                _interval([row["difference"], *row["interval"]] if compared else None),
                f"{row['p_holm']:.2g}" if compared else "",
                *(_interval(row["against"].get(other)) for other in others),
                "{:.2f} ± {:.2f}".format(*row["train_error"]),
                "{:.2f} ± {:.2f}".format(*row["local_energy"]),
            ]
        )
    return markdown_table(lines)


def _interval(difference):
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*difference) if difference else ""


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


_DIVERGED = 20.0  # points above SGD; only runs that did not learn are worse


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws paired differences to SGD with intervals, a panel for each setting."""
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    labels = list(dict.fromkeys(row["algorithm"] for row in rows if "p" in row))
    size = (1.8 + 2.4 * len(settings), 1.2 + 0.32 * len(labels))
    options = {"figsize": size, "sharey": True, "squeeze": False}
    with plots.drawing(path, 1, len(settings), **options) as (figure, panels):
        for panel, setting in zip(panels[0], settings, strict=True):
            for row in rows:
                if row["setting"] != setting or "p" not in row:
                    continue
                height, color = labels.index(row["algorithm"]), COLORS[row["base"]]
                if row["difference"] > _DIVERGED:  # it would compress all others
                    note = f"{row['difference']:+.0f}, diverged"
                    side = panel.get_yaxis_transform()
                    panel.text(0.03, height, note, va="center", transform=side)
                    continue
                panel.plot(row["interval"], [height] * 2, color=color, lw=2, alpha=0.6)
                panel.plot(row["difference"], height, "o", color=color)
            panel.axvline(0, color=COLORS["sgd"], lw=0.8)
            (sgd,) = (row for row in rows if row["setting"] == setting and "p" not in row)
            panel.set_title(setting, loc="left", fontweight="bold")
            panel.set_xlabel("SGD {:.2f} ± {:.2f}".format(*sgd["test_error"]))
            panel.set_yticks(range(len(labels)), labels)
            panel.set_ylim(len(labels) - 0.5, -0.5)
        figure.suptitle("test error minus that of SGD (%)", x=0.01, ha="left")
