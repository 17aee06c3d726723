"""Measuring saved runs, and the study of what the measures predict."""

import json
import math
import re

import flax.serialization
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

from experiments.__main__ import main
from experiments.configs.flatness_study import STUDY
from experiments.studies.flatness import files
from experiments.studies.flatness.description import MEASURES
from experiments.studies.flatness.report import SHORT
from experiments.studies.flatness_study import report as reporting
from experiments.studies.flatness_study.description import FlatnessStudy
from flatjax import data, flatness, models

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
        assert np.isfinite([row[name] for name in SHORT]).all()
        assert row["worst_case"] >= row["sam"] * 0.9
        assert row["top_eigenvalue"] <= row["trace"] * 1.5
        assert row["curve"]["error"][2] == row["local_energy"]
        assert flatness.Report.from_dict(row["report"]).level == "standard"
        result = json.loads((report / f"seed-{row['seed']}" / "result.json").read_text())
        assert row["test_error"] == pytest.approx(result["test_error"], abs=1e-3)
        assert row["train_error"] == pytest.approx(result["train_error"], abs=1e-3)
    text = (report / "report" / "flatness.md").read_text()
    assert "trace, Hessian" in text
    assert "seed-1 is flatter than" in text
    assert (report / "report" / "flatness.png").stat().st_size > 1000


VARIABLES = {
    "params": {"Dense_0": {"kernel": np.ones((64, 10), np.float32), "bias": np.zeros(10)}},
    "batch_stats": {"BatchNorm_0": {"mean": np.arange(3.0)}},
}
FLAT = flatten_dict(VARIABLES, sep="/")
DOTTED = flatten_dict(VARIABLES, sep=".")


def write_orbax(path):
    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, VARIABLES)


WRITERS = {
    "a.npz": lambda path: np.savez(path, **FLAT),
    "dots.npz": lambda path: np.savez(path, **DOTTED),
    "a.safetensors": lambda path: safetensors.numpy.save_file(FLAT, path),
    "a.msgpack": lambda path: path.write_bytes(flax.serialization.to_bytes(VARIABLES)),
    "folder": write_orbax,
}


@pytest.mark.parametrize("name", WRITERS)
def test_parameters_of_others_are_read(name, tmp_path):
    WRITERS[name](tmp_path / name)
    params, state = files.read_variables(tmp_path / name, VARIABLES)
    found = flatten_dict({"params": params, **state}, sep="/")
    assert found.keys() == FLAT.keys()
    for key, array in FLAT.items():
        np.testing.assert_array_equal(found[key], array)


def test_parameters_of_another_network_are_refused_by_name(tmp_path):
    only_params = {"params": VARIABLES["params"]}
    bare = {name.removeprefix("params/"): array for name, array in FLAT.items() if "params" in name}
    np.savez(tmp_path / "bare.npz", **bare)
    params, state = files.read_variables(tmp_path / "bare.npz", only_params)
    assert params["Dense_0"]["kernel"].shape == (64, 10)
    assert state == {}
    wrong = [
        ("bare.npz", r"bare\.npz must .* batch_stats/BatchNorm_0/mean expected \(3,\), got no")
    ]
    (tmp_path / "weights.pt").write_bytes(b"")
    wrong += [("weights.pt", r"params must be files of the formats \.npz"), ("none.npz", "no such")]
    for name, named in wrong:
        with pytest.raises((ValueError, FileNotFoundError), match=named):
            files.read_variables(tmp_path / name, VARIABLES)


@pytest.mark.slow
def test_networks_of_others_are_measured_and_compared(tmp_path, capsys):
    """A linear network on digits: weights of another size are another network."""
    network = models.create("mlp", 10, hidden=())
    params = network.init(jax.random.key(0), np.ones((1, 8, 8, 1)), train=False)["params"]
    for name, scale in (("small", 1), ("large", 3)):
        flat = flatten_dict(jax.tree.map(lambda w, s=scale: s * w, params), sep="/")
        np.savez(tmp_path / f"{name}.npz", **flat)
    paths = [str(tmp_path / f"{name}.npz") for name in ("small", "large")]
    command = ["flatness", "--model", "mlp", "--model-options", "hidden=()", "--params", *paths]
    command += ["--level", "quick", "--samples", "3", "--examples", "100", "--no-progress"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| measure +\| small.npz +\| large.npz", printed)
    assert "large.npz is flatter than small.npz by" in printed
    found = json.loads((tmp_path / "out" / "flatness.json").read_text())["runs"]
    images = data.load("digits")
    normal = data.Normalization.from_images(images.train.image).normalize(images.test.image)
    logits = network.apply({"params": params}, normal, train=False)
    error = 100 * np.mean(np.asarray(logits).argmax(axis=-1) != images.test.label)
    assert found[0]["test_error"] == pytest.approx(error, abs=0.01)
    assert found[0]["sam"] > 0
    assert (tmp_path / "out" / "flatness.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--params", "a.npz"], "params must be given with --model"),
        (["--model", "mlp"], "model must be given with"),
        (["run", "--model", "mlp", "--params", "a.npz"], "model must be given with"),
        ([], "runs must name at least one"),
        (["run", "--samples", "1"], "samples must be"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, named, capsys):
    assert main(["flatness", *options]) == 1
    assert named in capsys.readouterr().err


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


@pytest.mark.slow
def test_measures_are_ranked(tmp_path):
    study = FlatnessStudy(
        base=STUDY.base,
        tasks={"MLP, clean": {}},
        algorithms={"SGD": {}, "rSGD": {}},
        factors={"learning_rate": (0.03, 0.1)},
        batch_sizes=(32,),
        seeds=(0, 1),
    )
    rankings = reporting.rank_tasks(solutions())["MLP, clean"]
    assert rankings["local_energy"].tau == 1
    assert rankings["local_energy"].granulated == 1
    assert set(rankings["local_energy"].by_factor) == {"algorithm", "learning_rate"}
    assert rankings["local_energy"].num_solutions == 8
    assert abs(rankings["norm"].tau) < 1
    assert math.isnan(rankings["pac_bayes"].tau)  # all alike
    text = reporting.report(study, solutions(), tmp_path)
    assert "+1.00 [+1.00, +1.00]" in text
    assert (tmp_path / "flatness_study.png").stat().st_size > 1000


def test_meetings_are_those_of_all_solutions():
    rows = solutions()["MLP, clean"][:2]
    rows[1]["meeting"] = meeting = {"center": 9.0, "replicas": 2.0, "distance": 0.5}
    place = f"MLP, clean, batches of {rows[0]['factors']['batch_size']}"
    found = reporting.meetings({"MLP, clean": rows})
    assert found == {rows[0]["factors"]["algorithm"]: [(place, None), (place, meeting)]}


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
