"""The draft of the study's chapter in docs/results."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report.statistics import mean_and_sem, paired_difference
from experiments.report.tables import markdown_table
from experiments.studies.language.description import Language

Records = Mapping[str, Mapping[int, Mapping[str, Any]]]
TOKENS, STEPS = "AdamW", "AdamW, S steps"  # one worker: equal tokens, and equal steps
DATA_PARALLEL = "AdamW, batch x 4"
BYTES = 4  # per weight in a message
_TEMPERATURE = re.compile(r"temperature ([\d.]+) instead of 1")


def megabytes(study: Language, arm: str, units: Mapping[int, Mapping[str, Any]]) -> float:
    """Returns what each worker sends in a run; 0 for one worker."""
    period = study.period(arm)
    couplings = 0 if period is None else study.steps_of(arm) // period
    return couplings * BYTES * next(iter(units.values()))["num_weights"] / 1e6


def page(study: Language, records: Records) -> str:
    """Returns the chapter in Markdown; its sentences state numbers only."""
    sections = [
        "# A language model with few messages",
        "Four workers train one small transformer. What is lost if they exchange weights every 16 "
        "or 64\nsteps, instead of a gradient at every step?",
        "\n".join(f"- {line}" for line in summary(study, records)),
        "```sh\npython -m experiments language --out experiments/results/language\n"
        "python -m experiments language --report-only --out experiments/results/language\n```",
        "![Held-out bits along training, and flatness](../../experiments/figures/language.png)",
        "## Held-out bits per byte",
        "Differences are paired over seeds, with 95% intervals of Student's t. ± is the standard "
        "error over\nseeds. All arms have the same learning rate; none was tuned.",
        bits_table(study, records),
        "## Messages and flatness",
        "A message holds all weights (of data-parallel AdamW: a gradient). The rise is the one of "
        f"the training\nloss under noise of strength {study.base.measures.sigmas[-1]:g}, in bits.",
        flat_table(study, records),
        coefficient_text(records),
        "## Appendix: methods",
        "- **Settings and sizes** are in [`language.py`](../../experiments/configs/language.py).\n"
        "- **Records** of each arm and seed are in `experiments/results/language`, with settings, "
        "data and commit.",
    ]
    return "\n\n".join(sections) + "\n"


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


def summary(study: Language, records: Records) -> list[str]:
    """Returns statements on the arms that are there."""
    mean = {arm: np.mean(list(bits_of(records, arm).values())) for arm in records}
    seeds = [len(units) for units in records.values()]
    lines = [f"{len(records)} of {len(study.arms)} arms have records, of {min(seeds)} seeds each."]
    if min(seeds) < max(seeds):
        lines = [f"{sum(seeds)} of {len(study.arms) * len(study.seeds)} runs are complete."]
    best = min(mean, key=lambda arm: mean[arm])
    lines.append(f"The fewest held-out bits per byte have {best}: {mean[best]:.3f}.")
    for arm, reference in (("rSGD, K=16", "DiLoCo, K=16"), ("rSGD, K=16", DATA_PARALLEL)):
        if found := difference(records, arm, reference):
            lines.append(f"{arm} minus {reference}: {_shown(found)} bits.")
    for name in ("DiLoCo", "rSGD", "Parle"):
        few, many = f"{name}, K=64", f"{name}, K=1"
        if few in mean and many in mean:
            lines.append(f"{name}: K = 64 costs {mean[few] - mean[many]:+.3f} bits against K = 1.")
    return lines


def bits_table(study: Language, records: Records) -> str:
    """Tabulates final bits, and differences at equal tokens and at equal steps."""
    lines = [["arm", "steps", "bits per byte", "minus AdamW", f"minus {STEPS}"]]
    for arm in records:
        bits = list(bits_of(records, arm).values())
        cells = [arm, str(study.steps_of(arm)), "{:.3f} ± {:.3f}".format(*mean_and_sem(bits))]
        for reference in (TOKENS, STEPS):
            found = difference(records, arm, reference)
            cells.append("" if found is None else _shown(found))
        lines.append(cells)
    return markdown_table(lines)


def flat_table(study: Language, records: Records) -> str:
    """Tabulates messages of all workers, the distance of replicas, and flatness."""
    lines = [["arm", "messages", "MB a worker", "distance", "rise, bits"]]
    for arm, units in records.items():
        period = study.period(arm)
        couplings = 0 if period is None else study.steps_of(arm) // period
        ends = [unit["curve"][-1] for unit in units.values()]
        flat = [unit["flatness"][-1] for unit in units.values()]
        distances = [end["relative_distance"] for end in ends if "relative_distance" in end]
        rise = mean_and_sem([one["rise_bits"][-1] for one in flat])
        lines.append(
            [
                *(arm, str(couplings * study.workers(arm)), f"{megabytes(study, arm, units):.0f}"),
                f"{np.mean(distances):.2g}" if distances else "",
                "{:.3f} ± {:.3f}".format(*rise),
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
    mean, (low, high) = found
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
