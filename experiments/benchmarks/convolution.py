"""Convolution layers, forward and backward: flatjax, XLA and PyTorch."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.machine import available_cores, describe_machine, torch_version
from experiments.benchmarks.race import Clock, race
from experiments.engine import console
from experiments.report.store import write_json
from experiments.report.tables import markdown_table
from flatjax import models

# Pixels per side, channels in and out, stride, side of the kernel.
LAYERS = (
    (28, 1, 16, 1, 3),
    (28, 16, 32, 2, 3),
    (14, 32, 32, 1, 3),
    (32, 64, 64, 1, 3),
    (16, 128, 128, 1, 3),
    (8, 256, 256, 1, 3),
    (16, 256, 64, 1, 1),
    (16, 256, 512, 2, 1),
)
REPLICAS = 3


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Time layers with both gradients: alone, in a loop, and replicated.

    Example: python -m experiments.benchmarks.convolution
    """

    batch_size: int = 32
    rounds: int = 5
    clock: Clock = "wall"
    """wall, or cpu: time of this process on all cores, for a busy machine."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Prints milliseconds and ratios, medians over rounds."""
        rows = self.measure()
        print(f"batch {self.batch_size}, {describe_machine()}\n\n{table(rows)}")
        if self.out is not None:
            write_json(self.out.absolute(), {"machine": describe_machine(), "rows": rows})

    def measure(self) -> list[dict[str, Any]]:
        """Makes a row for each layer: seconds of a gradient, ours and XLA's."""
        rows = []
        for layer in LAYERS:
            times = race(self._candidates(*layer), self.rounds, self.clock)
            rows.append({"layer": layer, "seconds": {k: float(np.median(times[k])) for k in times}})
        return rows

    def _candidates(self, side, inputs, outputs, stride, size):
        rng = np.random.default_rng(0)
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
        images = draw(REPLICAS, self.batch_size, side, side, inputs)
        kernels = draw(REPLICAS, size, size, inputs, outputs) / (size * inputs**0.5)
        after = -(-side // stride)
        sensitivity = draw(self.batch_size, after, after, outputs)
        margin = (size // 2, size // 2)

        def situations(conv):
            def step(images, kernel):
                maps = lambda images, kernel: conv(
                    *(images, kernel, (stride, stride), (margin, margin)),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                loss = lambda *args: jnp.vdot(maps(*args), sensitivity)
                d_images, d_kernel = jax.grad(loss, (0, 1))(images, kernel)
                return images + 1e-6 * d_images, kernel + 1e-6 * d_kernel

            def loop(images, kernel):
                carry, _ = jax.lax.scan(
                    lambda carry, _: (step(*carry), None), (images, kernel), length=REPLICAS
                )
                return carry

            alone, loop, replicas = jax.jit(step), jax.jit(loop), jax.jit(jax.vmap(step))
            return {
                "alone": lambda: jax.block_until_ready(alone(images[0], kernels[0])),
                "loop": lambda: jax.block_until_ready(loop(images[0], kernels[0])),
                "replicas": lambda: jax.block_until_ready(replicas(images, kernels)),
            }

        convolutions = {"XLA": jax.lax.conv_general_dilated, "flatjax": models.conv_general_dilated}
        candidates = {
            f"{name}, {situation}": run
            for name, conv in convolutions.items()
            for situation, run in situations(conv).items()
        }
        if torch_version():
            layer = (np.asarray(images[0]), np.asarray(kernels[0]), np.asarray(sensitivity))
            candidates["PyTorch, alone"] = _torch_step(*layer, stride)
        return candidates


def _torch_step(images, kernel, sensitivity, stride) -> Callable[[], None]:
    """Makes the same step in PyTorch, in PyTorch's default layout."""
    import torch

    torch.set_num_threads(len(available_cores()))
    copy = lambda array, *axes: torch.tensor(array.transpose(axes).copy())
    images = copy(images, 0, 3, 1, 2).requires_grad_()
    kernel = copy(kernel, 3, 2, 0, 1).requires_grad_()
    sensitivity = copy(sensitivity, 0, 3, 1, 2)
    margin = kernel.shape[-1] // 2
    # Outside of the timing: JAX does not compute the maps either, which no gradient needs.
    maps = torch.nn.functional.conv2d(images, kernel, stride=stride, padding=margin)

    def step():
        d_images, d_kernel = torch.autograd.grad(
            maps, (images, kernel), sensitivity, retain_graph=True
        )
        with torch.no_grad():
            return images + 1e-6 * d_images, kernel + 1e-6 * d_kernel

    return step


def table(rows: list[dict[str, Any]]) -> str:
    """Formats milliseconds, and below them costs of loops and replicas, as Markdown."""
    names = ("XLA", "flatjax", "PyTorch")
    alone = [name for name in names if f"{name}, alone" in rows[0]["seconds"]]
    many = [(name, what) for what in ("loop", "replicas") for name in ("XLA", "flatjax")]
    layer = ["pixels", "kernel", "channels", "stride"]
    times = [[*layer, *(f"{name}, ms" for name in alone)]]
    shown = {"loop": "loop", "replicas": "vmap"}
    ratios = [[*layer, *(f"{name}, {shown[what]}" for name, what in many)]]
    for row in rows:
        side, inputs, outputs, stride, size = row["layer"]
        seconds = row["seconds"]
        one = lambda name, seconds=seconds: seconds[f"{name}, alone"]
        cells = [f"{side} x {side}", f"{size} x {size}", f"{inputs} to {outputs}", f"{stride}"]
        times.append([*cells, *(f"{1e3 * one(name):.1f}" for name in alone)])
        relative = [seconds[f"{name}, {what}"] / (REPLICAS * one(name)) for name, what in many]
        ratios.append([*cells, *(f"{ratio:.2f}" for ratio in relative)])
    return f"{markdown_table(times)}\n\n{markdown_table(ratios)}"


if __name__ == "__main__":
    sys.exit(console.run(Convolution, "python -m experiments.benchmarks.convolution"))
