"""The benchmark of scaling runs, small; its tables and picture come from its file."""

import json

import numpy as np
import pytest

from experiments.benchmarks import scaling, scaling_report
from experiments.benchmarks.scaling_worker import Work, Workers
from experiments.studies.scale import machines


@pytest.mark.slow
def test_everything_is_measured_once_and_drawn_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of the processes: faster to compile
    benchmark = scaling.Scaling(
        quick=True,
        progress=False,
        out=tmp_path / "benchmarks" / "scaling.json",
        figure=tmp_path / "figures" / "scaling.png",
    )
    benchmark.run()
    shown = capsys.readouterr().out
    found = json.loads(benchmark.out.read_text())
    assert [row["where"] for row in found["scaling"]] == ["devices", "processes"]
    for row in found["scaling"]:
        assert all(row[name] > 0 for name in ("milliseconds", "predicted"))
        assert min(row["weak"] + row["strong"] + row["apart"]) > 0
    assert [row["y"] for row in found["replicas"]] == [2]
    for row in found["parameters"]:
        assert row["state_bytes"] == row["counted_state_bytes"]
        assert row["peak_bytes"] > row["counted_bytes"]
    assert benchmark.figure.stat().st_size > 10_000

    monkeypatch.setattr(scaling.Scaling, "measure", None)
    monkeypatch.setattr(scaling_report, "figure", lambda found, path: path.unlink())
    scaling.Scaling(draw=True, out=benchmark.out, figure=benchmark.figure).run()
    assert capsys.readouterr().out == shown
    assert not benchmark.figure.exists()


def test_a_link_is_found_from_the_times_that_it_gives():
    link = machines.Link(latency=3e-5, bandwidth=2e8)
    machine = machines.Machine(1.0, 1.0, 1.0, 1, link, link)
    reduce = lambda size: machines.all_reduce(4.0 * size, machines.Group(1, 2))
    sizes = [1, 100, 10**4, 10**6]
    found = scaling.fit_link(sizes, [reduce(size).seconds(machine) for size in sizes])
    np.testing.assert_allclose([found.latency, found.bandwidth], [3e-5, 2e8], rtol=1e-6)


@pytest.mark.slow
def test_a_process_that_ends_says_why():
    with Workers([[0]]) as workers, pytest.raises(RuntimeError, match="unknown"):
        workers.prepare("step", Work("sgd", model="unknown"), 0.0)
