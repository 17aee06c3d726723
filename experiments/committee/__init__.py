"""Committees on two classes: what learns them, how flat the solutions are, what it is worth."""

from experiments.committee.binary import run_binary
from experiments.committee.report import report
from experiments.committee.study import CommitteeStudy, run_study
from experiments.committee.task import available

__all__ = ["CommitteeStudy", "available", "report", "run_binary", "run_study"]
