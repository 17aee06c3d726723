"""Flatness at matched training error: runs that are continued, ranks within data samples."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from experiments import __main__ as command_line
from experiments.configs import matched_flatness as configs
from experiments.engine.config import TrainConfig
from experiments.engine.population import Trained
from experiments.engine.task import make_tasks
from experiments.report import store
from experiments.studies.matched_flatness import run
from experiments.studies.matched_flatness.description import OUTCOMES, PREDICTORS
from experiments.studies.matched_flatness.report import is_used, rank_network, report, summarize
from experiments.studies.solutions import path_of
from flatjax.flatness import kendall_tau

STUDY = configs.STUDY


def test_the_runs_are_those_of_the_protocol():
    numbers = {
        network: sum(len(STUDY.runs(network, one)) for one in STUDY.algorithms)
        for network in STUDY.networks
    }
    assert numbers == {
        "MLP": 150,
        "MLP, 20% noise": 150,
        "conv net": 100,
        "conv net, batch norm": 100,
    }
    for network in STUDY.networks:
        samples = {one: {r.seed for r in STUDY.runs(network, one)} for one in STUDY.algorithms}
        assert all(len(own) == 5 and min(own) >= 4000 for own in samples.values())
    plain, normed = (
        STUDY.config(network, "SGD") for network in ("conv net", "conv net, batch norm")
    )
    assert normed == plain.changed(model_options=("batch_norm=True",))
    assert STUDY.config("MLP", "rSGD x 3").epochs == 3 * STUDY.config("MLP", "SGD").epochs


TINY = dataclasses.replace(
    STUDY,
    base=TrainConfig.of(
        dataset="digits",
        batch_size=32,
        train_size=100,
        validation=0.2,
        model_options=("hidden=(8,)",),
        local_energy_samples=2,
        local_energy_examples=50,
    ),
    networks={"MLP": {"model": "mlp", "epochs": 4}},
    algorithms={"SGD": {"algorithm": "sgd"}},
    spaces={"SGD": {"learning_rate": (0.05, 0.3)}},
    trials={"MLP": 2},
    seeds=(4000, 4001),
    matched=100.0,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("matched-flatness")
    run.run_study(TINY, out, progress=False)
    return out


@pytest.mark.slow
def test_every_solution_is_recorded_and_none_is_repeated(done):
    path = path_of(done, "MLP", "SGD")
    records = store.read_lines(path, must_be_sealed=True)
    assert [(r["settings"], r["seed"]) for r in records] == TINY.runs("MLP", "SGD")
    assert all(set(record["predictors"]) >= set(PREDICTORS) for record in records)
    energies = {record["predictors"]["local_energy"] for record in records}
    assert len(energies) > 1
    # One is missing, and is made again with the same numbers.
    store.write_lines(path, records[1:])
    run.run_study(TINY, done, progress=False)
    *_, again = store.read_lines(path)
    assert again["predictors"] == pytest.approx(records[0]["predictors"], rel=1e-4)
    assert len(store.read_lines(path)) == 4
    with pytest.raises(store.OtherIdentityError, match=r"sgd\.jsonl, line 1 .*config\.sigmas"):
        run.read_study(dataclasses.replace(TINY, sigma=0.4), done)


def test_the_training_error_is_that_on_all_training_images():
    """Only the local energy is measured on fewer of them."""
    config = TINY.config("MLP", "SGD")
    (task,) = make_tasks(config, [4000])
    network = task.objective.network
    params = network.init(jax.random.key(0), task.held_out_batches[0]["image"])["params"]
    found = run._measured({}, "MLP", Trained(task, params, {}, 0.0))
    (whole,) = task.batches(task.train)
    logits = np.asarray(task.objective.logits(params, {}, whole), float)
    labels = np.asarray(whole["label"])
    assert len(labels) == 100 > TINY.base.measures.local_energy_examples
    wrong = logits.argmax(axis=-1) != labels
    assert wrong.mean() != wrong[:50].mean()
    assert found["train_error"] == pytest.approx(100 * wrong.mean())
    losses = scipy.special.logsumexp(logits, axis=-1) - logits[np.arange(100), labels]
    assert found["predictors"]["train_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    two = np.sort(logits, axis=-1)[:, -2:]
    margins = (two[:, 1] - two[:, 0]) / logits.std(axis=-1)
    assert found["predictors"]["narrowness"] == pytest.approx(-np.median(margins), rel=1e-4)


@pytest.mark.slow
def test_the_command_reports_what_is_there(done, monkeypatch, capsys):
    monkeypatch.setattr(configs, "STUDY", TINY)
    arguments = ["matched-flatness", "--report-only", "--out"]
    assert command_line.main([*arguments, str(done)]) == 0
    said = capsys.readouterr()
    assert "| 4/4 " in said.out
    assert "complete" not in said.err
    more = TINY.algorithms | {"SAM": {"algorithm": "sam"}}
    spaces = TINY.spaces | {"SAM": TINY.spaces["SGD"]}
    monkeypatch.setattr(configs, "STUDY", dataclasses.replace(TINY, algorithms=more, spaces=spaces))
    assert command_line.main([*arguments, str(done)]) == 0
    assert (
        "leaves out 1 of 2 parts, because they are not complete: MLP, SAM."
        in capsys.readouterr().err
    )
    assert command_line.main([*arguments, str(done / "none")]) == 1
    assert "holds no complete part" in capsys.readouterr().err


# --- the report -----------------------------------------------------------------------------------


def made_up(setting, seed, *, train_error=0.5):
    """A record: local energy follows the norm, and only the norm tells the test error."""
    rng = np.random.default_rng([setting, seed])
    hidden = setting + 0.1 * rng.normal()
    numbers = {name: rng.normal() for name in PREDICTORS}
    numbers |= {"norm": hidden, "local_energy": hidden + 2 * rng.normal()}
    error = hidden + 1.5 * rng.normal() + 100 * seed
    return {
        "settings": {"learning_rate": 0.01 * (1 + setting)},
        "seed": seed,
        "train_error": train_error,
        "test_error": error,
        "test_loss": error / 10,
        "predictors": numbers,
    }


PARTS = {"SGD": [made_up(setting, seed) for seed in range(5) for setting in range(20)]}


def test_pairs_are_on_the_same_data():
    found = rank_network(STUDY, PARTS, num_bootstrap=100)
    column = lambda name: [
        [record["predictors"][name] for record in PARTS["SGD"] if record["seed"] == seed]
        for seed in range(5)
    ]
    errors = [[r["test_error"] for r in PARTS["SGD"] if r["seed"] == seed] for seed in range(5)]
    for name in ("norm", "local_energy"):
        taus = [kendall_tau(own, error) for own, error in zip(column(name), errors, strict=True)]
        for outcome in OUTCOMES:
            assert found["within"][name][outcome].value == pytest.approx(np.mean(taus))


def test_what_the_controls_tell_is_taken_out():
    found = rank_network(STUDY, PARTS, num_bootstrap=100)
    within, partial = (
        found[kind]["local_energy"]["test_error"] for kind in ("within", "partial within")
    )
    assert within.is_clear
    assert within.value > 0.5
    assert partial.value < within.value / 2
    assert not partial.is_clear


def test_solutions_that_have_not_learned_are_left_out():
    records = [made_up(setting, 0, train_error=0.4 * setting) for setting in range(8)]
    records.append({"settings": {}, "seed": 0, "diverged": True})
    assert [is_used(STUDY, record) for record in records] == [True] * 3 + [False] * 6
    assert rank_network(STUDY, {"SGD": records}, num_bootstrap=10) == {}
    (row,) = summarize(STUDY, "MLP", {"SGD": records})
    assert (row["ranked"], row["runs"]) == (3, 9)


def test_the_report_says_what_the_records_say(tmp_path):
    text = report(STUDY, {"MLP": PARTS, "conv net": {"SGD": PARTS["SGD"][:1]}}, tmp_path)
    stored = store.read_json(tmp_path / "matched_flatness.json")["taus"]
    assert list(stored) == ["MLP"]
    tau = stored["MLP"]["within"]["norm"]["test_error"]
    assert f"| {tau['value']:+.2f}* ± {tau['sem']:.2f} |" in text
    tau = stored["MLP"]["within"]["local_energy"]["test_error"]
    low, high = tau["interval"]
    assert f"| MLP     | 100/100 | {tau['value']:+.2f}* [{low:+.2f}, {high:+.2f}] |" in text
    assert "| conv net | SGD       | 1/1 " in text
    assert (tmp_path / "matched_flatness.png").stat().st_size > 10_000
