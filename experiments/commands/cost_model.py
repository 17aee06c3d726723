"""`python -m experiments cost-model`."""

import dataclasses
import pathlib

from experiments.studies.scale.report import report


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Predict the time of a step on up to 4096 accelerators, by replicas and periods.

    Prints a table, and writes it as cost_model.md with a picture, cost_model.png. docs/scale.md
    explains the model.

    Example: python -m experiments cost-model
    """

    out: pathlib.Path = pathlib.Path("runs", "cost-model")
    """Directory of the report."""

    def run(self) -> int:
        """Predicts and writes; trains nothing."""
        print(report(self.out))
        return 0
