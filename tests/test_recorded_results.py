"""What RESULTS says of stored records, computed from the records."""

import json
import pathlib

import numpy as np

ROOT = pathlib.Path(__file__).parents[1] / "experiments"
RESULTS = " ".join((ROOT / "RESULTS.md").read_text().split())


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
    ) in RESULTS


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
    assert (
        "of the MLP's solutions Parle's are the sharpest with clean labels and eSGD's with noisy "
        "ones (medians)"
    ) in RESULTS


def test_the_first_contest_chose_at_the_edge_of_weight_decay():
    folder = ROOT / "results" / "first-contest" / "mlp-2k-20-noise"
    for trials, name in ((12, "sgd"), (48, "sgd-48-trials")):
        candidates = values(folder / name / "tuning.json")
        assert len(candidates) == trials
        trained = [c for c in candidates if c["validation_error"] is not None]  # not diverged
        best = min(trained, key=lambda candidate: candidate["validation_error"][0])
        largest = max(candidate["settings"]["weight_decay"] for candidate in candidates)
        assert best["settings"]["weight_decay"] == largest
        assert f"({largest:.4f}" in RESULTS
