"""The harness that damages files: it sees what is silent, continues, and its table is the docs'."""

import pathlib
import random

import pytest

from experiments.damage import attempts, damages, files, runs
from experiments.report import store

ROOT = pathlib.Path(__file__).parents[1]


def fail(message):
    raise ValueError(message)


def test_outcomes(tmp_path):
    assert attempts.outcome(lambda: 1, 1, tmp_path) == "harmless"
    assert attempts.outcome(lambda: 2, 1, tmp_path) == "silent"
    named = lambda: fail(f"{tmp_path}/x is damaged")
    assert attempts.outcome(named, 1, tmp_path) == "detected"
    assert attempts.outcome(lambda: fail("x is damaged"), 1, tmp_path) == "unnamed"


@pytest.mark.parametrize("kind", damages.DAMAGES)
def test_damages(kind, tmp_path):
    path = tmp_path / "file"
    good = bytes(range(100))
    path.write_bytes(good)
    damages.DAMAGES[kind](path, random.Random(0))
    if kind == "flipped bit":
        pairs = zip(good, path.read_bytes(), strict=True)
        assert sum((a ^ b).bit_count() for a, b in pairs) == 1
    elif kind == "cut short":
        assert good.startswith(path.read_bytes())
        assert path.stat().st_size < 100
    else:
        assert not path.exists()


def test_rows_continue_from_what_is_complete(tmp_path):
    made = []

    def row(name, fails=False):
        def tries(draw, number):
            if fails:
                raise KeyboardInterrupt
            made.append((name, draw.random()))
            yield from ["detected"] * (number - 1) + ["silent"]

        return attempts.Row(name, "flipped bit", 3, tries)

    path = tmp_path / "damage" / "damage.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(attempts.run_rows([row("a"), row("b", fails=True)], path, seed=0))
    first, second = attempts.run_rows([row("a"), row("b")], path, seed=0)
    assert [name for name, _ in made] == ["a", "b"]
    assert made[0][1] != made[1][1]
    assert first | {"files": "b"} == second
    assert (first["tries"], first["detected"], first["silent"]) == (3, 2, 1)
    assert attempts.is_bad(first)
    with pytest.raises(store.OtherIdentityError, match="seed: wanted 1, found 0"):
        list(attempts.run_rows([row("a")], path, seed=1))


@pytest.mark.slow
def test_single_files_are_never_wrong(tmp_path):
    rows = [row for row in files.rows(tmp_path, 20) if "MNIST" not in row.files]
    assert len(rows) == 16
    for row in rows:
        outcomes = list(row.attempts(random.Random(0), row.tries))
        assert len(outcomes) == row.tries
        assert {"silent", "unnamed"}.isdisjoint(outcomes), row
        if (row.files, row.damage) == ("cached value", "flipped bit"):
            assert outcomes.count("detected") >= 15


@pytest.mark.slow
def test_a_damaged_model_is_never_wrong(tmp_path):
    rows = [row for row in runs.Run(tmp_path).rows(20) if row.files in runs.MODEL]
    assert len(rows) == 6
    for row in rows:
        outcomes = list(row.attempts(random.Random(0), row.tries))
        assert {"silent", "unnamed"}.isdisjoint(outcomes), row
        if row.damage == "deleted":
            assert set(outcomes) == {"detected"}


def test_the_table_of_the_documentation_is_the_recorded_one():
    records = store.read_lines(store.RESULTS / "damage" / "damage.jsonl", must_be_sealed=True)
    page = (ROOT / "docs" / "interruptions.md").read_text(encoding="utf-8")
    assert attempts.table(records) in page
    assert not any(map(attempts.is_bad, records))
