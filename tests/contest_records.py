"""Reads the records of a contest."""

import json

from experiments.report import store


def records_in(out, setting, contestant):
    """{seed: record} of the test, read without the code under test."""
    path = out / store.slug(setting) / f"{store.slug(contestant.split(', ')[0])}.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    tests = {r["seed"]: r for r in records if r["part"] == "test"}
    if ", " in contestant:
        along = contestant.split(", ")[1]
        tests = {seed: record["besides"][along] for seed, record in tests.items()}
    return tests
