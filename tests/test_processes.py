"""Two processes on this machine train one run, and stop together when one is killed."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_mesh import assert_same

from experiments.engine import evaluate, processes, steps
from experiments.engine.config import TrainConfig
from experiments.engine.loop import Run
from experiments.engine.plan import make_plan
from experiments.engine.restart import go_on_from, with_replicas
from experiments.engine.run_directory import read_result
from experiments.engine.task import make_task
from experiments.engine.train import load_run, train
from flatjax import data

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = TrainConfig.of(
    train_size=160,
    held_out_size=100,
    batch_size=40,
    epochs=40,
    replicas=2,
    gamma=0.01,
    model="mlp",
    model_options=("hidden=(4,)",),
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=40,
)


# Where processes find the data of this module.
HERE = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
LOG = "FLATJAX_TEST_READS"
TEST_PASS = 1000


class Numbered:
    """Four batches of a pass; who reads which is logged."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 4

    def __getitem__(self, number):
        if log := os.environ.get(LOG):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{jax.process_index()} {self.epoch} {number}\n")
        draw = np.random.default_rng((self.epoch, number))
        images = draw.integers(256, size=(40, 4, 4, 1), dtype=np.uint8)
        return images, (images.mean((1, 2, 3)) > 128).astype(np.int32)


def make_stream():
    """The training data."""
    return data.Stream(Numbered, data.Split(*Numbered(TEST_PASS)[0]), 2, num_batches=4)


class Logged(np.memmap):
    """Images in a file; who reads which is logged."""

    def __getitem__(self, index):
        if isinstance(index, np.ndarray) and (log := os.environ.get(LOG)):
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{jax.process_index()} {' '.join(map(str, index))}\n")
        return super().__getitem__(index)


def make_file():
    """The training data, in the file next to the log."""
    images, labels = Numbered(0)[0]
    if log := os.environ.get(LOG):
        images = Logged(pathlib.Path(log).with_name("images"), np.uint8, "r", shape=images.shape)
    split = data.Split(images, labels)
    return data.Dataset("file", split, split, 2)


def from_arguments(i, coordinator):
    """What tells process i of two where the others are: options."""
    options = ["--coordinator", coordinator, "--num-processes", "2", "--process-id", str(i)]
    return options, {}


def from_slurm(i, coordinator):
    """The same as `srun` tells it, in variables; the job's number stands for the port."""
    host, port = coordinator.split(":")
    step = {"JOB_ID": int(port) % 2**12, "STEP_NODELIST": host, "STEP_NUM_NODES": 1}
    step |= {"NTASKS": 2, "PROCID": i, "LOCALID": i}
    return ["--coordinator", "auto"], {f"SLURM_{name}": str(value) for name, value in step.items()}


def start(directory, checkpoint_seconds, launcher, config=CONFIG):
    """Two processes with a device each; what they print goes to files."""
    arguments = ["--out", str(directory / "run"), "--no-progress", "--checkpoint-seconds"]
    arguments += [str(checkpoint_seconds)]
    arguments += config.to_arguments()
    coordinator = processes.free_address()
    started = []
    for i in range(2):
        with open(directory / f"{i}.txt", "w", encoding="utf-8") as output:
            command = [sys.executable, "-m", "experiments", "train", *arguments]
            options, variables = launcher(i, coordinator)
            started.append(
                subprocess.Popen(
                    command + options,
                    cwd=ROOT,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | variables | HERE | {"JAX_NUM_CPU_DEVICES": "1"},
                )
            )
    return started


def saved_steps(run):
    """Of the complete checkpoints; those under way have other names."""
    return [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]


def kill_one(directory, config=CONFIG):
    """Kills a process of two after a checkpoint; returns the steps of those that are saved."""
    run = directory / "run"
    first, second = start(directory, 0, from_arguments, config)
    try:
        deadline = time.monotonic() + 1200
        while not (saved := saved_steps(run)):
            assert first.poll() is None, (directory / "0.txt").read_text()
            assert time.monotonic() < deadline, "the run made no progress"
            time.sleep(0.01)
        if hasattr(os, "SCHED_BATCH") and first.poll() is None:
            assert os.sched_getscheduler(first.pid) == os.SCHED_BATCH
        second.send_signal(signal.SIGKILL)
        # At once where it was talking to the other, else after some missed heartbeats.
        status = first.wait(timeout=4 * processes.HEARTBEAT_SECONDS)
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    if not (run / "result.json").exists():
        assert status != 0
        message = (directory / "0.txt").read_text()
        assert "another one died" in message or "another task died" in message
    return saved


def kill_in_time(directory, config=CONFIG):
    """`kill_one`; on a machine so busy that the run ends before it is killed, once more."""
    for _ in range(5):
        saved = kill_one(directory, config)
        if not (directory / "run" / "result.json").exists():
            return saved
        shutil.rmtree(directory / "run")
    raise AssertionError("the run ends before it is killed")


@pytest.mark.slow
@pytest.mark.claim("docs/distributed.md", "The center does not move")
@pytest.mark.claim("docs/faq.md", "gives the same to rounding")
def test_one_of_two_is_killed_and_the_run_goes_on(tmp_path, monkeypatch):
    """With both or with one, as if nothing had happened; and with one replica less."""
    config = CONFIG.changed(
        **{"algorithm": "parle", "replicas": 2, "inner_steps": 2, "gamma": 0.1},
        **{"replica_gamma": 0.1, "epochs": 12, "validation": 0.0, "train_size": None},
        dataset=f"{__name__}:make_stream",
    )
    monkeypatch.setenv(LOG, str(tmp_path / "reads.txt"))
    saved = kill_in_time(tmp_path, config)
    lost, alone = (shutil.copytree(tmp_path / "run", tmp_path / name) for name in ("lost", "alone"))
    for process in start(tmp_path, 0, from_arguments, config):
        assert process.wait(timeout=600) == 0, (tmp_path / "0.txt").read_text()
    monkeypatch.delenv(LOG)
    whole = train(config, progress=False)
    assert max(saved) < whole["history"][-1]["step"]
    assert_same(read_result(tmp_path / "run"), whole, atol=1e-6)
    # In the first pass, all read what networks are evaluated on, and `TEST_PASS` for testing.
    reads = [map(int, line.split()) for line in (tmp_path / "reads.txt").read_text().splitlines()]
    trained = [(process, n % 2) for process, epoch, n in reads if epoch not in (0, TEST_PASS)]
    assert set(trained) == {(0, 0), (1, 1)}

    # One process continues the run of two, on one device.
    found = train(config, directory=alone, progress=False)
    assert_same(found, whole, atol=1e-6)

    # The other place does not come back.
    before, one = load_run(lost, trust=True), with_replicas(config, 1)
    run = Run(make_plan(one, before.task), one, before.task)
    go_on_from(run, lost)
    models = [evaluate.final_model(found.plan, found.task, found.state) for found in (before, run)]
    losses = [float(before.task.evaluate(*model)["loss"]) for model in models]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    found = train(one, directory=tmp_path / "one", progress=False, go_on_from=lost)
    assert found["origin"]["replicas"] == 2
    assert found["test_loss"] < max(2 * whole["test_loss"], 0.7)


@pytest.mark.slow
@pytest.mark.claim("docs/distributed.md", "reads the examples of its own replicas")
def test_each_process_reads_its_own_examples_of_a_file(tmp_path, monkeypatch):
    """And the run ends as one whose examples are in memory."""
    config = CONFIG.changed(
        **{"dataset": f"{__name__}:make_file", "validation": 0.0, "train_size": None},
        **{"batch_size": 10, "epochs": 6},
    )
    (tmp_path / "images").write_bytes(Numbered(0)[0][0].tobytes())
    monkeypatch.setenv(LOG, str(tmp_path / "reads.txt"))
    for process in start(tmp_path, 60, from_arguments, config):
        assert process.wait(timeout=600) == 0, (tmp_path / "0.txt").read_text()
    monkeypatch.delenv(LOG)
    whole = train(config, progress=False)
    assert_same(read_result(tmp_path / "run"), whole, atol=1e-6)
    plan = make_plan(config, make_task(config))
    assert plan.window_rows is None
    orders = [np.asarray(steps.epoch_order(plan, config.seed, epoch)) for epoch in range(3)]
    lines = [line.split() for line in (tmp_path / "reads.txt").read_text().splitlines()]
    for replica in range(2):
        expected = [order[:, replica].ravel().tolist() for order in orders]
        own = [list(map(int, numbers)) for process, *numbers in lines if int(process) == replica]
        # `Numbered`, of which the data are made, has logged a pair of numbers.
        assert [numbers for numbers in own if len(numbers) > 2] == expected


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all(tmp_path):
    # Too long to end by itself before the signal has reached both.
    endless = dataclasses.replace(CONFIG, epochs=100_000)
    started = start(tmp_path, 60, from_arguments, endless)
    try:
        deadline = time.monotonic() + 240
        # After an epoch, which both train: it is written without a line before they start.
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert started[0].poll() is None, (tmp_path / "0.txt").read_text()
            assert time.monotonic() < deadline, "the run made no progress"
            time.sleep(0.01)
        started[1].send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    texts = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert codes == [143, 143], texts
    assert all("SIGTERM: saved in" in text for text in texts)
    assert saved_steps(tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "run.lock").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", None, None), "num_processes and process_id must be given"),
        (("host:1", 2, None), "num_processes and process_id must be given"),
        (("host:1", 2, 2), r"process_id must be in 0 \.\.\. 1"),
        (("host", 2, 0), "coordinator must be ADDRESS:PORT or auto"),
        ((None, 2, 0), "coordinator must be ADDRESS:PORT where"),
        (("auto", 2, 0), "coordinator must be ADDRESS:PORT where"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)


def test_one_process_is_the_main_one_and_explains_nothing():
    processes.join(None, None, None)
    assert processes.is_main()
    assert processes.as_main(True)
    assert not processes.as_main(False)
    with pytest.raises(ValueError, match=r"^Gloo"), processes.explained():
        raise ValueError("Gloo")
