"""The ladder of lengths: successive halving, decided lengths, records that it continues from."""

import dataclasses
import json

import pytest

from experiments import __main__ as command_line
from experiments.configs.ladder import SMALL, STUDY
from experiments.engine.config import TrainConfig
from experiments.report import store
from experiments.studies.ladder import run
from experiments.studies.ladder.description import Ladder
from experiments.studies.ladder.ranking import best, ranking
from experiments.studies.ladder.report import report

TINY = Ladder(
    base=TrainConfig.of(
        algorithm="sgd",
        batch_size=32,
        train_size=100,
        validation=0.2,
        evaluate_on="validation",
        model_options=("hidden=(8,)",),
    ),
    settings={"MLP": {"epochs": 1}},
    space={"learning_rate": (0.01, 0.3), "weight_decay": (1e-4, 1e-2)},
    trials=2,
    lengths=(1, 2),
    rounds=((2, 1), (1, 2)),
    least_gain=0.1,
)


def record(candidate, seed, error, *, setting="MLP", length=1):
    keys = {"setting": setting, "length": length, "candidate": candidate, "seed": seed}
    return keys | {"validation_error": error, "settings": {"learning_rate": 0.1 * (1 + candidate)}}


@pytest.mark.slow
def test_it_halves_and_continues_from_its_records(tmp_path, monkeypatch):
    path = tmp_path / "ladder" / "sgd.jsonl"
    run.run_ladder(TINY, path, progress=False)
    records = store.read_lines(path)
    for length in TINY.lengths:
        runs = [(r["candidate"], r["seed"]) for r in records if r["length"] == length]
        assert sorted(runs[:2]) == [(0, 0), (1, 0)]
        assert runs[2:] == [(runs[2][0], 1)]  # the best one, on the seed that is new
        assert best(records, "MLP", length)["seeds"] == 2
    assert {r["config"]["epochs"] for r in records} == {1.0, 2.0}
    assert records[0]["settings"] == TINY.candidates()[records[0]["candidate"]]
    text = report(TINY, records, path.parent)
    assert text.count("| MLP ") == 3
    stored = json.loads((path.parent / "ladder.json").read_text())
    assert stored["lengths"] == {"MLP": run.decided_length(TINY, records, "MLP")}
    assert stored["lengths"]["MLP"] in TINY.lengths
    assert json.loads((path.parent / "ladder.json").read_text())["rows"][0]["length"] == 1

    base = TINY.base.changed(momentum=0.5)
    with pytest.raises(store.OtherIdentityError, match=r"line 1 .*config\.momentum: wanted 0\.5"):
        run.read_records(dataclasses.replace(TINY, base=base), path)
    with pytest.raises(store.OtherIdentityError, match="another ladder: length 2"):
        run.read_records(dataclasses.replace(TINY, lengths=(1, 3)), path)

    monkeypatch.setattr(run, "train_in_units", None)
    run.run_ladder(TINY, path, progress=False)
    assert store.read_lines(path) == records


@pytest.mark.parametrize("named", [("wide",), ()])
def test_only_the_named_settings_run(named, tmp_path, monkeypatch):
    ladder = dataclasses.replace(TINY, settings={"MLP": {"epochs": 1}, "wide": {"epochs": 2}})
    started = []
    one = lambda ladder, path, setting, length, progress: started.append((length, setting))
    monkeypatch.setattr(run, "_run_length", one)
    run.run_ladder(ladder, tmp_path / "sgd.jsonl", settings=named)
    assert started == [(n, label) for n in TINY.lengths for label in named or ladder.settings]


def test_candidates_with_more_seeds_come_first():
    records = [record(0, 0, 9.0), record(1, 0, 5.0), record(0, 1, 7.0), record(2, 0, 4.0)]
    assert ranking(records) == [0, 2, 1]
    found = best(records, "MLP", 1)
    assert (found["error"], found["sem"]) == (8.0, pytest.approx(1.0))
    assert best(records, "MLP", 3) is None


def test_a_longer_length_is_run_where_tripling_paid():
    ladder = dataclasses.replace(TINY, lengths=(1, 3, 10))
    complete = lambda error, length: [
        record(0, 0, error, length=length),
        record(1, 0, 9.0, length=length),
        record(0, 1, error, length=length),
    ]
    decided = lambda records: run.decided_length(ladder, records, "MLP")
    shorter = complete(8.0, 1)
    assert decided(shorter) is None
    assert decided(shorter + complete(7.0, 3)) is None
    none = shorter + complete(7.95, 3)
    assert decided(none) == 1
    assert decided(none[:-1]) is None  # a run is missing
    assert decided(none[1:]) is None
    later = shorter + complete(7.0, 3) + complete(6.95, 10)
    assert decided(later) == 3
    assert decided(later[:-1]) is None


def test_the_longest_length_is_used_where_none_ends_the_ladder():
    ladder = dataclasses.replace(TINY, lengths=(1, 3))
    complete = lambda error, length: [
        record(0, 0, error, length=length),
        record(1, 0, 9.0, length=length),
        record(0, 1, error, length=length),
    ]
    assert run.decided_length(ladder, complete(8.0, 1) + complete(7.0, 3), "MLP") == 3


def test_the_protocol_is_the_one_that_was_fixed():
    assert len(STUDY.settings) == 10
    assert STUDY.candidates()[0] == {"learning_rate": 0.111, "weight_decay": 0.00511}
    assert STUDY.config("MLP, 500, clean", 3).epochs == 720.0
    assert set(SMALL.settings) < set(STUDY.settings)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert command_line.main(["ladder", "--report-only", "--out", str(tmp_path / "none")]) == 1
    assert "holds no run of this ladder" in capsys.readouterr().err
    assert command_line.main(["ladder", "--settings", "MLP", "--out", str(tmp_path / "none")]) == 1
    assert "settings must hold labels of ['MLP, 500, clean'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
