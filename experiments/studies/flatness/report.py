"""The report on measured networks: numbers, comparison and picture."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report import plots, store
from experiments.report.tables import markdown_table
from experiments.studies.flatness.merging import Merged
from flatjax import flatness
from flatjax.flatness import Comparison, Report

# Keys of flatness.json, and the rows that they are: measure, label, setting, factor (errors in %).
SHORT = {
    "local_energy": ("local_energy", "local energy, error", "σ = 0.3", 100),
    "local_energy_loss": ("local_energy", "local energy, loss", "σ = 0.3", 1),
    "sam": ("sam_sharpness", None, None, 1),
    "asam": ("adaptive_sharpness", None, None, 1),
    "worst_case": ("worst_case_sharpness", None, None, 1),
    "top_eigenvalue": ("top_eigenvalue", None, None, 1),
    "trace": ("trace", None, None, 1),
}


class Measured(NamedTuple):
    """A network and its report.

    Attributes:
      name: for tables.
      about: what else is recorded of it; `test_error` in %.
      report: how flat it is.
      replicas: barriers between its replicas and their mean, if it has several.
    """

    name: str
    about: dict[str, Any]
    report: Report
    replicas: Merged | None = None


def report(networks: Sequence[Measured], out: pathlib.Path, merged: Merged | None = None) -> str:
    """Writes flatness.json, flatness.md and flatness.png; returns the tables.

    Args:
      networks: the networks.
      out: directory of the report.
      merged: barriers between the networks, and their mean.
    """
    out.mkdir(parents=True, exist_ok=True)
    compared = comparison(networks, merged)
    verdicts = [] if compared is None else compared.verdicts()
    if merged is not None and merged.ensemble is not None:
        verdicts.append(f"The ensemble of their predictions: error {merged.ensemble:.4g}.")
    text = "\n\n".join([table(networks), *table_of_replicas(networks), *verdicts])
    record: dict[str, Any] = {"runs": [as_json(one) for one in networks]}
    record |= {} if merged is None else {"merged": merged.as_json()}
    store.write_json(out / "flatness.json", record)
    store.write_text(out / "flatness.md", text + "\n")
    with plots.page(out / "flatness.png") as figure:
        (networks[0].report if compared is None else compared).plot(figure)
    return text


def are_comparable(networks: Sequence[Measured]) -> bool:
    """Whether there are different networks, measured on the same data."""
    names = {one.name for one in networks}
    return len(names) > 1 and len({one.report.fingerprint for one in networks}) == 1


def comparison(networks: Sequence[Measured], merged: Merged | None) -> Comparison | None:
    """Compares the networks; None if there is one, or if their data differ."""
    if not are_comparable(networks):
        return None
    reports = {one.name: one.report for one in networks}
    if merged is None:
        return flatness.compare(reports)
    return flatness.compare(reports, barriers=merged.barriers, soup=merged.soup)


def table(networks: Sequence[Measured]) -> str:
    """One line for each number, one column for each network, as Markdown."""
    lines = [["measure", *(one.name for one in networks)]]
    lines.append(["test error %", *(f"{one.about['test_error']:.2f}" for one in networks)])
    for name in networks[0].report.reference:
        values = [one.report.reference.get(name, np.nan) for one in networks]
        lines.append([f"training {name}", *(f"{value:.4g}" for value in values)])
    for name in dict.fromkeys(row.name for one in networks for row in one.report.rows):
        found = [{row.name: row for row in one.report.rows}.get(name) for one in networks]
        cells = ["-" if row is None else row.shown() for row in found]
        lines.append([", ".join(name[1:]), *cells])
    return markdown_table(lines)


def table_of_replicas(networks: Sequence[Measured]) -> list[str]:
    """Explanation and table of the runs that have replicas; nothing if none has."""
    with_replicas = [(one.name, one.replicas) for one in networks if one.replicas is not None]
    if not with_replicas:
        return []
    header = ["replicas of", "barrier, error %", "barrier, loss"]
    lines = [[*header, "mean", "alone", "best alone", "ensemble"]]
    for name, found in with_replicas:
        assert found.ensemble is not None
        alone = found.soup.alone["error"]
        errors = [found.soup.values["error"], alone.mean(), alone.min(), found.ensemble]
        rises = [f"{100 * found.height('error'):.2f}", f"{found.height('loss'):.4g}"]
        lines.append([name, *rises, *(f"{100 * error:.2f}" for error in errors)])
    explanation = (
        "Barriers are the highest from the first replica to another one, on training examples. The "
        "last columns are test errors in %: of the mean of the replicas, which is the model of the "
        "run, of one replica on average, of the best one, and of the mean of their predictions."
    )
    return [explanation, markdown_table(lines)]


def as_json(network: Measured) -> dict[str, Any]:
    """The record of a network: main numbers by short names, and the report."""
    rows = {row.name: row for row in network.report.rows}
    firsts = {row.measure: row for row in reversed(network.report.rows)}
    found: dict[str, Any] = dict(network.about)
    for key, (measure, label, setting, factor) in SHORT.items():
        row = firsts.get(measure) if label is None else rows.get((measure, label, setting))
        if row is not None:
            found[key] = factor * row.value
    reference = network.report.reference
    found |= {"train_loss": reference["loss"], "train_error": 100 * reference["error"]}
    curve = [row for row in network.report.rows if row.label == "local energy, error"]
    found["curve"] = {
        "sigma": [float(row.setting.removeprefix("σ = ")) for row in curve],
        "error": [100 * row.value for row in curve],
        "error_sem": [100 * row.sem for row in curve],
    }
    replicas = network.replicas
    found |= {} if replicas is None else {"replicas": replicas.as_json()}
    return found | {"report": network.report.to_dict()}
