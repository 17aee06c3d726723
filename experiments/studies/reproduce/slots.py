"""Runs of the table's rows that were trained on an accelerator, and their curves."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.report import plots, store
from experiments.report.statistics import mean_and_sem, with_error
from experiments.report.tables import markdown_table

DIRECTORY = store.RESULTS / "slot"
JPEG_IMAGES = "4d6a2639"  # checksum of CIFAR-10's training images after JPEG compression
SIGMA = 0.3
CURVES = ("SGD", "eSGD", "rSGD")


def best_record(row: str, label: str) -> dict[str, Any] | None:
    """Returns the record of an algorithm with the most seeds; None if it was not run.

    Args:
      row: name of a row of the paper's table.
      label: label of the algorithm.
    """
    found = [one for one in _records(row) if one["label"] == label]
    return max(found, key=lambda one: len(one["runs"]), default=None)


def summary_of(row: str, label: str) -> dict[str, Any] | None:
    """Returns mean test error, standard error, number of seeds and a note.

    The note says which images were used. The result is None if the algorithm has no runs.
    """
    if (record := best_record(row, label)) is None:
        return None
    is_jpeg = record["data"]["train"]["crc32"] == JPEG_IMAGES
    return {
        "test_error": mean_and_sem([run["test_error"] for run in record["runs"]]),
        "seeds": len(record["runs"]),
        "note": "JPEG images" if is_jpeg else "",
    }


def table(row: str, reported: Mapping[str, str]) -> str:
    """Tabulates errors and local energies at σ = 0.3 of the runs of a row, in %.

    Args:
      row: name of a row of the paper's table.
      reported: label -> test error that the paper reports.
    """
    lines = [["algorithm", "seeds", "reported", "test error", "training error", "local energy"]]
    for label in dict.fromkeys(one["label"] for one in _records(row)):
        record = best_record(row, label)
        runs, at = record["runs"], _position_of_sigma(record)  # type: ignore[index]
        values = [
            [run["test_error"] for run in runs],
            [run["train_error"] for run in runs],
            [run["local_energy"][at] for run in runs],
        ]
        cells = [with_error(*mean_and_sem(value), len(runs)) for value in values]
        lines.append([label, str(len(runs)), reported.get(label, "-"), *cells])
    return markdown_table(lines)


def draw_curves(row: str, path: pathlib.Path) -> None:
    """Draws training error, local energy and the replicas' distance during training.

    Args:
      row: name of a row of the paper's table.
      path: picture to write.

    Raises:
      ValueError: no run of the row is recorded.
    """
    if not (curves := _curves(row)):
        raise ValueError(f"row must be one that has been run in a slot, got {row!r}.")
    with plots.drawing(path, 1, 3, height=2.8) as (figure, (error, energy, distance)):
        for label, points in curves.items():
            style = {"color": plots.COLORS[label.lower()], "label": label}
            at = _position_of_sigma(best_record(row, label))
            first = [one for one in points if one["seed"] == 0]  # only it has both curves
            done = [one["done"] for one in first]
            error.plot(done, [one["train_error"] for one in first], **style)
            energy.plot(done, [one["local_energy"][at] for one in first], **style)
            for seed in sorted({one["seed"] for one in points}) if label == "rSGD" else ():
                own = [one for one in points if one["seed"] == seed]
                distance.plot(
                    [one["done"] for one in own],
                    [max(one["distance"], 1e-6) for one in own],
                    color=style["color"],
                    lw=0.8,
                )
        error.set(yscale="log", ylabel="training error (%)", title="training error, seed 0")
        error.yaxis.set_major_formatter("{x:g}")
        energy.set(ylabel=f"rise at σ = {SIGMA} (%)", ylim=(0, None), title="local energy, seed 0")
        distance.set(yscale="log", ylabel="squared distance", title="rSGD, all seeds")
        for axes in (error, energy, distance):
            axes.set(xlabel="fraction of training", xlim=(0, 1.02), xticks=(0, 0.5, 1))
        plots.legend_below(figure, *error.get_legend_handles_labels(), columns=len(curves))


def _curves(row) -> dict[str, list[dict[str, Any]]]:
    """Returns label -> points of units with several seeds; averages have no points."""
    units = {
        one["unit"]: one["label"]
        for one in _records(row)
        if len(one["runs"]) > 1 and one["label"] in CURVES
    }
    found: dict[str, list[dict[str, Any]]] = {label: [] for label in units.values()}
    for point in store.read_lines(DIRECTORY / "curves.jsonl", must_be_sealed=True):
        if point["unit"] in units:
            found[units[point["unit"]]].append(point)
    return found


def _position_of_sigma(record) -> int:
    return record["runs"][0]["sigma"].index(SIGMA)


def _records(row) -> list[dict[str, Any]]:
    records = store.read_lines(DIRECTORY / "runs.jsonl", must_be_sealed=True)
    return [one for one in records if one["row"] == row]
