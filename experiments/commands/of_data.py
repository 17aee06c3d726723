"""The common options of `compare` and `tune`: data, and changes of the study."""

import dataclasses
import pathlib

from experiments.commands.in_parts import require_at_least
from experiments.configs.comparisons import COMPARISONS, study_of
from experiments.report.store import slug
from experiments.studies.compare.description import Comparison
from experiments.studies.compare.own_data import fitted, with_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfData:
    """A command that trains the algorithms of a study on one data set."""

    dataset: str = "digits"
    """digits (included, under two minutes on two cores), fashion_mnist, or any image classification
    set of TensorFlow Datasets. For your own data: folder:PATH, npz:PATH or npy:FOLDER, as for
    train. Or a row, as for reproduce."""
    model: str | None = None
    """A name of flatjax.models (mlp, small_convnet, resnet18, ...), or your own linen module,
    package.module:Class. By default the network of the study; for your own data small_convnet, or
    mlp if they are vectors."""
    batch_size: int | None = None
    """Examples in each gradient evaluation. By default that of the study; for your own data 128, or
    all training examples if there are fewer."""
    epochs: float | None = None
    """Budget: passes over the training set, in gradient evaluations of all replicas together. A run
    "x 3" has three times as many. By default that of the study."""

    def study(self, *, epochs_scale: float = 1.0, for_tuning: bool = False) -> Comparison:
        """Returns the study of the data set, with the changes.

        Raises:
          ValueError: an option is refused, or the data cannot be loaded.
        """
        require_at_least(1, batch_size=self.batch_size)
        require_at_least(0, epochs=self.epochs, epochs_scale=epochs_scale)
        study = study_of(self.dataset)
        if self.dataset not in COMPARISONS:
            study = fitted(study, for_tuning=for_tuning)
        return with_settings(
            study,
            model=self.model,
            batch_size=self.batch_size,
            epochs=self.epochs,
            epochs_scale=epochs_scale,
        )

    def directory(self, command: str, *, epochs_scale: float = 1.0) -> pathlib.Path:
        """Returns the default directory, which names the data and what was changed."""
        scale = None if epochs_scale == 1.0 else f"{epochs_scale:g}"
        batch = None if self.batch_size is None else f"batch-{self.batch_size}"
        epochs = None if self.epochs is None else f"epochs-{self.epochs:g}"
        parts = (command, self.dataset, self.model, batch, epochs, scale)
        return pathlib.Path("runs", slug("-".join(filter(None, parts))))
