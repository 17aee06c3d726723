"""The study of flat committees: cells and settings, runs that are continued, ranks and reports."""

import dataclasses

import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.configs import committee_flatness as configs
from experiments.report import store
from experiments.studies.committee import records as committee_records
from experiments.studies.committee.description import GradientSolver, TwoClasses
from experiments.studies.committee.solvers import train
from experiments.studies.committee.task import make_patterns
from experiments.studies.committee_flatness import run
from experiments.studies.committee_flatness.report import (
    matched,
    matched_range,
    rank_cell,
    report,
    summarize,
)
from flatjax.flatness import kendall_tau

TINY = dataclasses.replace(
    configs.STUDY,
    task=TwoClasses("digits", (3, 8), num_validation=60),
    num_units=3,
    sizes=(40,),
    noises=(0.2,),
    solvers={name: configs.STUDY.solvers[name] for name in ("SGD", "rSGD")},
    spaces={"SGD": {"learning_rate": (0.3, 1.0)}, "rSGD": {"gamma": (0.1, 0.3)}},
    trials=1,
    steps=10,
    subsets=(0, 1),
    num_samples=3,
)
TINY = dataclasses.replace(
    TINY,
    solvers={n: dataclasses.replace(one, batch_size=20) for n, one in TINY.solvers.items()},
)
CELL = (40, 0.2)


def test_the_cells_are_those_of_the_protocol():
    study = configs.STUDY
    assert len(study.cells()) == 12
    settings = {cell: study.solvers_of(cell) for cell in study.cells()}
    assert sum(len(own) * len(study.subsets) for own in settings.values()) == 2160
    for (size, noise), own in settings.items():
        assert study.task_of((size, noise)) == TwoClasses(num_train=size, label_noise=noise)
        for label, solver in own.items():
            assert solver.num_steps(size) == pytest.approx(4000, rel=0.02)
            at_zero = settings[100, 0.0][label]
            assert dataclasses.replace(solver, epochs=1) == dataclasses.replace(at_zero, epochs=1)
        assert len(set(own.values())) == 36
    assert not study.solvers["rSGD"].common_start


def test_a_new_setting_changes_no_old_identity():
    assert "common_start" not in committee_records.as_json(GradientSolver())
    apart = GradientSolver(common_start=False)
    assert committee_records.as_json(apart)["common_start"] is False
    assert GradientSolver.from_json(committee_records.as_json(apart)) == apart


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("committee-flatness")
    run.run_study(TINY, out, progress=False)
    return out


@pytest.mark.slow
def test_every_solution_is_recorded_and_none_is_repeated(done):
    path = run.path_of(done, CELL)
    records = store.read_lines(path, must_be_sealed=True)
    keys = [(record["solver"], record["subset"]) for record in records]
    assert keys == [("SGD 0", 0), ("SGD 0", 1), ("rSGD 0", 0), ("rSGD 0", 1)]
    assert [record.get("meeting") is None for record in records] == [True, True, False, False]
    assert {record["task"]["label_noise"] for record in records} == {0.2}
    # One is missing, and is made again with the same numbers.
    store.write_lines(path, records[1:])
    run.run_study(TINY, done, progress=False)
    *_, again = store.read_lines(path)
    changing = {"seconds", "made_by"}
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in records[0].items() if k not in changing
    }


@pytest.mark.slow
def test_records_of_other_settings_are_refused(done):
    other = dataclasses.replace(TINY, num_samples=4)
    with pytest.raises(store.OtherIdentityError, match=r"line 1 .*num_samples: wanted 4"):
        run.read_study(other, done)
    others = dataclasses.replace(TINY, solvers={"SGD": TINY.solvers["SGD"]})
    with pytest.raises(store.OtherIdentityError, match=r"line \d .*no solver 'rSGD 0'"):
        run.read_study(others, done)


@pytest.mark.slow
def test_a_part_of_the_algorithms_continues_in_the_same_file(done):
    """`--algorithms SGD` after others have been run: nothing is missing, nothing is refused."""
    before = run.path_of(done, CELL).read_bytes()
    run.run_study(
        dataclasses.replace(TINY, solvers={"SGD": TINY.solvers["SGD"]}), done, progress=False
    )
    assert run.path_of(done, CELL).read_bytes() == before


@pytest.mark.slow
def test_replicas_start_apart_and_meet(done):
    (_, _, apart, _) = store.read_lines(run.path_of(done, CELL))
    learned, *_ = make_patterns(TINY.task_of(CELL), 0)
    solver = dataclasses.replace(TINY.solvers["rSGD"], gamma=0.0, epochs=1)
    _, members = train(solver, 3, learned, run.key_of("rSGD 0", 0))
    overlaps = np.einsum("akn,bkn->ab", members, members) / members[0].size
    assert np.abs(overlaps[np.triu_indices(3, 1)]).max() < 0.6
    assert apart["meeting"]["center"] == apart["test_error"]
    _, members = train(
        dataclasses.replace(solver, common_start=True), 3, learned, run.key_of("", 0)
    )
    overlaps = np.einsum("akn,bkn->ab", members, members) / members[0].size
    assert overlaps.min() > 0.8


# --- the report -----------------------------------------------------------------------------------


def made_up(setting, subset, *, train_error=0.0, rng=None):
    """A record whose test error follows its local energy and its subset."""
    rng = rng or np.random.default_rng([setting, subset])
    energy = setting + 0.2 * rng.normal()
    return {
        "solver": f"SGD {setting}",
        "subset": subset,
        "train_error": train_error,
        "test_error": 5 + energy + 10 * subset,
        "local_energy": [energy, 0.0, None],
        "unit_overlap": 0.3,
    }


def cell_of(**changes):
    return [made_up(setting, subset, **changes) for setting in range(8) for subset in range(3)]


def test_pairs_are_on_the_same_subset():
    records = cell_of()
    found = rank_cell(configs.STUDY, records, num_bootstrap=200)
    of_subset = [[r for r in records if r["subset"] == subset] for subset in range(3)]
    taus = [
        kendall_tau([r["local_energy"][0] for r in own], [r["test_error"] for r in own])
        for own in of_subset
    ]
    assert found["matched"].value == pytest.approx(np.mean(taus))
    assert found["matched"].is_clear
    assert found["matched"].interval[0] > 0.5


def test_matched_solutions_are_in_the_fullest_range():
    errors = [0.0, 0.4, 2.0, 2.1, 2.9, 3.0, 3.2, 9.0]
    records = [made_up(i, 0, train_error=error) for i, error in enumerate(errors)]
    assert matched_range(configs.STUDY, records) == (2.0, 3.0)
    assert [r["train_error"] for r in matched(configs.STUDY, records)] == [2.0, 2.1, 2.9, 3.0]
    few = rank_cell(configs.STUDY, records, num_bootstrap=50)
    assert set(few) == {"partial", "all"}  # four settings match, and five are needed
    (row, *_) = summarize(configs.STUDY, (100, 0.2), records)
    assert (row["matched"], row["solutions"]) == (4, 8)


def test_the_report_says_what_the_records_say(tmp_path):
    results = {(100, 0.0): cell_of(), (3000, 0.2): cell_of(train_error=20.0)}
    text = report(configs.STUDY, results, tmp_path)
    stored = store.read_json(tmp_path / "committee_flatness.json")
    tau = stored["taus"][0]["matched"]
    low, high = tau["interval"]
    assert f"| 100      | {tau['value']:+.2f}* [{low:+.2f}, {high:+.2f}] |" in text
    median = np.median([record["test_error"] for record in cell_of()])
    assert f"| {median:.2f} " in text
    assert (tmp_path / "committee_flatness.png").stat().st_size > 10_000


def test_the_command_reports_what_is_there(done, monkeypatch, capsys):
    monkeypatch.setattr(configs, "STUDY", TINY)
    arguments = ["committee-flatness", "--report-only", "--out"]
    assert command_line.main([*arguments, str(done)]) == 0
    said = capsys.readouterr()
    assert "| 40 " in said.out
    assert "complete" not in said.err
    monkeypatch.setattr(configs, "STUDY", dataclasses.replace(TINY, noises=(0.1, 0.2)))
    assert command_line.main([*arguments, str(done)]) == 0
    said = capsys.readouterr()
    assert "| 40 " in said.out
    assert "leaves out 1 of 2 cells, because they are not complete: (40, 0.1)." in said.err
    assert command_line.main([*arguments, str(done / "none")]) == 1
    assert "holds no complete cell" in capsys.readouterr().err
