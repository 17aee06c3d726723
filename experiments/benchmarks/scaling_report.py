"""Tables and picture of `experiments.benchmarks.scaling`, from its JSON file."""

import pathlib
from typing import Any

import numpy as np

from experiments.benchmarks.suite_figure import NETWORKS
from experiments.report import plots
from experiments.report.plots import COLORS
from experiments.report.tables import markdown_table
from experiments.studies.scale import machines

STYLES = {
    "SGD": {"color": COLORS["sgd"]},
    "rSGD": {"color": COLORS["rsgd"]},
    "rSGD, K=16": {"color": COLORS["rsgd"], "alpha": 0.5},
    "rSGD x 2": {"color": COLORS["rsgd"]},
    "eSGD": {"color": COLORS["esgd"]},
    **{name: NETWORKS[name] for name in ("mlp", "small_convnet")},
}
_SHORT = {"mlp": "mlp", "small_convnet": "conv net"}
MARKERS = {"devices": "o", "processes": "s"}


def tables(found: dict[str, Any]) -> str:
    """Formats all results as Markdown."""
    settings = found["settings"]
    head = f"{found['machine']}, batch {settings['batch_size']}, {settings['rounds']} rounds"
    parts = [head, _scaling(found["scaling"]), _links(found["links"])]
    parts += [_replicas(found["replicas"]), _parameters(found["parameters"])]
    return "\n\n".join(parts)


def _range(quartiles):
    low, median, high = (f"{q:.2f}" for q in quartiles)
    return f"{median} ({low} to {high})"


def _scaling(rows):
    lines = [["network", "algorithm", "on two", "weak", "strong", "apart", "ms", "predicted, ms"]]
    for row in rows:
        fractions = (_range(row[name]) for name in ("weak", "strong", "apart"))
        times = (f"{row[name]:.2f}" for name in ("milliseconds", "predicted"))
        lines.append([row["network"], row["algorithm"], row["where"], *fractions, *times])
    return markdown_table(lines)


def _links(links):
    lines = [["between two", "latency, µs", "bandwidth, MB/s"]]
    for where, link in links.items():
        lines.append([where, f"{1e6 * link['latency']:.0f}", f"{1e-6 * link['bandwidth']:.0f}"])
    return markdown_table(lines)


def _replicas(rows):
    lines = [["network", "y", "step, ms", "step / (y SGD)", "compile, core s", "compile / SGD"]]
    for row in rows:
        share = _range([q / row["y"] for q in row["step"]])
        compiled = f"{row['compile_seconds']:.2f}"
        ratio = f"{row['compile_seconds'] / max(row['sgd_compile_seconds'], 1e-3):.2f}"
        time = f"{row['milliseconds']:.2f}"
        lines.append([row["network"], f"{row['y']}", time, share, compiled, ratio])
    return markdown_table(lines)


def _parameters(rows):
    lines = [["parameters", "algorithm", "step, ms", "step / SGD", "compile, core s"]]
    lines[0] += ["state, MB", "counted", "peak growth, MB", "counted"]
    growth = _growth(rows)
    for row in rows:
        state = [f"{1e-6 * row[name]:.1f}" for name in ("state_bytes", "counted_state_bytes")]
        peak = [f"{1e-6 * size:.0f}" for size in growth[row["algorithm"], row["parameters"]]]
        time = [f"{row['milliseconds']:.2f}", _range(row["step"]), f"{row['compile_seconds']:.2f}"]
        lines.append([f"{row['parameters']:,.0f}", row["algorithm"], *time, *state, *peak])
    return markdown_table(lines)


def _growth(rows):
    """Returns the growth in bytes from the smallest network, measured and counted."""
    first: dict[str, dict[str, Any]] = {}
    growth = {}
    for row in rows:
        base = first.setdefault(row["algorithm"], row)
        names = ("peak_bytes", "counted_bytes")
        growth[row["algorithm"], row["parameters"]] = [row[name] - base[name] for name in names]
    return growth


# --- the picture --------------------------------------------------------------------------------


def figure(found: dict[str, Any], path: pathlib.Path) -> None:
    """Draws panels of fractions, predictions, all-reduces, growth and memory."""
    with plots.drawing(path, 3, 2, height=8.4) as (drawn, panels):
        (fractions, predictions), (links, replicas), (parameters, memory) = panels
        _draw_fractions(fractions, found["scaling"])
        _draw_predictions(predictions, found["scaling"])
        _draw_links(links, found["links"])
        _draw_replicas(replicas, found["replicas"])
        _draw_parameters(parameters, found["parameters"])
        _draw_memory(memory, found["parameters"])
        drawn.suptitle(found["machine"], x=0.01, ha="left", fontsize=9)


def _draw_fractions(axes, rows):
    """Draws fractions in a row per case: weak scaling filled, strong open."""
    for height, row in enumerate(reversed(rows)):
        for kind, shift in (("weak", 0.15), ("strong", -0.15)):
            low, median, high = row[kind]
            style = STYLES[row["algorithm"]]
            axes.plot([low, high], [height + shift] * 2, lw=1.5, **style)
            face = style["color"] if kind == "weak" else "white"
            marker = MARKERS[row["where"]]
            axes.plot(median, height + shift, marker, ms=5, markerfacecolor=face, **style)
        axes.plot([row["apart"][1]] * 2, [height - 0.4, height + 0.4], color="#999999", lw=1)
    axes.axvline(1, color="#999999", lw=0.8, ls=":")
    names = [f"{_SHORT[row['network']]}, {row['algorithm']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names)
    axes.set(xlabel="fraction of the ideal: weak ●, strong ○", xlim=(0, None))
    axes.set_title("● two devices, ■ two processes")


def _draw_predictions(axes, rows):
    for row in rows:
        style = STYLES[row["algorithm"]]
        axes.plot(row["milliseconds"], row["predicted"], MARKERS[row["where"]], **style)
    times = [row[name] for row in rows for name in ("milliseconds", "predicted")]
    axes.plot([min(times), max(times)], [min(times), max(times)], color="#999999", lw=0.8, ls=":")
    axes.set(xlabel="measured step (ms)", ylabel="predicted step (ms)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_title("cost model")
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        axes.plot([], [], "o", label=name, **STYLES[name])
    axes.legend()


def _draw_links(axes, links):
    for color, (where, link) in zip(("#000000", "#999999"), links.items(), strict=True):
        size = 4 * np.array(link["sizes"], float)
        axes.plot(size, np.array(link["seconds"]) * 1e6, MARKERS[where], color=color, label=where)
        group, fitted = machines.Group(1, 2), machines.Link(link["latency"], link["bandwidth"])
        machine = machines.Machine(1.0, 1.0, 1.0, 1, fitted, fitted)
        times = [machines.all_reduce(float(s), group).seconds(machine) for s in size]
        axes.plot(size, np.array(times) * 1e6, color=color, lw=1)
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="all-reduce of two (µs)")
    axes.set_title("latency and bandwidth")
    axes.legend()


def _draw_replicas(axes, rows):
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        y = [row["y"] for row in own]
        axes.plot(y, [row["step"][1] for row in own], label=network, **STYLES[network])
        compiled = [row["compile_seconds"] / max(row["sgd_compile_seconds"], 1e-3) for row in own]
        hollow = STYLES[network] | {"mfc": "white"}
        axes.plot(y, compiled, ":", label=f"{network}, compiled", **hollow)
    axes.plot(y, y, color="#999999", lw=0.8, ls=":")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(y, y)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="replicas y, on one core", ylabel="time in units of SGD", ylim=(None, 64))
    axes.set_title("replicas")
    axes.legend()


def _draw_parameters(axes, rows):
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = [row for row in rows if row["algorithm"] == name]
        size = [row["parameters"] for row in own]
        axes.plot(size, [row["milliseconds"] for row in own], "o-", label=name, **STYLES[name])
        compiled = [1e3 * row["compile_seconds"] for row in own]
        axes.plot(size, compiled, "s:", mfc="white", **STYLES[name])
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="time (ms)")
    axes.set_title("● step, □ compilation")
    axes.legend()


def _draw_memory(axes, rows):
    """Draws only the growth of memory from the smallest network."""
    growth = _growth(rows)
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = [(size, *pair) for (key, size), pair in growth.items() if key == name and pair[1] > 0]
        if own:
            size, peak, counted = 1e-6 * np.array(own).T
            axes.plot(1e6 * size, peak, "o", label=name, **STYLES[name])
            axes.plot(1e6 * size, counted, lw=1, **STYLES[name])
            axes.set(xscale="log", yscale="log")
    axes.set(xlabel="parameters", ylabel="growth of memory (MB)")
    axes.set_title("memory; lines: counted")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
