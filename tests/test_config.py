"""Any configuration is one that a run can have, or refused by the name of a setting."""

import dataclasses
import json
import pathlib
import re
import shutil

import hypothesis
import numpy as np
import pytest
import tyro
from fast import only
from hypothesis import strategies as st

from experiments import __main__ as command_line
from experiments.commands.train import Train, train_command
from experiments.configs import first_contest, flatness_study, ladder
from experiments.engine.algorithm_settings import SETTINGS, takers
from experiments.engine.config import TrainConfig
from experiments.engine.earlier_versions import converted
from experiments.engine.run_directory import RunDirectory, read_config
from experiments.engine.train import train
from experiments.report import store
from experiments.studies.first_contest.run import read_contest
from experiments.studies.flatness_study.run import read_study
from experiments.studies.ladder.run import read_records

RECORDED_RUN = pathlib.Path(__file__).parent / "recorded_run"
GIVEN = {"rsam": {"gamma": 0.1}, "esam": {"gamma": 0.1}}  # what has no default
# A setting is tested with an algorithm that has it.
# Field -> the first algorithm that has it; later ones have a schedule of their own.
ALGORITHM_OF = {
    field: algorithm
    for algorithm in reversed(SETTINGS)
    for field in TrainConfig.of(algorithm=algorithm, **GIVEN.get(algorithm, {})).flat()
}
# What a configuration holds, and what none does.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10**6)
    | st.floats()
    | st.sampled_from(["rsgd", "digits", "flip", "cosine", "int8", "hidden=(8,)", "", "µ"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3).map(tuple) | st.just({}) | st.just([0.1])


def parsed(arguments: list[str]) -> Train:
    """The command of a command line."""
    command = train_command(arguments)
    return tyro.cli(command, args=arguments, config=(tyro.conf.OmitArgPrefixes,))


@pytest.mark.parametrize(
    "field", only(["dataset", "gamma", "learning_rate", "replicas"], sorted(ALGORITHM_OF))
)
def test_any_value_is_right_or_refused_by_name(field):
    algorithm = ALGORITHM_OF[field]
    settings = GIVEN.get(algorithm, {}) | {"algorithm": algorithm}
    if field in ("milestones", "milestone_factor"):
        settings |= {"schedule": "milestones"}
    if field == "squares_decay":
        settings |= {"base_optimizer": "adamw"}
    if field == "warmup_start":
        settings |= {"warmup": 0.1}

    def check(value, is_parsed):
        try:
            config = TrainConfig.of(**settings | {field: value})
        except ValueError:
            with pytest.raises(ValueError, match=field):
                TrainConfig.of(**settings | {field: value})
            return
        text = json.dumps(config.to_json(), allow_nan=False)
        assert TrainConfig.from_json(json.loads(text)) == config
        if is_parsed:
            assert parsed(config.to_arguments()).config == config

    options = hypothesis.settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    # The command line is read for one in eight: that takes longer than all the rest.
    options(hypothesis.given(VALUES, st.sampled_from([True] + 7 * [False]))(check))()


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_the_command_line_shows_and_takes_the_settings_of_one_algorithm(algorithm, capsys):
    own = {field.name for field in dataclasses.fields(SETTINGS[algorithm])}
    with pytest.raises(SystemExit):
        command_line.main(["train", "--help", "--algorithm", algorithm])
    shown = capsys.readouterr().out
    for field in {field for kind in SETTINGS.values() for field in dataclasses.fields(kind)}:
        flag = "--" + field.name.replace("_", "-")
        is_listed = re.search(rf"^[^\w\n-]+{flag}[ ,]", shown, re.MULTILINE) is not None
        assert is_listed == (field.name in own)
        if field.name not in own:
            assert command_line.main(["train", "--algorithm", algorithm, flag, "3"]) == 1
            message = capsys.readouterr().err
            assert f"{field.name} is not a setting of {algorithm}, but of " in message
            assert all(name in message for name in takers(field.name))


# --- recorded before algorithms had settings of their own ---------------------------------------


def recorded_configs(value):
    """All configurations in a JSON value."""
    if isinstance(value, dict) and {"algorithm", "train_size"} <= value.keys():
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from recorded_configs(part)


@pytest.mark.slow
def test_recorded_configurations_load():
    count = 0
    for path in store.RESULTS.rglob("*.json*"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        for fields in recorded_configs([json.loads(line) for line in lines]):
            config = TrainConfig.from_json(converted(fields))
            assert store.differences(config.to_json(), fields) == []
            assert TrainConfig.from_json(converted(config.to_json())) == config
            count += 1
    assert count >= 155


def test_recorded_studies_are_those_of_the_configurations():
    """Whatever is compared: candidates, seeds, settings; another identity would be refused."""
    contests = read_contest(first_contest.STUDY, store.RESULTS / "first-contest")
    assert sum(map(len, contests.values())) >= 32
    solutions = read_study(flatness_study.STUDY, store.RESULTS / "flatness-study")
    assert sum(map(len, solutions.values())) >= 3 * 112
    records = read_records(ladder.STUDY, store.RESULTS / "ladder" / "sgd.jsonl")
    assert len(records) >= 46


@pytest.mark.slow
def test_a_recorded_run_is_continued(tmp_path):
    """Interrupted after two of three epochs; `expected.json` is the result of the whole run."""
    run = shutil.copytree(RECORDED_RUN, tmp_path / "run")
    config = read_config(run / "config.json")
    assert config == TrainConfig.of(
        algorithm="rsgd",
        replicas=2,
        model_options=("hidden=(2,)",),
        train_size=40,
        batch_size=20,
        epochs=6,
        held_out_size=50,
        sigmas=(0.1,),
        local_energy_samples=2,
        local_energy_examples=20,
    )
    found = train(config, directory=run, progress=False)
    expected = store.read_json(run / "expected.json")
    assert [record["step"] for record in found["history"]] == [2, 4, 6]
    for name in ("test_loss", "train_loss", "test_error", "replica_test_errors"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)
    # The result of a complete run, of before.
    (run / "expected.json").replace(run / "result.json")
    assert RunDirectory(run, config).read_result()["test_loss"] == expected["test_loss"]
    with pytest.raises(store.OtherIdentityError, match="period: wanted 2, found 1"):
        RunDirectory(run, config.changed(period=2))
