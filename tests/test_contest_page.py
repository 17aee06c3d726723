"""Tables of the pages of a contest, recomputed from made-up records."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from contest_records import records_in
from made_up_contest import FAKE, SETTINGS, report_in
from matplotlib.textpath import TextPath
from pages import rows_below

from experiments.configs import contest as configs
from experiments.configs.contest import STUDY
from experiments.report import plots
from experiments.studies.contest.map import LABEL_WIDTH
from experiments.studies.contest.page import contestant_tables, short_name
from experiments.studies.contest.report import read_contest, summary
from experiments.studies.contest.results import comparisons, reaches


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return report_in(tmp_path_factory.mktemp("contest"))


def test_tables_of_a_page_have_a_row_for_each_setting(fake):
    text = (fake / "page.md").read_text() + "\n"
    under = lambda title: rows_below(text[text.index(f"## {title}\n") :], "| setting")

    def column(setting, name, key="test_error"):
        return np.array([r[key] for _, r in sorted(records_in(fake, setting, name).items())])

    def difference(setting, name, other, factor, digits, key="test_error"):
        d = factor * (column(setting, name, key) - column(setting, other, key))
        half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
        return f"{d.mean():+.{digits}f}", f"{half:.{digits}f}", d.mean() - half

    assert [cells[0] for cells in under("Test error %")] == list(SETTINGS)
    for setting, *means, least in under("Test error %"):
        names = ("sgd", "sam", "swa", "rsgd", "esgd", "sgd, ema", "sgd, stopped early")
        assert means == [f"{column(setting, name).mean():.2f}" for name in names]
        assert float(least) > 0
    for setting, esgd, _, rsgd, _ in under("Primary"):
        for name, cell in (("esgd", esgd), ("rsgd", rsgd)):
            mean, _, low = difference(setting, name, "sgd", 1, 2)
            assert cell.startswith(f"{mean} [{low:+.2f}, ")
    for setting, *cells in under("Test error minus other references"):
        pairs = [("esgd", "sam"), ("rsgd", "sam"), ("esgd", "swa"), ("rsgd", "swa")]
        shown = [difference(setting, *pair, 1, 2) for pair in pairs]
        assert cells == [f"{mean} ± {half}" for mean, half, _ in shown]
    for setting, *cells in under("Test loss × 100 minus SGD"):
        mean, half, _ = difference(setting, "sam", "sgd", 100, 1, "test_loss")
        assert cells[0] == f"{mean} ± {half}"
    for setting, *cells in under("Rise of the test error, 3 bits, tensor"):
        rises = [
            r["rises"]["3 bits, tensor"]["error"] for r in records_in(fake, setting, "sgd").values()
        ]
        assert cells[0].startswith(f"{np.mean(rises):.1f} ± ")
    assert {cells[1] for cells in under("Chosen settings")} == {"SGD", "SAM", "SWA", "rSGD", "eSGD"}


def test_labels_of_settings_end_before_the_cells():
    inches = [
        TextPath((0, 0), label, size=plots.SMALLEST).get_extents().width / 72
        for label in STUDY.settings
    ]
    assert max(inches) < LABEL_WIDTH


def test_the_page_of_a_later_stage_has_a_row_for_each_contestant(fake):
    stage = dataclasses.replace(FAKE, references=("sam",), margin=0.3)
    results = read_contest(stage, fake)
    rows = comparisons(stage, results, stage.settings)
    outcomes = [
        summary(stage, setting, name, part)
        for setting, parts in results.items()
        for name, part in parts.items()
    ]
    reached = reaches(stage, results)
    tables = contestant_tables(stage, rows, outcomes, reached)
    assert set(tables) == {*SETTINGS, "Chosen settings"}
    header, _, *lines = tables[SETTINGS[0]].splitlines()
    cells = lambda line: [cell.strip() for cell in line.split("|")[1:-1]]
    expected = ["algorithm", "error %", "minus SGD", "p", "minus SAM", "messages", "reaches"]
    assert cells(header) == expected
    own = {name: cells for name, *cells in map(cells, lines)}
    assert list(own) == ["SGD", "SAM", "SWA", "rSGD", "eSGD", "ema", "stopped"]
    errors = {
        name: np.array([r["test_error"] for r in records_in(fake, SETTINGS[0], name).values()])
        for name in ("sgd", "sam", "esgd")
    }
    gaps = [errors["esgd"] - errors[name] for name in ("sgd", "sam")]
    half = [scipy.stats.t.ppf(0.975, 5) * gap.std(ddof=1) / np.sqrt(6) for gap in gaps]
    shown = [f"{gap.mean():+.2f} ± {one:.2f}" for gap, one in zip(gaps, half, strict=True)]
    verdict = next(
        row["reaches"]
        for row in reached
        if (row["setting"], row["contestant"]) == (SETTINGS[0], "esgd")
    )
    mean = f"{errors['esgd'].mean():.2f}"
    (p,) = [
        row["p_corrected"]
        for row in rows
        if (row["setting"], row["contestant"], row["family"]) == (SETTINGS[0], "esgd", "primary")
    ]
    shown.insert(1, f"{p:.2g}")
    assert own["eSGD"] == [mean, *shown, "0", "yes" if verdict else "no"]
    stage = dataclasses.replace(stage, primary=())
    header, _, *lines = contestant_tables(stage, rows, outcomes)[SETTINGS[0]].splitlines()
    del shown[1]
    assert cells(header)[-1] == "energy"
    own = {name: cells for name, *cells in map(cells, lines)}
    assert own["eSGD"] == [mean, *shown, "3.00"]
    assert own["ema"][-1] == ""


@pytest.mark.parametrize(
    ("stage", "name", "expected"),
    [
        ("workers-16", "parle, y=16, K=64", "Parle, K=64"),
        ("workers-16", "local sgd, y=16, K=16", "local SGD, K=16"),
        ("workers-4", "sgd, batch x 4", "SGD, batch x 4"),
        ("workers-4", "sgd, batch x 4, ema", "ema"),
        ("coupling", "rsgd gamma 0", "rSGD gamma 0"),
        ("main", "sgd, stopped early", "stopped"),
    ],
)
def test_short_names(stage, name, expected):
    assert short_name(configs.STAGES[stage], name) == expected
