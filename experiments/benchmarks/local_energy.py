"""Local energy, compared with its forward passes and with PyTorch."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flatjax
from experiments.benchmarks.machine import available_cores, describe_machine, hint_at_torch
from experiments.benchmarks.race import Clock, race
from experiments.engine import console
from experiments.report.store import write_json
from flatjax import flatness, models

SIGMAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


@dataclasses.dataclass(frozen=True)
class LocalEnergyBenchmark:
    """Time S draws at six sigmas, in units of 6 S forward passes over the data.

    Example: python -m experiments.benchmarks.local_energy --model mlp
    """

    model: str = "small_convnet"
    """small_convnet or mlp, on 28 x 28 images."""
    draws: int = 10
    """S, the number of draws of the noise for each sigma."""
    batches: int = 4
    """Number of batches of 500 images."""
    rounds: int = 5
    """Number of rounds. Each round times everything once, in turn; median ratios count."""
    clock: Clock = "wall"
    """wall, or cpu: time of this process on all cores, for a busy machine."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Times and prints the ratios."""
        found = self.measure()
        hint_at_torch()
        print(f"{self.model}, {self.batches} batches of 500, {describe_machine()}\n")
        for name, value in found["ratios"].items():
            print(f"{name:<32} {value:5.2f}")
        print("\nfastest, seconds: " + ", ".join(f"{k} {v}" for k, v in found["seconds"].items()))
        if self.out is not None:
            settings = {"settings": dataclasses.asdict(self) | {"out": None}}
            write_json(self.out.absolute(), settings | {"machine": describe_machine()} | found)

    def measure(self) -> dict[str, dict[str, float]]:
        """Returns ratios and seconds, by name."""
        rng = np.random.default_rng(0)
        images = rng.standard_normal((self.batches, 500, 28, 28, 1), dtype=np.float32)
        labels = rng.integers(0, 10, (self.batches, 500))
        candidates = _jax_candidates(self.model, images, labels, self.draws)
        try:
            import torch

            candidates |= _torch_candidates(torch, self.model, images, labels, self.draws)
        except ImportError:
            pass
        times = race(candidates, self.rounds, self.clock, rest=0.2)
        ratio = lambda a, b: float(np.median(np.divide(times[a], times[b])))
        ratios = {"local energy / forward passes": ratio("local energy", "forward passes")}
        if "PyTorch" in times:
            ratios["local energy: JAX / PyTorch"] = ratio("local energy", "PyTorch")
        return {
            "ratios": ratios,
            "seconds": {name: round(min(values), 3) for name, values in times.items()},
        }


def _jax_candidates(name, images, labels, draws) -> dict[str, Callable[[], None]]:
    model = models.create(name, 10)
    params = model.init(jax.random.key(0), jnp.asarray(images[0]), train=False)["params"]
    batches = [
        {"image": jnp.asarray(image), "label": jnp.asarray(label, jnp.int32)}
        for image, label in zip(images, labels, strict=True)
    ]

    @jax.jit
    def eval_fn(params, batch):
        logits = model.apply({"params": params}, batch["image"], train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        error = (logits.argmax(-1) != batch["label"]).sum()
        return {"loss": losses.sum(), "error": error, "count": len(losses)}

    measure = flatness.local_energy(eval_fn, sigmas=SIGMAS, num_samples=draws)

    def forward_passes():
        passes = range(len(SIGMAS) * draws + 1)
        jax.block_until_ready([flatjax.evaluate(eval_fn, params, batches) for _ in passes])

    return {
        "forward passes": forward_passes,
        "local energy": lambda: measure(params, batches, jax.random.key(0)),
    }


def _torch_candidates(torch, name, images, labels, draws) -> dict[str, Callable[[], None]]:
    from experiments.benchmarks.torch_steps import NETWORKS

    torch.set_num_threads(len(available_cores()))
    network = NETWORKS[name]()
    batches = [
        (torch.tensor(image.transpose(0, 3, 1, 2).copy()), torch.tensor(label))
        for image, label in zip(images, labels, strict=True)
    ]
    weights = [parameter.detach().clone() for parameter in network.parameters()]

    @torch.no_grad()
    def local_energy():
        total = torch.zeros(2)
        for _ in range(draws):
            noise = [torch.randn_like(weight) for weight in weights]
            for sigma in SIGMAS:
                for parameter, weight, z in zip(network.parameters(), weights, noise, strict=True):
                    parameter.copy_(weight + sigma * z * weight)
                for image, label in batches:
                    logits = network(image)
                    total[0] += torch.nn.functional.cross_entropy(logits, label, reduction="sum")
                    total[1] += (logits.argmax(-1) != label).sum()

    return {"PyTorch": local_energy}


if __name__ == "__main__":
    sys.exit(console.run(LocalEnergyBenchmark, "python -m experiments.benchmarks.local_energy"))
