"""Reads the records of a contest."""

import json

import numpy as np

from experiments.report import store

RECORDS = store.RESULTS / "contest"

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


def comparisons_of(stage):
    """{(setting, contestant, reference, quantity): row} of a stage's report."""
    rows = store.read_json(RECORDS / f"{stage}.json")["comparisons"]
    keys = ("setting", "contestant", "reference", "quantity")
    return {tuple(row[key] for key in keys): row for row in rows}


def lines_of(setting, name):
    """All records of a contestant in a setting."""
    return store.read_lines(RECORDS / store.slug(setting) / f"{store.slug(name)}.jsonl")


def validation_errors(setting, name):
    """[(settings, {seed: error})] of all candidates."""
    found = {}
    for line in lines_of(setting, name):
        if line["part"] == "validation":
            found.setdefault(line["candidate"], (line["settings"], {}))
            found[line["candidate"]][1][line["seed"]] = line["validation_error"]
    return list(found.values())


def noisy_contest(algorithm, change):
    """Test error and its rise of the contest's 40 seeds, with 2,000 images and 20% noise."""
    found = records_in(RECORDS, "MLP, 2k, 20% noise", algorithm)
    records = [found[seed] for seed in sorted(found)]
    assert len(records) == 40
    error = np.array([record["test_error"] for record in records])
    rise = np.array([record["rises"][change]["error"] for record in records])
    return error, rise
