"""What the chapters of the results say of stored records, computed from the records."""

import json
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1] / "experiments"
CHAPTERS = ROOT.parent / "docs" / "results"


def words_of(chapter):
    return " ".join((CHAPTERS / f"{chapter}.md").read_text().split())


def rows_of(text):
    """Cells of the rows of all tables, without headers and empty cells."""
    rows = []
    for line in text.splitlines():
        if line.startswith("| -") and not line.strip("| -"):
            rows.pop()  # the header
        elif line.startswith("|"):
            rows.append([cell for part in line.split("|") if (cell := part.strip())])
    return rows


def values(path):
    return json.loads(path.read_text())["value"]


def solutions():
    """Every solution of the flatness study that was measured, with its task."""
    for path in sorted((ROOT / "results" / "flatness-study").glob("*/*.json")):
        for solution in values(path):
            if "test_error" in solution:
                yield path.parent.name, solution


def test_collapsed_networks_of_the_flatness_study():
    found = [solution for _, solution in solutions()]
    collapsed = [solution["factors"] for solution in found if solution["test_error"] > 40]
    of_parle = [f for f in collapsed if f["algorithm"] == "Parle"]
    others = [f for f in collapsed if f["algorithm"] != "Parle"]
    assert {f["batch_size"] for f in of_parle} == {128}
    assert {(f["learning_rate"], f["batch_size"]) for f in others} == {(0.1, 32)}
    assert {f["algorithm"] for f in others} == {"SGD", "SAM", "SWA"}
    assert (
        f"{len(collapsed)} of the {len(found)} networks collapsed (test errors above 40%): "
        f"{len(of_parle)} of Parle with batches of 128, and {len(others)} of SGD, SAM and SWA"
    ) in words_of("flatness")


def test_sharpest_solutions_of_the_flatness_study():
    sharpest = {}
    for task in ("mlp-clean", "mlp-20-noise", "conv-net-clean"):
        energies = {}
        for name, solution in solutions():
            if name == task:
                algorithm = solution["factors"]["algorithm"]
                energies.setdefault(algorithm, []).append(solution["local_energy"])
        sharpest[task] = max(energies, key=lambda algorithm: np.median(energies[algorithm]))
    assert sharpest == {"mlp-clean": "Parle", "mlp-20-noise": "eSGD", "conv-net-clean": "SGD"}
    said = words_of("flatness")
    assert (
        "For the MLP, Parle's solutions are the sharpest with clean labels and eSGD's with wrong "
        "labels** (medians)"
    ) in said
    assert "For the conv net, SGD's solutions are the sharpest" in said


def test_the_first_contest_chose_at_the_edge_of_weight_decay():
    folder = ROOT / "results" / "first-contest" / "mlp-2k-20-noise"
    for trials, name in ((12, "sgd"), (48, "sgd-48-trials")):
        candidates = values(folder / name / "tuning.json")
        assert len(candidates) == trials
        trained = [c for c in candidates if c["validation_error"] is not None]  # not diverged
        best = min(trained, key=lambda candidate: candidate["validation_error"][0])
        largest = max(candidate["settings"]["weight_decay"] for candidate in candidates)
        assert best["settings"]["weight_decay"] == largest
        assert f"({largest:.4f})" in words_of("small_networks")


REPORTS = {
    "small_networks": "first-contest/contest.md",
    "flatness": "flatness-study/flatness_study.md",
    "committees": "committee/committee.md",
}


@pytest.mark.parametrize("chapter", REPORTS)
def test_tables_of_a_chapter_are_those_of_its_report(chapter):
    """Each value is in a row of the stored report that has the same name."""
    report = (ROOT / "results" / REPORTS[chapter]).read_text()
    report = report.replace(" (not converged)", " *")
    report = re.sub(r" ?%?,? ?[σρ]=[0-9.]+(?= +\|)", "", report)  # parameters of measures
    stored = rows_of(report)
    checked = 0
    for name, *cells in rows_of((CHAPTERS / f"{chapter}.md").read_text()):
        known = {cell for row in stored if name in row for cell in row}
        assert known, name
        assert set(cells) <= known, name
        checked += 1
    assert checked > 30
