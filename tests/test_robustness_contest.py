"""What the chapter on robustness says of the contest, from its records."""

import pathlib

import numpy as np
import pytest
import scipy.stats
from contest_records import NUMBERS, noisy_contest, records_in
from pages import rows_below, shown

from experiments.report import store
from experiments.report.statistics import mean_and_sem

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "robustness.md"
TEXT = PAGE.read_text()
WORDS = " ".join(TEXT.split())
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


def with_interval(values):
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = values.mean()
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


# --- the 40 seeds of one setting ------------------------------------------------------------------

CHANGES = ("no change", "4 bits, tensor", "3 bits, tensor", "3 bits, channel", "3 bits, clipped")
CHANGES += ("70% pruned", "90% pruned")
REFERENCES = ("sgd", "sam", "swa")


def after(algorithm, change):
    """Test error plus its rise."""
    if change == "no change":
        return noisy_contest(algorithm, "3 bits, tensor")[0]
    return np.add(*noisy_contest(algorithm, change))


def test_errors_after_a_change():
    table = rows_below(TEXT, "| error after     | sgd ")
    assert [cells[0] for cells in table] == list(CHANGES)
    for change, *cells in table:
        assert cells == [shown(after(algorithm, change)) for algorithm in ALGORITHMS]


def test_differences_after_a_change():
    table = rows_below(TEXT, "| error after     | minus sgd ")
    assert [cells[0] for cells in table] == list(CHANGES)
    for change, *cells in table:
        own = after("esgd", change)
        assert cells == [with_interval(own - after(other, change)) for other in REFERENCES]


@pytest.mark.claim("README.md", "if you prune 90%, SWA and SAM are ahead")
def test_entropy_sgd_and_rounding():
    mean = lambda algorithm, change: after(algorithm, change).mean()
    ahead = lambda change: [mean(other, change) - mean("esgd", change) for other in ALGORITHMS[:-1]]
    assert all(min(ahead(change)) > 0 for change in CHANGES[:-2])
    best = min(("sgd", "sam", "swa", "rsgd"), key=lambda name: mean(name, "90% pruned"))
    assert best == "swa"
    three = {name: mean(name, "3 bits, tensor") for name in ALGORITHMS}
    readme = (PAGE.parents[2] / "README.md").read_text()
    assert f"Entropy-SGD has {three['esgd']:.2f}%, SGD {three['sgd']:.2f}%" in readme
    assert (
        f"one range for each matrix: {three['esgd']:.2f}% against {three['sgd']:.2f}% for SGD"
        in (WORDS)
    )
    pruned = [mean(name, "90% pruned") for name in ("esgd", "swa")]
    assert f"No if you prune 90%: {pruned[0]:.2f}% against {pruned[1]:.2f}% for SWA" in WORDS
    behind = [-d for d in ahead("90% pruned")[1:3]]
    assert f"better than Entropy-SGD, by {behind[0]:.2f} and {behind[1]:.2f} points" in WORDS
    rise = {name: mean_and_sem(noisy_contest(name, "3 bits, tensor")[1])[0] for name in ALGORITHMS}
    others = sorted(rise[name] for name in ALGORITHMS[:-1])
    cost = (
        f"cost Entropy-SGD {rise['esgd']:.2f} points, and the other algorithms {others[0]:.2f} to"
    )
    assert f"{cost} {others[-1]:.2f} points" in WORDS
    most = max(noisy_contest(name, "3 bits, channel")[1].mean() for name in ALGORITHMS)
    assert f"any algorithm at most {most:.2f} points" in WORDS
    gains = three["sgd"] - mean("sgd", "3 bits, channel"), three["sgd"] - three["esgd"]
    assert f"this change ({gains[0]:.2f} points) than from Entropy-SGD ({gains[1]:.2f} points)" in (
        WORDS
    )
    assert f"best after rounding, by {min(ahead('3 bits, channel')):.2f} points or more" in WORDS
    assert f"part of this, {min(ahead('no change')):.2f} points or more" in WORDS
