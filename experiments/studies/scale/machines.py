r"""Devices, hosts and networks, and the traffic of collectives.

Collectives take :math:`\alpha` seconds per message and :math:`\beta` seconds per byte [Hockney
1994]. Consider n devices. An all-reduce sends :math:`2 (n - 1) / n` times its bytes, the least that
is possible [Patarasuk and Yuan 2009]. It needs :math:`2 \lceil \log_2 n \rceil` messages
[Rabenseifner 2004; Thakur, Rabenseifner and Gropp 2005]; a ring needs 2 (n - 1). An all-gather
sends :math:`n - 1` times the bytes of a device in :math:`\lceil \log_2 n \rceil` messages. Over
several hosts both work in two levels. All devices of a host share the traffic to other hosts
evenly.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection of one device.

    Attributes:
      latency: alpha, seconds per message.
      bandwidth: 1 / beta, bytes per second, each way.
    """

    latency: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Machine:
    """Equal devices on equal hosts.

    Attributes:
      flops: operations per second that a device sustains.
      memory: bytes of a device.
      memory_bandwidth: bytes per second between a device and its memory.
      devices_per_host: number of devices on a host.
      intra: link between devices of a host.
      inter: link between hosts; one device's share.
      overlaps: whether communication overlaps with computation (GPU, TPU) or not (CPU).
    """

    flops: float
    memory: float
    memory_bandwidth: float
    devices_per_host: int
    intra: Link
    inter: Link
    overlaps: bool = True


@dataclasses.dataclass(frozen=True)
class Group:
    """Devices that communicate.

    Attributes:
      local: number of them on one host.
      hosts: number of their hosts.
    """

    local: int
    hosts: int

    @classmethod
    def of(cls, size: int, stride: int, devices_per_host: int) -> "Group":
        """Makes a group of `size` devices, every `stride`-th of all in a row."""
        local = min(size, max(1, devices_per_host // stride))
        return cls(local, math.ceil(size / local))


@dataclasses.dataclass(frozen=True)
class Traffic:
    """The messages of a device.

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
        """The total number of bytes."""
        return self.intra + self.inter

    def seconds(self, machine: Machine) -> float:
        """Returns the time: alpha for each message and beta for each byte."""
        latency = self.intra_messages * machine.intra.latency
        latency += self.inter_messages * machine.inter.latency
        within = self.intra / machine.intra.bandwidth
        return latency + within + self.inter / machine.inter.bandwidth


def all_reduce(size: float, group: Group) -> Traffic:
    r"""Counts the traffic of a mean of `size` bytes, in two levels.

    The bytes are scattered in each host, reduced between hosts, and gathered. With m devices on
    each of H hosts, :math:`2 \frac{m-1}{m}` of the bytes stay in the host and
    :math:`\frac{2}{m} \frac{H-1}{H}` leave it, together :math:`2 \frac{n-1}{n}`.

    Examples:
      >>> from experiments.studies.scale.machines import Group, all_reduce
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
    r"""Counts the traffic of gathering `size` bytes of each device, in two levels.

    The bytes are gathered between hosts, then within. :math:`H - 1` times the bytes leave the host
    and :math:`(m - 1) H` times they stay, together :math:`n - 1`.
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
