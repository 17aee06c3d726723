"""The store: what it writes it recognises, and what was not written so it refuses."""

import errno
import json
import os
import random

import pytest

import flatjax
from experiments import faults
from experiments.report import lock, provenance, store

RECORD = {"settings": {"learning_rate": 0.1}, "runs": [{"seed": 0, "error": 12.5}, {"seed": 1}]}
IDENTITY = {"config": {"epochs": 3, "seed": 0}, "seeds": (0, 1)}


def outcome(read, wanted):
    """The word "harmless" where the value is the same, else "detected"; another value fails."""
    try:
        found = read()
    except ValueError as error:
        return "detected", str(error)
    assert found == wanted
    return "harmless", ""


@pytest.mark.parametrize("kind", ["object", "cached", "lines"])
def test_every_flipped_bit_is_detected_or_harmless(kind, tmp_path):
    path = tmp_path / "found.json"
    if kind == "object":
        store.write_json(path, RECORD)
        read, wanted = (lambda: store.read_json(path, must_be_sealed=True)), RECORD
    elif kind == "cached":
        store.cached(path, IDENTITY, lambda: RECORD)
        read, wanted = (lambda: store.cached(path, IDENTITY, lambda: None)), RECORD
    else:
        wanted = [RECORD | {"seed": seed} for seed in range(3)]
        for record in wanted:
            store.append_line(path, record)
        read = lambda: store.read_lines(path, must_be_sealed=True)
    good = path.read_bytes()
    counts = {"detected": 0, "harmless": 0}
    for bit in random.Random(0).sample(range(8 * len(good)), 300):
        faults.flip(path, bit)
        try:
            result, message = outcome(read, wanted)
        except AssertionError:
            # The end of the last line: it is taken for half written, and its unit is done again.
            assert kind == "lines"
            assert read() == wanted[:-1]
            result, message = "detected", str(path)
        counts[result] += 1
        assert result == "harmless" or str(path) in message
        path.write_bytes(good)
    assert counts["detected"] > 250


@pytest.mark.parametrize("content", [b"{}", b"[]", b"null", b"\xff\xfe{", b"", b'{"a": ', b"3"])
def test_damaged_json_is_named(content, tmp_path):
    path = tmp_path / "tuning.json"
    path.write_bytes(content)
    for read in (store.read_json, lambda path: store.read_cached(path, IDENTITY)):
        with pytest.raises(ValueError, match=r"tuning\.json"):
            read(path)
    (tmp_path / "records.jsonl").write_bytes(content + b"\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 1"):
        store.read_lines(tmp_path / "records.jsonl")


def test_a_bad_line_does_not_drop_those_after_it(tmp_path):
    path = tmp_path / "records.jsonl"
    for seed in range(3):
        store.append_line(path, {"seed": seed})
    content = path.read_text()
    path.write_text(content.replace('"seed": 1', '"seed": 7'))
    with pytest.raises(store.DamagedFileError, match=r"records\.jsonl, line 2"):
        store.read_lines(path)
    # A last line that was half written is none.
    path.write_text(content[:-5])
    assert [record["seed"] for record in store.read_lines(path)] == [0, 1]
    assert path.read_text() == content[:-5]  # of a reader, that is; a writer removes it
    with store.claimed(path):
        assert [record["seed"] for record in store.read_lines(path)] == [0, 1]
        store.append_line(path, {"seed": 2})
    assert path.read_text() == content


def test_cached_values_know_what_they_belong_to(tmp_path):
    path = tmp_path / "tuning.json"
    assert store.cached(path, IDENTITY, lambda: RECORD) == RECORD
    other = {"config": {"epochs": 4, "seed": 0}, "seeds": (0, 2), "trials": 2}
    with pytest.raises(store.OtherIdentityError) as refused:
        store.cached(path, other, lambda: None)
    for line in ("config.epochs: wanted 4, found 3", "seeds: wanted [0, 2], found [0, 1]"):
        assert line in str(refused.value)
    assert "trials: wanted 2, found nothing" in str(refused.value)
    assert "seed:" not in str(refused.value)
    assert store.read_cached(path, {"config": {"epochs": 3}}) == RECORD
    path.write_text(json.dumps([1, 2]))
    with pytest.raises(store.DamagedFileError, match="no cached value that knows its settings"):
        store.cached(path, IDENTITY, lambda: None)


@pytest.mark.parametrize("found", [{}, {"revision": 1}], ids=["old", "first"])
def test_values_of_another_revision_are_refused(found, tmp_path):
    path = tmp_path / "tuning.json"
    store.cached(path, {"seed": 0} | found, lambda: 1)
    assert store.read_cached(path, {"seed": 0, "revision": 1}) == 1
    message = r"revision: wanted 2, found 1. The revision counts .*provenance\.py"
    with pytest.raises(store.OtherIdentityError, match=message):
        store.read_cached(path, {"seed": 0, "revision": 2})


def test_records_say_what_made_them(tmp_path):
    made_by = provenance.made_by()
    assert made_by["flatjax"] == flatjax.__version__
    path = tmp_path / "found.json"
    store.write_json(path, RECORD)
    assert json.loads(path.read_text())["made_by"] == made_by
    assert store.read_json(path) == RECORD
    store.write_json(path, RECORD | {store.MADE_BY: None})  # of an unknown program
    assert json.loads(path.read_text())["made_by"] is None
    store.write_json(path, RECORD)  # nothing new: left alone
    assert json.loads(path.read_text())["made_by"] is None
    store.write_json(path, {"other": 1})
    assert json.loads(path.read_text())["made_by"] == made_by
    lines = tmp_path / "records.jsonl"
    store.append_line(lines, store.signed(RECORD))
    assert json.loads(lines.read_text())["made_by"] == made_by
    assert store.read_lines(lines) == [RECORD]


def test_the_commit_is_that_of_the_program(monkeypatch, tmp_path):
    """Not of the repository that the user stands in; none where there is no git."""
    here = provenance._commit.__wrapped__()
    monkeypatch.chdir(tmp_path)
    assert provenance._commit.__wrapped__() == here
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit.__wrapped__() is None


def test_a_failed_append_leaves_the_lines(monkeypatch, tmp_path):
    path = tmp_path / "records.jsonl"
    store.append_line(path, RECORD)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*records\.jsonl'"):
            store.append_line(path, RECORD)
    store.append_line(path, RECORD)
    assert store.read_lines(path) == [RECORD, RECORD]


def test_recorded_results_carry_digests():
    paths = [path for path in store.RESULTS.rglob("*.json*") if path.suffix in (".json", ".jsonl")]
    assert len(paths) > 100
    for path in paths:
        if path.suffix == ".json":
            store.read_json(path, must_be_sealed=True)
        elif path.name != "sgd.jsonl":  # the ladder, begun before there were digests
            store.read_lines(path, must_be_sealed=True)


def test_killed_writers_leave_nothing_for_good(tmp_path):
    path = tmp_path / "result.json"
    dead = tmp_path / f".result.json.{lock.host()}.4194304.tmp"  # above all process numbers
    alive = tmp_path / f".result.json.{lock.host()}.1.tmp"
    for left in (dead, alive):
        left.write_text("half")
    store.write_json(path, RECORD)
    assert sorted(tmp_path.iterdir()) == sorted([path, alive])
