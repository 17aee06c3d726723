"""Measuring saved runs, and the study of what the measures predict."""

import json
import math

import numpy as np
import pytest

from experiments.__main__ import main
from experiments.configs.flatness_study import STUDY
from experiments.studies.flatness.description import MEASURES
from experiments.studies.flatness_study import report as reporting
from experiments.studies.flatness_study.description import FlatnessStudy

TINY = ["--epochs", "2", "--batch-size", "32", "--train-size", "200", "--no-progress"]
TINY += ["--local-energy-samples", "2", "--local-energy-examples", "100"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two runs and their report."""
    out = tmp_path_factory.mktemp("flatness")
    runs = [str(out / f"seed-{seed}") for seed in (0, 1)]
    for seed, run in enumerate(runs):
        command = ["train", "--algorithm", "sgd", "--seed", str(seed), "--out", run, *TINY]
        assert main(command) == 0
    assert main(["flatness", *runs, "--samples", "3", "--out", str(out / "report")]) == 0
    return out


@pytest.mark.slow
def test_saved_runs_are_measured(report):
    found = json.loads((report / "report" / "flatness.json").read_text())["runs"]
    assert [row["seed"] for row in found] == [0, 1]
    for row in found:
        assert set(MEASURES) <= set(row)
        finite = [row[name] for name in MEASURES if name != "pac_bayes"]
        assert np.isfinite(finite).all()
        assert row["worst_case"] >= row["sam"] * 0.9
        assert row["top_eigenvalue"] <= row["trace"] * 1.5
        result = json.loads((report / f"seed-{row['seed']}" / "result.json").read_text())
        assert row["test_error"] == pytest.approx(result["test_error"], abs=1e-3)
        assert row["train_error"] == pytest.approx(result["train_error"], abs=1e-3)
    assert found[0]["norm"] != found[1]["norm"]
    assert "trace of the Hessian" in (report / "report" / "flatness.md").read_text()
    assert (report / "report" / "flatness.png").stat().st_size > 1000


def test_a_directory_without_a_run(tmp_path, capsys):
    assert main(["flatness", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err


def solutions(seed=0):
    """A factorial whose test error is the local energy, and whose norm says nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for algorithm in ("SGD", "rSGD"):
        for rate in (0.03, 0.1):
            for run_seed in (0, 1):
                energy = rng.random()
                measures = {name: rng.random() for name in (*MEASURES, "train_error")}
                measures |= {"local_energy": energy, "pac_bayes": math.nan}
                curve = {"sigma": [0.1, 0.3], "error": [energy, 2 * energy]}
                factors = {"algorithm": algorithm, "learning_rate": rate, "batch_size": 32}
                rows.append(
                    {
                        "factors": factors,
                        "seed": run_seed,
                        "test_error": 10 + energy,
                        "curve": curve,
                    }
                    | measures
                )
    rows.append({"factors": factors, "seed": 2, "diverged": True})
    return {"MLP, clean": rows}


def test_measures_are_ranked(tmp_path):
    study = FlatnessStudy(
        base=STUDY.base,
        tasks={"MLP, clean": {}},
        algorithms={"SGD": {}, "rSGD": {}},
        factors={"learning_rate": (0.03, 0.1)},
        batch_sizes=(32,),
        seeds=(0, 1),
    )
    rankings = reporting.rank(study, solutions())["MLP, clean"]
    assert rankings["local_energy"].tau == 1
    assert rankings["local_energy"].granulated == 1
    assert set(rankings["local_energy"].by_factor) == {"algorithm", "learning_rate"}
    assert rankings["local_energy"].num_solutions == 8
    assert abs(rankings["norm"].tau) < 1
    assert math.isnan(rankings["pac_bayes"].tau)  # all alike
    text = reporting.report(study, solutions(), tmp_path)
    assert "+1.00 [+1.00, +1.00]" in text
    assert (tmp_path / "flatness_study.png").stat().st_size > 1000


def test_the_study_is_a_full_factorial_of_at_least_sixty_solutions():
    levels = [STUDY.algorithms, *STUDY.factors.values(), STUDY.batch_sizes, STUDY.seeds]
    assert math.prod(map(len, levels)) >= 60
    for task in STUDY.tasks:
        lengths = {name: STUDY.config(task, name, 32).epochs for name in STUDY.algorithms}
        assert lengths["rSGD x 3"] == 3 * lengths["SGD"]


@pytest.mark.parametrize(
    ("command", "option"),
    [("flatness-study", "tasks"), ("first-contest", "settings"), ("first-contest", "algorithms")],
)
def test_parts_of_a_study_are_named_as_they_are(command, option, capsys):
    assert main([command, "--small", f"--{option}", "nothing"]) == 1
    assert f"{option} must hold labels of [" in capsys.readouterr().err
