"""The draft of the study's chapter in docs/results."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report.statistics import (
    mean_and_sem,
    paired_difference,
    with_error,
    with_interval,
)
from experiments.report.tables import markdown_table
from experiments.studies.language.description import Language
from experiments.studies.language.tuned import Tuned, best_of, final_of
from flatjax.flatness import kendall_tau

Records = Mapping[str, Mapping[int, Mapping[str, Any]]]
TOKENS, STEPS = "AdamW", "AdamW, S steps"  # one worker: equal tokens, and equal steps
DATA_PARALLEL = "AdamW, batch x 4"
FEW = ("DiLoCo, K=16", "rSGD, K=16")  # the arms of the primary comparison with few messages
BYTES = 4  # per weight in a message
ROUNDING = 1e-6  # replicas that are closer to their center, relatively, have been averaged
_TEMPERATURE = re.compile(r"temperature ([\d.]+) instead of 1")


def megabytes(study: Language, arm: str, units: Mapping[int, Mapping[str, Any]]) -> float:
    """Returns what each worker sends in a run; 0 for one worker."""
    return study.couplings(arm) * BYTES * next(iter(units.values()))["num_weights"] / 1e6


def page(study: Language, records: Records, tuned: Tuned) -> str:
    """Returns the chapter in Markdown; its sentences state numbers only."""
    tuned_lines, untuned_lines = tuned_summary(study, tuned), untuned_summary(study, records)
    opening = [*(tuned_lines or untuned_lines), flatness_line(records)]
    sections = [
        "# A language model with few messages",
        "Four workers train one small transformer. What is lost if they exchange weights every 16 "
        "or 64\nsteps, instead of a gradient at every step?",
        "An arm is an algorithm with its settings. K is the number of steps between two messages. "
        f"S = {study.steps} is the\nnumber of steps of four workers, and y = 1 is a single worker. "
        '"Batch x 4" sends a gradient at every step.',
        _listed(opening),
        "```sh\npython -m experiments language --out experiments/results/language\n"
        "python -m experiments language --tuned --out experiments/results/language\n"
        "python -m experiments language --report-only --out experiments/results/language\n```",
        "![Held-out bits along training, and flatness](../../experiments/figures/language.png)",
        "Dotted lines on the left are single workers. Lines on the right lead from half of the "
        "steps to the end,\nwhich has the mark.",
        "## Held-out bits per byte",
        "Differences are paired over seeds, with 95% intervals of Student's t. ± is the standard "
        "error over\nseeds; one seed has none.",
        bits_table(study, records),
        "**Nothing was tuned for this table.** All arms have the learning rate of AdamW. The pull "
        "of rSGD grows\nfrom 0.1% to 63% of a step. DiLoCo has the outer learning rate (0.7) and "
        "momentum (0.9) of its paper\nfor all K. Together they make the displacement of the "
        "workers up to seven times as large, at K = 1 in every step.",
        *([_listed(untuned_lines)] if tuned_lines else []),
        *tuned_section(study, tuned),
        *(_caveats(records, tuned) if tuned_lines and set(FEW) <= records.keys() else []),
        "## Messages and flatness",
        'A message holds all weights; in data-parallel AdamW it is a gradient. "MB a worker" is '
        'what each worker\nsends in a run. "Distance" is the relative distance of the workers '
        'from their center at the end. "Rise" is\nthe rise of the training loss under noise of '
        f"strength {study.base.measures.sigmas[-1]:g}.",
        flat_table(study, records),
        coefficient_text(records),
        "## Appendix: methods",
        "- **Settings and sizes** are in [`language.py`](../../experiments/configs/language.py).\n"
        "- **Records** of each arm and seed are in `experiments/results/language`, with settings, "
        "data and commit.",
    ]
    return "\n\n".join(sections) + "\n"


def _caveats(records: Records, tuned: Tuned) -> list[str]:
    bits = [float(np.mean(list(bits_of(records, arm).values()))) for arm in FEW]
    caveats = [
        "A choice from single runs is uncertain. Untuned, with other seeds, DiLoCo has "
        f"{bits[0]:.2f} and rSGD {bits[1]:.2f}.\nAn earlier search had been tested on seeds 10 to "
        "12, with nearly the same results."
    ]
    units = tuned.records[FEW[1]].values()
    distances = [point["relative_distance"] for unit in units for point in unit["curve"]]
    if max(distances) < ROUNDING:
        caveats.append(
            "**The tuned rSGD is local SGD.** With the pull that it chose, each message averages "
            "the workers completely.\nDiLoCo does the same with an outer rate of 1 and no momentum."
        )
    return caveats


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def bits_of(records: Records, arm: str) -> dict[int, float]:
    """Returns the final held-out bits of each seed of an arm."""
    return {seed: unit["final"]["bits"] for seed, unit in records[arm].items()}


def difference(records: Records, arm: str, reference: str) -> tuple[float, list[float]] | None:
    """Returns the mean difference over common seeds and its interval.

    None if there are fewer than two seeds.
    """
    if arm == reference or arm not in records or reference not in records:
        return None
    own, others = bits_of(records, arm), bits_of(records, reference)
    seeds = [seed for seed in own if seed in others]
    if len(seeds) < 2:
        return None
    mean, interval, _ = paired_difference([own[s] for s in seeds], [others[s] for s in seeds])
    return mean, interval


def untuned_summary(study: Language, records: Records) -> list[str]:
    """Returns statements on the arms that are there."""
    mean = {arm: float(np.mean(list(bits_of(records, arm).values()))) for arm in records}
    done, planned = sum(map(len, records.values())), len(study.units())
    lines = [] if done == planned else [f"{done} of {planned} runs are complete."]
    if {TOKENS, STEPS, DATA_PARALLEL} <= mean.keys():
        lines.append(
            f"At equal tokens, one worker ends at {mean[TOKENS]:.2f} bits per byte after "
            f"{study.steps_of(TOKENS)} steps, and four\n  workers that exchange every gradient at "
            f"{mean[DATA_PARALLEL]:.2f} after {study.steps}. One worker alone is at "
            f"{mean[STEPS]:.2f} after {study.steps}."
        )
    lines += few_messages(records)
    for name in ("DiLoCo", "rSGD", "Parle"):
        found = [mean.get(f"{name}, K={k}") for k in (1, 16, 64)]
        if None not in found:
            shown = "{:.2f}, {:.2f} and {:.2f}".format(*found)
            lines.append(f"{name} has {shown} bits with a message every 1, 16 and 64 steps.")
    return lines


def flatness_line(records: Records) -> str:
    """Returns a statement on the rises under noise."""
    rise = {arm: _mean_rise(units) for arm, units in records.items()}
    mean = [float(np.mean(list(bits_of(records, arm).values()))) for arm in records]
    low, high = min(rise, key=rise.__getitem__), max(rise, key=rise.__getitem__)
    tau = float(kendall_tau(list(rise.values()), mean))
    return (
        f"Flatness, untuned: {low} has the smallest rise under noise ({rise[low]:.3f} bits), "
        f"{high} the\n  largest ({rise[high]:.3f}). Over the arms, Kendall's τ of rise and bits is "
        f"{tau:+.2f}."
    )


def few_messages(records: Records, prefix: str = "") -> list[str]:
    """Returns a statement on each arm with few messages whose differences are known."""
    lines = []
    for arm in FEW:
        against = {ref: difference(records, arm, ref) for ref in (DATA_PARALLEL, STEPS)}
        if all(against.values()):
            mean = float(np.mean(list(bits_of(records, arm).values())))
            lost, gained = (_shown(found) for found in against.values() if found)
            lines.append(
                f"{prefix}**{arm}** ends at {mean:.2f}. The difference to an exchange of every "
                f"gradient is {lost},\n  and to one worker alone (S steps) {gained}."
            )
    return lines


def tuned_summary(study: Language, tuned: Tuned) -> list[str]:
    """Returns statements on the tuned arms, if all of them are complete."""
    seeds = study.tuning.final_seeds
    if any(len(tuned.records.get(arm, ())) < len(seeds) for arm in study.primary):
        return []
    mean = {arm: np.mean(list(bits_of(tuned.records, arm).values())) for arm in study.primary}
    lines = [
        f"**With tuned settings**, one worker ends at {mean[TOKENS]:.2f} bits per byte after "
        f"{study.steps_of(TOKENS)} steps, and\n  after {study.steps} at {mean[STEPS]:.2f}. Four "
        f"workers that exchange every gradient end at {mean[DATA_PARALLEL]:.2f} after "
        f"{study.steps}."
    ]
    return lines + few_messages(tuned.records, "Tuned ")


def tuned_section(study: Language, tuned: Tuned) -> list[str]:
    """Returns the section on the tuned arms; nothing if no search has begun."""
    if not tuned:
        return []
    own, parts = study.tuning, []
    found = sum(search.choice is not None for search in tuned.searches.values())
    done, planned = sum(map(len, tuned.records.values())), len(own.axes) * len(own.final_seeds)
    if done < planned:
        parts = [
            f"**This part is not complete:** {found} of {len(own.axes)} searches have ended, and "
            f"{done} of {planned}\nruns with chosen settings."
        ]
    if tuned.records:
        parts += [
            "The runs with chosen settings have fresh seeds, all training sequences, and test "
            "data.",
            tuned_table(study, tuned),
        ]
    return [
        "## Tuned settings",
        f"Each arm has the learning rate that is best on {own.validation:.0%} of the training "
        "sequences, after one run for\neach candidate. DiLoCo's outer learning rate and the "
        "pull of rSGD's first coupling are chosen in the\nsame way, in turn with the learning "
        "rate until neither changes. A choice at an edge extends the grid.",
        searches_table(tuned),
        *parts,
    ]


def searches_table(tuned: Tuned) -> str:
    """Tabulates all candidates whose grid has all of its values."""
    lines = [["arm", "setting", "from", "to", "chosen", "bits, in this order"]]
    for arm, found in tuned.searches.items():
        for name, bits in found.tried.items():
            shown = ", ".join(f"{bits[value]:.2f}" for value in sorted(bits))
            edges = (f"{edge:g}" for edge in (min(bits), max(bits), best_of(bits)))
            short = name.replace("outer_learning", "outer").replace("_", " ")
            lines.append([arm, short, *edges, shown])
    return markdown_table(lines)


def tuned_table(study: Language, tuned: Tuned) -> str:
    """Tabulates final bits of the tuned arms, and their differences."""
    lines = [["arm", "seeds", "bits per byte", "minus every gradient", "minus one worker alone"]]
    for arm in final_of(study, tuned.searches).arms:
        bits = list(bits_of(tuned.records, arm).values()) if arm in tuned.records else []
        cells = [arm, str(len(bits))]
        cells.append(with_error(*mean_and_sem(bits), len(bits), digits=3) if bits else "")
        for reference in (DATA_PARALLEL, STEPS):
            found = difference(tuned.records, arm, reference)
            cells.append("" if found is None else _shown(found))
        lines.append(cells)
    return markdown_table(lines)


def _mean_rise(units: Mapping[int, Mapping[str, Any]]) -> float:
    return float(np.mean([unit["flatness"][-1]["rise_bits"][-1] for unit in units.values()]))


def bits_table(study: Language, records: Records) -> str:
    """Tabulates final bits, and differences at equal tokens and at equal steps."""
    lines = [["arm", "steps", "bits per byte", "minus AdamW", f"minus {STEPS}"]]
    for arm in records:
        bits = list(bits_of(records, arm).values())
        cells = [
            arm,
            str(study.steps_of(arm)),
            with_error(*mean_and_sem(bits), len(bits), digits=3),
        ]
        for reference in (TOKENS, STEPS):
            found = difference(records, arm, reference)
            cells.append("" if found is None else _shown(found))
        lines.append(cells)
    return markdown_table(lines)


def flat_table(study: Language, records: Records) -> str:
    """Tabulates messages of all workers, the distance of replicas, and flatness."""
    lines = [["arm", "messages", "MB a worker", "distance", "rise, bits"]]
    for arm, units in records.items():
        ends = [unit["curve"][-1] for unit in units.values()]
        flat = [unit["flatness"][-1] for unit in units.values()]
        distances = [end["relative_distance"] for end in ends if "relative_distance" in end]
        rises = mean_and_sem([one["rise_bits"][-1] for one in flat])
        lines.append(
            [
                *(
                    arm,
                    str(study.couplings(arm) * study.workers(arm)),
                    f"{megabytes(study, arm, units):.0f}",
                ),
                f"{np.mean(distances):.2g}" if distances else "",
                with_error(*rises, len(flat), digits=3),
            ]
        )
    return markdown_table(lines)


def coefficient_text(records: Records) -> str:
    """States what the estimates of the learning coefficient are worth."""
    found = [
        at
        for units in records.values()
        for unit in units.values()
        for at in unit["flatness"]
        if "coefficient" in at
    ]
    rough = [at for at in found if at["coefficient_problems"]]
    words = " ".join(problem for at in rough for problem in at["coefficient_problems"])
    temperatures = [float(number) for number in _TEMPERATURE.findall(words)]
    text = f"{len(rough)} of {len(found)} estimates of the learning coefficient report problems."
    if temperatures:
        text += (
            f" Their chains reached a\ntemperature of {max(temperatures):.2f} at most, where 1 is "
            "needed: they are too short to tell the solutions apart.\nThe records have the values."
        )
    return text


def _shown(found: tuple[float, list[float]]) -> str:
    return with_interval(*found, digits=3)
