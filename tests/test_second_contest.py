"""What the chapter on the second contest says, computed from the records of each seed."""

import itertools
import pathlib

import numpy as np
import pytest
import scipy.stats
from contest_records import NUMBERS, records_in
from pages import rows_below

from experiments.configs.contest import LENGTHS, STUDY
from experiments.configs.ladder import STUDY as STUDY_LADDER
from experiments.report import store
from experiments.studies.contest import results as contest_results
from experiments.studies.contest.page import page_tables

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "results" / "second_contest.md").read_text()
WORDS = " ".join(TEXT.split())
RECORDS = store.RESULTS / "contest"
STORED = store.read_json(RECORDS / "contest.json")
SETTINGS = list(dict.fromkeys(one["setting"] for one in STORED["outcomes"]))
FEW_NOISY, NOISY, FEW = "MLP, 500, 20% noise", "MLP, 2k, 20% noise", "MLP, 500, clean"
MANY_NOISY, MANY = "MLP, 10k, 20% noise", "MLP, 10k, clean"
MIDDLE = "MLP, 2k, clean"
CONV_NOISY = "conv net, 2k, 20% noise"
COMPARED = {
    (one["setting"], one["contestant"], one["reference"], one["quantity"]): one
    for one in STORED["comparisons"]
}


def records_of(setting, algorithm):
    """The records of all test seeds, or their part that follows an average of SGD's weights."""
    found = records_in(RECORDS, setting, algorithm)
    assert sorted(found) == list(range(1000, 1020 if setting.startswith("conv") else 1040))
    return [found[seed] for seed in sorted(found)]


def column(setting, algorithm, name="test_error"):
    values = [record[name] for record in records_of(setting, algorithm)]
    return np.array([np.nan if value is None else value for value in values])


def gain(setting, algorithm, reference="sgd"):
    """Points by which an algorithm is better."""
    return (column(setting, reference) - column(setting, algorithm)).mean()


def is_better(setting, algorithm, reference="sgd", quantity="test_error"):
    """Whether it is, by the corrected interval."""
    return COMPARED[setting, algorithm, reference, quantity]["corrected_interval"][1] < 0


def is_worse(setting, algorithm, reference="sgd", quantity="test_error"):
    return COMPARED[setting, algorithm, reference, quantity]["corrected_interval"][0] > 0


def test_the_tables_are_those_of_the_report():
    tables = page_tables(
        STUDY, STORED["comparisons"], STORED["outcomes"], STORED["least_detectable"]
    )
    for title, table in tables.items():
        after = TEXT[TEXT.index(f"**{title}.**") :]
        assert after[after.index("\n\n") + 2 :].startswith(table + "\n\n"), title


@pytest.mark.slow
def test_stored_comparisons_follow_from_the_records():
    found = contest_results.read_contest(STUDY, RECORDS)
    again = contest_results.comparisons(STUDY, found, STUDY.settings)
    assert len(again) == len(STORED["comparisons"])
    for one, other in zip(again, STORED["comparisons"], strict=True):
        assert {n: one[n] for n in ("contestant", "reference", "quantity")} == {
            n: other[n] for n in ("contestant", "reference", "quantity")
        }
        np.testing.assert_allclose(one["difference"], other["difference"])
        np.testing.assert_allclose(one["p_corrected"], other["p_corrected"])


@pytest.mark.claim("README.md", "of its ten settings are complete")
@pytest.mark.claim("experiments/RESULTS.md", "settings of ten that are complete")
def test_how_many_settings_are_complete():
    number = NUMBERS[len(SETTINGS)]
    assert f"**{number.capitalize()} of ten settings are complete.**" in TEXT
    assert set(SETTINGS) <= set(LENGTHS)
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"{number.capitalize()} of its ten settings are complete" in readme
    words = " ".join((store.RESULTS.parent / "RESULTS.md").read_text().split())
    assert f"In the {number} settings of ten that are complete" in words


@pytest.mark.claim(
    "docs/choosing.md",
    "Entropy-SGD was ahead of tuned SGD on an MLP with few images and wrong labels",
)
def test_wrong_labels():
    by = [f"{gain(setting, 'esgd'):.2f}" for setting in (FEW_NOISY, NOISY)]
    assert f"by {by[0]} points with 500 images, and by {by[1]} with 2,000" in WORDS
    assert not is_better(MANY_NOISY, "esgd")
    assert not is_worse(MANY_NOISY, "esgd")
    for setting in (FEW_NOISY, NOISY):
        row = COMPARED[setting, "esgd", "sgd", "test_error"]
        assert row["p_corrected"] < 1e-8
        assert is_better(setting, "esgd")
    assert f"Replicated-SGD is better by {gain(FEW_NOISY, 'rsgd'):.2f} with 500" in WORDS
    assert f"worse by {-gain(MANY_NOISY, 'rsgd'):.2f} with 10,000" in WORDS
    assert is_worse(MANY_NOISY, "rsgd")
    assert is_better(FEW_NOISY, "rsgd")
    assert not is_better(NOISY, "rsgd")
    assert not is_worse(NOISY, "rsgd")


@pytest.mark.claim("docs/choosing.md", "It was not with 500 or 10,000 clean images")
def test_the_conv_net():
    assert f"Entropy-SGD is worse**, by {-gain(CONV_NOISY, 'esgd'):.2f}" in WORDS
    assert is_worse(CONV_NOISY, "esgd")
    row = COMPARED[CONV_NOISY, "rsgd", "sgd", "test_error"]
    assert f"by {row['difference']:.2f}, which may be chance" in WORDS
    assert f"(corrected p = {row['p_corrected']:.2f})" in WORDS
    assert row["p_corrected"] > 0.05


def test_clean_labels():
    for setting in SETTINGS:
        if setting.endswith("clean"):
            for name in ("esgd", "rsgd"):
                assert is_better(setting, name) == ((setting, name) == (MIDDLE, "esgd"))
                assert not is_worse(setting, name)
    assert f"better with 2,000 images**, by {gain(MIDDLE, 'esgd'):.2f}" in WORDS
    assert COMPARED[MIDDLE, "esgd", "sgd", "test_error"]["p_corrected"] < 1e-4
    difference = column(FEW, "esgd") - column(FEW, "sgd")
    diverged = np.isnan(column(FEW, "esgd", "test_loss"))
    assert diverged.sum() == 1
    assert column(FEW, "esgd")[diverged] == 100
    rest = difference[~diverged]
    half = scipy.stats.t.ppf(0.975, 38) * rest.std(ddof=1) / np.sqrt(39)
    assert f"the other 39 are better than SGD by {-rest.mean():.2f} ± {half:.2f} points" in WORDS
    assert scipy.stats.ttest_1samp(rest, 0).pvalue < 0.001


@pytest.mark.claim("docs/choosing.md", "SAM was more often ahead of both than behind")
@pytest.mark.claim("experiments/RESULTS.md", "SAM is ahead of both more often than behind")
def test_against_sam_and_swa():
    for name in STUDY.primary:
        ahead = sum(is_worse(setting, name, "sam") for setting in SETTINGS)
        assert ahead > sum(is_better(setting, name, "sam") for setting in SETTINGS)
    both = [
        setting
        for setting in SETTINGS
        if is_better(setting, "esgd", "sam") and is_better(setting, "esgd", "swa")
    ]
    assert both == [NOISY]
    assert is_better(MIDDLE, "esgd", "swa")
    assert not is_better(MIDDLE, "esgd", "sam")
    assert not is_worse(MIDDLE, "esgd", "sam")
    for setting in (MANY, MANY_NOISY):
        assert is_worse(setting, "esgd", "swa")
        assert is_worse(setting, "rsgd", "swa")
    assert gain(FEW_NOISY, "sam") > 1 + max(gain(FEW_NOISY, n) for n in ("swa", "rsgd", "esgd"))


def test_losses():
    """A loss of runs that diverged is not known."""
    for setting in SETTINGS:
        for name in ("rsgd", "esgd"):
            if setting == CONV_NOISY:
                loss = column(setting, "sgd", "test_loss").mean()
                assert 0 < column(setting, name, "test_loss").mean() - loss < 0.02
                continue
            if setting == MANY_NOISY:
                loss = column(setting, "sgd", "test_loss").mean()
                assert abs(column(setting, name, "test_loss").mean() - loss) < 0.003
                continue
            if (setting, name) == (MIDDLE, "rsgd"):
                assert not is_better(setting, name, quantity="test_loss")
                assert not is_worse(setting, name, quantity="test_loss")
            elif (setting, name) != (FEW, "esgd"):
                assert is_better(setting, name, quantity="test_loss")
            known = ~np.isnan(column(setting, name, "test_loss"))
            d = column(setting, name, "test_loss") - column(setting, "sgd", "test_loss")
            assert d[known].mean() < 0


def random_errors(setting, name):
    """Validation errors of the first candidates, means of two seeds."""
    lines = store.read_lines(RECORDS / store.slug(setting) / f"{store.slug(name)}.jsonl")
    error = {(r["candidate"], r["seed"]): r.get("validation_error") for r in lines}
    return [np.mean([error[one, seed] for seed in (0, 1)]) for one in range(16)]


@pytest.mark.claim("docs/choosing.md", "Entropy-SGD also depended least on its")
def test_errors_of_random_settings():
    below, failed = [], {"sgd": set(), "esgd": set()}
    for setting in SETTINGS:
        found = {name: random_errors(setting, name) for name in STUDY.contestants}
        medians = {name: np.median(errors) for name, errors in found.items()}
        assert min(medians, key=medians.get) == "esgd"
        below.append(medians["sgd"] - medians["esgd"])
        for name, counts in failed.items():
            counts.add(sum(error >= 60 for error in found[name]))
    assert f"by {min(below):.2f} to {max(below):.1f} points less than SGD's" in WORDS
    assert "in each setting, one of 16 has an error of 60% or more, and three or four of" in WORDS
    assert failed == {"sgd": {3, 4}, "esgd": {1}}


def test_the_best_of_four_random_settings():
    best = {}
    for setting in SETTINGS:
        of_four = {
            name: np.mean(
                [min(few) for few in itertools.combinations(random_errors(setting, name), 4)]
            )
            for name in STUDY.contestants
        }
        best[setting] = min(of_four, key=of_four.get)
    ahead = sum(name == "esgd" for name in best.values())
    of = f"{NUMBERS[ahead]} of {NUMBERS[len(SETTINGS)]}"
    assert f"best of four is ahead in {of} settings; with 10,000 clean images SGD's is" in WORDS
    assert {setting: name for setting, name in best.items() if name != "esgd"} == {MANY: "sgd"}


def test_choices_that_remain_at_an_edge():
    """In the outermost tenth of a range, by the candidates that were tried."""
    (at_edge,) = [
        (one["setting"], one["contestant"], one["at_edge"])
        for one in STORED["outcomes"]
        if one.get("at_edge")
    ]
    assert at_edge == (MANY_NOISY, "rsgd", ["weight_decay (low)"])
    lines = store.read_lines(RECORDS / store.slug(MANY_NOISY) / "rsgd.jsonl")
    tried = np.log([line["settings"]["weight_decay"] for line in lines])
    chosen = records_of(MANY_NOISY, "rsgd")[0]["settings"]["weight_decay"]
    assert np.log(chosen) < tried.min() + 0.15 * (tried.max() - tried.min())
    of = f"weight decay with 10,000 images and wrong labels ({chosen:.1e})"
    assert of.replace("e-06", "e-6") in WORDS


def test_choices_at_the_ends_of_lists():
    chosen = [records_of(setting, "esgd")[0]["settings"] for setting in SETTINGS]
    of = lambda last: f"in {NUMBERS[sum(last)]} of {NUMBERS[len(chosen)]}"
    assert f"{of([one['averaging_decay'] == 0.5 for one in chosen])} settings (α = 0.5" in WORDS
    assert f"{of([one['inner_steps'] == 20 for one in chosen])} (L = 20" in WORDS


def test_lengths_are_those_of_the_ladder():
    """The shortest at which the next one gains less than 0.1 points, or else the longest."""
    rows = store.read_json(store.RESULTS / "ladder" / "ladder.json")["rows"]
    error = {(row["setting"], row["length"]): row["error"] for row in rows}
    for setting, length in LENGTHS.items():
        ended = [
            shorter
            for shorter, longer in itertools.pairwise(STUDY_LADDER.lengths)
            if (setting, longer) in error
            and error[setting, shorter] - error[setting, longer] < STUDY_LADDER.least_gain
        ]
        assert length == min(ended, default=STUDY_LADDER.lengths[-1])
    first, second, third = (error["MLP, 2k, clean", length] for length in (1, 3, 10))
    assert f"SGD gains {first - second:.2f} points from 60 to 180 epochs" in WORDS
    assert f"and {second - third:.2f} from 180 to 600" in WORDS
    assert min(first - second, second - third) >= STUDY_LADDER.least_gain


def test_limits_of_the_coupling():
    table = rows_below(TEXT, "| setting                 | rSGD  | γ = 0")
    for setting, *cells in table:
        own = records_of(setting, "rsgd")[0]["settings"]
        for name, gamma, cell in zip(
            ("rsgd", "rsgd gamma 0", "rsgd gamma 1e6"), (None, 0.0, 1e6), cells, strict=True
        ):
            records = records_of(setting, name)
            changed = {} if gamma is None else {"gamma": gamma}
            assert all(record["settings"] == own | changed for record in records)
            assert cell == f"{column(setting, name).mean():.2f}"
        sgd = column(setting, "sgd").mean()
        if setting == NOISY:
            assert abs(float(cells[0]) - sgd) < 0.1
        if setting == MANY_NOISY:
            assert is_worse(setting, "rsgd")
        chosen, without, one_network = map(float, cells)
        if setting.endswith("noise") or setting == MIDDLE:
            assert chosen < min(without, one_network)
        else:
            assert one_network <= chosen < without
    assert [setting for setting, *_ in table] == SETTINGS
