"""A contest with made-up records, written as runs would, without training."""

import dataclasses

import numpy as np

from experiments.configs.contest import STUDY
from experiments.report import store
from experiments.studies.contest import run
from experiments.studies.contest.report import read_contest, report
from experiments.studies.contest.search import search

SETTINGS = ("MLP, 500, clean", "conv net, 2k, 20% noise")
LENGTHS = dict(zip(SETTINGS, (3, 1), strict=True))
FAKE = dataclasses.replace(STUDY, lengths=LENGTHS, test_seeds={"mlp": 6, "small_convnet": 4})
FAKE = dataclasses.replace(
    FAKE, base=STUDY.base.changed(dataset="digits"), trials=4, rounds=((4, 1), (2, 2))
)


class Writer:
    """Writes records of one setting and contestant as runs would, without training."""

    def __init__(self, contest, setting, name, out):
        self.contest, self.setting, self.name = contest, setting, name
        self.path = run.path_of(out, setting, name)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.errors, self.candidates = {}, []

    def write(self, part, candidate, seed, outcomes):
        """Adds the record of one run."""
        config = run.config_of(self.contest, self.setting, self.name, part).to_json()
        keys = {"part": part, "candidate": candidate, "seed": seed}
        about = {"settings": self.candidates[candidate], "config": config}
        about |= {"data": run._data(self.contest), "gradient_evaluations": 1}
        store.append_line(self.path, keys | outcomes | about)

    def search(self, error_of):
        """Adds the records of a search with these errors of the seeds; what it chose."""
        while (found := search(self.contest, self.name, self.errors)).missing:
            self.candidates = found.candidates
            new = {(candidate, seed): error_of(seed) for candidate, seed in found.missing}
            for (candidate, seed), error in new.items():
                self.write("validation", candidate, seed, {"validation_error": error})
            self.errors |= new
        return found.chosen


def outcomes_of(error, rise):
    quality = dict.fromkeys(("calibration_error", "brier_score", "temperature"), 1.0)
    quality |= {"test_error": error, "test_loss": error / 40, "scaled_loss": 0.5}
    flat = {"train_error": 1.0, "train_loss": 0.1, "local_energy": [1.0, 2.0, 3.0, 4.0]}
    rises = {"3 bits, tensor": {"error": rise, "loss": 0.2}}
    besides = {"ema": quality, "stopped early": quality}
    more = {"rises": rises, "tolerance": {"1": 0.1, "5": None}, "besides": besides}
    return quality | flat | more


def write_contest(contest, out):
    """Records of a whole contest; the later a contestant comes, the better it is."""
    rng = np.random.default_rng(0)
    for setting in contest.lengths:
        hard = rng.normal(20, 2, 2000)  # of each seed, common to all contestants
        for shift, name in enumerate(contest.contestants):
            writer = Writer(contest, setting, name, out)
            chosen = writer.search(lambda seed, hard=hard: hard[seed] + rng.normal(0, 1))
            for seed in contest.seeds_of_test(setting):
                error = hard[seed] - 0.2 * shift + rng.normal(0, 0.3)
                writer.write("test", chosen, seed, outcomes_of(error, rng.normal(5, 1)))


def report_in(out):
    """Writes a whole contest and its report; returns the folder."""
    write_contest(FAKE, out)
    report(FAKE, read_contest(FAKE, out), out)
    return out
