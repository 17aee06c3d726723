"""A limit of the wall time: nothing is begun that would not fit, and what stopped continues."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from fast import slow
from test_contest import TINY as CONTEST
from test_first_contest import TINY as FIRST_CONTEST

from experiments.__main__ import main
from experiments.engine import programs
from experiments.engine.config import TrainConfig
from experiments.engine.population import Population
from experiments.engine.task import make_task, make_tasks
from experiments.engine.time_limit import TimeIsUp, TimeLimit, parse_duration
from experiments.engine.train import train
from experiments.report import store
from experiments.studies.contest import run as contest
from experiments.studies.first_contest import run as first_contest
from experiments.studies.flatness.description import Effort
from experiments.studies.flatness_study import run as flatness_study
from experiments.studies.flatness_study.description import FlatnessStudy
from experiments.studies.runs import unit_file
from experiments.studies.units import lacking, run_units

BASE = TrainConfig.of(
    dataset="digits",
    epochs=8,
    batch_size=32,
    train_size=100,
    gamma=0.1,
    sigmas=(0.1,),
    local_energy_samples=2,
    local_energy_examples=50,
    validation=0.2,
    model_options=("hidden=(8,)",),
)


class Clock:
    """A clock whose time is set."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        """The time that was set."""
        return self.time


def ticking(seconds):
    """A limit whose clock ticks every time somebody looks at it."""
    return TimeLimit(seconds, clock=functools.partial(next, itertools.count()))


def in_slots(call, seconds):
    """Calls until nothing is left: the number of calls, and the last result."""
    for number in range(1, 100):
        limit = ticking(seconds)
        try:
            found = call(limit)
        except TimeIsUp:
            continue
        if not limit.unfinished:
            return number, found
    raise AssertionError("it does not come to an end")


@pytest.mark.parametrize("text", ["", "9x", "-1", "0m", "m", "1m1h", "nan"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="time_limit must be a duration such as 9m"):
        parse_duration(text)


def test_what_would_not_fit_is_not_begun():
    clock = Clock()
    limit = TimeLimit(100, clock=clock)
    limit.note("a", "start", 40)
    limit.note("a", "save", 4)
    limit.note("b", "start", 10)
    clock.time = 44
    limit.begin("a")  # 1.25 (40 + 4) s of 56
    clock.time = 46
    with pytest.raises(TimeIsUp):
        limit.begin("a")
    limit.begin("b")  # a shorter one fits
    with pytest.raises(TimeIsUp):
        limit.begin("c")  # unknown, it may be as long as the longest


def test_a_part_is_measured_and_starts_only_if_it_fits():
    clock = Clock()
    limit = TimeLimit(100, clock=clock)
    with limit.part("a", "finish"):  # unknown: it fits
        clock.time = 40
    assert limit.expected("a", "finish") == 40
    clock.time = 51
    with pytest.raises(TimeIsUp), limit.part("a", "finish"):  # 1.25 x 40 s of 49
        pytest.fail("it has started")


def test_a_unit_stops_before_the_chunk_that_would_not_fit():
    clock = Clock()
    limit = TimeLimit(100, clock=clock)
    pace = limit.begin("a")
    for time, is_up in ((30, False), (50, False), (70, False), (75, True), (76, True)):
        clock.time = time  # a chunk takes 20 s, a save may take 2: 1.25 times that
        assert pace.is_up(0.5) == is_up
    assert pace.is_over


def test_without_checkpoints_a_unit_stops_once_its_pace_is_known():
    for ends_at, is_up in ((95, False), (105, True)):
        clock = Clock()
        pace = TimeLimit(100, resumable=False, clock=clock).begin("a")
        clock.time = 10  # compiled
        assert not pace.is_up(0.0)
        clock.time = 10 + 0.1 * (ends_at - 10)
        assert pace.is_up(0.1) == is_up


def test_without_a_limit_nothing_stops():
    limit = TimeLimit()
    limit.note("a", "start", 1e9)
    assert not limit.begin("a").is_up(0.1)
    assert limit.exit_status == 0


def test_runs_without_a_record_are_those_whose_whole_key_no_record_has():
    runs = [((0.1, 2), 0), ((0.1, 2), 1), ((0.3, 2), 0)]
    key_of = lambda run: {"settings": {"x": run[0]}, "seed": run[1]}
    records = [
        {"error": 3.0, "seed": 1, "settings": {"x": [0.1, 2]}},  # a list, as read from a file
        {"error": 4.0, "seed": 1, "settings": {"x": [0.3, 2]}},  # of another study
    ]
    assert lacking(records, runs, key_of) == [runs[0], runs[2]]
    assert lacking([], runs, key_of) == runs
    assert lacking(records, [], key_of) == []


def test_units_that_fit_come_after_one_that_does_not():
    limit = TimeLimit()

    def too_long():
        raise TimeIsUp

    units = [("a", lambda: 1), ("b", too_long), ("c", lambda: 3)]
    assert list(run_units(units, limit)) == [("a", 1), ("c", 3)]
    assert (limit.unfinished, limit.exit_status) == (1, 75)


@pytest.mark.slow
@pytest.mark.parametrize(("loops", "seconds"), [(True, 9), slow(False, 20)])
def test_a_run_ends_where_it_would_have_ended(loops, seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "loops_on_device", lambda plan: loops)
    config = BASE.changed(algorithm="rsgd", gamma=0.1)
    task = make_task(config)
    expected = train(config, task, progress=False)
    call = lambda limit: train(config, task, directory=tmp_path, progress=False, limit=limit)
    calls, found = in_slots(call, seconds)
    assert calls > 1
    for name in ("test_loss", "train_loss", "local_energy", "replica_test_errors"):
        assert found[name] == expected[name]


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_a_population_ends_where_it_would_have_ended(together, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "train_together", lambda: together)
    config = BASE.changed(algorithm="esgd", gamma=0.1)
    tasks = make_tasks(config, [0, 1])
    settings, runs = [{"learning_rate": 0.02}, {"learning_rate": 0.1}], ([3, 4], [0, 1])
    population = Population(config, tasks)
    expected = population.train(settings, *runs, progress=False)
    path = tmp_path / "networks.npz"

    def call(limit):
        file = unit_file(path, config, settings)
        return population.train(settings, *runs, progress=False, limit=limit, file=file)

    calls, found = in_slots(call, 16)
    assert calls > 1
    for one, other in zip(found, expected, strict=True):
        assert one.train_loss == other.train_loss
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    _, again = in_slots(call, 16)  # what is complete is kept until its records are written
    jax.tree.map(np.testing.assert_array_equal, again[1].params, expected[1].params)


def test_a_damaged_checkpoint_is_refused_and_another_one_not_read(tmp_path):
    path = tmp_path / "networks.npz"
    file, other = unit_file(path, BASE, [1]), unit_file(path, BASE, [2])
    file.save({"epoch": 2}, {"state": {"0": np.arange(3.0)}})
    position, arrays = file.restore()
    assert (position, arrays["state"]["0"].tolist()) == ({"epoch": 2}, [0, 1, 2])
    assert other.restore() is None
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(3.0).tobytes()) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(store.DamagedFileError, match=r"networks\.npz is damaged"):
        file.restore()


def records(out):
    """The records of the baseline, and the numbers of each."""
    lines = store.read_lines(contest.path_of(out, "MLP", "sgd"))
    names = ("validation_error", "test_error", "test_loss", "scaled_loss", "train_error")
    numbers = [[line[name] for name in names if name in line] for line in lines]
    for line, found in zip(lines, numbers, strict=True):
        found += [one["test_loss"] for one in line.get("besides", {}).values()]
    return [(line["part"], line["settings"], line["seed"]) for line in lines], [
        number for found in numbers for number in found
    ]


@pytest.mark.slow
def test_a_contest_in_slots_has_the_same_records(tmp_path):
    # The baseline's runs are watched while they train.
    one = dataclasses.replace(CONTEST, contestants={"sgd": CONTEST.contestants["sgd"]})
    contest.run_contest(one, tmp_path / "whole", progress=False)
    call = lambda limit: contest.run_contest(one, tmp_path / "slots", progress=False, limit=limit)
    calls, _ = in_slots(call, 14)
    assert calls > 2
    (found, numbers), (expected, others) = (records(tmp_path / out) for out in ("slots", "whole"))
    assert found == expected
    # A run that was measured in another call was trained in another company.
    np.testing.assert_allclose(numbers, others, rtol=1e-4)
    assert not list((tmp_path / "slots").rglob("*.npz"))


@pytest.mark.slow
def test_the_first_contest_in_slots_has_the_same_results(tmp_path):
    spaces = {"sgd": FIRST_CONTEST.spaces["sgd"]}
    one = dataclasses.replace(FIRST_CONTEST, settings={"MLP, clean": {}}, spaces=spaces)
    expected = first_contest.run_contest(one, tmp_path / "whole", progress=False)
    call = lambda limit: first_contest.run_contest(
        one, tmp_path / "slots", progress=False, limit=limit
    )
    assert in_slots(call, 9)[0] > 1
    assert first_contest.read_contest(one, tmp_path / "slots") == expected


@pytest.mark.slow
def test_a_flatness_study_in_slots_has_the_same_solutions(tmp_path):
    study = FlatnessStudy(
        base=BASE.changed(epochs=2, algorithm="sgd"),
        tasks={"MLP": {}},
        algorithms={"SGD": {"algorithm": "sgd"}},
        batch_sizes=(32,),
        factors={"learning_rate": (0.05, 0.1)},
        seeds=(0,),
        effort=Effort((0.1,), 0.1, num_samples=2, num_matvecs=3, num_probes=2),
    )
    expected = flatness_study.run_study(study, tmp_path / "whole", progress=False)
    call = lambda limit: flatness_study.run_study(
        study, tmp_path / "slots", progress=False, limit=limit
    )
    calls, found = in_slots(call, 13)
    assert calls > 1
    assert found == expected
    assert not list((tmp_path / "slots").rglob("*.part.*"))


def test_the_command_says_that_work_is_left(tmp_path, capsys):
    command = ["compare", "--out", str(tmp_path), "--no-progress", "--time-limit"]
    assert main([*command, "0.001s"]) == 75
    assert "units are left; the same command continues" in capsys.readouterr().err
    assert main([*command, "soon"]) == 1
    assert "time_limit must be a duration such as 9m" in capsys.readouterr().err


@pytest.mark.slow
def test_so_does_the_command_of_a_contest(tmp_path):
    command = ["contest", "--small", "--out", str(tmp_path), "--no-progress", "--time-limit"]
    assert main([*command, "0.001s"]) == 75
