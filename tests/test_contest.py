"""The second contest: its runs are recorded, continued, refused where they belong elsewhere."""

import dataclasses
import pathlib

import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.configs import ladder
from experiments.configs.contest import LENGTHS, SMALLS, STAGES, STUDY
from experiments.engine.config import TrainConfig
from experiments.engine.placement import OneDevice
from experiments.engine.plan import Plan
from experiments.engine.train import train
from experiments.report import store
from experiments.studies.contest import run
from experiments.studies.contest.description import Contestant
from experiments.studies.contest.report import communication, read_contest, report
from experiments.studies.spaces import Choice

RATE = {"learning_rate": (0.02, 0.3)}
TINY = dataclasses.replace(
    STUDY,
    base=TrainConfig.of(
        dataset="digits",
        batch_size=32,
        train_size=100,
        validation=0.2,
        model_options=("hidden=(8,)",),
    ),
    settings={"MLP": {"model": "mlp", "epochs": 2}},
    lengths={"MLP": 2},
    contestants={
        "sgd": Contestant({"algorithm": "sgd"}, RATE),
        "esgd": Contestant({"algorithm": "esgd", "inner_steps": 2}, RATE | {"gamma": (0.1, 10.0)}),
    },
    trials=2,
    rounds=((2, 1), (1, 3)),  # two runs each: one program
    extensions=0,
    test_seeds={"mlp": 2},
    outcomes=dataclasses.replace(STUDY.outcomes, noise_samples=2, examples=50, watched=2),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("contest")
    run.run_contest(TINY, out, progress=False)
    return out


def lines(out, name):
    return store.read_lines(run.path_of(out, "MLP", name))


@pytest.mark.slow
def test_all_rounds_and_the_test_are_recorded(done):
    for name in TINY.contestants:
        records = lines(done, name)
        keys = [(r["part"], r["candidate"], r["seed"]) for r in records]
        chosen = keys[-1][1]
        assert sorted(keys[:2]) == [("validation", 0, 0), ("validation", 1, 0)]
        assert keys[2:] == [
            ("validation", chosen, 1),
            ("validation", chosen, 2),
            ("test", chosen, 1000),
            ("test", chosen, 1001),
        ]
        errors = {r["candidate"]: r["validation_error"] for r in records[:2]}
        assert errors[chosen] == min(errors.values())
        for record in records:
            assert record["settings"] == TINY.candidates(name)[record["candidate"]]
            assert record["config"]["epochs"] == 4
            assert record["data"]


@pytest.mark.slow
def test_outcomes_are_those_of_the_model(done):
    """SGD is trained with an average of its weights along it, which must not change it."""
    *_, record, _ = lines(done, "sgd")
    seeds = {"seed": 1000, "data_seed": 1000}
    config = TINY.config("MLP", "sgd", "test").changed(**record["settings"], **seeds)
    expected = train(config, progress=False, evaluate_epochs=False)
    assert record["test_error"] == pytest.approx(expected["test_error"], abs=1e-3)
    assert record["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)
    assert record["scaled_loss"] <= record["test_loss"] + 0.05
    assert record["besides"]["ema"]["test_loss"] != record["test_loss"]
    assert record["besides"]["stopped early"]["stopped_at"] in (0.5, 1.0)
    assert len(record["local_energy"]) == len(TINY.outcomes.sigmas)
    rises = record["rises"]
    assert {"3 bits, channel", "4 bits, clipped", "90% pruned"} < set(rises)
    assert rises["3 bits, tensor"]["loss"] != rises["3 bits, clipped"]["loss"]
    assert "besides" not in lines(done, "esgd")[-1]


@pytest.mark.slow
def test_nothing_is_run_twice(done, monkeypatch):
    before = {name: lines(done, name) for name in TINY.contestants}
    monkeypatch.setattr(run, "train_in_units", None)
    run.run_contest(TINY, done, progress=False)
    assert {name: lines(done, name) for name in TINY.contestants} == before


@pytest.mark.slow
def test_it_continues_from_what_is_there(done, tmp_path):
    """Cut in the middle of a line of the test, the rest is run and comes out the same."""
    source, path = (run.path_of(out, "MLP", "esgd") for out in (done, tmp_path))
    path.parent.mkdir(parents=True)
    content = source.read_text().splitlines(keepends=True)
    path.write_text("".join(content[:-1]) + content[-1][:50])
    only = dataclasses.replace(TINY, contestants={"esgd": TINY.contestants["esgd"]})
    run.run_contest(only, tmp_path, progress=False)
    for one, other in zip(lines(done, "esgd"), lines(tmp_path, "esgd"), strict=True):
        assert one["settings"] == other["settings"]
        for name in ("test_error", "test_loss", "validation_error", "scaled_loss"):
            assert one.get(name, 0) == pytest.approx(other.get(name, 0), rel=1e-5)


@pytest.mark.slow
def test_records_with_and_without_meetings_live_together(tmp_path):
    """A contest that an older version began continues in the same file."""
    space = RATE | {"gamma": (1e-6, 1e-5)}
    contestants = {"rsgd": Contestant({"algorithm": "rsgd"}, space)}
    only = dataclasses.replace(
        TINY, contestants=contestants, trials=1, rounds=((1, 1),), test_seeds={"mlp": 1}
    )
    run.run_contest(only, tmp_path, progress=False)
    path = run.path_of(tmp_path, "MLP", "rsgd")
    whole = store.read_lines(path)
    assert all(set(record["meeting"]) == {"center", "replicas", "distance"} for record in whole)
    old = [{name: r[name] for name in r if name != "meeting"} for r in whole[:-1]]
    store.write_lines(path, old)
    run.run_contest(only, tmp_path, progress=False)
    *before, last = store.read_lines(path)
    assert before == old
    drop = lambda record: {n: v for n, v in record.items() if n not in ("seconds", "meeting")}
    assert drop(last) == drop(whole[-1])
    assert last["meeting"] == whole[-1]["meeting"]


@pytest.mark.slow
def test_records_of_another_contest_are_refused(done):
    base = TINY.base.changed(momentum=0.5)
    slower = {"sgd": Contestant({"algorithm": "sgd"}, {"learning_rate": (0.01, 0.1)})}
    more = dataclasses.replace(TINY, lengths={"MLP": 3})
    for other, field in (
        (dataclasses.replace(TINY, base=base), r"config\.momentum: wanted 0\.5"),
        (dataclasses.replace(TINY, contestants=slower), r"settings\.learning_rate"),
        (more, r"config\.epochs: wanted 6\.0, found 4\.0"),
    ):
        with pytest.raises(store.OtherIdentityError, match=rf"line 1 belongs to .*{field}"):
            run.read_records(other, "MLP", "sgd", done)


@pytest.mark.slow
def test_it_reports(done):
    text = report(TINY, read_contest(TINY, done), done)
    assert "| MLP     | esgd      | sgd | test error" in text
    assert "sgd, stopped early" in text
    assert "learning rate" in text
    assert (done / "map.png").stat().st_size > 5000
    assert store.read_json(done / "contest.json")["least_detectable"]["MLP"] > 0


def test_a_contestant_waits_for_a_choice_that_another_process_makes(tmp_path, capsys):
    copy = Contestant({"algorithm": "sgd"}, choice_of="sgd")
    pair = dataclasses.replace(TINY, contestants={"sgd": TINY.contestants["sgd"], "copy": copy})
    with store.claimed(run.path_of(tmp_path, "MLP", "sgd")):
        run.run_contest(pair, tmp_path, progress=False)
    assert "1 units are left" in capsys.readouterr().err


def test_settings_without_a_length_are_refused_by_name(tmp_path, capsys):
    unknown = [label for label in STUDY.settings if label not in LENGTHS]
    assert set(LENGTHS) <= set(ladder.SETTINGS)
    assert all(length in ladder.STUDY.lengths for length in LENGTHS.values())
    for label in unknown[:1]:
        arguments = ["contest", "--settings", label, "--out", str(tmp_path / "none")]
        assert command_line.main(arguments) == 1
        assert f"got ['{label}']" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_stage_of_the_papers_claim_fixes_what_the_paper_fixes():
    stage = STAGES["paper"]
    assert len(stage.settings) * len(stage.primary) == 6
    noises = []
    for setting in stage.settings:
        assert len(stage.seeds_of_test(setting)) == 40
        for name, contestant in stage.contestants.items():
            assert list(contestant.space) == ["learning_rate"]
            config = stage.config(setting, name, "validation")
            # The authors' learning rate of y replicas, y times the nominal one, multiplies it.
            factor = 3 if name == "rsgd, as published" else 1
            assert config.optimizer.weight_decay == pytest.approx(factor * 5e-4)
            published = name.endswith("as published")
            assert getattr(config.algorithm, "decoupled", not published) != published
            # The library's default: measured before training.
            assert getattr(config.algorithm, "gamma", None) is None
        noises.append(config.data.label_noise)
    assert noises == [0.0, 0.2, 0.4]


@pytest.mark.parametrize("workers", [4, 16])
def test_workers_share_the_gradients_of_a_run(workers):
    stage = STAGES[f"workers-{workers}"]
    (setting,) = stage.settings
    counted = {}
    for name in stage.contestants:
        config = stage.config(setting, name, "validation")
        gradients = Plan(config, None, 2000, OneDevice()).gradient_evaluations
        record = {"settings": stage.candidates(name)[0], "gradient_evaluations": gradients}
        counted[name] = communication(stage, setting, name, record)
    alone = counted.pop("sgd"), counted.pop(f"sgd, steps / {workers}")
    assert [one["sequential_gradients"] for one in alone] == [4096, 4096 // workers]
    assert [(one["workers"], one["messages"]) for one in alone] == [(1, 0), (1, 0)]
    steps = 4096 // workers
    for name, found in counted.items():
        period = int(name.split("K=")[1]) if "K=" in name else 1
        assert found == {
            "workers": workers,
            "sequential_gradients": steps,
            "messages": steps // period,
        }
    assert set(stage.primary) | {stage.baseline} == set(counted)


def test_primary_comparisons_are_on_seeds_that_no_earlier_stage_has_seen():
    """Stages whose comparisons are exploratory use the seeds of the main stage again."""
    seeds_of = lambda name: {
        seed for one in STAGES[name].settings for seed in STAGES[name].seeds_of_test(one)
    }
    main, paper, workers = (seeds_of(name) for name in ("main", "paper", "workers-4"))
    assert not main & paper
    assert not (main | paper) & workers
    assert seeds_of("workers-16") == workers  # they share the runs of small-batch SGD
    assert min(main | paper | workers) >= 1000
    for name in ("coupling", "variants"):
        assert not STAGES[name].primary
        assert seeds_of(name) <= main


def test_a_fork_sends_messages_until_it_parts_and_once_more():
    stage = STAGES["variants"]
    setting = "MLP, 2k, 20% noise"
    config = stage.config(setting, "fork", "test")
    gradients = Plan(config, None, 2000, OneDevice()).gradient_evaluations
    record = {"settings": stage.candidates("fork")[0], "gradient_evaluations": gradients}
    assert communication(stage, setting, "fork", record) == {
        "workers": 3,
        "sequential_gradients": 1240,
        "messages": 620 + 1,
    }


@pytest.mark.parametrize("name", STAGES)
def test_the_average_of_the_baseline_forgets_its_first_weights(name):
    """At the shortest lengths."""
    stage = STAGES[name]
    stage = dataclasses.replace(stage, lengths=dict.fromkeys(stage.settings, 1))
    for setting in stage.settings:
        config = run.config_of(stage, setting, stage.baseline, "test")
        steps = Plan(config, None, config.data.train_size, OneDevice()).total_steps
        assert config.algorithm.ema_decay**steps < 0.03


def test_stages_with_one_directory_share_files_only_of_equal_runs():
    """All stages may write to one directory; a shared file must be of the same search and runs."""
    found = {}
    for stage in STAGES.values():
        for setting in stage.settings:
            for name, one in stage.contestants.items():
                path = run.path_of(pathlib.Path(), setting, name)
                config = dataclasses.replace(stage, lengths=dict.fromkeys(stage.settings, 1)).config
                runs = config(setting, name, "validation"), one, stage.trials, stage.rounds
                assert found.setdefault(path, runs) == runs, path


def test_each_stage_has_a_small_form():
    assert set(SMALLS) == set(STAGES)
    for name, small in SMALLS.items():
        assert set(small.contestants) <= set(STAGES[name].contestants)
        assert small.baseline in small.contestants
        assert small.name == STAGES[name].name
        runs = small.trials * len(small.contestants)
        assert runs <= 15
        for setting in small.settings:
            for contestant in small.contestants:
                assert small.config(setting, contestant, "test").epochs <= 20


WORKERS = dataclasses.replace(
    TINY,
    settings={"MLP, shared": {"model": "mlp", "epochs": 4}},
    lengths={"MLP, shared": 1},
    contestants={
        "large batch": Contestant(
            {"algorithm": "sgd", "batch_size": 64, "epochs": 2}, {"warmup": Choice((0.0, 0.5))}
        ),
        "local sgd, K=2": Contestant(
            {"algorithm": "diloco", "replicas": 2, "period": 2, "outer_momentum": 0.0}, RATE
        ),
    },
    rounds=((2, 1),),
    baseline="large batch",
    references=(),
    primary=("local sgd, K=2",),
    name="workers",
)


@pytest.mark.slow
def test_a_stage_of_workers_runs_and_counts_messages(tmp_path):
    run.run_contest(WORKERS, tmp_path, progress=False)
    text = report(WORKERS, read_contest(WORKERS, tmp_path), tmp_path)
    section = text[text.index("## Workers") :]
    # Two workers with 12 gradients of 32 images: 100 of them are three batches.
    rows = [[cell.strip() for cell in line.split("|")[2:6]] for line in section.splitlines()]
    assert ["large batch", "2", "2", "2"] in rows
    assert ["local sgd, K=2", "2", "6", "3"] in rows
    warmups = {
        record["settings"]["warmup"]
        for record in store.read_lines(run.path_of(tmp_path, "MLP, shared", "large batch"))
    }
    assert warmups == {0.0, 0.5}  # two programs


def test_the_protocol_is_the_one_that_was_fixed():
    assert len(STUDY.settings) * len(STUDY.primary) == 20
    assert set(STUDY.contestants) == {"sgd", "sam", "swa", "rsgd", "esgd"}
    assert STUDY.rounds == ((16, 2), (5, 5), (2, 10))
    assert min(STUDY.seeds_of_test("MLP, 2k, clean")) == 1000
    assert [
        len(STUDY.seeds_of_test(one)) for one in ("MLP, 2k, clean", "conv net, 500, clean")
    ] == [
        40,
        20,
    ]
    assert set(SMALLS["main"].settings) < set(STUDY.settings)
    for name, contestant in STUDY.contestants.items():
        assert contestant.algorithm == name
        for field, part in contestant.space.items():
            values = [candidate[field] for candidate in STUDY.candidates(name)]
            if isinstance(part, Choice):
                assert set(values) == set(part.values)
            else:
                spread = np.ptp(np.log(values)) / np.log(part[1] / part[0])
                assert 0.7 < spread < 1
