"""The chapter's records: simulations are made once, go on where they stopped, and are compared."""

import jax
import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.configs import gaussian_mixture as configs
from experiments.studies import simulations
from experiments.studies.gaussian_mixture import chapter, figures, minima


def make_point(seeds, theory=3.0):
    calls = []

    def simulate(key):
        calls.append(key)
        value = theory + float(jax.random.normal(key))
        return {"test_error": value, "extra": 2 * value}

    params = {"alpha": 1.0, "reference": "λ"}
    return simulations.Point("a curve", 0.5, params, {"test_error": theory}, simulate, seeds), calls


def test_simulations_go_on_where_they_stopped(tmp_path):
    path = tmp_path / "simulations.jsonl"
    point, calls = make_point(seeds=3)
    first = simulations.simulate_points([point], path, progress=False)[point.name]
    assert [run["seed"] for run in first] == [0, 1, 2]
    assert len({run["values"]["test_error"] for run in first}) == 3
    path.write_text(path.read_text() + '{"point": "a cur')  # stopped while it wrote
    more, calls = make_point(seeds=5)
    second = simulations.simulate_points([more], path, progress=False)[point.name]
    assert len(calls) == 2
    assert [run["values"] for run in second[:3]] == [run["values"] for run in first]
    assert simulations.read_simulations(path) == {point.name: second}


def test_the_revision_of_one_point_refuses_its_records_alone(tmp_path, monkeypatch):
    path = tmp_path / "simulations.jsonl"
    point, _ = make_point(seeds=2)
    simulations.simulate_points([point], path, progress=False)
    monkeypatch.setitem(simulations.provenance.LATER_SIMULATIONS, "another curve", 7)
    assert len(simulations.read_simulations(path)[point.name]) == 2
    monkeypatch.setitem(simulations.provenance.LATER_SIMULATIONS, "a curve", 7)
    with pytest.raises(ValueError, match=r"line 1 .*revision: wanted 7, found 1"):
        simulations.read_simulations(path)
    path.unlink()
    simulations.simulate_points([point], path, progress=False)
    assert len(simulations.read_simulations(path)[point.name]) == 2


def test_points_have_keys_of_their_own():
    point, _ = make_point(2)
    other = simulations.Point("another curve", *list(vars(point).values())[1:])
    keys = [jax.random.key_data(p.key(seed)).tolist() for p in (point, other) for seed in (0, 1)]
    assert len({tuple(key) for key in keys}) == 4


def test_theory_and_simulation_are_compared():
    point, _ = make_point(seeds=3)
    values = [2.0, 3.0, 7.0, 1000.0]  # the last is beyond what is asked for
    runs = [
        {"seed": i, "seconds": 1.0, "values": {"test_error": value}}
        for i, value in enumerate(values)
    ]
    (row,) = simulations.compare([point], {point.name: runs})
    sem = np.std(values[:3], ddof=1) / np.sqrt(3)
    assert row["mean"] == pytest.approx(4.0)
    assert row["sem"] == pytest.approx(sem)
    assert row["z"] == pytest.approx(1 / sem)
    assert (row["seeds"], row["seconds"]) == (3, 3.0)
    assert simulations.compare([point], {point.name: runs[:1]}) == []  # no error bar yet
    assert "1 test errors: 100% within 3 standard errors" in chapter.agreement([row])


@pytest.fixture(scope="module")
def points():
    """Of the minima, with what theory says of each."""
    return minima.points(200, 6)


@pytest.mark.slow
def test_no_two_points_have_one_name(points):
    assert len({point.name for point in points}) == len(points)


@pytest.mark.slow
def test_a_point_of_the_chapter_agrees_with_its_theory(points, tmp_path):
    (point,) = [p for p in points if p.curve == "Hebb" and p.x == 2.0]
    runs = simulations.simulate_points([point], tmp_path / "simulations.jsonl", progress=False)
    (row,) = simulations.compare([point], runs)
    assert abs(row["z"]) < 4
    assert row["sem"] < 0.005


def test_the_small_chapter_draws_the_local_entropy(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(chapter.figures, "draw", lambda names, rows, out: drawn.extend(names) or [])
    monkeypatch.setattr(minima, "points", lambda *size: [])
    chapter.run_chapter(configs.SMALL, tmp_path, progress=False)
    assert drawn == ["erm", "phase_diagrams", "local_entropy"]


@pytest.mark.slow
def test_curves_are_drawn_without_simulations(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "DISTANCES", 2)
    (path,) = figures.draw(configs.SMALL.theory, [], tmp_path)
    assert path.stat().st_size > 20_000


def test_the_command_says_what_is_missing(tmp_path, capsys):
    out = tmp_path / "nothing"
    assert command_line.main(["gaussian-mixture", "--report-only", "--out", str(out)]) == 1
    assert "no simulations" in capsys.readouterr().err
