r"""Time and memory of a training step on many accelerators, predicted by counting.

A step of a plan on :math:`n = r d` devices (r along `replica`, d along `data`) computes gradients,
sends, and updates. With P parameters in float32, y replicas, of which a device holds
:math:`y / r`, and s arrays of optimizer state for each parameter,

.. math::
  t_g &= c B / (n F) & \text{gradients of B examples of c operations, F a second} \\
  t_u &= (3 + 2 s) \, 4 P (y / r) / M & \text{w, g, s are read, w, s written at M bytes/s} \\
  t_d &= T_{\text{all-reduce}}(4 P (y / r);\ d) & \text{mean gradients of the replicas} \\
  t_r &= T_{\text{all-reduce}}(4 P;\ r) & \text{the coupling, in float32} \\
  t_r &= T_{\text{all-gather}}(b P (y / r);\ r) & \text{or rounded to b bytes a weight}

Collectives take :math:`\alpha` seconds a message and :math:`\beta` seconds a byte [Hockney 1994].
Among n devices an all-reduce sends :math:`2 (n - 1) / n` times its bytes, which no algorithm
undercuts [Patarasuk and Yuan 2009], in :math:`2 \lceil \log_2 n \rceil` messages [Rabenseifner
2004; Thakur, Rabenseifner and Gropp 2005; a ring has 2 (n - 1)], an all-gather :math:`n - 1` times
the bytes of a device in :math:`\lceil \log_2 n \rceil`. Over hosts both work in two levels: all
devices of a host share what crosses its border evenly.

Where every device keeps all of a replica, the parts above hold. A `sharded` plan spreads
parameters, gradients and state of a replica over `data` [ZeRO-3, Rajbhandari et al. 2020]: memory,
update and coupling shrink by d, and :math:`t_d` grows by a half, since weights are gathered twice
and gradients scattered once.

What may run beside what, where the machine `overlaps` at all: gradients are reduced during the
backward pass, two thirds of :math:`t_g` [Li et al. 2020]; a force of period 1 needs the center of
the weights that a step starts from, which can be had during the gradient; delayed, force or pull,
during the update as well. Inside the conditional of a period nothing overlaps, and
:math:`t_r / K` is added.
"""

import dataclasses
import math
from typing import Literal

FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection of one device.

    Attributes:
      latency: alpha, seconds of a message.
      bandwidth: 1 / beta, bytes a second, each way.
    """

    latency: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """Equal devices on equal hosts.

    Attributes:
      flops: operations a second that a device sustains.
      memory: bytes of a device.
      memory_bandwidth: bytes a second between a device and its memory.
      devices_per_host: how many.
      intra: between devices of a host.
      inter: between hosts; the share of a device.
      overlaps: whether communication runs beside computation (GPU, TPU), or waits (CPU).
    """

    flops: float
    memory: float
    memory_bandwidth: float
    devices_per_host: int
    intra: Link
    inter: Link
    overlaps: bool = True


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
      parameters: P, of one replica.
      flops_per_example: c, operations of a gradient, forward and backward.
      batch: B, examples in a step of all replicas together.
      arrays: how many arrays the parameters are; rounded weights are sent one by one.
    """

    parameters: float
    flops_per_example: float
    batch: float
    arrays: int = 100

    @classmethod
    def transformer(cls, parameters: float, tokens: float) -> "Job":
        """Six operations a token and parameter [Kaplan et al. 2020]; examples are tokens."""
        return cls(parameters, 6 * parameters, tokens)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How it is trained; options are those of flatjax.

    Attributes:
      algorithm: SGD with momentum; Replicated-SGD, which is local SGD with `decoupled` and
        gamma = inf; Entropy-SGD, whose replicas, if there are any, are on their own; Parle.
      replicas: y.
      replica: r, devices along the axis `replica`; divides y.
      data: d, devices along the axis `data`.
      period: K of rsgd, steps between couplings.
      inner_steps: L of esgd and parle; the anchors of Parle are coupled every L-th step.
      communication_dtype: of the coupling of rsgd.
      delayed: the coupling of rsgd acts a coupling later.
      decoupled: rsgd with `pull_to_center` instead of `couple_replicas`.
      sharded: a replica is spread over its devices, instead of whole on each.

    Raises:
      ValueError: options that do not fit together.
    """

    algorithm: Literal["sgd", "rsgd", "esgd", "parle"]
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
        options = (self.period, self.communication_dtype, self.delayed, self.decoupled)
        if self.algorithm != "rsgd" and options != (1, "float32", False, False):
            raise ValueError("period, communication_dtype, delayed and decoupled are of rsgd only.")

    @property
    def devices(self) -> int:
        """How many, n."""
        return self.replica * self.data

    @property
    def coupling_period(self) -> float:
        """Steps between couplings; infinite where nothing is coupled."""
        return {"rsgd": self.period, "parle": self.inner_steps}.get(self.algorithm, math.inf)

    @property
    def state_copies(self) -> int:
        """How many arrays of optimizer state there are for each parameter, s.

        Momentum; of Entropy-SGD and Parle the anchor and the mean as well; of a delayed force the
        displacement that is to act.
        """
        if self.algorithm in ("esgd", "parle"):
            return 3
        return 2 if self.delayed and not self.decoupled else 1

    @property
    def share(self) -> float:
        """Replicas that a device holds: y / r, or that by d where they are sharded."""
        return self.replicas / self.replica / (self.data if self.sharded else 1)


@dataclasses.dataclass(frozen=True)
class Group:
    """Devices that communicate.

    Attributes:
      local: how many of them are on one host.
      hosts: on how many hosts they are.
    """

    local: int
    hosts: int

    @classmethod
    def of(cls, size: int, stride: int, devices_per_host: int) -> "Group":
        """`size` devices, every `stride`-th of all in a row."""
        local = min(size, max(1, devices_per_host // stride))
        return cls(local, math.ceil(size / local))


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a device sends.

    Attributes:
      intra: bytes within the host.
      inter: bytes to other hosts.
      intra_messages: messages within the host, one after the other.
      inter_messages: messages to other hosts.
    """

    intra: float = 0.0
    inter: float = 0.0
    intra_messages: float = 0.0
    inter_messages: float = 0.0

    @property
    def total(self) -> float:
        """Bytes."""
        return self.intra + self.inter

    def seconds(self, machine: Machine) -> float:
        """Alpha for each message and beta for each byte."""
        latency = self.intra_messages * machine.intra.latency
        latency += self.inter_messages * machine.inter.latency
        within = self.intra / machine.intra.bandwidth
        return latency + within + self.inter / machine.inter.bandwidth


def all_reduce(size: float, group: Group) -> Traffic:
    r"""Traffic of a mean of `size` bytes: scattered in each host, reduced across, gathered.

    With m devices on each of H hosts, :math:`2 \frac{m-1}{m}` of the bytes stay in the host and
    :math:`\frac{2}{m} \frac{H-1}{H}` leave it, together :math:`2 \frac{n-1}{n}`.

    Examples:
      >>> from experiments.studies.scale.cost_model import Group, all_reduce
      >>> all_reduce(800.0, Group(local=4, hosts=2))
      Traffic(intra=1200.0, inter=200.0, intra_messages=4, inter_messages=2)
    """
    m, hosts = group.local, group.hosts
    return Traffic(
        intra=2 * (m - 1) / m * size,
        inter=2 * (hosts - 1) / hosts * size / m,
        intra_messages=2 * _log2(m),
        inter_messages=2 * _log2(hosts),
    )


def all_gather(size: float, group: Group, arrays: int = 1) -> Traffic:
    r"""Traffic of gathering `size` bytes of each device, in so many arrays: across, then within.

    :math:`H - 1` times the bytes leave the host and :math:`(m - 1) H` times they stay, together
    :math:`n - 1`.
    """
    m, hosts = group.local, group.hosts
    return Traffic(
        intra=(m - 1) * hosts * size,
        inter=(hosts - 1) * size,
        intra_messages=arrays * _log2(m),
        inter_messages=arrays * _log2(hosts),
    )


def _log2(number: int) -> int:
    return math.ceil(math.log2(number))


def data_traffic(plan: Plan, job: Job, machine: Machine) -> Traffic:
    """What each step sends along `data`."""
    group = Group.of(plan.data, 1, machine.devices_per_host)
    whole = all_reduce(FLOAT32 * job.parameters * plan.replicas / plan.replica, group)
    if not plan.sharded:
        return whole
    # A reduce-scatter and two all-gathers, where an all-reduce is one of each.
    return Traffic(*(1.5 * part for part in dataclasses.astuple(whole)))


def coupling_traffic(plan: Plan, job: Job, machine: Machine) -> Traffic:
    """What each coupling sends along `replica`."""
    if plan.coupling_period == math.inf:
        return Traffic()
    group = Group.of(plan.replica, plan.data, machine.devices_per_host)
    if plan.communication_dtype == "float32":
        # Replicas of one device are summed before they are sent.
        shards = plan.data if plan.sharded else 1
        return all_reduce(FLOAT32 * job.parameters / shards, group)
    size = BYTES[plan.communication_dtype] * job.parameters * plan.share
    arrays = job.arrays
    if plan.communication_dtype == "int8":
        # A scale for each array and replica.
        size += FLOAT32 * job.arrays * plan.replicas / plan.replica
        arrays *= 2
    return all_gather(size, group, arrays)


def memory(plan: Plan, job: Job) -> float:
    """Bytes on a device: parameters, gradients and state. Activations are not counted."""
    return (2 + plan.state_copies) * FLOAT32 * job.parameters * plan.share


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step costs a device.

    Attributes:
      gradient: seconds of the gradients.
      update: seconds of the update.
      data: seconds that gradients of one replica are on their way.
      coupling: seconds that a coupling is on its way.
      step: seconds of a step, the mean over a period, what overlaps counted once.
      memory: bytes.
      fits: whether the device has as many.
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
      >>> from experiments.studies.scale.cost_model import Job, Link, Machine, Plan, cost
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
