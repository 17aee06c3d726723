"""A run's directory: no file in it can be wrong without a word."""

import dataclasses
import json
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fast import slow
from run_helpers import started

from experiments import __main__ as command_line
from experiments import faults
from experiments.engine import fingerprints
from experiments.engine.config import TrainConfig
from experiments.engine.run_directory import RunDirectory, read_result
from experiments.engine.steps import arrays_of
from experiments.engine.task import make_task
from experiments.engine.train import load_run, train
from experiments.report import lock, provenance, store

CONFIG = TrainConfig.of(
    algorithm="sgd",
    train_size=100,
    batch_size=50,
    epochs=4,
    held_out_size=100,
    curve_examples=50,
    local_energy_samples=2,
    local_energy_examples=50,
)


@pytest.fixture(scope="module")
def task():
    return make_task(CONFIG)


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """A run that was saved after every epoch, and what it ended in."""
    path = tmp_path_factory.mktemp("runs") / "finished"
    return path, train(CONFIG, task, directory=path, progress=False, checkpoint_seconds=0)


@pytest.fixture
def run(finished, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(finished[0], tmp_path / "run")


def without_seconds(result):
    history = [record | {"seconds": 0} for record in result["history"]]
    return result | {"seconds": 0, "history": history}


def resume(task, run, **options):
    return without_seconds(train(CONFIG, task, directory=run, progress=False, **options))


@pytest.mark.slow
def test_flips_in_what_is_read_are_detected_or_harmless(task, finished, run):
    """Of files that Python reads; `python -m experiments.damage` flips all."""
    good = without_seconds(finished[1])
    draw, counts = random.Random(0), {"detected": 0, "harmless": 0}
    paths = [run / "result.json", run / "config.json", run / "metrics.jsonl"]
    paths += sorted((run / "checkpoints" / "8" / "about").iterdir())
    for path in paths:
        content = path.read_bytes()
        for _ in range(8):
            faults.flip(path, draw.randrange(8 * len(content)))
            if path.name != "result.json":
                (run / "result.json").unlink(missing_ok=True)
            message = None
            try:
                assert resume(task, run) == good
            except ValueError as error:
                message = str(error)
            counts["harmless" if message is None else "detected"] += 1
            assert message is None or str(run) in message
            path.write_bytes(content)
    assert counts["detected"] >= 20


@pytest.mark.slow
def test_another_state_under_the_same_digest_is_refused(task, run):
    (run / "result.json").unlink()
    older, newer = run / "checkpoints" / "6", run / "checkpoints" / "8"
    shutil.rmtree(newer / "state")
    shutil.copytree(older / "state", newer / "state")
    with pytest.raises(ValueError, match=r"checkpoints/8 .*of step 6, its record of step 8"):
        resume(task, run)
    shutil.rmtree(newer)
    older.rename(newer)
    with pytest.raises(ValueError, match=r"checkpoints/8 .*its record of step 6"):
        resume(task, run)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 0.2},
        {"weight_decay": 0.0},
        slow({"train_size": 99}),
        slow({"epochs": 5}),
    ],
    ids=str,
)
def test_checkpoints_and_results_know_their_configuration(change, run, finished):
    (name,) = change
    other = CONFIG.changed(**change)
    (run / "config.json").unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{name}: wanted .*, found"):
            train(other, directory=run, progress=False)
        (run / "result.json").unlink(missing_ok=True)
    # As does a configuration that was put in the place of another one.
    run = shutil.copytree(finished[0], run.parent / "other")
    store.write_json(run / "config.json", other.to_json())
    with pytest.raises(ValueError, match=rf"{name}: wanted .*, found"):
        read_result(run)
    with pytest.raises(ValueError, match=rf"{name}: wanted .*, found"):
        load_run(run)


def test_checkpoints_know_their_data(task, run):
    (run / "result.json").unlink()
    image = task.train.image.copy()
    image[0, 0, 0] ^= 1
    other = dataclasses.replace(task, train=dataclasses.replace(task.train, image=image))
    with pytest.raises(ValueError, match=r"data\.train\.crc32: wanted .*, found"):
        train(CONFIG, other, directory=run, progress=False)


def test_runs_of_another_revision_are_measured_but_not_continued(task, finished, run, monkeypatch):
    about = json.loads((run / "checkpoints" / "8" / "about" / "metadata").read_text())
    for made_by in (about["made_by"], json.loads((run / "result.json").read_text())["made_by"]):
        assert made_by == provenance.made_by()
    assert resume(task, run) == without_seconds(finished[1])
    assert "revision" not in finished[1]
    monkeypatch.setattr(provenance, "TRAINING", provenance.TRAINING + 1)
    message = r"revision: wanted 2, found 1\. .*provenance\.py\)"
    with pytest.raises(ValueError, match=f"result.json holds .*{message}"):
        train(CONFIG, task, directory=run, progress=False)
    (run / "result.json").unlink()
    with pytest.raises(ValueError, match=f"checkpoints/8 holds .*{message}"):
        train(CONFIG, task, directory=run, progress=False)
    assert load_run(run).config == CONFIG


def test_checkpoints_without_a_revision_are_of_the_first(task, finished, run):
    (run / "result.json").unlink()
    path = run / "checkpoints" / "8" / "about" / "metadata"
    about = store.unsealed(json.loads(path.read_text()), "about")
    del about["revision"]
    path.write_text(json.dumps(store.sealed(about)))
    assert resume(task, run) == without_seconds(finished[1])


def test_a_run_that_was_taken_over_saves_nothing(run):
    (run / "result.json").unlink()
    files = RunDirectory(run, CONFIG)
    before = sorted((run / "checkpoints").iterdir())
    with files.claimed():
        (run / "run.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
        for write in (
            lambda: files.save(99, arrays_of(started(CONFIG).state), np.zeros((0, 1)), []),
            lambda: files.append_metrics({"step": 99}),
            lambda: files.reset_metrics([]),
            lambda: files.write_result({"test_error": 0.0}),
        ):
            with pytest.raises(lock.InUseError, match="now in use by process 1 on elsewhere"):
                write()
    assert sorted((run / "checkpoints").iterdir()) == before
    assert not (run / "result.json").exists()
    assert (run / "run.lock").exists()


def test_checkpoints_that_do_not_fit_are_not_begun(run, monkeypatch):
    files = RunDirectory(run, CONFIG)
    before = sorted((run / "checkpoints").rglob("*"))
    usage = shutil.disk_usage(run)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"No space left .* 1000 are free\): .*/checkpoints"):
        files.save(99, arrays_of(started(CONFIG).state), np.zeros((0, 1)), [])
    assert sorted((run / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"seed": 0}', "\xff"])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_damaged_files_are_named(name, content, run, task):
    (run / name).write_bytes(content.encode("latin1"))
    with pytest.raises(ValueError, match=name):
        train(CONFIG, task, directory=run, progress=False)


def test_metrics_follow_the_checkpoint(task, finished, run):
    (run / "result.json").unlink()
    metrics = run / "metrics.jsonl"
    good = metrics.read_text()
    for bad in (good.replace("5", "6", 1), "", good[:-20], None):
        metrics.unlink() if bad is None else metrics.write_text(bad)
        assert resume(task, run) == without_seconds(finished[1])
        (run / "result.json").unlink()
        assert metrics.read_text() == good


def test_a_checkpoint_must_have_its_digest(task, run):
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "8" / "about")
    with pytest.raises(ValueError, match="checkpoints/8"):
        resume(task, run)


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_files_of_a_run_must_have_their_digests(name, task, run):
    (run / name).write_text(json.dumps(store.read_json(run / name)))
    with pytest.raises(ValueError, match=rf"{name} is damaged: it has no digest"):
        resume(task, run)


DTYPES = ["float32", "bfloat16", "int8", "uint32", "bool", "complex64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_fingerprints_see_every_bit(dtype):
    rng = np.random.default_rng(0)
    array = jnp.asarray(rng.integers(0, 2, (3, 5)), dtype)
    whole = fingerprints.of_arrays({"a": array})
    for bit in range(0, 8 * array.nbytes, 8 if dtype == "bool" else 1):
        content = bytearray(np.asarray(array).tobytes())
        content[bit // 8] ^= 1 << bit % 8
        other = np.frombuffer(bytes(content), array.dtype).reshape(array.shape)
        assert fingerprints.of_arrays({"a": jnp.asarray(other)}) != whole
    assert fingerprints.of_arrays({"b": array}) != whole
    assert fingerprints.of_arrays({"a": array.reshape(5, 3)}) != whole
    assert fingerprints.of_arrays({"a": array[::-1]}) != whole


def test_fingerprints_do_not_depend_on_the_mesh():
    mesh = jax.make_mesh((4, 2), ("replica", "data"))
    spec = jax.sharding.PartitionSpec("replica", "data")
    array = jax.random.normal(jax.random.key(0), (8, 6))
    spread = jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))
    tree = lambda leaf: {"w": leaf, "key": jax.random.key(1), "step": 3 * jnp.ones((), jnp.int32)}
    assert fingerprints.of_arrays(tree(spread)) == fingerprints.of_arrays(tree(array))


def test_a_restored_state_has_the_digest_that_was_saved(task, run):
    saved = RunDirectory(run, CONFIG).restore(arrays_of(started(CONFIG).state))
    about = json.loads((run / "checkpoints" / "8" / "about" / "metadata").read_text())
    assert fingerprints.of_arrays(saved.state) == about["state"]


def test_one_process_trains_in_a_directory(task, run):
    (run / "result.json").unlink()
    with (
        RunDirectory(run, CONFIG).claimed(),
        pytest.raises(lock.InUseError, match=f"{run}/run is in use by process {os.getpid()} on"),
    ):
        train(CONFIG, task, directory=run, progress=False)
    resume(task, run)
    assert not (run / "run.lock").exists()


@pytest.mark.parametrize("name", ["strange", "package.strange"])
def test_foreign_modules_are_imported_only_where_trusted(name, run, tmp_path, monkeypatch, capsys):
    path = tmp_path / "code" / f"{name.replace('.', '/')}.py"
    path.parent.mkdir(parents=True)
    path.write_text("raise RuntimeError('strange was imported')")
    monkeypatch.syspath_prepend(tmp_path / "code")
    config = store.read_json(run / "config.json") | {"model": f"{name}:Model"}
    store.write_json(run / "config.json", config)
    command = ["flatness", str(run), "--out", str(tmp_path / "out")]
    assert command_line.main(command) == 1
    error = capsys.readouterr().err
    assert f"module {name} ({path})" in error
    assert "pass --trust" in error
    assert command_line.main([*command, "--trust"]) == 1
    assert "strange was imported" in capsys.readouterr().err
