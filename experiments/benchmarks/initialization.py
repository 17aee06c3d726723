"""Compile time of the initial state of a run of each deep network."""

import dataclasses
import itertools
import pathlib
import sys
import time

import jax

from experiments.benchmarks.machine import describe_machine
from experiments.configs.deep import row_of
from experiments.engine import console
from experiments.engine.config import TrainConfig
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.programs import Programs
from experiments.engine.task import make_task
from experiments.report.store import RESULTS, read_if_there, write_json
from experiments.report.tables import markdown_table

Found = dict[str, float]
TIMES = ("trace", "lower", "compile", "run")


@dataclasses.dataclass(frozen=True)
class Initialization:
    """Measure the compile time of weights and optimizer state of runs with SGD.

    Times are CPU times of this process, which hardly depend on other work of the machine.

    Example: python -m experiments.benchmarks.initialization --rows cifar10-resnet18 --out init.json
    """

    rows: tuple[str, ...] = ("cifar10-resnet18", "cifar100-efficientnet", "cifar10-pyramidnet")
    """Names of rows of the paper's table."""
    out: pathlib.Path = RESULTS / "benchmarks" / "initialization.json"
    """JSON file of the results; rows that it has are not measured again."""

    def run(self) -> None:
        """Measures the missing rows and prints the table."""
        found = (read_if_there(self.out) or {"found": {}})["found"]
        for name in self.rows:
            if name not in found:
                found[name] = measure(row_of(name).base)
                self.out.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.out.absolute(), {"machine": describe_machine(), "found": found})
        print(describe_machine() + "\n")
        print(table(found))


def measure(base: TrainConfig) -> Found:
    """Measures the first state of SGD, on digits that are enlarged to 32 x 32 x 3.

    Returns:
      CPU seconds: `"trace"` of the network (its weights and logits), `"lower"` of the program to
      the compiler's language, `"compile"` and `"run"`.
    """
    network = {"model": base.network.model, "model_options": base.network.model_options}
    config = TrainConfig.of(algorithm="sgd", dataset="digits", rgb32=True, **network)
    moments = [time.process_time()]
    tick = lambda: moments.append(time.process_time())
    program = Programs(make_plan(config, make_task(config))).init
    tick()
    arguments = (hyper_of(config), config.seed)
    lowered = program.lower(*arguments)
    tick()
    compiled = lowered.compile()
    tick()
    jax.block_until_ready(compiled(*arguments))
    tick()
    spans = itertools.pairwise(moments)
    return {name: round(end - start, 2) for name, (start, end) in zip(TIMES, spans, strict=True)}


def table(found: dict[str, Found]) -> str:
    """Formats the times as a Markdown table, in CPU seconds."""
    lines = [["row", *TIMES]]
    lines += [[row, *(f"{times[name]:.1f}" for name in TIMES)] for row, times in found.items()]
    return markdown_table(lines)


if __name__ == "__main__":
    sys.exit(console.run(Initialization, "python -m experiments.benchmarks.initialization"))
