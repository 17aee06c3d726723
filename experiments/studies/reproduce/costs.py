"""What a network costs: operations of a gradient, and how many a second a machine manages."""

import dataclasses

import jax
import jax.numpy as jnp

from experiments.report import store
from flatjax.models._network import Network

RECORD = store.RESULTS / "reproduce" / "costs.json"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one network; `experiments.benchmarks.networks` measures it.

    All but the first two are None for a network that has been counted, not timed.

    Attributes:
      parameters: how many.
      flops_per_example: operations of a gradient, forward and backward, of one image.
      gflops_per_second: 10^9 of them a second, in steps of SGD on the machine that measured.
      compile_seconds: of a step of SGD, in seconds of all cores together.
      step_milliseconds: of a step of SGD.
      replica_compile_seconds: of a step of Replicated-SGD, likewise.
      replica_step_milliseconds: of a step of Replicated-SGD.
      replicas: y.
      batch_size: images in each gradient.
    """

    parameters: int
    flops_per_example: float
    gflops_per_second: float | None = None
    compile_seconds: float | None = None
    step_milliseconds: float | None = None
    replica_compile_seconds: float | None = None
    replica_step_milliseconds: float | None = None
    replicas: int | None = None
    batch_size: int | None = None


def flops_per_example(network: Network, image_shape: tuple[int, int, int]) -> float:
    """Operations of a gradient of one image, counted by XLA before it optimizes.

    Bodies of loops are counted once. That concerns depthwise convolutions on CPU: 5% of
    EfficientNet-B0.
    """
    batch_size = 2

    def total(params, batch_stats, images):
        variables = {"params": params, "batch_stats": batch_stats}
        return jnp.sum(network.train_logits(variables, images, jax.random.key(0))[0])

    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    stats = variables.get("batch_stats", {})
    # On the CPU: plugins of accelerators do not count before they compile.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(jax.value_and_grad(total)).lower(variables["params"], stats, images)
    return lowered.cost_analysis()["flops"] / batch_size


def read_costs() -> dict[str, Cost]:
    """Row -> its recorded cost."""
    found = store.read_if_there(RECORD) or {"costs": {}}
    return {name: Cost(**fields) for name, fields in found["costs"].items()}
