"""The harness that damages files: it sees what is silent, and finds nothing silent in the store."""

import random

from experiments import damage


def fail(message):
    raise ValueError(message)


def test_outcomes(tmp_path):
    assert damage._outcome(lambda: 1, 1, tmp_path) == "harmless"
    assert damage._outcome(lambda: 2, 1, tmp_path) == "silent"
    assert damage._outcome(lambda: fail(f"{tmp_path}/x is damaged"), 1, tmp_path) == "detected"
    assert damage._outcome(lambda: fail("something is damaged"), 1, tmp_path) == "unnamed"


def test_files_are_restored_after_each_try(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    kinds = []
    for kind in damage.Damage()._damages(path, random.Random(0), 10):
        assert path.read_bytes() != bytes(range(100))
        kinds.append(kind)
    assert path.read_bytes() == bytes(range(100))
    assert kinds == ["flipped bit"] * 10 + ["cut short"] * 2


def test_caches_and_records_are_never_wrong(tmp_path):
    rows = {}
    damage.Damage(tries=40)._damage_caches(tmp_path / "caches", random.Random(0), rows)
    assert len(rows) == 5
    for counts in rows.values():
        assert counts["silent"] == counts["unnamed"] == 0
    assert rows["cached value", "flipped bit"]["detected"] >= 35
