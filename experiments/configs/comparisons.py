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
    """Returns the study of a data set, "communication", or a row of the table.

    Data sets without their own study use the study of Fashion-MNIST; it must be fitted to them.
    """
    if dataset in COMPARISONS:
        return COMPARISONS[dataset]
    study = fashion_mnist.STUDY
    return dataclasses.replace(study, base=study.changed({"dataset": dataset}))
