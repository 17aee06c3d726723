"""A process that prepares and runs work on command, to be timed in turn.

It reads a line of JSON for each command and answers with another line; `Workers` talks to it. It is
started as `python -m experiments.benchmarks.scaling_worker SETTING`, where SETTING is JSON, too.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import flatjax
from experiments.engine import processes
from experiments.engine.placement import AXES, OnMesh
from flatjax import models

SHAPE = (28, 28, 1)


@dataclasses.dataclass(frozen=True)
class Work:
    """One timed piece of work: a training step, or an all-reduce.

    Attributes:
      algorithm: sgd, rsgd, esgd; or all_reduce, the mean of one array over `replica`.
      model: a name of `flatjax.models`.
      hidden: widths of its dense layers; None for the model's defaults.
      replicas: y.
      batch_size: images in the gradient of a replica.
      period: period of rsgd.
      replica: number of devices along `replica`.
      data: number of devices along `data`.
      is_alone: whether it runs on a device of this process only, without other processes.
      size: size of the array.
    """

    algorithm: str
    model: str = "mlp"
    hidden: Sequence[int] | None = None
    replicas: int = 1
    batch_size: int = 128
    period: int = 1
    replica: int = 1
    data: int = 1
    is_alone: bool = False
    size: int = 1


# ------------------------------------------------------------------------------------ in the worker


def _prepare(work: Work) -> tuple[Callable[[int], None], dict[str, Any]]:
    """Returns a compiled function of a number of steps, and facts about the work."""
    devices = (jax.local_devices if work.is_alone else jax.devices)()
    grid = np.array(devices[: work.replica * work.data]).reshape(work.replica, work.data)
    mesh = Mesh(grid, AXES)
    if work.algorithm == "all_reduce":
        return _all_reduce(mesh, work.size), {}
    return _training(OnMesh(mesh), work)


def _all_reduce(mesh, size):
    mean = lambda x: jax.lax.pmean(x, "replica")
    reduce = jax.jit(jax.shard_map(mean, mesh=mesh, in_specs=P("replica"), out_specs=P()))
    ones = lambda: jnp.ones((mesh.shape["replica"], size))
    array = jax.jit(ones, out_shardings=OnMesh(mesh).stacked)()

    def run(steps):
        for _ in range(steps):
            jax.block_until_ready(reduce(array))

    run(1)
    return run


def _training(placement, work):
    options = {} if work.hidden is None else {"hidden": tuple(work.hidden)}
    model = models.create(work.model, 10, **options)
    tx = _transformation(work)

    def loss(params, images, labels):
        logits = model.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def init(seed):
        # One small value: weights alone take memory, and nothing overflows or underflows.
        image = jnp.zeros((1, *SHAPE))
        one = jax.eval_shape(lambda: model.init(jax.random.key(seed), image, train=False))
        full = lambda leaf: jnp.full((work.replicas, *leaf.shape), 1e-3, leaf.dtype)
        params = jax.tree.map(full, one["params"])
        return params, jax.tree.map(jnp.copy, tx.init(params))

    gradient = flatjax.map_replicas(jax.value_and_grad(loss), mesh=placement.mesh)

    def step(hyper, state, images, labels):
        del hyper  # these are constants in `tx`
        params, opt_state = state
        losses, grads = gradient(params, images, labels)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), losses

    batch = (work.replicas, work.batch_size)
    images = np.random.default_rng(0).standard_normal((*batch, *SHAPE), dtype=np.float32)
    images, labels = (
        jax.make_array_from_callback(array.shape, placement.batch, lambda at, a=array: a[at])
        for array in (images, np.zeros(batch, np.int32))
    )
    like = jax.eval_shape(init, 0)
    state = placement.jit_init(init, like)(0)
    jitted = placement.jit_training(step, like)

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state, _ = jitted({}, state, images, labels)
        jax.block_until_ready(state)

    known = {"parameters": _bytes(state[0]) / 4 / work.replicas, "state_bytes": _bytes(state[1])}
    clock = time.process_time  # all cores; other work of the machine hardly matters
    start = clock()
    run(1)
    first = clock() - start
    run(1)
    return run, known | {"compile_seconds": max(0.0, 2 * first - (clock() - start))}


def _transformation(work):
    momentum = {"momentum": 0.9, "nesterov": True}
    if work.algorithm == "sgd":
        return optax.sgd(1e-6, **momentum)
    if work.algorithm == "esgd":
        return flatjax.esgd(1e-6, 0.1, replica_axis=0, decoupled=False, **momentum)
    options = {"replica_axis": 0, "period": work.period, "decoupled": False}
    return flatjax.replicated_sgd(1e-6, 0.1, **options, **momentum)


def _bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.ndim)


def main(setting: str) -> None:
    """Answers commands until there are no more."""
    setting = json.loads(setting)
    os.sched_setaffinity(0, setting["cores"])
    # Libraries may print: their output goes to stderr, so that the parent reads only answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    jax.config.update("jax_num_cpu_devices", setting["devices"])
    processes.join(*setting["join"])
    runs = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "work" in command:
            runs[command["name"]], answer = _prepare(Work(**command["work"]))
        else:
            start = time.perf_counter()
            runs[command["name"]](command["steps"])
            seconds = (time.perf_counter() - start) / command["steps"]
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answer = {"seconds": seconds, "peak_bytes": peak}
        print(json.dumps(answer), file=answers, flush=True)


# ------------------------------------------------------------------------------------ in the parent


class Workers:
    """One or several joined processes that do the same work at the same time.

    Args:
      cores: cores of each process; its length is the number of processes.
      devices: number of virtual devices of each process.

    Attributes:
      known: for each prepared work, facts from the first process: number of parameters,
        state_bytes, compile_seconds.

    Raises:
      RuntimeError: a process ended; the message contains its output.
    """

    def __init__(self, cores: Sequence[Sequence[int]], devices: int = 1):
        join: list[Any] = [[None, None, None]]
        if len(cores) > 1:
            coordinator = processes.free_address()
            join = [[coordinator, len(cores), i] for i in range(len(cores))]
        settings = [
            {"cores": list(own), "devices": devices, "join": where}
            for own, where in zip(cores, join, strict=True)
        ]
        self._stack = contextlib.ExitStack()
        folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._errors = [folder / f"{i}.txt" for i in range(len(cores))]
        self._processes = [self._start(*pair) for pair in zip(settings, self._errors, strict=True)]
        self.known: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, int] = {}

    def _start(self, setting, errors):
        with open(errors, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, json.dumps(setting)],
                cwd=pathlib.Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process

    def prepare(self, name: str, work: Work, seconds: float) -> None:
        """Compiles a work; each later run of it takes about this many seconds."""
        self.known[name] = self._ask({"name": name, "work": dataclasses.asdict(work)})[0]
        self._steps[name] = work.period
        once = self.run(name)
        self._steps[name] *= max(1, round(seconds / (once * work.period)))

    def run(self, name: str) -> float:
        """Returns seconds per step of the slowest process, averaged over a run."""
        answers = self._ask({"name": name, "steps": self._steps[name]})
        return max(answer["seconds"] for answer in answers)

    def peak_bytes(self, name: str) -> int:
        """Returns the peak memory of the first process, after a run."""
        return self._ask({"name": name, "steps": self._steps[name]})[0]["peak_bytes"]

    def _ask(self, command):
        try:
            for process in self._processes:
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()
            answers = [process.stdout.readline() for process in self._processes]
        except BrokenPipeError:
            answers = [""]
        if not all(answers):
            said = "\n".join(
                errors.read_text(encoding="utf-8", errors="replace")[-2000:]
                for errors in self._errors
            )
            raise RuntimeError(f"a process of the benchmark ended:\n{said}")
        return [json.loads(answer) for answer in answers]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the processes."""
        with contextlib.suppress(BrokenPipeError):  # the process may have ended by itself
            self._stack.close()


if __name__ == "__main__":
    main(sys.argv[1])
