"""The cost of a network: operations of a gradient, and operations per second."""

import dataclasses

import jax
import jax.numpy as jnp

from experiments.report import store
from flatjax.models._network import Network

RECORD = store.RESULTS / "reproduce" / "costs.json"


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of one network; `experiments.benchmarks.networks` measures it.

    All but the first two are None for a network whose operations were counted, but not timed.

    Attributes:
      parameters: number of parameters.
      flops_per_example: operations of a gradient, forward and backward, of one image.
      gflops_per_second: 10^9 operations per second, in steps of SGD on the measuring machine.
      compile_seconds: compile time of a step of SGD, summed over all cores.
      step_milliseconds: time of a step of SGD.
      replica_compile_seconds: compile time of a step of Replicated-SGD, summed over all cores.
      replica_step_milliseconds: time of a step of Replicated-SGD.
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
    """Counts the operations of a gradient of one image, before XLA optimizes it.

    Bodies of loops are counted once. This affects depthwise convolutions on CPU, which are 5% of
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
    """Returns row -> its recorded cost."""
    found = store.read_if_there(RECORD) or {"costs": {}}
    return {name: Cost(**fields) for name, fields in found["costs"].items()}
