"""One writer at a time: locks name who holds them, and stale ones are recognised."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from experiments.report import lock, store
from experiments.studies.units import run_units

DEAD = 4194304  # above all process numbers
RACER = """
import pathlib, sys, time
from experiments.report import lock
path = pathlib.Path(sys.argv[1])
for _ in range(50):
    try:
        with lock.held(path.with_name("race.lock")):
            value = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(value + 1))
            print("+")
    except lock.InUseError:
        time.sleep(0.001)
"""


def held_by(path, seconds_ago=0.0, **changes):
    """A lock file of another process."""
    owner = {
        "pid": os.getpid(),
        "host": lock.host(),
        "namespace": lock._namespace(),
        "born": lock._born(os.getpid()),
        "since": "2026-11-27 12:00:00",
    }
    path.write_text(json.dumps(owner | changes))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))


def test_the_second_writer_is_told_who_is_first(tmp_path):
    path = tmp_path / "run.lock"
    with lock.held(path):
        with pytest.raises(lock.InUseError) as refused, lock.held(path):
            pass
        shown = f"run is in use by process {os.getpid()} on {lock.host()}, since "
        assert shown in str(refused.value)
    assert not path.exists()
    with lock.held(path):
        assert path.exists()


@pytest.mark.parametrize(
    ("owner", "is_stale"),
    [
        ({}, False),
        ({"pid": DEAD}, True),
        ({"born": "1"}, True),  # the number is another process's by now
        ({"host": "elsewhere", "pid": DEAD}, False),
        ({"host": "elsewhere", "seconds_ago": 2 * lock.STALE_SECONDS}, True),
        ({"seconds_ago": 2 * lock.STALE_SECONDS}, False),  # stopped, but alive
        ({"namespace": "pid:[0]", "pid": DEAD}, False),  # in a container
    ],
    ids=str,
)
def test_stale_locks_are_recognised(owner, is_stale, tmp_path):
    path = tmp_path / "run.lock"
    held_by(path, **owner)
    if is_stale:
        with lock.held(path):
            pass
        assert not path.exists()
    else:
        with pytest.raises(lock.InUseError, match="in use by process"), lock.held(path):
            pass
        assert path.exists()


def test_damaged_locks_end_with_their_age(tmp_path):
    path = tmp_path / "run.lock"
    path.write_text("")
    with pytest.raises(lock.InUseError), lock.held(path):
        pass
    os.utime(path, (0, 0))
    with lock.held(path):
        pass


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "run.lock"
    with lock.held(path):
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_racing_processes_write_one_after_another(tmp_path):
    path = tmp_path / "number"
    path.write_text("0")
    held_by(tmp_path / "race.lock", pid=DEAD)  # all find a stale lock first
    command = [sys.executable, "-c", RACER, str(path)]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    counts = [racer.communicate(timeout=120)[0].count(b"+") for racer in racers]
    assert int(path.read_text()) == sum(counts) > 0


def test_studies_share_their_units(tmp_path, capsys):
    """Each of two threads leaves to the other one what that one is at."""
    made, first_is_there = [], threading.Event()

    def unit(name):
        def make():
            made.append(name)
            first_is_there.set()
            time.sleep(0.3)
            return name

        return store.cached(tmp_path / f"{name}.json", {"unit": name}, make)

    def work(names):
        for _ in run_units((name, lambda name=name: unit(name)) for name in names):
            pass

    other = threading.Thread(target=work, args=["ab"])
    other.start()
    first_is_there.wait()
    work("abc")
    other.join()
    assert sorted(made) == ["a", "b", "c"]
    assert f"left to another process: {tmp_path}/a.json is in use by" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "c.json"}


def test_files_of_records_have_one_writer(tmp_path):
    path = tmp_path / "study" / "records.jsonl"
    with store.claimed(path):
        with pytest.raises(lock.InUseError, match=r"records\.jsonl is in use"), store.claimed(path):
            pass
        store.append_line(path, {"seed": 0})
