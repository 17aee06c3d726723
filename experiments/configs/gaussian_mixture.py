"""The chapter on Gaussian mixtures: the simulated points.

command:   python -m experiments gaussian-mixture
hardware:  2 CPU cores; --small takes about two minutes
"""

import dataclasses

from experiments.studies.gaussian_mixture.description import Chapter

STUDY = Chapter(parts=("minima", "algorithms", "replicas", "entropy"), num_features=1000, seeds=10)

SMALL = dataclasses.replace(
    STUDY, parts=("minima",), num_features=200, seeds=6, theory=("local_entropy",)
)
