"""What commands say of replicas that have not met, of single seeds, and of what a table shows."""

import json
import math

import pytest

from experiments import __main__ as command_line
from experiments.commands import train
from experiments.configs import digits
from experiments.engine.config import TrainConfig
from experiments.report.meeting import meeting_of, not_met
from experiments.report.statistics import LEAST_FOR_TAU, mean_and_sem, with_error
from experiments.studies import tune
from experiments.studies.compare import report
from experiments.studies.compare.description import Comparison


def result(center, replicas, distance=0.7, algorithm="rsgd", **fields):
    """The result of a run, as far as it is reported."""
    return {
        "config": {"algorithm": algorithm},
        "gradient_evaluations": 123_456,
        "seconds": 100.0,
        "test_error": center,
        "train_error": 0.0,
        "replica_test_errors": replicas,
        "ensemble_test_error": center,
        "local_energy": {"sigma": [0.4], "error": [12.34]},
        "history": [{"relative_distance": distance}],
    } | fields


def test_replicas_that_have_met_are_passed_over():
    results = [result(8.9, [8.0, 8.0]), result(3.0, [3.0])]
    assert not_met([meeting_of(one) for one in results]) is None
    assert not_met([None]) is None


@pytest.mark.parametrize("others", [0, 2])
def test_replicas_that_have_not_met_are_reported(others):
    apart = result(16.6, [7.0, 9.0])
    results = [apart] + others * [result(8.0, [8.0, 8.0], 0.0)]
    found = not_met([None, *map(meeting_of, results)])
    start = "in 1 of 3 runs replicas" if others else "replicas"
    assert found.startswith(
        f"{start} have not met (distance 0.7, center 16.6 %, replicas 8 %): their center is no"
    )


def test_a_single_value_has_no_error_and_few_solutions_no_ranking():
    assert with_error(*mean_and_sem([1.5]), 1, sign="+") == "+1.50"
    assert with_error(*mean_and_sem([1.0, 2.0]), 2) == "1.50 ± 0.50"
    p_values = [2 / math.factorial(n) for n in (LEAST_FOR_TAU - 1, LEAST_FOR_TAU)]
    assert p_values[0] > 0.05 > p_values[1]  # of the two perfect rankings, by chance


STUDY = Comparison(base=TrainConfig.of(), runs={}, seeds=1, sigma=0.4, conclusion=100 * "word ")


@pytest.mark.parametrize("with_statistics", [False, True])
@pytest.mark.parametrize("seeds", [1, 5])
def test_a_comparison_fits_100_columns_and_says_what_it_shows(seeds, with_statistics):
    extra = {"test_error_averaged_statistics": 10.0} if with_statistics else {}
    runs = [result(50.0 + seed, [10.0, 10.0], **extra) for seed in range(seeds)]
    results = {"rSGD x 3": runs}
    rows = report.summarize(results, sigma=0.4)
    text = report.table(rows, sigma=0.4) + "\n" + report.conclusion(STUDY, results)
    assert max(map(len, text.splitlines())) <= 100
    assert ("±" in text) == (seeds > 1)
    assert "word word" in text
    assert "warning: rSGD x 3: " in text
    assert "have not met" in " ".join(text.split())


def test_a_search_shows_no_error_of_one_seed_and_warns_of_its_best():
    warning = not_met([meeting_of(result(16.6, [7.0, 9.0]))])
    rows = [
        {"settings": {}, "seeds": 1, "validation_error": (16.6, 0.0), "warning": warning},
        {"settings": {}, "seeds": 2, "validation_error": (17.0, 0.5), "warning": None},
        {"settings": {}, "seeds": 2, "validation_error": None, "warning": None},
    ]
    text = tune.report({"rSGD": rows})
    assert [word in text for word in ("16.60 %", "17.00 ± 0.50 %", "diverged", "± 0.00")] == [
        *(True, True, True, False)
    ]
    assert "warning, of the first: replicas have not met" in text


def test_the_first_command_says_that_digits_prove_nothing():
    assert "not which one is better" in digits.STUDY.conclusion


RUN = ["--dataset", "digits", "--train-size", "100", "--batch-size", "50", "--epochs", "2"]
RUN += ["--held-out-size", "100", "--local-energy-samples", "2", "--local-energy-examples", "50"]
RUN += ["--replicas", "2", "--no-progress"]


def test_train_ends_in_a_sentence_or_in_json(monkeypatch, capsys):
    monkeypatch.setattr(train, "train", lambda *_, **__: result(16.6, [7.0, 9.0]))
    command = ["train", "--out", "somewhere"]
    assert command_line.main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "digits-mlp-rsgd-seed-0: test error 16.60 % (its replicas 8.00 %), training error 0.00 %. "
        "Noise of σ = 0.4 on the weights raises it by 12.34 points. "
        "The run took 123,456 gradients and 100 s. The model is in somewhere/model.\n"
    )
    assert shown.err.startswith("warning: replicas have not met (distance 0.7, center 16.6 %,")
    assert command_line.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replica_test_errors"] == [7.0, 9.0]


@pytest.mark.slow
def test_the_replicas_of_a_run_that_is_not_coupled_have_not_met(tmp_path, capsys):
    """They hardly feel each other."""
    weak = ["--gamma", "1e-6", "--gamma-factor", "1", "--learning-rate", "0.5"]
    command = ["train", "--algorithm", "rsgd", *RUN, *weak, "--out", str(tmp_path / "run")]
    assert command_line.main(command) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1
    assert "seed-0: test error" in shown.out
    assert shown.out.endswith(f"The model is in {tmp_path / 'run' / 'model'}.\n")
    assert "warning: replicas have not met (distance" in shown.err
    assert command_line.main([*command, "--json"]) == 0  # of the complete run
    found = json.loads(capsys.readouterr().out)
    assert found["test_error"] > max(found["replica_test_errors"])
