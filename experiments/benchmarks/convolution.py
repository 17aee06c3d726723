"""Layers of convolution, forward and backward: flatjax's gradient of the kernel beside XLA's."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.benchmarks.machine import describe_machine
from experiments.benchmarks.race import Clock, race
from experiments.compare import markdown_table
from experiments.run_directory import write_json
from flatjax import models

# Pixels of a side, channels in and out, stride.
LAYERS = (
    (28, 1, 16, 1),
    (28, 16, 16, 1),
    (28, 16, 32, 2),
    (14, 32, 32, 1),
    (32, 64, 64, 1),
    (16, 128, 128, 1),
    (8, 256, 256, 1),
)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Times layers of 3 x 3 kernels with both gradients, to kernel and images.

    Example: python -m experiments.benchmarks.convolution
    """

    batch_size: int = 128
    rounds: int = 5
    clock: Clock = "wall"
    """cpu is the time of this process on all cores, for a busy machine."""
    out: pathlib.Path | None = None
    """JSON file for the result."""

    def run(self) -> None:
        """Prints milliseconds and their ratio, medians over rounds."""
        rows = []
        for layer in LAYERS:
            times = race(self._candidates(*layer), self.rounds, self.clock)
            ratio = float(np.median(times["ours"] / times["xla"]))
            medians = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
            rows.append({"layer": layer, "ratio": ratio} | medians)
        print(f"3 x 3 kernels, batch {self.batch_size}, {describe_machine()}\n")
        table = [["pixels", "channels", "stride", "XLA, ms", "flatjax, ms", "ratio"]]
        for row in rows:
            side, inputs, outputs, stride = row["layer"]
            table.append(
                [
                    *(f"{side} x {side}", f"{inputs} to {outputs}", f"{stride}"),
                    *(f"{row['xla']:.0f}", f"{row['ours']:.0f}", f"{row['ratio']:.2f}"),
                ]
            )
        print(markdown_table(table))
        if self.out is not None:
            write_json(self.out.absolute(), {"machine": describe_machine(), "rows": rows})

    def _candidates(self, side, inputs, outputs, stride):
        rng = np.random.default_rng(0)
        draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, dtype=np.float32))
        images = draw(self.batch_size, side, side, inputs)
        kernel = draw(3, 3, inputs, outputs)
        after = -(-side // stride)
        sensitivity = draw(self.batch_size, after, after, outputs)

        def both(conv):
            def loss(images, kernel):
                maps = conv(
                    *(images, kernel, (stride, stride), ((1, 1), (1, 1))),
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                return jnp.vdot(maps, sensitivity)

            gradients = jax.jit(jax.grad(loss, (0, 1)))
            return lambda: jax.block_until_ready(gradients(images, kernel))

        convolutions = {"xla": jax.lax.conv_general_dilated, "ours": models.conv_general_dilated}
        return {name: both(conv) for name, conv in convolutions.items()}


if __name__ == "__main__":
    tyro.cli(Convolution, prog="python -m experiments.benchmarks.convolution").run()
