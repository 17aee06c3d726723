"""The training loop, its files on disk and the command line, on small pieces of digits."""

import json
import random
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fast import only, slow
from run_helpers import changed, started

import flatjax
from experiments import __main__ as command_line
from experiments import faults
from experiments.configs.comparisons import study_of
from experiments.engine import evaluate, steps
from experiments.engine.algorithms import ALGORITHMS
from experiments.engine.config import TrainConfig
from experiments.engine.loop import TrainingDivergedError
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.run_directory import RunDirectory
from experiments.engine.task import make_task
from experiments.engine.train import train
from experiments.report import store
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.run import compare

SMALL = TrainConfig.of(
    train_size=200,
    batch_size=40,
    epochs=6,
    replicas=2,
    gamma=0.01,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=100,
)

# Settings of the algorithms that have them.
OWN = {"replicas": 2, "inner_steps": 2, "gamma": 0.01, "replica_gamma": 0.01, "ema_decay": 0.9}
NORMED = {"model": "small_convnet", "model_options": ("batch_norm=True",)}


def replace(config=SMALL, **changes):
    return changed(config, OWN, **changes)


@pytest.mark.parametrize("algorithm", only(["rsgd"], ALGORITHMS))
def test_every_algorithm_spends_its_budget_and_learns(algorithm):
    own = {"period": 4} if algorithm == "diloco" else {}
    config = replace(algorithm=algorithm, epochs=24, learning_rate=0.1, **own)
    result = train(config, progress=False)
    assert result["gradient_evaluations"] == 24 * 5
    assert result["history"][-1]["gradients"] == 24 * 5
    assert result["test_error"] < 45  # chance is 90
    assert len(result["replica_test_errors"]) == config.num_replicas
    assert json.loads(json.dumps(result)) == result


def test_equal_budgets_whatever_the_number_of_replicas():
    task = make_task(SMALL)
    configs = [replace(algorithm="rsgd", replicas=y) for y in (1, 2, 3)]
    assert {make_plan(config, task).gradient_evaluations for config in configs} == {30}


@pytest.mark.slow
@pytest.mark.parametrize("gamma_0", [None, 0.01])
def test_the_recorded_coupling_is_that_of_the_schedule(gamma_0):
    config = replace(algorithm="rsgd", gamma=gamma_0)
    task = make_task(config)
    plan = make_plan(config, task)
    history = train(config, task, progress=False)["history"]
    if gamma_0 is None:
        state = steps.init_state(plan, hyper_of(config), 0)
        distance = flatjax.replica_distance(state.params, replica_axis=0)
        draw = steps.draw_epoch(plan, 0, 0)
        batch = steps.take_batch(plan, task.device_train, draw, state.step)
        loss, _ = jax.vmap(task.objective.loss)(state.params, state.batch_stats, batch)
        gamma_0 = float(loss.mean() / (0.5 * distance))
    total = plan.total_steps
    for record in history:
        expected = gamma_0 * 1e4 ** ((record["step"] - 1) / total)
        np.testing.assert_allclose(record["gamma"], expected, rtol=1e-4)


def test_every_example_is_seen_once_an_epoch_by_each_replica():
    config = replace(algorithm="rsgd")
    order = np.asarray(steps.draw_epoch(make_plan(config, make_task(config)), 0, 1).order)
    for replica in range(2):
        assert sorted(order[:, replica].ravel()) == list(range(200))
    assert not np.array_equal(order[:, 0], order[:, 1])


@pytest.mark.filterwarnings("ignore:learning_rate . gamma is")  # two steps only
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sam", "rsam", "esam"])
def test_sam_takes_both_gradients_on_one_batch(algorithm):
    own = OWN | {"gamma": 0.3, "decoupled": False, "noise_scale": 0.0}
    config = changed(SMALL, own, algorithm=algorithm, schedule="constant")
    gamma = getattr(config.algorithm, "gamma", 0.0)
    run = started(config)
    objective, params = run.task.objective, jax.tree.map(jnp.copy, run.state.params)
    draw = steps.draw_epoch(run.plan, 0, 0)
    batches = steps.take_batch(run.plan, run.task.device_train, draw, 0)

    def step(w, center, batch):
        """Of one replica. Coupling and decay act from where it was, not from where it looked."""
        gradient = jax.grad(lambda params: objective.loss(params, {}, batch)[0])
        g = gradient(w)
        radius = config.algorithm.sam_rho / optax.tree.norm(g)
        g = gradient(jax.tree.map(lambda w, g: w + radius * g, w, g))
        eta = config.optimizer.learning_rate * (
            1 + config.optimizer.momentum
        )  # the first step of Nesterov's
        decay = config.optimizer.weight_decay
        return jax.tree.map(
            lambda w, g, c: w - eta * (g + gamma * (w - c) + decay * w), w, g, center
        )

    # A single replica is its own center.
    center = jax.tree.map(lambda leaf: leaf.mean(0), params)
    expected = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))(params, center, batches)
    run.take_steps(2)
    np.testing.assert_allclose(_flat(run.state.params), _flat(expected), atol=1e-6)


@pytest.mark.parametrize("algorithm", ["rsgd", "esgd"])
@pytest.mark.slow
def test_the_final_model_has_batch_statistics_of_its_own(algorithm):
    config = replace(algorithm=algorithm, augment=("crop",), **NORMED)
    run = started(config)
    run.take_steps(2)
    task, state = run.task, run.state
    params, stats = evaluate.final_model(run.plan, task, state)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.tree.map(lambda leaf: leaf[0], state.params)
    )
    again = flatjax.batch_stats.reestimate(
        task.objective.update_stats, params, stats, task.statistics_batches
    )
    np.testing.assert_allclose(*map(_flat, (stats, again)), rtol=1e-6)
    averaged = flatjax.batch_stats.average(state.batch_stats, replica_axis=0)
    assert np.abs(_flat(stats) - _flat(averaged)).max() > 1e-2


def _flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# --- bad configurations -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"algorithm": "adam"}, "algorithm"),
        ({"schedule": "step"}, "schedule"),
        ({"augment": ("rotate",)}, "augment"),
        ({"epochs": 0.0}, "epochs"),
        ({"epochs": float("nan")}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"gamma": -1.0}, "gamma"),
        ({"replicas": 0}, "replicas"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"momentum": 1.0}, "momentum"),
        ({"label_noise": 1.5}, "label_noise"),
        ({"evaluate_on": "validation", "validation": 0.0}, "validation"),
        ({"common_init": True, "gamma": None}, "gamma"),
        ({"algorithm": "sgd", "gamma": 3.0}, "gamma is not a setting of sgd, but of esgd, rsgd, "),
        ({"algorithm": "sam", "replicas": 7}, "replicas is not .* sam, but of rsgd, rsam, parle"),
        ({"algorithm": "rsam", "gamma": None}, "gamma"),
        ({"algorithm": "swa", "warmup": 0.1}, "warmup is not a setting of swa"),
        ({"milestones": (0.5,)}, "milestones is only for schedule milestones"),
        ({"momentun": 0.9}, "momentun"),
    ],
)
def test_impossible_configurations_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 1000}, "batch_size"),
        ({"epochs": 0.01}, "epochs"),
        (
            {"model": "transformer"},
            "model transformer is not for data of this kind: tokens must have",
        ),
        ({"model": "resnet99"}, "resnet99"),
        ({"dataset": "digit"}, "digit"),
    ],
)
def test_configurations_that_do_not_fit_the_data_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        started(replace(**changes))


@pytest.mark.parametrize("model", ["mlp", slow("small_convnet")])
def test_divergence_stops_with_step_and_quantity(model, tmp_path):
    config = replace(algorithm="sgd", learning_rate=1e8, model=model)
    with pytest.raises(
        TrainingDivergedError, match=r"loss of replica 0 became .* at step \d+ of 30"
    ):
        train(config, directory=tmp_path, progress=False)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"replicas": 3}, {"learning_rate": 0.2}, {"seed": 1}, {"algorithm": "parle"}]
)
def test_a_directory_belongs_to_one_run(tmp_path, change):
    with RunDirectory(tmp_path, replace(algorithm="rsgd")).claimed():
        (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (name,) = change
    with pytest.raises(ValueError, match=f"{name}: wanted .*, found"):
        RunDirectory(tmp_path, replace(**{"algorithm": "rsgd"} | change))


def test_fields_newer_than_a_run_have_their_defaults(tmp_path):
    config = replace(algorithm="rsgd")
    fields = config.to_json()
    del fields["period"]
    store.write_json(tmp_path / "config.json", fields)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    RunDirectory(tmp_path, config)
    with pytest.raises(ValueError, match="period: wanted 2, found 1"):
        RunDirectory(tmp_path, replace(config, period=2))


@pytest.mark.slow
def test_damaged_files_are_named(tmp_path):
    config = replace(algorithm="sgd")
    train(config, directory=tmp_path, progress=False)
    (tmp_path / "result.json").unlink()
    for path in (tmp_path / "checkpoints").rglob("manifest.ocdbt"):
        path.write_bytes(b"not a checkpoint")
    # In a process of its own: orbax gives up at the first array that cannot be read, and those
    # still under way complain of its closed event loop later, where nobody can catch it.
    done = faults.start(config, tmp_path, stderr=subprocess.PIPE, text=True)
    _, message = done.communicate(timeout=300)
    assert done.returncode != 0
    assert f"checkpoint {tmp_path}/checkpoints" in message
    assert "cannot be restored" in message
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        RunDirectory(tmp_path, config)


@pytest.mark.slow
def test_a_complete_run_is_not_repeated(tmp_path):
    config = replace(algorithm="sgd")
    first = train(config, directory=tmp_path, progress=False)
    (tmp_path / "metrics.jsonl").unlink()
    assert train(config, directory=tmp_path, progress=False) == first
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.claim("docs/faq.md", "test_killed_runs_resume_to_the_same_bits")
def test_killed_runs_resume_to_the_same_bits(tmp_path):
    options = ("features=(4,)", "hidden=(4,)", "batch_norm=True")
    config = faults.config_of("parle", replicas=2, epochs=4, model_options=options)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    faults.finish(config, straight)
    delays = random.Random(0)
    for moment in ("inside a checkpoint", "at the end of an epoch"):
        faults.kill(config, killed, moment, delays)
    assert not (killed / "result.json").exists()
    faults.finish(config, killed)
    assert faults.differences(straight, killed) == (0, 0)
    result = store.read_json(killed / "result.json")
    result["history"][1]["train_loss"] += 1e-6
    store.write_json(killed / "result.json", result)
    assert faults.differences(straight, killed) == (0, 1)


# --- studies and the command line ---------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist", "cifar10"])
def test_studies_compare_at_equal_gradients(dataset):
    study = study_of(dataset)
    assert study.base.data.dataset == dataset
    assert study.sigma in study.base.measures.sigmas
    for label, config in study.configs().items():
        factor = int(label.split(" x ")[1]) if " x " in label else 1
        assert config.epochs == factor * study.base.epochs
    for label in study.grids:
        assert label in study.runs
        for candidate in study.candidates(label):
            study.changed(study.runs[label], candidate)


@pytest.mark.slow
def test_compare_reports_what_ran_and_what_failed(tmp_path, capsys):
    study = Comparison(
        base=SMALL,
        runs={
            "SGD": {"algorithm": "sgd"},
            "rSGD": {"algorithm": "rsgd", "replicas": 2},
            "broken": {"algorithm": "sgd", "learning_rate": 1e8},
        },
        seeds=2,
        sigma=0.1,
    )
    assert compare(study, tmp_path, progress=False) == 1
    shown = capsys.readouterr()
    assert shown.err.count("failed: broken, seed") == 2
    summary = json.loads((tmp_path / "comparison.json").read_text())["summary"]
    assert set(summary) == {"SGD", "rSGD"}
    for label, row in summary.items():
        runs = [
            json.loads((tmp_path / label.lower() / f"seed-{s}" / "result.json").read_text())
            for s in range(2)
        ]
        errors = [run["test_error"] for run in runs]
        np.testing.assert_allclose(row["test_error"][0], np.mean(errors), atol=1e-3)
        np.testing.assert_allclose(row["test_error"][1], abs(errors[0] - errors[1]) / 2, atol=1e-3)
        assert f"{row['test_error'][0]:.2f} ± {row['test_error'][1]:.2f}" in shown.out
    assert (tmp_path / "comparison.png").stat().st_size > 10_000

    (tmp_path / "sgd" / "seed-1" / "result.json").unlink()
    assert compare(study, tmp_path, progress=False, report_only=True) == 0
    assert not (tmp_path / "sgd" / "seed-1" / "result.json").exists()
    summary = json.loads((tmp_path / "comparison.json").read_text())["summary"]
    assert (summary["SGD"]["seeds"], summary["rSGD"]["seeds"]) == (1, 2)


def test_command_line_explains_mistakes_in_one_line(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert command_line.main(["train", "--dataset", "digit", "--no-progress", *out]) == 1
    assert "digit" in capsys.readouterr().err.splitlines()[0]
    assert command_line.main(["compare", "--only", "Adam"]) == 1
    assert "only must hold labels" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["tune"]])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main([*command, "--help"])
    assert stop.value.code == 0
    assert "help" in capsys.readouterr().out
