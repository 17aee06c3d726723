"""Speed on an accelerator: steps, epochs and populations, compared with PyTorch."""

import concurrent.futures
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.benchmarks.jax_steps import JaxSteps
from experiments.benchmarks.peaks import peak_of
from experiments.benchmarks.race import race
from experiments.engine import programs
from experiments.engine.config import TrainConfig
from experiments.engine.plan import hyper_of, make_plan
from experiments.engine.population import Population, Watch
from experiments.engine.task import make_task
from experiments.engine.time_limit import TimeLimit
from experiments.studies.reproduce.costs import flops_per_example
from flatjax import flatness
from flatjax.models._network import Network

Measured = dict[str, Any]
LOOP = 5  # gradients in the loop of opaque Entropy-SGD
SIGMAS, DRAWS = (0.1, 0.3), 4


class Timed(NamedTuple):
    """A network and how it is timed.

    Attributes:
      model: a name of `flatjax.models`.
      options: options of the network.
      batch_size: images in each gradient.
      steps: number of steps in one program.
      side: side of the images.
      torch: options of PyTorch's network; None if there is none.
    """

    model: str
    options: dict[str, Any]
    batch_size: int
    steps: int
    side: int = 32
    torch: dict[str, Any] | None = None


_CONV = {"features": (32, 64), "hidden": (256,)}
_SMALL_CONV: dict[str, Any] = {"features": (4, 8), "hidden": (16,)}
_OF_TORCH = {"channels": 3, "side": 32}
NETWORKS = {
    "small conv net": Timed("small_convnet", _CONV, 128, 100, torch=_OF_TORCH | _CONV),
    "ResNet-18": Timed("resnet18", {}, 128, 20, torch={}),
    "ViT": Timed("vit", {"dropout": 0.0}, 128, 20),
}
TOY_NETWORKS = {
    "small conv net": Timed(
        "small_convnet", _SMALL_CONV, 8, 2, side=8, torch={"channels": 3, "side": 8} | _SMALL_CONV
    ),
    "ViT": Timed("vit", {"depth": 1, "width": 24, "dropout": 0.0}, 8, 2, side=8),
}


def measure(
    limit: TimeLimit,
    *,
    dataset: str = "digits",
    done: Collection[str] = (),
    toy: bool = False,
    rounds: int = 5,
) -> Iterator[Measured]:
    """Measures one thing after another, the most important first.

    Args:
      limit: time limit; parts that would not fit are left out.
      dataset: data of whole epochs: images of 32 x 32 pixels in three channels, or digits.
      done: names of parts to leave out.
      toy: whether networks, batches and numbers of steps are small, for a CPU.
      rounds: number of rounds; each times everything once, in turn, and medians count.

    Yields:
      A record of each measurement.
    """
    networks = TOY_NETWORKS if toy else NETWORKS
    dtypes = ("float32",) if toy else ("bfloat16", "float32")
    parts: list[tuple[str, Callable[[], Measured]]] = []
    for dtype in dtypes:
        for name, timed in networks.items():
            parts.append(
                (f"steps, {name}, {dtype}", functools.partial(steps, timed, dtype, rounds))
            )
    data = _data(dataset, toy)
    parts[1:1] = [
        ("epoch", functools.partial(epochs, data, toy)),
        ("population", functools.partial(populations, data, toy)),
    ]
    parts += [
        (f"local energy, {name}", functools.partial(local_energy, timed, rounds))
        for name, timed in networks.items()
    ]
    for name, part in parts:
        if name in done:
            continue
        if not limit.fits("speed", "part"):
            limit.unfinished += 1
            continue
        with limit.measuring("speed", "part"):
            try:
                found = part()
            except Exception as error:  # any error: the next parts are still measured
                found = {"error": f"{type(error).__name__}: {error}"[:2000]}
        yield {"part": name} | found


# --- steps --------------------------------------------------------------------------------------


def steps(timed: Timed, dtype: str, rounds: int, replicas: int = 3) -> Measured:
    """Measures ratios of steps to plain steps, and images per second of a plain step."""
    rng = np.random.default_rng(0)
    shape = (replicas, timed.batch_size, timed.side, timed.side, 3)
    images = rng.standard_normal(shape, dtype=np.float32)
    labels = rng.integers(0, 10, shape[:2])
    ours = JaxSteps(timed.model, images, labels, timed.steps, dtype=dtype, **timed.options)
    start = time.perf_counter()
    calls: dict[str, Callable[[], Any]] = {"plain": ours.plain()}
    compiled = {"plain": round(time.perf_counter() - start, 2)}
    others: dict[str, Callable[[], Any]] = {
        "rSGD, auto": ours.rsgd,
        "rSGD, unroll": functools.partial(ours.rsgd, "unroll"),
        "rSGD, vmap": functools.partial(ours.rsgd, "vmap"),
        "eSGD": ours.esgd,
        "eSGD, loop": functools.partial(ours.esgd_loop, LOOP),
        "SAM": ours.sam,
    }
    # In parallel: the slot is short, and compilation takes most of its time.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls |= zip(others, pool.map(lambda make: make(), others.values()), strict=True)
    compiled["all"] = round(time.perf_counter() - start, 2)
    theirs, problems = _torch_calls(timed, images, labels, dtype)
    times = race(calls | theirs, rounds)
    gradients = {"eSGD, loop": LOOP} | {name: replicas for name in times if "rSGD" in name}
    ratio = lambda name, other: round(
        float(np.median(times[name] / (gradients.get(name, 1) * times[other]))), 3
    )
    seconds = float(np.median(times["plain"])) / timed.steps
    found = {
        "in units of plain steps": {name: ratio(name, "plain") for name in calls},
        "compile, seconds": compiled,
        "milliseconds of a plain step": 1e3 * seconds,
        **_rate(timed, timed.batch_size / seconds),
    }
    if theirs:
        found["plain: JAX / PyTorch"] = {
            name: round(1 / ratio(name, "plain"), 3) for name in theirs
        }
    return found | ({"PyTorch failed": problems} if problems else {})


def _rate(timed: Timed, images_per_second: float) -> Measured:
    """Returns images per second, and the share of the device's peak."""
    module = flatjax.models.create(timed.model, 10, **timed.options)
    flops = flops_per_example(Network(module), (timed.side, timed.side, 3))
    peak = peak_of(jax.devices()[0].device_kind)
    share = None if peak is None else round(images_per_second * flops / (1e12 * peak), 4)
    return {
        "images a second": round(images_per_second, 1),
        "GFLOP an image": 1e-9 * flops,
        "share of the bfloat16 peak": share,
    }


def _torch_calls(timed, images, labels, dtype) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """Makes the plain step in PyTorch, eager and compiled, on the same device."""
    if timed.torch is None or importlib.util.find_spec("torch") is None:
        return {}, []
    import torch

    from experiments.benchmarks.torch_steps import TorchSteps

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cpu") != (jax.default_backend() == "cpu"):
        return {}, ["PyTorch does not see the device"]
    options = {"device": device, "half": dtype == "bfloat16", **timed.torch}
    calls, problems = {}, []
    for name, compiled in (("PyTorch", False), ("PyTorch, compiled", True)):
        if compiled and device == "cpu":
            continue
        theirs = TorchSteps(timed.model, images, labels, 1, compiled=compiled, **options)
        call = _several(theirs, timed.steps)
        try:
            call()
            calls[name] = call
        except Exception as error:  # torch.compile may fail, for example without a compiler
            problems.append(f"{name}: {type(error).__name__}: {error}"[:500])
    return calls, problems


def _several(theirs, number):
    step = theirs.plain()

    def call():
        for _ in range(number):
            step()
        theirs.wait()

    return call


def local_energy(timed: Timed, rounds: int) -> Measured:
    """Measures local energy in units of its forward passes."""
    module = flatjax.models.create(timed.model, 10, **timed.options)
    rng = np.random.default_rng(0)
    shape = (4 * timed.batch_size, timed.side, timed.side, 3)
    images = jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
    batch = {"image": images, "label": jnp.zeros(len(images), jnp.int32)}
    variables = jax.jit(lambda key: module.init(key, images[:1], train=False))(jax.random.key(0))
    stats = {name: tree for name, tree in variables.items() if name != "params"}

    @jax.jit
    def eval_fn(params, batch):
        logits = module.apply({"params": params, **stats}, batch["image"], train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        error = (logits.argmax(-1) != batch["label"]).sum()
        return {"loss": losses.sum(), "error": error, "count": len(losses)}

    measured = flatness.local_energy(eval_fn, sigmas=SIGMAS, num_samples=DRAWS)
    params, passes = variables["params"], len(SIGMAS) * DRAWS + 1

    def forward():
        jax.block_until_ready([flatjax.evaluate(eval_fn, params, [batch]) for _ in range(passes)])

    calls = {"energy": lambda: measured(params, [batch], jax.random.key(0)), "forward": forward}
    times = race(calls, rounds)
    return {
        "ratio to forward passes": round(float(np.median(times["energy"] / times["forward"])), 3)
    }


# --- epochs and populations ---------------------------------------------------------------------


def _data(dataset, toy) -> dict[str, Any]:
    """Returns the settings of the data; digits are enlarged to CIFAR's size."""
    if toy:
        return {"dataset": dataset, "train_size": 48, "validation": 0.0, "batch_size": 16}
    rgb32 = dataset == "digits"
    return {"dataset": dataset, "rgb32": rgb32, "validation": 0.0, "batch_size": 128}


def epochs(data: dict[str, Any], toy: bool) -> Measured:
    """Measures images per second of whole epochs of ResNet-18."""
    network = (
        {"model": "small_convnet", "model_options": ("features=(4,)", "hidden=(8,)")}
        if toy
        else {"model": "resnet18", "model_options": ("dtype=bfloat16",)}
    )
    found = {}
    for augment in ((), ("flip", "crop")):
        config = TrainConfig.of(algorithm="sgd", augment=augment, epochs=1, **network, **data)
        task = make_task(config)
        plan = make_plan(config, task)
        compiled, hyper = programs.programs_of(plan), plan.placement.put(hyper_of(config))
        state, draw = compiled.init(hyper, 0), compiled.draw(0, 0)
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            state, losses = compiled.steps(
                hyper, state, task.device_train, draw, plan.steps_per_epoch
            )
            jax.block_until_ready(losses)
            seconds.append(time.perf_counter() - start)
        images = plan.steps_per_epoch * config.batch_size
        name = "flip and crop" if augment else "no augmentation"
        found[name] = round(images / min(seconds[1:]), 1)
    return {"images a second of an epoch": found}


@dataclasses.dataclass
class _Moments(Watch):
    """Records when each epoch was complete."""

    at: list[float] = dataclasses.field(default_factory=list)

    def __call__(self, run: int, done: float, read: Callable[[], dict[str, Any]]) -> None:
        """Records the time once per epoch."""
        if run == 0:
            jax.block_until_ready(jax.tree.leaves(read())[0])
            self.at.append(time.perf_counter())


def populations(data: dict[str, Any], toy: bool) -> Measured:
    """Measures runs per minute of small networks that are trained in parallel."""
    number, images = (2, 48) if toy else (64, 1000)
    resnet8 = ("stage_sizes=(1, 1, 1)", f"width={2 if toy else 8}")
    conv = ("features=(4,)", "hidden=(8,)") if toy else ()
    found = {}
    for name, model, options in (
        ("conv net", "small_convnet", conv),
        ("ResNet-8", "resnet18", resnet8),
    ):
        config = TrainConfig.of(
            algorithm="sgd",
            epochs=4,
            model=model,
            model_options=options,
            **(data | {"train_size": images}),
        )
        population = Population(config, [make_task(config)])
        moments = _Moments()
        population.train(
            [{}] * number, list(range(number)), [0] * number, progress=False, watch=moments
        )
        epoch = min(np.diff(moments.at))
        run = 30 * epoch * 2000 / images
        found[name] = {
            "networks at once": number,
            "images a second": round(number * images / epoch, 1),
            "runs a minute": round(60 * number / run, 2),
        }
    return found
