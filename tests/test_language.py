"""The study of a model of language: budgets, records that are continued, messages."""

import dataclasses

import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.configs.language import ARMS, SMALL, STUDY
from experiments.engine.time_limit import TimeLimit
from experiments.report import store
from experiments.studies.language import run
from experiments.studies.language.description import Coefficient
from experiments.studies.language.report import meetings, report, summarize
from experiments.studies.language.text import CONTEXT, a_little_of_it
from flatjax import data

TINY = dataclasses.replace(
    SMALL,
    base=SMALL.base.changed(
        dataset=f"{__name__}:text",
        model_options=("width=8", "depth=1", "heads=1", "context=6"),
        batch_size=4,
    ),
    arms={"AdamW, S steps": ARMS["AdamW, S steps"], "rSGD, K=2": ARMS["rSGD, K=1"] | {"period": 2}},
    steps=4,
    points=2,
)


def text():
    """Random tokens."""
    tokens = np.random.default_rng(0).integers(4, size=(60, 7)).astype(np.uint8)
    return data.TokenDataset("x", data.TokenSplit(tokens[:40]), data.TokenSplit(tokens[40:]), 4)


def test_budgets_are_of_equal_tokens_or_equal_steps():
    tokens, steps = {}, {}
    for arm in STUDY.arms:
        config = STUDY.config(arm, 200_000)
        gradients = round(config.epochs * (200_000 // config.batch_size))
        steps[arm] = gradients / config.num_replicas
        tokens[arm] = gradients * config.batch_size * CONTEXT
        assert steps[arm] == STUDY.steps_of(arm)
    alone = tokens.pop("AdamW, S steps")
    assert {*tokens.values()} == {4 * alone}
    assert {steps[arm] for arm in steps if STUDY.workers(arm) == 4} == {STUDY.steps}
    assert {STUDY.period(arm) for arm in steps} == {None, 1, 16, 64}


def test_primary_arms_are_run_first():
    units = STUDY.units()
    number = len(STUDY.primary)
    assert len({*units}) == len(units) == len(STUDY.arms) * len(STUDY.seeds)
    assert {*units[:number]} == {(arm, 0) for arm in STUDY.primary}
    assert {arm for arm, _ in units[: 3 * number]} == {*STUDY.primary}
    assert [seed for _, seed in units] == sorted(STUDY.seeds * number) + sorted(
        STUDY.seeds * (len(STUDY.arms) - number)
    )


@pytest.mark.slow
def test_records_are_kept_and_continued(tmp_path, capsys):
    own = Coefficient((0,), sequences=8, num_steps=10, num_warmup=10)
    study = dataclasses.replace(TINY, coefficient=own)
    run.run_study(study, tmp_path)
    assert capsys.readouterr().out.count("bits a byte") == 2
    records = run.read_study(study, tmp_path)
    assert {arm: [*units] for arm, units in records.items()} == {arm: [0] for arm in study.arms}
    path = run.path_of(tmp_path, "rSGD, K=2", 0)
    before = path.stat().st_mtime_ns
    run.path_of(tmp_path, "AdamW, S steps", 0).unlink()
    run.run_study(study, tmp_path, progress=False)
    assert (
        run.read_study(study, tmp_path)["AdamW, S steps"][0]["curve"]
        == (records["AdamW, S steps"][0]["curve"])
    )
    assert path.stat().st_mtime_ns == before

    unit = records["rSGD, K=2"][0]
    assert [at["step"] for at in unit["curve"]] == [2, 4]
    assert [at["tokens"] for at in unit["curve"]] == [2 * 4 * 4 * 6, 4 * 4 * 4 * 6]
    assert unit["curve"][-1]["relative_distance"] > 0
    assert abs(unit["flatness"][-1]["rise_bits"][0]) < 0.5
    assert "coefficient" in unit["flatness"][-1]
    assert len(unit["final"]["replica_bits"]) == 4
    assert unit["final"]["meeting"]["distance"] == pytest.approx(
        unit["curve"][-1]["relative_distance"], abs=1e-5
    )
    found = meetings(records)
    assert found["rSGD, K=2"] == [("seed 0", unit["final"]["meeting"])]
    assert found["AdamW, S steps"] == [("seed 0", None)]

    rows = {row["arm"]: row for row in summarize(study, records)}
    assert (rows["rSGD, K=2"]["messages"], rows["AdamW, S steps"]["messages"]) == (8, 0)
    assert rows["rSGD, K=2"]["megabytes"] == pytest.approx(2 * 4 * unit["num_weights"] / 1e6)
    assert "AdamW, S steps" in report(study, records, tmp_path)
    assert (tmp_path / "language.png").exists()
    assert "## Held-out bits per byte" in (tmp_path / "page.md").read_text()

    other = dataclasses.replace(study, points=1)
    with pytest.raises(store.OtherIdentityError, match="points: wanted 1, found 2"):
        run.read_study(other, tmp_path)


def test_the_command_says_what_is_missing(tmp_path, capsys):
    arguments = ["language", "--small", "--report-only", "--out", str(tmp_path / "none")]
    assert command_line.main(arguments) == 1
    assert "holds no complete run of this study" in capsys.readouterr().err


def test_a_run_that_would_not_end_in_time_is_not_begun(tmp_path):
    limit = TimeLimit(1e6)
    limit.note("AdamW, S steps", "unit", 1e6)
    run.run_study(TINY, tmp_path, progress=False, limit=limit)
    assert limit.unfinished == 2
    assert run.read_study(TINY, tmp_path) == {}


@pytest.mark.slow
def test_the_standard_library_is_divided_by_file():
    text = a_little_of_it()
    assert text.train.tokens.shape[1] == CONTEXT + 1
    assert len(text.train) > 3 * len(text.test) > 0
    again = a_little_of_it()
    np.testing.assert_array_equal(text.test.tokens, again.test.tokens)
    joined = {row.tobytes() for row in text.train.tokens}
    assert joined.isdisjoint(row.tobytes() for row in text.test.tokens)
