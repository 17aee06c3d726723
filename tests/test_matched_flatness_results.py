"""What the chapter on networks that fit their data says, from records of each network."""

import functools
import pathlib

import numpy as np
import pytest
from pair_taus import partial_tau_within, tau_within

from experiments.configs.matched_flatness import STUDY
from experiments.report import store
from experiments.studies.solutions import path_of

FOLDER = store.RESULTS / "matched-flatness"
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "matched_flatness.md"
WORDS = " ".join(PAGE.read_text().split())
STORED = store.read_json(FOLDER / "matched_flatness.json")
MLP, NOISY, CONV, NORMED = STUDY.networks


@functools.cache
def records_of(network, algorithm):
    found = store.read_lines(path_of(FOLDER, network, algorithm), must_be_sealed=True)
    keys = [(record["settings"], record["seed"]) for record in found]
    assert sorted(keys, key=str) == sorted(STUDY.runs(network, algorithm), key=str)
    return found


def ranked(network, algorithm):
    return [r for r in records_of(network, algorithm) if r.get("train_error", 100) <= 1]


def columns(network):
    """Predictors, outcomes and seeds of all networks that are ranked."""
    used = [record for name in STUDY.algorithms for record in ranked(network, name)]
    names = used[0]["predictors"]
    found = {name: [record["predictors"][name] for record in used] for name in names}
    return found | {
        name: [record[name] for record in used] for name in ("test_error", "test_loss", "seed")
    }


def tau(network, name, outcome="test_error", kind="within"):
    return STORED["taus"][network][kind][name][outcome]


@pytest.mark.parametrize("network", STUDY.networks)
def test_taus_are_those_of_the_records(network):
    found = columns(network)
    for name in ("local_energy", "norm", "train_loss"):
        for outcome in ("test_error", "test_loss"):
            by_loop = tau_within(found[name], found[outcome], found["seed"])
            assert tau(network, name, outcome)["value"] == pytest.approx(by_loop)
    given = [found[name] for name in ("train_loss", "norm", "narrowness")]
    pair = found["local_energy"], found["test_error"]
    by_loop = partial_tau_within(*pair, given, found["seed"])
    assert tau(network, "local_energy", kind="partial within")["value"] == pytest.approx(by_loop)


def is_clear(network, name, **options):
    return tau(network, name, **options)["is_clear"]


def shown(network, name, **options):
    return f"{tau(network, name, **options)['value']:+.2f}"


PARTIAL = {"kind": "partial within"}


@pytest.mark.claim("experiments/RESULTS.md", "On conv nets it does; given training loss, norm and")
def test_where_local_energy_tells_the_test_error():
    for network in (CONV, NORMED):
        assert is_clear(network, "local_energy")
        assert tau(network, "local_energy")["value"] > 0
    whole, given = (shown(CONV, "local_energy", **options) for options in ({}, PARTIAL))
    assert f"flatter networks test better** (τ = {whole})" in WORDS
    assert f"they still do (partial τ = {given})" in WORDS
    assert is_clear(CONV, "local_energy", **PARTIAL)
    whole, given = (shown(NORMED, "local_energy", **options) for options in ({}, PARTIAL))
    assert f"they do, too** (τ = {whole}), but given these three it is not clear" in WORDS
    assert f"(partial τ = {given})" in WORDS
    assert not is_clear(NORMED, "local_energy", **PARTIAL)
    for network in (MLP, NOISY):
        for options in ({}, PARTIAL):
            low, high = tau(network, "local_energy", **options)["interval"]
            assert low < 0 < high
            assert not is_clear(network, "local_energy", **options)


def test_what_else_ranks():
    norms = [tau(network, "norm")["value"] for network in (CONV, NORMED)]
    assert f"(τ = {norms[0]:+.2f}, and {norms[1]:+.2f} with batch norm)" in WORDS
    for network, norm in zip((CONV, NORMED), norms, strict=True):
        assert norm > tau(network, "local_energy")["value"]
    for network in STUDY.networks:
        for name in ("train_loss", "sam"):
            assert tau(network, name, "test_loss")["value"] < 0
            assert is_clear(network, name, outcome="test_loss")


def test_medians_of_the_algorithms():
    median = lambda network, name, read: np.median([read(r) for r in ranked(network, name)])
    assert ranked(NOISY, "SAM") == []
    energy = lambda record: record["predictors"]["local_energy"]
    for network in (MLP, NOISY):
        names = [name for name in STUDY.algorithms if ranked(network, name)]
        assert max(names, key=lambda name: median(network, name, energy)) == "eSGD"
    error = lambda record: record["test_error"]
    gaps = [
        median(network, "eSGD", error) - median(network, "SGD", error) for network in (MLP, NOISY)
    ]
    assert abs(gaps[0]) < 0.2
    assert -2.5 < gaps[1] < -1.5
