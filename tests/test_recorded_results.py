"""What the chapters of the results say of stored records, computed from the records."""

import json
import pathlib
import re

import numpy as np
import pytest

from flatjax.flatness import kendall_tau, rank_solutions

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


@pytest.mark.claim("experiments/RESULTS.md", "local energy and PAC-Bayes do in all three tasks")
def test_measures_that_predict_in_all_tasks_of_the_flatness_study():
    path = ROOT / "results" / "flatness-study" / "flatness_study.json"
    rankings = json.loads(path.read_text())["rankings"].values()
    predict = {
        measure
        for measure in next(iter(rankings))
        if all(task[measure]["granulated_interval"][0] > 0 for task in rankings)
    }
    assert predict == {"local_energy", "pac_bayes"}
    for measure in predict:  # over all conv nets they do not
        low, high = list(rankings)[-1][measure]["interval"]
        assert low < 0 < high
    assert "the only measures that predict the test error in all three tasks" in words_of(
        "flatness"
    )


def test_medians_and_ranks_of_the_flatness_study_in_words():
    said = words_of("flatness")

    def median(task, algorithm, name):
        own = [s for at, s in solutions() if at == task and s["factors"]["algorithm"] == algorithm]
        return np.median([solution[name] for solution in own])

    noisy = [median("mlp-20-noise", name, "test_error") for name in ("SAM", "rSGD", "eSGD")]
    sgd = median("mlp-20-noise", "SGD", "test_error")
    assert f"SGD tests at {sgd:.1f}%, and SAM, rSGD and eSGD at {min(noisy):.1f} to" in said
    assert f"to {max(noisy):.1f}%" in said
    slow = [median("conv-net-clean", name, "train_error") for name in ("Parle", "rSGD")]
    assert f"their median training errors are {slow[0]:.0f}% and {slow[1]:.0f}%" in said
    others = [
        s for at, s in solutions() if at == "mlp-clean" and s["factors"]["algorithm"] != "Parle"
    ]
    factors = {name: [s["factors"][name] for s in others] for name in others[0]["factors"]}
    errors = [solution["test_error"] for solution in others]
    found = [
        rank_solutions([s[name] for s in others], errors, factors, num_bootstrap=2)
        for name in ("train_error", "local_energy")
    ]
    (a, b), (c, d) = ((one.tau, one.granulated) for one in found)
    assert f"τ of the training error is {a:.2f} and granulated {b:.2f}; local" in said
    assert f"energy has {c:.2f} and {d:.2f}" in said


def test_ranks_of_the_flatness_study_at_equal_training_error():
    """Taus of the table, by a loop over pairs of the stored solutions."""
    local, partial, counts = {}, {}, []
    for task in ("mlp-clean", "mlp-20-noise", "conv-net-clean"):
        used = [
            solution
            for name, solution in solutions()
            if name == task and solution["train_error"] <= 1 and solution["test_error"] <= 40
        ]
        counts.append(len(used))
        column = lambda name, used=used: [solution[name] for solution in used]
        local[task] = kendall_tau(column("local_energy"), column("test_error"))
        names = ("local_energy", "test_error", "train_loss", "norm")
        matrix = [[kendall_tau(column(a), column(b)) for a in names] for b in names]
        inverse = np.linalg.inv(matrix)
        partial[task] = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
        for kind in ("sam", "trace"):
            assert kendall_tau(column(kind), column("test_error")) < 0
    said = words_of("flatness")
    assert f"{counts[0]} of the MLP with clean labels, {counts[1]} with wrong labels" in said
    assert f"and {counts[2]} of the conv net" in said
    rows = rows_of((CHAPTERS / "flatness.md").read_text())
    rows = [row[1:] for row in rows if row[0] == "local energy"]
    taus = [f"{tau:+.2f}" for tau in local.values()], [f"{tau:+.2f}" for tau in partial.values()]
    shown = [[cell.split()[0] for cell in row] for row in rows]
    assert list(taus) == [row for row in shown if row in list(taus)]
    mlp, conv_net = (f"{local[task]:+.2f}" for task in ("mlp-clean", "conv-net-clean"))
    assert f"(τ = {mlp} for the MLP and {conv_net} for the conv net)" in said


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


def test_algorithms_of_the_mixtures():
    """The table of replicas, from the points with the fewest features."""
    path = ROOT / "results" / "gaussian-mixture" / "comparison.json"
    stored = json.loads(path.read_text())["rows"]
    points = {
        "by replicated gradient descent (y = 3)": ("replicated GD, y=3", 0.1, "test_error"),
        "by Replicated-SGD (y = 7)": ("replicated SGD, y=7", 0.1, "test_error"),
        "barycenter of three replicas at γ = 1, β = 1": (
            *("coupled Langevin dynamics, y=3, beta=1", 1.0),
            "barycenter_test_error",
        ),
        "by Entropy-SGD": ("Entropy-SGD, gamma=0.1", 0.3, "barycenter_test_error"),
    }
    rows = rows_of((CHAPTERS / "mixtures.md").read_text())
    for words, point in points.items():
        ((_, *cells),) = [row for row in rows if words in row[0]]
        named = [row for row in stored if (row["curve"], row["x"], row["quantity"]) == point]
        found = min(named, key=lambda row: row["params"]["num_features"])
        assert cells == [f"{found['theory']:.4f}", f"{found['mean']:.4f} ± {found['sem']:.4f}"]


REPORTS = {
    "small_networks": ("first-contest/contest.md",),
    "flatness": ("flatness-study/flatness_study.md",),
    "committees": ("committee/committee.md", "committee-flatness/committee_flatness.md"),
}


@pytest.mark.parametrize("chapter", REPORTS)
def test_tables_of_a_chapter_are_those_of_its_report(chapter):
    """Each value is in a row of a stored report that has the same name."""
    report = "\n".join((ROOT / "results" / path).read_text() for path in REPORTS[chapter])
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
