"""The study of robustness: ranks against plain loops, and runs that are recorded and continued."""

import dataclasses
import itertools

import numpy as np
import pytest

from experiments import __main__ as command_line
from experiments.configs import robustness as configs
from experiments.engine.config import TrainConfig
from experiments.report import store
from experiments.report.ranking import partial_tau, rank, tau_matrix
from experiments.studies.contest.run import path_of as contest_path
from experiments.studies.robustness import run
from experiments.studies.robustness.description import OUTCOMES, PREDICTORS, Group
from experiments.studies.robustness.report import count, rank_group, report
from experiments.studies.solutions import path_of
from flatjax.flatness import kendall_tau

# --- ranks ----------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
NUM = 30
HIDDEN = RNG.normal(size=NUM)
PREDICTED = {
    "norm": HIDDEN + 0.5 * RNG.normal(size=NUM),
    "sharp": HIDDEN + 0.3 * RNG.normal(size=NUM),
}
RISES = {"rise": np.round(HIDDEN + 0.5 * RNG.normal(size=NUM), 1)}  # with ties
PAIRS_OF = np.repeat(np.arange(NUM // 2), 2)
ALGORITHMS = np.where(np.arange(NUM) < NUM // 2, "a", "b")


def ranked(num_bootstrap=200, **changes):
    given = {"configurations": PAIRS_OF, "within": ALGORITHMS, "controls": ["norm"]}
    given |= {"planned": 2, "num_bootstrap": num_bootstrap} | changes
    return rank(PREDICTED, RISES, **given)


def test_taus_are_those_of_loops_over_pairs():
    found = ranked(num_bootstrap=5)
    for name, values in PREDICTED.items():
        expected = kendall_tau(values, RISES["rise"])
        assert found["all"][name]["rise"].value == pytest.approx(expected)
        total = of_measure = of_rise = 0
        for i, j in itertools.combinations(range(NUM), 2):
            if ALGORITHMS[i] == ALGORITHMS[j]:
                one = np.sign(values[i] - values[j])
                other = np.sign(RISES["rise"][i] - RISES["rise"][j])
                total, of_measure = total + one * other, of_measure + abs(one)
                of_rise += abs(other)
        within = found["within"][name]["rise"].value
        assert within == pytest.approx(total / np.sqrt(of_measure * of_rise))


def test_partial_tau_is_kendalls_formula_for_one_control():
    tau = kendall_tau
    xy = tau(PREDICTED["sharp"], RISES["rise"])
    xz, yz = (tau(PREDICTED["norm"], v) for v in (PREDICTED["sharp"], RISES["rise"]))
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    found = ranked(num_bootstrap=5)["partial"]
    assert found["sharp"]["rise"].value == pytest.approx(expected)
    # The control itself has no other control here, so that nothing is taken out.
    assert found["norm"]["rise"].value == pytest.approx(yz)


def test_partial_tau_of_two_controls_is_an_element_of_the_inverse():
    matrix = np.corrcoef(RNG.normal(size=(4, 20)))
    inverse = np.linalg.inv(matrix)
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_tau(matrix, 0, 1, [2, 3]) == pytest.approx(expected)
    assert np.isnan(partial_tau(np.ones((3, 3)), 0, 1, [2]))


def test_the_bootstrap_draws_configurations():
    """Copies of a solution in its own configuration add no information."""
    copy = lambda values: np.repeat(values, 3)
    once = ranked(configurations=np.arange(NUM))["all"]["sharp"]["rise"]
    many = rank(
        {"sharp": copy(PREDICTED["sharp"]), "norm": copy(PREDICTED["norm"])},
        {"rise": copy(RISES["rise"])},
        configurations=copy(np.arange(NUM)),
        within=copy(ALGORITHMS),
        controls=["norm"],
        planned=2,
        num_bootstrap=200,
    )["all"]["sharp"]["rise"]
    assert many.value == pytest.approx(once.value)
    assert many.sem == pytest.approx(once.sem)
    low, high = once.interval
    assert low < once.value < high


def test_clear_is_corrected_for_the_number_of_cells():
    strong, weak = (ranked(planned=planned)["all"]["sharp"]["rise"] for planned in (1, 10**9))
    assert strong.is_clear
    assert not ranked(planned=10**300)["all"]["sharp"]["rise"].is_clear
    assert strong[:3] == weak[:3]


def test_a_missing_value_ties_with_all():
    values = np.array([1.0, 2.0, np.nan, 3.0])
    signs = np.subtract(values[:, None] > values, values[:, None] < values, dtype=float)
    signs = signs[np.triu_indices(4, 1)]
    assert np.abs(signs).sum() == 3
    assert tau_matrix(np.stack([signs, signs]), np.ones(6))[0, 1] == pytest.approx(1)


# --- the study ------------------------------------------------------------------------------------


def test_centers_are_the_choices_of_the_contest():
    for name, center in configs.CHOICES.items():
        lines = store.read_lines(
            contest_path(store.RESULTS / "contest", "MLP, 2k, 20% noise", name)
        )
        assert {store.digest(r["settings"]) for r in lines if r["part"] == "test"} == {
            store.digest(center)
        }


def test_solutions_are_those_of_the_protocol():
    noisy, clean = configs.STUDY.groups.values()
    for algorithm, center in configs.CHOICES.items():
        solutions = noisy.solutions(algorithm)
        assert len(solutions) == 9 + 5
        assert [one.seed for one in solutions[:6]] == list(range(3000, 3006))
        for one in solutions[:6]:
            assert one.settings == {n: center[n] for n in ("learning_rate", "weight_decay")}
        assert {one.seed for one in solutions[6:]} == {3000}
        assert len({str(one.settings) for one in solutions}) == 9
    assert all(len(clean.solutions(algorithm)) == 6 for algorithm in clean.centers)
    assert sum(len(noisy.solutions(a)) + len(clean.solutions(a)) for a in noisy.centers) == 100


TINY = dataclasses.replace(
    configs.STUDY,
    base=TrainConfig.of(
        dataset="digits",
        batch_size=32,
        train_size=100,
        validation=0.2,
        model_options=("hidden=(8,)",),
    ),
    groups={
        "noisy": Group(
            fields={"model": "mlp", "epochs": 2, "label_noise": 0.2},
            centers={
                "sgd": {"learning_rate": 0.1, "weight_decay": 1e-3},
                "swa": {"learning_rate": 0.1, "weight_decay": 1e-3},
            },
            factors={"learning_rate": (0.5, 1)},
            seeds=(3000,),
            center_seeds=(3001,),
        )
    },
    outcomes=dataclasses.replace(configs.STUDY.outcomes, noise_samples=2, examples=50),
    steps=(2, 100),
    chains={"num_chains": 2, "num_steps": 10, "num_warmup": 10},
    chain_examples=20,
    chain_batch=10,
    collapsed=100.0,
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("robustness")
    run.run_study(TINY, out, progress=False)
    return out


@pytest.mark.slow
def test_every_solution_is_recorded_and_none_is_repeated(done):
    path = path_of(done, "noisy", "sgd")
    records = store.read_lines(path, must_be_sealed=True)
    keys = [(r["settings"]["learning_rate"], r["seed"]) for r in records]
    assert keys == [(0.1, 3000), (0.1, 3001), (0.05, 3000)]
    assert {r["config"]["label_noise"] for r in records} == {0.2}
    first = records[0]
    assert set(PREDICTORS) <= set(first["predictors"])
    assert set(OUTCOMES) <= set(first["rises"])
    assert first["rises"]["2 steps"] != records[1]["rises"]["2 steps"]
    assert first["second_task"]["100 steps"] < first["second_task"]["0 steps"]
    # One is missing, and is made again with the same numbers.
    store.write_lines(path, records[1:])
    run.run_study(TINY, done, progress=False)
    again = {(r["settings"]["learning_rate"], r["seed"]): r for r in store.read_lines(path)}
    assert len(again) == 3
    assert again[0.1, 3000]["test_error"] == first["test_error"]
    assert again[0.1, 3000]["rises"]["3 bits, tensor"] == first["rises"]["3 bits, tensor"]


@pytest.mark.slow
def test_records_of_other_settings_are_refused(done):
    other = dataclasses.replace(TINY, rate=0.02)
    with pytest.raises(store.OtherIdentityError, match=r"sgd\.jsonl, line 1 .*measured\.rate"):
        run.read_study(other, done)


# --- the report -----------------------------------------------------------------------------------


def made_up(seed, factors, configuration, algorithm):
    """A record whose rises follow the local energy within noise, and whose outliers do not."""
    rng = np.random.default_rng([seed, configuration, algorithm])
    energy = configuration + 0.1 * rng.normal()
    numbers = {name: float(rng.normal()) for name in PREDICTORS} | {"local_energy": energy}
    rises = {name: energy + 0.1 * rng.normal() for name in OUTCOMES}
    return {
        "factors": factors,
        "settings": {"learning_rate": 0.1 * factors["learning_rate"]},
        "seed": seed,
        "test_error": 20.0 + seed % 10,
        "train_error": 10.0,
        "predictors": numbers | {"learning_coefficient_sem": 0.1, "problems": []},
        "rises": {name: {"error": rise, "loss": rise} for name, rise in rises.items()},
        "second_task": {"0 steps": 60.0, "100 steps": 30.0},
    }


@pytest.fixture(scope="module")
def results():
    parts = {
        name: [
            made_up(seed, {"learning_rate": float(f), "weight_decay": 1.0}, c, a)
            for c, f in enumerate((1, 2, 3, 4, 5, 6))
            for seed in (3000, 3001)
        ]
        for a, name in enumerate(("sgd", "esgd"))
    }
    parts["sgd"][-1]["test_error"] = 90.0  # collapsed
    parts["esgd"][0]["predictors"] |= {"learning_coefficient": None, "problems": ["diverged"]}
    return {"20% noise": parts}


def test_what_decides_is_found(results):
    taus = rank_group(results["20% noise"], 50.0, num_bootstrap=200)
    for outcome in OUTCOMES:
        found = taus["all"]["local_energy"][outcome]
        assert found.value > 0.8
        assert found.is_clear
        assert not taus["all"]["outliers"][outcome].is_clear
    assert count(results["20% noise"], 50.0) == {
        "solutions": 24,
        "used": 23,
        "configurations": 12,
        "coefficients with a problem": 1,
    }


@pytest.mark.slow
def test_the_report_says_what_the_records_say(results, tmp_path):
    text = report(configs.STUDY, results, tmp_path)
    stored = store.read_json(tmp_path / "robustness.json")
    of_center = [r for r in results["20% noise"]["esgd"] if r["factors"]["learning_rate"] == 1]
    rises = [record["rises"]["3 bits, tensor"]["error"] for record in of_center]
    mean, sem = stored["algorithms"]["20% noise"]["esgd"]["rises"]["3 bits, tensor"]
    assert mean == pytest.approx(np.mean(rises), abs=1e-4)
    assert sem == pytest.approx(np.std(rises, ddof=1) / np.sqrt(2), abs=1e-4)
    assert f"{mean:.2f} ± {sem:.2f}" in text
    tau = stored["taus"]["20% noise"]["all"]["local_energy"]["90% pruned"]["value"]
    assert f"{tau:+.2f}*" in text
    assert (tmp_path / "robustness.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_command_reports_what_is_there(done, monkeypatch, capsys):
    monkeypatch.setattr(configs, "STUDY", TINY)
    assert command_line.main(["robustness", "--report-only", "--out", str(done)]) == 0
    assert "noisy (solutions 6" in capsys.readouterr().out
