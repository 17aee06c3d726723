"""Reads the records of a contest."""

import json

import numpy as np

from experiments.report import store

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def records_in(out, setting, contestant):
    """{seed: record} of the test, read without the code under test."""
    path_of = lambda name: out / store.slug(setting) / f"{store.slug(name)}.jsonl"
    own, along = contestant, None
    if not path_of(contestant).exists():
        own, along = contestant.rsplit(", ", 1)
    path = path_of(own)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    tests = {r["seed"]: r for r in records if r["part"] == "test"}
    if along:
        tests = {seed: record["besides"][along] for seed, record in tests.items()}
    return tests


def noisy_contest(algorithm, change):
    """Test error and its rise of the contest's 40 seeds, with 2,000 images and 20% noise."""
    found = records_in(store.RESULTS / "contest", "MLP, 2k, 20% noise", algorithm)
    records = [found[seed] for seed in sorted(found)]
    assert len(records) == 40
    error = np.array([record["test_error"] for record in records])
    rise = np.array([record["rises"][change]["error"] for record in records])
    return error, rise
