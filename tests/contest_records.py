"""Reads the records of a contest."""

import json

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
