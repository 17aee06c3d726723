"""`python -m experiments cost-model`."""

import dataclasses
import pathlib

from experiments.studies.scale.report import report


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Predict the time of a step on up to 4096 accelerators: where replicas and periods pay.

    Prints a table and writes it, and a picture, as cost_model.md and cost_model.png. The model is
    explained in docs/scale.md.

    Example: python -m experiments cost-model
    """

    out: pathlib.Path = pathlib.Path("runs", "cost-model")
    """Directory of the report."""

    def run(self) -> int:
        """Predicts; runs nothing."""
        print(report(self.out))
        return 0
