"""How steps scale over devices and processes, with replicas, and with parameters.

Functions that are compared are timed in turn, in processes that wait for each other. Slow periods
of the machine therefore affect all of them. Numbers are medians of ratios over rounds.
"""

import contextlib
import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.optimize

from experiments.benchmarks import scaling_report
from experiments.benchmarks.machine import available_cores, describe_machine
from experiments.benchmarks.scaling_worker import Work, Workers
from experiments.engine import console
from experiments.report import bars
from experiments.report.store import FIGURES, RESULTS, read_json, write_json
from experiments.studies.scale import cost_model, machines

ALGORITHMS = {
    "SGD": {"algorithm": "sgd"},
    "rSGD": {"algorithm": "rsgd"},
    "rSGD, K=16": {"algorithm": "rsgd", "period": 16},
}
GROWING = {"SGD": {"algorithm": "sgd"}, "rSGD x 2": {"algorithm": "rsgd", "replicas": 2}}
GROWING |= {"eSGD": {"algorithm": "esgd"}}
QUICK = {
    "networks": ("mlp",),
    "algorithms": ("rSGD",),
    "batch_size": 4,
    "rounds": 1,
    "seconds": 0.0,
    "replicas": (2,),
    "parameters": (10**4,),
    "grown": ("SGD",),
    "sizes": (1, 1000),
}


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Measure weak and strong scaling on two cores, growth, memory and gloo's speed.

    Example: python -m experiments.benchmarks.scaling
    """

    networks: tuple[str, ...] = ("mlp", "small_convnet")
    """Networks of flatjax.models, on images of 28 x 28 pixels."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)
    """Algorithms to spread over two devices: SGD along data, the others along replica."""
    batch_size: int = 128
    """Images in each gradient of a replica, and of SGD on each device."""
    rounds: int = 11
    """Number of rounds. Each round times everything once, in turn; medians count."""
    seconds: float = 0.3
    """Seconds of a run; slower algorithms make one step, or one period."""
    replicas: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of replicas y, on one core."""
    parameters: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7, 10**8)
    """Approximate parameters of perceptrons with two hidden layers."""
    grown: tuple[str, ...] = tuple(GROWING)
    """Algorithms on these perceptrons, each in a separate process; SGD is one of them."""
    sizes: tuple[int, ...] = (1, 10**2, 10**3, 10**4, 10**5, 10**6, 4 * 10**6)
    """Sizes of the float32 arrays in all-reduces."""
    quick: bool = False
    """Measure everything once and small, only to see that it works."""
    draw: bool = False
    """Print and draw the results in --out, and measure nothing."""
    progress: bool = True
    """Show progress bars on a terminal."""
    out: pathlib.Path | None = None
    """JSON file for the result; experiments/results/benchmarks/scaling.json by default, or in
    runs/scaling with --quick."""
    figure: pathlib.Path | None = None
    """Picture of the result; experiments/figures/scaling.png by default, or in runs/scaling."""

    def run(self) -> None:
        """Measures, prints Markdown tables, draws."""
        quick = pathlib.Path("runs", "scaling") if self.quick else None
        out = self.out or (quick or RESULTS / "benchmarks") / "scaling.json"
        figure = self.figure or (quick or FIGURES) / "scaling.png"
        if not self.draw:
            settings = dataclasses.replace(self, **QUICK) if self.quick else self
            found = settings.measure()
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out.absolute(), found)
        found = read_json(out)
        print(scaling_report.tables(found))
        figure.parent.mkdir(parents=True, exist_ok=True)
        scaling_report.figure(found, figure)

    def measure(self) -> dict[str, Any]:
        """Measures everything and returns it as it is written.

        Raises:
          ValueError: there are fewer than two cores.
        """
        cores = available_cores()
        if len(cores) < 2:
            raise ValueError(f"two cores are needed, got {len(cores)}.")
        first, second = cores[:2]
        settings = dataclasses.asdict(self)
        for name in ("out", "figure", "draw", "progress"):
            del settings[name]
        found: dict[str, Any] = {"machine": describe_machine(), "settings": settings}
        with (
            Workers([[first]]) as one,
            Workers([[first, second]], devices=2) as devices,
            Workers([[first], [second]]) as pair,
        ):
            pairs = {"devices": devices, "processes": pair}
            found["links"] = {name: self._link(workers) for name, workers in pairs.items()}
            found["scaling"] = [
                row
                for network in self.networks
                for row in self._scaling(network, one, pairs, found["links"])
            ]
            found["replicas"] = [
                row for network in self.networks for row in self._replicas(network, one)
            ]
        found["parameters"] = [row for number in self.parameters for row in self._grown(number)]
        return found

    # --- over two devices -----------------------------------------------------------------------

    def _link(self, workers: Workers) -> dict[str, Any]:
        """Measures latency and bandwidth of an all-reduce between two devices."""
        calls = {}
        for size in self._bar(self.sizes, "all-reduces"):
            work = Work("all_reduce", replica=2, size=size)
            calls[size] = self._prepared(workers, f"all-reduce {size}", work)
        times = self._race(calls)
        seconds = [float(np.median(times[size])) for size in self.sizes]
        link = fit_link(self.sizes, seconds)
        return {"sizes": list(self.sizes), "seconds": seconds} | dataclasses.asdict(link)

    def _scaling(self, network, one, pairs, links) -> list[dict[str, Any]]:
        """Measures each algorithm's fraction of the ideal, on two devices and processes."""
        base = Work("sgd", network, batch_size=self.batch_size)
        calls = {
            "SGD": self._prepared(one, f"{network} SGD", base),
            # Two independent steps on two cores are the ideal: nothing can be faster.
            "apart": self._prepared(
                pairs["processes"], f"{network} alone", dataclasses.replace(base, is_alone=True)
            ),
        }
        for name in self._bar(self.algorithms, network):
            if name != "SGD":
                work = dataclasses.replace(base, replicas=2, **ALGORITHMS[name])
                calls["one", name] = self._prepared(one, f"{network} {name}", work)
                work = dataclasses.replace(work, replica=2)
            else:
                work = dataclasses.replace(base, batch_size=2 * self.batch_size)
                calls["one", name] = self._prepared(one, f"{network} SGD twice", work)
                work = dataclasses.replace(work, data=2)
            for where, workers in pairs.items():
                calls[where, name] = self._prepared(workers, f"{network} {name} on 2", work)
        times = self._race(calls)
        parameters = pairs["processes"].known[f"{network} alone"]["parameters"]
        apart = float(np.median(times["apart"]))
        rows = []
        for where in pairs:
            for name in self.algorithms:
                measured = times[where, name]
                predicted = self._predicted(name, parameters, apart, links[where])
                rows.append(
                    {
                        "network": network,
                        "algorithm": name,
                        "where": where,
                        "weak": quartiles(times["SGD"] / measured),
                        "strong": quartiles(times["one", name] / (2 * measured)),
                        "apart": quartiles(times["SGD"] / times["apart"]),
                        "milliseconds": 1e3 * float(np.median(measured)),
                        "predicted": 1e3 * predicted,
                    }
                )
        return rows

    def _predicted(self, name, parameters, seconds, link):
        """Predicts by the cost model, from the time of a step without communication."""
        between = machines.Link(link["latency"], link["bandwidth"])
        # Operations are counted per example; each step's time includes the update.
        rate = self.batch_size / seconds
        machine = machines.Machine(rate, math.inf, math.inf, 1, between, between, overlaps=False)
        job = cost_model.Job(parameters, flops_per_example=1.0, batch=2 * self.batch_size)
        plan = {"data": 2} if name == "SGD" else {"replicas": 2, "replica": 2}
        return cost_model.cost(cost_model.Plan(**ALGORITHMS[name], **plan), job, machine).step

    # --- with y, with parameters ----------------------------------------------------------------

    def _replicas(self, network, one) -> list[dict[str, Any]]:
        """Measures step and compilation of y replicas on one core, relative to SGD."""
        base = Work("sgd", network, batch_size=self.batch_size)
        calls = {"SGD": self._prepared(one, f"{network} SGD", base)}
        for y in self._bar(self.replicas, f"{network}, y"):
            work = dataclasses.replace(base, algorithm="rsgd", replicas=y)
            calls[y] = self._prepared(one, f"{network} y={y}", work)
        times = self._race(calls)
        compiled = lambda name: one.known[f"{network} {name}"]["compile_seconds"]
        return [
            {
                "network": network,
                "y": y,
                "step": quartiles(times[y] / times["SGD"]),
                "milliseconds": 1e3 * float(np.median(times[y])),
                "compile_seconds": compiled(f"y={y}"),
                "sgd_compile_seconds": compiled("SGD"),
            }
            for y in self.replicas
        ]

    def _grown(self, number) -> list[dict[str, Any]]:
        """Measures steps and memory of a perceptron of this size, in separate processes."""
        hidden = (hidden_width(number),) * 2
        cores = available_cores()
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(Workers([cores])) for name in self.grown}
            calls = {}
            for name in self._bar(self.grown, f"{number:.0e} parameters"):
                work = Work(hidden=hidden, batch_size=self.batch_size, **GROWING[name])
                calls[name] = self._prepared(workers[name], name, work)
            times = self._race(calls)
            peaks = {name: one.peak_bytes(name) for name, one in workers.items()}
        return [
            {
                "algorithm": name,
                "step": quartiles(times[name] / times["SGD"]),
                "milliseconds": 1e3 * float(np.median(times[name])),
                **one.known[name],
                "peak_bytes": peaks[name],
                **counted_bytes(name, one.known[name]["parameters"]),
            }
            for name, one in workers.items()
        ]

    # --- timing ---------------------------------------------------------------------------------

    def _prepared(self, workers, name, work):
        if name not in workers.known:
            workers.prepare(name, work, self.seconds)
        return lambda: workers.run(name)

    def _race(self, calls):
        """Returns seconds of a step of each, in all rounds."""
        rounds = self._bar(range(self.rounds), "rounds")
        times = [{name: call() for name, call in calls.items()} for _ in rounds]
        return {name: np.array([row[name] for row in times]) for name in calls}

    def _bar(self, values, description):
        return bars.bar(values, progress=self.progress, desc=description, leave=False)


def quartiles(ratios: np.ndarray) -> list[float]:
    """Returns the quartiles of measured values; the median is in the middle."""
    return [round(float(q), 4) for q in np.quantile(ratios, (0.25, 0.5, 0.75))]


def hidden_width(parameters: int) -> int:
    r"""Computes the width of two hidden layers with about this many parameters.

    The width h is the root of :math:`h^2 + (784 + 10 + 2) h + 10 = P`, at least 1.

    Examples:
      >>> from experiments.benchmarks.scaling import hidden_width
      >>> hidden_width(10**6)
      678
    """
    return max(1, round(-398 + math.sqrt(398**2 + parameters - 10)))


def fit_link(sizes: Sequence[int], seconds: Sequence[float]) -> machines.Link:
    """Fits alpha and beta of an all-reduce between two, by relative least squares.

    Neither is negative: if one would be, it is set to 0 and the other is fitted alone.

    Examples:
      >>> from experiments.benchmarks.scaling import fit_link
      >>> link = fit_link([0, 1000], [2e-4, 2.2e-3])  # 2 messages, 4 bytes a number
      >>> f"{1e6 * link.latency:.0f} µs, {1e-6 * link.bandwidth:.0f} MB/s"
      '100 µs, 2 MB/s'
    """
    group = machines.Group(1, 2)
    sent = [machines.all_reduce(cost_model.FLOAT32 * size, group) for size in sizes]
    rows = np.array([[traffic.inter_messages, traffic.total] for traffic in sent])
    relative = rows / np.array(seconds)[:, None]
    # Bytes in units of the largest, because the two differ by many orders of magnitude.
    unit = relative[:, 1].max()
    found, _ = scipy.optimize.nnls(relative / [1, unit], np.ones(len(rows)))
    return machines.Link(float(found[0]), float(unit / found[1]) if found[1] else math.inf)


def counted_bytes(name: str, parameters: float) -> dict[str, float]:
    """Counts by the cost model the bytes of an algorithm: state, and in total."""
    plan = cost_model.Plan(**GROWING[name])
    state = plan.state_copies * cost_model.FLOAT32 * parameters * plan.replicas
    whole = cost_model.memory(plan, cost_model.Job(parameters, 1.0, 1.0))
    return {"counted_state_bytes": state, "counted_bytes": whole}


if __name__ == "__main__":
    sys.exit(console.run(Scaling, "python -m experiments.benchmarks.scaling"))
