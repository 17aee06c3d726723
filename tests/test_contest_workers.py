"""What the chapter on the contest's later stages says of workers, from records of each seed."""

import pathlib
import re

import numpy as np
import scipy.stats
from contest_records import RECORDS, comparisons_of, records_in, validation_errors

from experiments.configs.contest import STAGES
from experiments.report import store
from experiments.report.meeting import not_met

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "contest_stages.md"
WORDS = " ".join(PAGE.read_text().split())


def test_four_workers():
    stage, (setting,) = STAGES["workers-4"], STAGES["workers-4"].settings
    stored = store.read_json(RECORDS / "workers-4.json")
    reached = {row["contestant"]: row["reaches"] for row in stored["reaches"]}
    assert [name for name, does in reached.items() if not does] == [
        "parle, y=4, K=16",
        "parle, y=4, K=64",
    ]
    assert reached["sgd, steps / 4"]
    assert reached["sgd, batch x 4"]
    compared = comparisons_of("workers-4")
    ends = {
        name: compared[setting, name, "sgd, batch x 4", "test_error"]["corrected_interval"]
        for name in stage.primary
    }
    assert len(ends) == 8
    assert all(high > 0 for _, high in ends.values())  # none is better than the large batch
    tested = lambda name: [
        records_in(RECORDS, setting, name)[seed]["test_error"] for seed in range(2100, 2120)
    ]
    for name in ("local sgd", "rsgd"):
        gaps = np.subtract(tested(f"{name}, y=4, K=64"), tested("sgd, batch x 4"))
        low, high = scipy.stats.t.interval(
            0.95, 19, loc=gaps.mean(), scale=gaps.std(ddof=1) / np.sqrt(20)
        )
        assert low < 0 < high
    outcomes = {one["contestant"]: one for one in stored["outcomes"]}
    assert outcomes["rsgd, y=4, K=64"]["messages"] == 1024 // 64
    assert outcomes["sgd"]["sequential_gradients"] == 4096
    # The large batch and one worker alone against SGD, by loops over the records.
    for name in ("sgd, steps / 4", "sgd, batch x 4"):
        gaps = np.subtract(tested(name), tested("sgd"))
        t = (gaps.mean() - 0.3) / (gaps.std(ddof=1) / np.sqrt(20))
        assert scipy.stats.t.cdf(t, 19) * len(reached) < 0.05


def test_sixteen_workers():
    stage, (setting,) = STAGES["workers-16"], STAGES["workers-16"].settings
    large, stored = "sgd, batch x 16", store.read_json(RECORDS / "workers-16.json")
    reached = {row["contestant"]: row["reaches"] for row in stored["reaches"]}
    assert {name.split(",")[1] for name, does in reached.items() if does} == {" batch x 16"}
    compared = comparisons_of("workers-16")
    to_large = [compared[setting, name, large, "test_error"] for name in stage.primary]
    assert len(to_large) == 8
    assert max(row["p_corrected"] for row in to_large) < 0.01
    ends = [row["difference"] for row in to_large]
    assert f"by {min(ends):.2f} to {max(ends):.2f} points" in WORDS
    tested = lambda name: np.mean(
        [records_in(RECORDS, setting, name)[seed]["test_error"] for seed in range(2100, 2120)]
    )
    to_sgd = {name: tested(name) - tested("sgd") for name in stage.primary}
    assert min(to_sgd, key=to_sgd.get) == "local sgd, y=16, K=16"
    behind = [f"{to_sgd[f'local sgd, y=16, K={k}']:.2f}" for k in (16, 64)]
    assert f"comes nearest**, {behind[0]} points behind SGD" in WORDS
    assert f"With four messages in all it loses {behind[1]}" in WORDS
    assert f"{min(to_sgd.values()):.1f} to {max(to_sgd.values()):.1f} points worse" in WORDS
    alone = tested("sgd, steps / 16")
    assert f"One worker alone now loses {alone - tested('sgd'):.2f} points" in WORDS
    gains = {name: alone - tested(name) for name in stage.primary}
    best = max(gains[f"rsgd, y=16, K={k}"] for k in (1, 16, 64))
    assert f"gains {max(gains.values()):.2f} of it, Replicated-SGD {best:.2f} at most" in WORDS
    assert max(gain for name, gain in gains.items() if name.startswith("parle")) < 0


def test_what_sixteen_workers_could_choose():
    (setting,) = STAGES["workers-16"].settings
    chosen = records_in(RECORDS, setting, "sgd, batch x 16")[2100]["settings"]
    assert (round(chosen["learning_rate"], 2), chosen["warmup"]) == (0.12, 0.1)
    for name in STAGES["workers-16"].primary[:5]:
        assert name.startswith(("local sgd", "rsgd"))
        tried = validation_errors(setting, name)
        assert len(tried) == 12
        found = [(settings, list(own.values())) for settings, own in tried]
        # A run that diverged has no validation error, or that of an untrained network.
        fast = [own for settings, own in found if settings["learning_rate"] > 0.1]
        assert len(fast) == 4
        assert all(np.mean([100 if one is None else one for one in own]) > 50 for own in fast)
    last = records_in(RECORDS, setting, "parle, y=16, K=64").values()
    warning = not_met([record["meeting"] for record in last])
    (apart,) = re.findall(r"^in (\d+ of 20 runs) replicas have not met", warning)
    assert f"replicas that have not met in {apart}" in WORDS
