"""The study of fine-tuning: modes, budgets, outcomes, and records that are continued."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow

from experiments import __main__ as command_line
from experiments.configs.fine_tuning import SMALL, STUDY
from experiments.engine.time_limit import TimeLimit
from experiments.report import store
from experiments.studies.fine_tuning import methods, run
from experiments.studies.fine_tuning.description import LAST_LAYERS, LORA, Data, Pretraining
from experiments.studies.fine_tuning.outcomes import Measures
from experiments.studies.fine_tuning.report import report
from experiments.studies.fine_tuning.task import Tasks

TINY = dataclasses.replace(
    SMALL,
    data=Data("digits", train_size=60, validation_size=40),
    pretraining=Pretraining(steps=60, batch_size=32, learning_rate=1e-2),
    hidden=(12, 10),
    rank=2,
    gradients=60,
    batch_size=8,
    sigmas=(0.1,),
)


@pytest.fixture(scope="module")
def tasks():
    return Tasks(TINY)


@pytest.fixture(scope="module")
def task(tasks):
    return tasks.of(0)


def changed(pretrained):
    """Weights that differ from the pretrained ones by a little noise."""
    leaves, structure = jax.tree.flatten(pretrained)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    noisy = [w + 0.2 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def forward(params, images, head):
    """Logits of a network with two hidden layers, by NumPy."""
    h = np.asarray(images).reshape(len(images), -1)
    for layer in (params["Dense_0"], params["Dense_1"]):
        h = np.maximum(0, h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
    return h @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


@pytest.mark.slow
def test_the_examples_of_a_seed_are_disjoint_and_of_their_classes(tasks, task):
    (train,), (validation,) = task.train_batches, task.validation
    count = int(validation["weight"].sum())
    assert (len(train["label"]), count) == (60, 40)
    flat = lambda batch, n: {row.tobytes() for row in np.asarray(batch["image"])[:n]}
    assert flat(train, 60).isdisjoint(flat(validation, count))
    assert {*np.asarray(train["label"]).tolist()} == {0, 1, 2, 3, 4}
    other = tasks.of(1)
    assert flat(other.train_batches[0], 60) != flat(train, 60)
    assert not np.allclose(
        other.pretrained["Dense_0"]["kernel"], task.pretrained["Dense_0"]["kernel"]
    )


@pytest.mark.slow
def test_the_low_rank_start_is_the_pretrained_network(tasks, task):
    for common in (True, False):
        mode = methods.low_rank(tasks, 2, common=common)
        stack = mode.start(jax.random.key(5), task.pretrained, 3)
        one = jax.tree.map(lambda w: w[1], stack)
        for network in (mode.network(task.pretrained, one), mode.center(task.pretrained, stack)):
            for layer in ("Dense_0", "Dense_1"):
                np.testing.assert_array_equal(
                    network[layer]["kernel"], task.pretrained[layer]["kernel"]
                )
            assert (network["Dense_2"]["kernel"] != task.pretrained["Dense_2"]["kernel"]).any()
        a = stack["factors"]["Dense_0"]["kernel"].a
        assert (np.asarray(a[0] == a[1])).all() == common


@pytest.mark.slow
def test_the_center_is_the_mean_network(tasks, task):
    mode = methods.low_rank(tasks, 2, common=False)
    stack = mode.start(jax.random.key(5), task.pretrained, 3)
    stack = jax.tree.map(lambda w: w + jnp.arange(3.0).reshape(-1, *[1] * (w.ndim - 1)), stack)
    networks = [
        mode.network(task.pretrained, jax.tree.map(lambda w, i=i: w[i], stack)) for i in range(3)
    ]
    center = mode.center(task.pretrained, stack)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *networks)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), center, mean)


SETTINGS = {"learning_rate": 0.01, "weight_decay": 0.1, "sam_rho": 0.05, "pull": 0.01, "gamma": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["rSGD", *[slow(one) for one in ("eSGD", "SAM", "SGD")]])
def test_only_the_last_layers_are_trained(tasks, task, arm):
    fixed = dict(STUDY.contestants[arm].fixed) | {"inner_steps": 5}
    program = methods.make_run(TINY, tasks, LAST_LAYERS, fixed, 30)
    stack = program(SETTINGS, jax.random.key(1), task.pretrained, task.train)
    y = 3 if arm == "rSGD" else 1
    start = task.pretrained
    for leaf in ("kernel", "bias"):
        assert stack["Dense_0"][leaf].shape == (y, *start["Dense_0"][leaf].shape)
        np.testing.assert_array_equal(stack["Dense_0"][leaf][-1], start["Dense_0"][leaf])
        assert (np.asarray(stack["Dense_1"][leaf][-1] != start["Dense_1"][leaf])).any()


@pytest.mark.slow
def test_outcomes_are_those_of_a_plain_forward_pass(tasks, task):
    body = changed(task.pretrained)
    stack = jax.tree.map(lambda w: w[None], body)
    found = Measures(TINY, tasks)(LAST_LAYERS, {"method": "adamw"}, task, stack, is_test=True)
    wrong = lambda logits, label: 100 * np.mean(logits.argmax(-1) != label)
    joint = {}
    for name, batches, head in (
        ("new", tasks.test, body["Dense_2"]),
        ("old", tasks.old_test, task.pretrained["Dense_2"]),
    ):
        (batch,) = batches
        real = np.asarray(batch["weight"]) > 0
        images, label = np.asarray(batch["image"])[real], np.asarray(batch["label"])[real]
        assert found[f"{name}_error"] == pytest.approx(
            wrong(forward(body, images, head), label), rel=1e-5
        )
        heads = (task.pretrained["Dense_2"], body["Dense_2"])
        joint = np.concatenate([forward(body, images, one) for one in heads], axis=-1)
        wanted = wrong(joint, label + (5 if name == "new" else 0))
        assert found[f"{name}_error_among_all"] == pytest.approx(wanted, rel=1e-5)
    assert found["pretrained_old_error"] < found["old_error"]


def test_budgets_are_equal():
    for mode in STUDY.modes:
        for arm in run.arms_of(STUDY):
            multiple = 3 if arm.endswith("x 3") else 1
            assert STUDY.run_of(mode, arm)["gradients"] == 600 * multiple
            fixed = STUDY.run_of(mode, arm)["fixed"]
            assert STUDY.gradients % (2 * fixed.get("replicas", 1)) == 0
    loops = STUDY.contestants["eSGD"].space["inner_steps"].values
    assert all(STUDY.gradients % loop == 0 for loop in loops)


@pytest.mark.slow
def test_records_are_kept_and_continued(tmp_path, capsys):
    arms = {name: STUDY.contestants[name] for name in ("AdamW", "soup")}
    study = dataclasses.replace(TINY, contestants=arms, modes=(LORA,))
    run.run_study(study, tmp_path)
    assert capsys.readouterr().out.count("test error") == 4
    paths = sorted(tmp_path.glob("lora/*.jsonl"))
    before = {path: path.read_text().splitlines() for path in paths}
    assert {path.stem: len(lines) for path, lines in before.items()} == {
        "adamw": 4,
        "soup": 4,
        "adamw-x-3": 2,
        "soup-x-3": 2,
    }
    adamw = paths[0]
    adamw.write_text("\n".join(before[adamw][:3]) + "\n")
    run.run_study(study, tmp_path, progress=False)
    again, first = (
        json.loads(line) for line in (adamw.read_text().splitlines()[-1], before[adamw][-1])
    )
    assert {**again, "made_by": 0, "digest": 0} == {**first, "made_by": 0, "digest": 0}
    assert paths[1].read_text().splitlines() == before[paths[1]]

    results = run.read_study(study, tmp_path)
    soup = results[LORA]["soup"].records[0]
    assert soup["meeting"]["distance"] > 0
    assert 0 < soup["mean_of_factors_error"] < 100
    text = report(study, results, tmp_path)
    assert "soup x 3" in text
    assert (tmp_path / "fine_tuning.png").exists()

    other = dataclasses.replace(study, rank=3)
    with pytest.raises(store.OtherIdentityError, match=r"run\.rank: wanted 3, found 2"):
        run.read_study(other, tmp_path)


def test_a_variant_waits_for_its_choice(tmp_path, capsys):
    limit = TimeLimit(1e6)
    for arm in ("AdamW", "AdamW x 3"):
        limit.note((LORA, arm), "unit", 1e6)
    arms = {"AdamW": STUDY.contestants["AdamW"]}
    study = dataclasses.replace(TINY, contestants=arms, modes=(LORA,))
    run.run_study(study, tmp_path, limit=limit)
    assert limit.unfinished == 2
    assert run.read_study(study, tmp_path) == {}
    assert "2 units are left" in capsys.readouterr().err


def test_the_command_says_what_is_missing(tmp_path, capsys):
    arguments = ["fine-tuning", "--small", "--report-only", "--out", str(tmp_path / "none")]
    assert command_line.main(arguments) == 1
    assert "holds no complete arm of this study" in capsys.readouterr().err
