"""What the chapter on robustness says of all settings of the contest, from its records."""

import pathlib

import numpy as np
from contest_records import NUMBERS, records_in

from experiments.report import store

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "robustness.md"
WORDS = " ".join(PAGE.read_text().split())
CONTEST = store.RESULTS / "contest"
ALGORITHMS = ("sgd", "sam", "swa", "rsgd", "esgd")


def test_rounding_and_pruning_in_the_other_settings():
    """By means over the runs that did not diverge."""
    outcomes = store.read_json(CONTEST / "contest.json")["outcomes"]
    settings = list(dict.fromkeys(one["setting"] for one in outcomes))
    ahead, best = (
        dict.fromkeys(("3 bits, tensor", "3 bits, channel", "90% pruned"), 0) for _ in "ab"
    )
    for setting in settings:
        for change in ahead:
            mean = {}
            for name in ALGORITHMS:
                ended = [r for r in records_in(CONTEST, setting, name).values() if r["test_loss"]]
                errors = [r["test_error"] + r["rises"][change]["error"] for r in ended]
                mean[name] = np.mean(errors)
            ahead[change] += mean["esgd"] < mean["sgd"]
            best[change] += min(mean, key=mean.get) == "esgd"
    assert f"The contest has {NUMBERS[len(settings)]} complete settings" in WORDS
    whole, channel, pruned = (NUMBERS[count] for count in ahead.values())
    of = NUMBERS[best["3 bits, tensor"]]
    assert f"ahead of SGD in {whole} of them, and best of the five algorithms in {of}." in WORDS
    assert f"it is ahead of SGD in {channel}, after pruning 90% in {pruned}." in WORDS
