"""The cost model's table and picture: step times for many devices."""

import dataclasses
import functools
import pathlib

from experiments.report import plots, store
from experiments.report.plots import COLORS
from experiments.report.tables import markdown_table
from experiments.studies.scale.cost_model import Cost, Job, Plan, cost
from experiments.studies.scale.machines import Link, Machine

# Devices are like an H100 SXM (data sheet of NVIDIA: 80 GB at 3.35 TB/s, 989 TFLOP/s in bfloat16,
# of which two fifths are assumed to be sustained; NVLink at 450 GB/s each way). A host has eight of
# them. Between hosts there are 400 Gb/s for every device, or 100 Gb/s for a whole host. Latencies
# are assumed.
DEVICE = {"flops": 4e14, "memory": 80e9, "memory_bandwidth": 3.35e12, "devices_per_host": 8}
DEVICE |= {"intra": Link(5e-6, 450e9)}
MACHINES = {
    "fast": Machine(**DEVICE, inter=Link(15e-6, 50e9)),
    "slow": Machine(**DEVICE, inter=Link(50e-6, 12.5e9 / 8)),
}
PARAMETERS = (1e8, 1e9, 1e10, 1e11)
DEVICES = tuple(2**k for k in range(3, 13))
TOKENS = 2.0**22  # in a step, of all replicas together

_four = functools.partial(Plan, replicas=4, replica=4)
_PLANS = {
    "SGD": lambda n: Plan("sgd", data=n),
    "rSGD, y=4": lambda n: _four("rsgd", data=n // 4),
    "rSGD, y=4, int8": lambda n: _four("rsgd", data=n // 4, communication_dtype="int8"),
    "rSGD, y=4, delayed": lambda n: _four("rsgd", data=n // 4, delayed=True),
    "rSGD, y=4, K=16": lambda n: _four("rsgd", data=n // 4, period=16),
    "Parle, y=4, L=5": lambda n: _four("parle", data=n // 4),
    "rSGD, y=n/8, K=16": lambda n: Plan("rsgd", n // 8, n // 8, data=8, period=16),
    "local SGD, y=n/8, K=100": lambda n: Plan(
        "rsgd", n // 8, n // 8, data=8, period=100, decoupled=True
    ),
}
PLANS = tuple(_PLANS)
STYLES = {
    "SGD": {"color": COLORS["sgd"]},
    "rSGD, y=4": {"color": COLORS["rsgd"], "lw": 3, "alpha": 0.6},
    "rSGD, y=4, K=16": {"color": COLORS["rsgd"], "ls": "--"},
    "Parle, y=4, L=5": {"color": COLORS["parle"], "ls": ":"},
    "rSGD, y=n/8, K=16": {"color": COLORS["rsgd"], "marker": "^", "ms": 3.5},
    "local SGD, y=n/8, K=100": {"color": COLORS["local sgd"], "marker": "s", "ms": 3.5},
}


def predict(name: str, devices: int, parameters: float, machine: Machine) -> Cost | None:
    """Returns the cost of a plan, sharded if that is faster; None if none fits."""
    job = Job.transformer(parameters, TOKENS)
    plan = _PLANS[name](devices)
    plans = (dataclasses.replace(plan, sharded=is_sharded) for is_sharded in (False, True))
    fits = [found for plan in plans if (found := cost(plan, job, machine)).fits]
    return min(fits, key=lambda found: found.step, default=None)


def ideal(devices: int, parameters: float, machine: Machine) -> float:
    """Returns the seconds of a step's gradients alone."""
    return Job.transformer(parameters, TOKENS).flops_per_example * TOKENS / devices / machine.flops


def waiting_tokens(machine: Machine) -> float:
    r"""Returns the tokens per device below which SGD waits for gradients.

    At this number T of tokens, two thirds of :math:`6 P T / F` equal the time of :math:`8 P` bytes
    over m devices of a host and its border. The size of the network does not matter:
    :math:`T = 2 F (\frac{m - 1}{m} \beta_{intra} + \frac{1}{m} \beta_{inter})`.
    """
    m = machine.devices_per_host
    within, across = (m - 1) / m / machine.intra.bandwidth, 1 / m / machine.inter.bandwidth
    return 2 * machine.flops * (within + across)


def table() -> str:
    """Tabulates seconds of a step of every plan, and where SGD begins to wait."""
    columns = [(name, n) for name in MACHINES for n in (64, 512, 4096)]
    lines = [["parameters", "plan", *(f"{name}: n={n}" for name, n in columns)]]
    for parameters in PARAMETERS:
        alone = [f"{ideal(n, parameters, MACHINES[name]):.3g}" for name, n in columns]
        lines.append([f"{parameters:.0e}", "gradients alone", *alone])
        for plan in PLANS:
            found = [predict(plan, n, parameters, MACHINES[name]) for name, n in columns]
            cells = ["–" if c is None else f"{c.step:.3g}" for c in found]
            lines.append([f"{parameters:.0e}", plan, *cells])
    waits = [f"{name} {waiting_tokens(machine):,.0f}" for name, machine in MACHINES.items()]
    return f"""{markdown_table(lines)}

Tokens of a device below which SGD waits for its gradients: {", ".join(waits)}."""


def draw(path: pathlib.Path) -> None:
    """Draws the time of a step in units of its gradients, by machine and size."""
    shape = len(MACHINES), len(PARAMETERS)
    options = {"height": 4.6, "sharex": True, "sharey": "row"}
    with plots.drawing(path, *shape, **options) as (drawn, panels):
        for row, (name, machine) in zip(panels, MACHINES.items(), strict=True):
            row[0].set_ylabel(f"{name} network,\ntime of a step / its gradients")
            for panel, parameters in zip(row, PARAMETERS, strict=True):
                for plan, style in STYLES.items():
                    found = [predict(plan, n, parameters, machine) for n in DEVICES]
                    points = [
                        (n, c.step / ideal(n, parameters, machine))
                        for n, c in zip(DEVICES, found, strict=True)
                        if c is not None
                    ]
                    panel.plot(*zip(*points, strict=True), label=plan, **style) if points else None
                panel.axhline(1, color="#999999", lw=0.8, ls=":")
                panel.set_xscale("log")
        for panel, parameters in zip(panels[0], PARAMETERS, strict=True):
            exponent = f"{parameters:.0e}".split("+")[1].lstrip("0")
            panel.set_title(f"$10^{{{exponent}}}$ parameters")
        for panel in panels[-1]:
            panel.set_xscale("log", base=2)
            panel.set_xticks(DEVICES[::3], DEVICES[::3])
            panel.minorticks_off()
            panel.set_xlabel("devices n")
        for row in panels:
            row[0].set_yscale("log", base=2)
            row[0].yaxis.set_major_formatter("{x:g}")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        plots.legend_below(drawn, handles, labels, 3)


def report(out: pathlib.Path) -> str:
    """Writes cost_model.md and cost_model.png, and returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    text = table()
    store.write_text(out / "cost_model.md", text + "\n")
    draw(out / "cost_model.png")
    return text
