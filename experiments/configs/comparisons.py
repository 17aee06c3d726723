"""The comparison of each data set, by name."""

import dataclasses
from collections.abc import Mapping

from experiments.configs import communication, deep, digits, fashion_mnist
from experiments.studies.compare.description import Comparison

COMPARISONS: Mapping[str, Comparison] = {
    "digits": digits.STUDY,
    "fashion_mnist": fashion_mnist.STUDY,
    "communication": communication.STUDY,
    **deep.ROWS,
}


def study_of(dataset: str) -> Comparison:
    """The study of a data set, "communication", or a row of the paper's table.

    Data sets without a study of their own get Fashion-MNIST's.
    """
    if dataset in COMPARISONS:
        return COMPARISONS[dataset]
    study = fashion_mnist.STUDY
    return dataclasses.replace(study, base=study.changed({"dataset": dataset}))
