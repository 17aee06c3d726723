"""Fits a comparison to data and networks of the user."""

import dataclasses
from typing import Any

from experiments.engine.config import TrainConfig
from experiments.engine.task import load_splits
from experiments.studies.compare.description import Comparison
from flatjax import data

VALIDATION = 0.1  # fraction of the training examples on which settings are chosen


def tuning_base(study: Comparison) -> TrainConfig:
    """Returns the settings that all runs share while settings are chosen."""
    validation = study.base.data.validation or VALIDATION
    return study.changed({"validation": validation, "evaluate_on": "validation"}, study.tuning)


def fitted(study: Comparison, *, for_tuning: bool = False) -> Comparison:
    """Fits network, batches and the subset of the search to the data of a study.

    The network of vectors is an MLP. Batches and subset are at most all training examples.

    Args:
      study: a study of other data, whose base names the new data.
      for_tuning: whether part of the training examples is for validation, as in `tune`.

    Raises:
      ValueError: the data cannot be loaded, or not into memory.
    """
    settings = (tuning_base(study) if for_tuning else study.base).data
    train, _, _ = load_splits(dataclasses.replace(settings, train_size=None))
    changes: dict[str, Any] = {"batch_size": min(study.base.batch_size, len(train))}
    if isinstance(train, data.Split) and train.image.shape[1:3] == (1, 1):
        changes["model"] = "mlp"
    tuning = dict(study.tuning)
    if tuning.get("train_size", 0) >= len(train):
        del tuning["train_size"]
    return dataclasses.replace(study, base=study.changed(changes), tuning=tuning)


def with_settings(
    study: Comparison,
    *,
    model: str | None = None,
    batch_size: int | None = None,
    epochs: float | None = None,
    epochs_scale: float = 1.0,
) -> Comparison:
    """Changes settings of all runs; None leaves a setting as it is.

    Args:
      study: the study.
      model: the network.
      batch_size: examples in each gradient evaluation.
      epochs: budget of the base; a run with y times as many epochs keeps this ratio.
      epochs_scale: factor of every budget, instead of `epochs`.

    Raises:
      ValueError: `epochs` and `epochs_scale` are both given, or a value is refused.
    """
    if epochs is not None and epochs_scale != 1.0:
        raise ValueError("epochs must be left out if epochs_scale is given.")
    changes: dict[str, Any] = {} if model is None else {"model": model, "model_options": ()}
    changes |= {} if batch_size is None else {"batch_size": batch_size}
    factor = epochs_scale if epochs is None else epochs / study.base.epochs
    if factor != 1.0:
        changes["epochs"] = factor * study.base.epochs

    def changed(run):
        kept = {name: value for name, value in run.items() if name not in changes}
        return kept | ({"epochs": factor * run["epochs"]} if "epochs" in run else {})

    return dataclasses.replace(
        study,
        base=study.changed(changes),
        runs={label: changed(run) for label, run in study.runs.items()},
        tuning=changed(study.tuning),
    )
