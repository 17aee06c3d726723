"""Tables of a contest for a page: a row for each setting, or for each contestant."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.report.plots import NAMES
from experiments.report.statistics import with_interval, with_sem
from experiments.report.tables import markdown_table
from experiments.studies.contest.description import Contest

Rows = Sequence[Mapping[str, Any]]

# Quantity -> title, factor and digits of its differences.
DIFFERENCES = {
    "test_error": ("Test error", 1, 2),
    "test_loss": ("Test loss × 100", 100, 1),
    "scaled_loss": ("Scaled loss × 100", 100, 1),
}
RISES = ("3 bits, tensor", "3 bits, channel", "90% pruned")
OF_RANDOM = ("median", "best of 4")
_WORD = re.compile(rf"\b({'|'.join(NAMES)})\b")


def page_tables(
    contest: Contest, rows: Rows, outcomes: Rows, least: Mapping[str, float]
) -> dict[str, str]:
    """Makes the tables.

    Args:
      contest: its settings, and who is compared.
      rows: the differences, see `experiments.studies.contest.results.comparisons`.
      outcomes: the outcomes, see `experiments.studies.contest.report.summary`.
      least: setting -> least difference that the primary tests detect.

    Returns:
      Title -> table in Markdown. The number after ± is the standard error of a mean, and half of
      the 95% interval of a difference. Errors with a star include runs that diverged, as 100%.
    """
    settings = [one for one in contest.settings if any(o["setting"] == one for o in outcomes)]
    of = {(one["setting"], one["contestant"]): one for one in outcomes}
    names = list(dict.fromkeys(one["contestant"] for one in outcomes))
    searched = [name for name in names if name in contest.contestants]
    cells = {
        (row["quantity"], row["reference"], row["contestant"], row["setting"]): row for row in rows
    }

    base, short = contest.baseline, functools.partial(short_name, contest)

    def table(header: Iterable[str], line: Callable[[str], Iterable[str]]) -> str:
        lines = [["setting", *header]]
        return markdown_table([*lines, *([setting, *line(setting)] for setting in settings)])

    def differences(quantity: str, pairs: Sequence[tuple[str, str]], is_named: bool) -> str:
        _, factor, digits = DIFFERENCES[quantity]
        header = [short(a) + (f" - {short(b)}" if is_named else "") for a, b in pairs]
        find = lambda a, b, setting: cells.get((quantity, b, a, setting))
        show = lambda setting: [_difference(find(*pair, setting), factor, digits) for pair in pairs]
        return table(header, show)

    def numbers(show: Callable[[Mapping[str, Any]], str], who: Sequence[str]) -> str:
        one = lambda setting, name: show(of[setting, name]) if (setting, name) in of else ""
        return table(map(short, who), lambda setting: [one(setting, name) for name in who])

    others = [name for name in names if name != base]
    pairs = [(name, other) for other in contest.references for name in contest.primary]
    titles = {quantity: title for quantity, (title, *_) in DIFFERENCES.items()}
    found = {}
    if contest.primary:
        found["Primary"] = _primary(contest, cells, table)
    found["Test error %"] = _errors(contest, of, names, least, table)
    exploratory = [(one, base) for one in others if one not in contest.primary]
    found[f"Test error minus {short(base)}"] = differences("test_error", exploratory, False)
    if pairs:
        found["Test error minus other references"] = differences("test_error", pairs, True)
    for quantity in ("test_loss", "scaled_loss"):
        compared = [(one, base) for one in searched if one != base]
        found[f"{titles[quantity]} minus {short(base)}"] = differences(quantity, compared, False)
    sigma = f"{contest.outcomes.sigmas[-2]:g}"
    energy = lambda row: with_sem(row.get("local_energy", {}).get(sigma))
    found[f"Local energy %, σ={sigma}"] = numbers(energy, searched)
    for rise in RISES:
        show = lambda row, rise=rise: with_sem(row.get("rises", {}).get(rise, {}).get("error"), 1)
        found[f"Rise of the test error, {rise}"] = numbers(show, searched)
    for name in OF_RANDOM:
        show = lambda row, name=name: _plain(row.get("random", {}).get(name))
        found[f"Random settings, {name}"] = numbers(show, searched)
    found["Chosen settings"] = _choices(contest, outcomes)
    return found


def contestant_tables(
    contest: Contest, rows: Rows, outcomes: Rows, reached: Rows = ()
) -> dict[str, str]:
    """Makes the tables of a later stage: a row for each contestant.

    Args:
      contest: its settings, and who is compared.
      rows: the differences.
      outcomes: the outcomes.
      reached: who reaches the first reference, see `experiments.studies.contest.results.reaches`.

    Returns:
      Title -> table in Markdown. The number after ± is half of the 95% interval of a difference. p
      values are those of primary differences to the baseline, corrected. The last column is the
      local energy at the second largest noise. If `reached` is there, the last columns are the
      number of messages, and who reaches the reference.
    """
    short = functools.partial(short_name, contest)
    references = (contest.baseline, *contest.references)
    errors = [row for row in rows if row["quantity"] == "test_error"]
    find = {(row["setting"], row["contestant"], row["reference"]): row for row in errors}
    verdicts = {(row["setting"], row["contestant"]): row["reaches"] for row in reached}
    sigma = f"{contest.outcomes.sigmas[-2]:g}"
    subtracted = (short(one).rpartition(", ")[2] for one in references)
    header = ["algorithm", "error %", *(f"minus {one}" for one in subtracted)]
    header[3:3] = ["p"] if contest.primary else []
    header += ["messages", "reaches"] if reached else ["energy"]

    def line(one):
        setting, name = one["setting"], one["contestant"]
        star = " *" if one.get("diverged") else ""
        differences = [find.get((setting, name, other)) for other in references]
        shown = [short(name), f"{one['test_error'][0]:.2f}{star}"]
        shown += [_difference(row, 1, 2) for row in differences]
        if contest.primary:
            is_primary = name in contest.primary and differences[0] is not None
            shown.insert(3, f"{differences[0]['p_corrected']:.2g}" if is_primary else "")
        if reached:
            verdict = {True: "yes", False: "no"}.get(verdicts.get((setting, name)), "")
            return [*shown, str(one.get("messages", "")), verdict]
        energy = one.get("local_energy", {}).get(sigma)
        return [*shown, "" if energy is None else f"{energy[0]:.2f}"]

    found = {
        setting: markdown_table([header, *(line(o) for o in outcomes if o["setting"] == setting)])
        for setting in dict.fromkeys(one["setting"] for one in outcomes)
    }
    return found | {"Chosen settings": _choices(contest, outcomes)}


def _primary(contest, cells, table) -> str:
    short = functools.partial(short_name, contest)
    minus = f" - {short(contest.baseline)}"
    header = [text for name in contest.primary for text in (short(name) + minus, "p")]

    def line(setting):
        shown = []
        for name in contest.primary:
            row = cells.get(("test_error", contest.baseline, name, setting))
            if row is None:
                shown += ["", ""]
                continue
            shown += [
                with_interval(row["difference"], row["interval"]),
                f"{row['p_corrected']:.2g}",
            ]
        return shown

    return table(header, line)


def _errors(contest, of, names, least, table) -> str:
    def line(setting):
        own = [of.get((setting, name)) for name in names]
        star = lambda one: " *" if one.get("diverged") else ""
        means = ["" if one is None else f"{one['test_error'][0]:.2f}{star(one)}" for one in own]
        return [*means, f"{least[setting]:.2f}" if setting in least else ""]

    return table([*(short_name(contest, name) for name in names), "least"], line)


def _choices(contest, outcomes) -> str:
    fields = ("learning_rate", "weight_decay")
    has_settings = len({row["setting"] for row in outcomes}) > 1
    lines = [["algorithm", *(field.split("_")[1] for field in fields), "others"]]
    lines[0][:0] = ["setting"] * has_settings
    for row in outcomes:
        if "settings" in row:
            own = row["settings"]
            common = [f"{own[field]:g}" if field in own else "" for field in fields]
            rest = [
                f"{_OTHERS.get(field, field)} {value:g}"
                for field, value in own.items()
                if field not in fields
            ]
            line = [short_name(contest, row["contestant"]), *common, ", ".join(rest)]
            lines.append([row["setting"], *line] if has_settings else line)
    return markdown_table(lines)


_OTHERS = {
    "sam_rho": "ρ",
    "gamma": "γ",
    "replica_gamma": "γ_r",
    "common_init": "common start",
    "noise_scale": "ε",
    "averaging_decay": "α",
    "inner_steps": "L",
}


def _difference(row, factor, digits) -> str:
    if row is None:
        return ""
    low, high = (factor * end for end in row["interval"])
    return f"{factor * row['difference']:+.{digits}f} ± {(high - low) / 2:.{digits}f}"


def short_name(contest: Contest, name: str) -> str:
    """The name, without what its stage makes clear.

    It leaves out the number of workers. What was recorded along the runs of the baseline goes
    without the name of the baseline.
    """
    if name not in contest.contestants:
        return name.removeprefix(f"{contest.baseline}, ").replace("stopped early", "stopped")
    return _WORD.sub(lambda word: NAMES[word[0]], re.sub(r" y=\d+,", "", name))


def _plain(value) -> str:
    return "" if value is None else f"{value:.2f}"
