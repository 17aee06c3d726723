r"""Time and memory of a training step on many accelerators, predicted by counting.

A step of a plan on :math:`n = r d` devices (r along `replica`, d along `data`) computes gradients,
sends messages and updates. Each of y replicas has P parameters in float32, and s arrays of
optimizer state for each parameter. A device holds :math:`y / r` replicas. Then

.. math::
  t_g &= c B / (n F) & \text{gradients of B examples of c operations, F a second} \\
  t_u &= (3 + 2 s) \, 4 P (y / r) / M & \text{w, g, s are read, w, s written at M bytes/s} \\
  t_d &= T_{\text{all-reduce}}(4 P (y / r);\ d) & \text{mean gradients of the replicas} \\
  t_r &= T_{\text{all-reduce}}(4 P;\ r) & \text{the coupling, in float32} \\
  t_r &= T_{\text{all-gather}}(b P (y / r);\ r) & \text{or rounded to b bytes a weight}

`machines` defines the collectives.

These times hold if every device keeps whole replicas. A `sharded` plan spreads parameters,
gradients and state of a replica over `data` [ZeRO-3, Rajbhandari et al. 2020]. Memory, update and
coupling shrink by d. :math:`t_d` grows by a half, because weights are gathered twice and gradients
scattered once.

If the machine `overlaps`, communication may run at the same time as computation. Gradients are
reduced during the backward pass, two thirds of :math:`t_g` [Li et al. 2020]. A force of period 1
needs only the center of the weights at the start of the step, which can be computed during the
gradient. A delayed force or pull can also overlap with the update. Inside the conditional of a
period nothing overlaps, and :math:`t_r / K` is added.
"""

import dataclasses
import math
from typing import Literal

from experiments.studies.scale.machines import Group, Machine, Traffic, all_gather, all_reduce

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class Job:
    """A training task.

    Attributes:
      parameters: P, of one replica.
      flops_per_example: c, operations of a gradient, forward and backward.
      batch: B, number of examples in a step of all replicas together.
      arrays: number of arrays of parameters; rounded weights are sent array by array.
    """

    parameters: float
    flops_per_example: float
    batch: float
    arrays: int = 100

    @classmethod
    def transformer(cls, parameters: float, tokens: float) -> "Job":
        """Counts six operations per token and parameter [Kaplan et al. 2020]."""
        return cls(parameters, 6 * parameters, tokens)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A way to train; options are those of flatjax.

    Attributes:
      algorithm: SGD with momentum; Replicated-SGD, which is local SGD with `decoupled` and
        gamma = inf; Entropy-SGD, whose replicas are independent; Parle; DiLoCo around SGD with
        momentum.
      replicas: y.
      replica: r, number of devices along the axis `replica`; divides y.
      data: d, number of devices along the axis `data`.
      period: K of rsgd and diloco, steps between couplings.
      inner_steps: L of esgd and parle; the anchors of Parle are coupled every L-th step.
      communication_dtype: dtype of the messages of rsgd and diloco.
      delayed: whether a coupling of rsgd acts at the next coupling.
      decoupled: whether rsgd uses `pull_to_center` instead of `couple_replicas`.
      sharded: whether a replica is spread over its devices, instead of whole on each.

    Raises:
      ValueError: options contradict each other.
    """

    algorithm: Literal["sgd", "rsgd", "esgd", "parle", "diloco"]
    replicas: int = 1
    replica: int = 1
    data: int = 1
    period: int = 1
    inner_steps: int = 5
    communication_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    delayed: bool = False
    decoupled: bool = False
    sharded: bool = False

    def __post_init__(self):
        if self.algorithm == "sgd" and self.replicas > 1:
            raise ValueError(f"sgd has one replica, got replicas={self.replicas}.")
        if self.replicas % self.replica:
            raise ValueError(f"replica={self.replica} must divide replicas={self.replicas}.")
        if self.algorithm != "rsgd" and (self.delayed or self.decoupled):
            raise ValueError("delayed and decoupled are of rsgd only.")
        options = self.period, self.communication_dtype
        if self.algorithm not in ("rsgd", "diloco") and options != (1, "float32"):
            raise ValueError("period and communication_dtype are of rsgd and diloco only.")

    @property
    def devices(self) -> int:
        """The number of devices, n."""
        return self.replica * self.data

    @property
    def coupling_period(self) -> float:
        """The steps between couplings; infinite if nothing is coupled."""
        periods = {"rsgd": self.period, "diloco": self.period, "parle": self.inner_steps}
        return periods.get(self.algorithm, math.inf)

    @property
    def state_copies(self) -> int:
        """The number of arrays of optimizer state for each parameter, s.

        These are the momentum; for Entropy-SGD and Parle also the anchor and the mean; for a
        delayed force also the displacement that will act.
        """
        if self.algorithm in ("esgd", "parle"):
            return 3
        return 2 if self.delayed and not self.decoupled else 1

    @property
    def shared_copies(self) -> int:
        """The number of further arrays that all replicas of a device share.

        For DiLoCo these are the center and the momentum of its optimizer.
        """
        return 2 if self.algorithm == "diloco" else 0

    @property
    def share(self) -> float:
        """The replicas per device: y / r, also divided by d if they are sharded."""
        return self.replicas / self.replica / (self.data if self.sharded else 1)


def data_traffic(plan: Plan, job: Job, machine: Machine) -> Traffic:
    """Counts the messages of each step along `data`."""
    group = Group.of(plan.data, 1, machine.devices_per_host)
    whole = all_reduce(FLOAT32 * job.parameters * plan.replicas / plan.replica, group)
    if not plan.sharded:
        return whole
    # A reduce-scatter and two all-gathers; an all-reduce is one of each.
    return Traffic(*(1.5 * part for part in dataclasses.astuple(whole)))


def coupling_traffic(plan: Plan, job: Job, machine: Machine) -> Traffic:
    """Counts the messages of each coupling along `replica`."""
    if plan.coupling_period == math.inf:
        return Traffic()
    group = Group.of(plan.replica, plan.data, machine.devices_per_host)
    if plan.communication_dtype == "float32":
        # The replicas of a device are summed before they are sent.
        shards = plan.data if plan.sharded else 1
        return all_reduce(FLOAT32 * job.parameters / shards, group)
    size = BYTES[plan.communication_dtype] * job.parameters * plan.share
    arrays = job.arrays
    if plan.communication_dtype == "int8":
        # There is a scale for each array and replica.
        size += FLOAT32 * job.arrays * plan.replicas / plan.replica
        arrays *= 2
    return all_gather(size, group, arrays)


def memory(plan: Plan, job: Job) -> float:
    """Counts the bytes on a device: parameters, gradients and state.

    Activations are not counted, nor are the weights of a layer that a sharded plan gathers.
    """
    shared = plan.shared_copies / (plan.data if plan.sharded else 1)
    return ((2 + plan.state_copies) * plan.share + shared) * FLOAT32 * job.parameters


def exchanged(plan: Plan, job: Job) -> float:
    """Counts the most bytes of a float32 coupling, in addition to `memory`.

    These are all arrays that a device sends and receives at once, as XLA compiles it for CPU. On
    GPU, messages are combined only up to a size, and the number is much smaller. A force sends the
    weights without a copy. DiLoCo also holds the new center next to the old one.
    """
    if plan.coupling_period == math.inf or plan.replica == 1:
        return 0.0
    copies = 1 if plan.algorithm == "rsgd" and not plan.decoupled else 2
    copies += plan.algorithm == "diloco"
    return copies * FLOAT32 * job.parameters / (plan.data if plan.sharded else 1)


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a step for a device.

    Attributes:
      gradient: seconds of the gradients.
      update: seconds of the update.
      data: seconds to communicate the gradients of one replica.
      coupling: seconds to communicate a coupling.
      step: seconds of a step, averaged over a period; overlapping parts count once.
      memory: bytes.
      fits: whether the device has enough memory.
    """

    gradient: float
    update: float
    data: float
    coupling: float
    step: float
    memory: float
    fits: bool


def cost(plan: Plan, job: Job, machine: Machine) -> Cost:
    """Predicts a step.

    Examples:
      >>> from experiments.studies.scale.cost_model import Job, Plan, cost
      >>> from experiments.studies.scale.machines import Link, Machine
      >>> link = Link(latency=0.0, bandwidth=1e9)
      >>> machine = Machine(1e12, 1e9, 1e12, 1, link, link, overlaps=False)
      >>> job = Job(parameters=1e6, flops_per_example=6e6, batch=1024)
      >>> found = cost(Plan("rsgd", replicas=2, replica=2, period=4), job, machine)
      >>> f"{1e3 * found.coupling:.3f} ms a coupling, {1e3 * found.step:.3f} ms a step"
      '4.000 ms a coupling, 4.092 ms a step'
    """
    gradient = job.flops_per_example * job.batch / (plan.devices * machine.flops)
    touched = (3 + 2 * plan.state_copies) * FLOAT32 * job.parameters * plan.share
    update = touched / machine.memory_bandwidth
    data = data_traffic(plan, job, machine).seconds(machine)
    coupling = coupling_traffic(plan, job, machine).seconds(machine)
    period = plan.coupling_period
    if machine.overlaps:
        reduced = gradient / 3 + max(2 / 3 * gradient, data)
        if period > 1:
            step = reduced + update + coupling / period
        elif plan.delayed:
            step = max(reduced + update, data + coupling)
        elif plan.decoupled:
            step = reduced + update + coupling
        else:
            step = max(reduced, data + coupling) + update
    else:
        step = gradient + data + update + coupling / period
    size = memory(plan, job)
    return Cost(gradient, update, data, coupling, step, size, size <= machine.memory)
