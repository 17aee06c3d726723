"""One writer at a time: locks name who holds them, and stale ones are recognised."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from experiments.report import lock, plots, store
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


def stolen(path):
    """The lock as another process has it, which found it stale."""
    held_by(path, pid=1, host="elsewhere")


@pytest.mark.parametrize("write", ["text", "line", "picture"])
def test_what_was_taken_over_is_not_written(write, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("old\n")

    def act():
        if write == "text":
            store.write_text(path, "new")
        elif write == "line":
            store.append_line(path, {"new": 1})
        else:
            with plots.drawing(tmp_path / "new.png", height=1):
                pass

    with store.claimed(path):
        stolen(tmp_path / "records.jsonl.lock")
        with pytest.raises(lock.InUseError, match="now in use by process 1 on elsewhere, since"):
            act()
        store.write_text(tmp_path.parent / "not guarded.txt", "new")
    # The lock of the other process stays.
    assert {file.name for file in tmp_path.iterdir()} == {"records.jsonl", "records.jsonl.lock"}
    assert path.read_text() == "old\n"


def test_cached_values_of_a_lost_lock_are_not_kept(tmp_path):
    path = tmp_path / "tuning.json"
    with pytest.raises(lock.InUseError, match="now in use by process 1 on elsewhere"):
        store.cached(path, {}, lambda: stolen(tmp_path / "tuning.json.lock"))
    assert not path.exists()


def test_the_heart_does_not_beat_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "run.lock"
    with lock.held(path):
        heart = next(one for one in threading.enumerate() if one.name == f"heart of {path}")
        stolen(path)
        heart.join(timeout=60)
        assert not heart.is_alive()
    assert path.exists()


def test_a_lock_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", full)
        with pytest.raises(OSError, match="No space left"), lock.held(tmp_path / "run.lock"):
            pass
    with lock.held(tmp_path / "run.lock"):
        pass


def test_studies_share_their_units(tmp_path, capsys):
    """Each of two threads leaves to the other one what that one is at."""
    made, first_is_there, rest_is_done = [], threading.Event(), threading.Event()

    def unit(name):
        def make():
            made.append(name)
            if name == "a":
                first_is_there.set()
                assert rest_is_done.wait(timeout=60)
            return name

        return store.cached(tmp_path / f"{name}.json", {"unit": name}, make)

    def work(names):
        for _ in run_units((name, lambda name=name: unit(name)) for name in names):
            pass

    other = threading.Thread(target=work, args=["ab"])
    other.start()
    assert first_is_there.wait(timeout=60)
    work("abc")
    rest_is_done.set()
    other.join()
    assert made == ["a", "b", "c"]
    assert f"left to another process: {tmp_path}/a.json is in use by" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "c.json"}


def test_files_of_records_have_one_writer(tmp_path):
    path = tmp_path / "study" / "records.jsonl"
    with store.claimed(path):
        with pytest.raises(lock.InUseError, match=r"records\.jsonl is in use"), store.claimed(path):
            pass
        store.append_line(path, {"seed": 0})
