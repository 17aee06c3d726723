"""The best candidates of each setting and length, and the decided lengths."""

import pathlib
from typing import Any

from experiments.report import store
from experiments.report.meeting import Meetings
from experiments.report.statistics import with_error
from experiments.report.tables import markdown_table
from experiments.studies.ladder.description import Ladder
from experiments.studies.ladder.ranking import Records, best
from experiments.studies.ladder.run import decided_length


def summarize(records: Records) -> list[dict[str, Any]]:
    """A row for each setting and length that has records."""
    keys = dict.fromkeys((record["setting"], record["length"]) for record in records)
    return [
        {"setting": setting, "length": length} | best(records, setting, length)
        for setting, length in keys
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    fields = list(rows[0]["settings"])
    names = [field.replace("_", " ") for field in fields]
    lines = [["setting", "length", "seeds", "validation error %", *names]]
    for row in rows:
        chosen = [f"{row['settings'][field]:g}" for field in fields]
        error = with_error(row["error"], row["sem"], row["seeds"])
        lines.append([row["setting"], f"x {row['length']}", str(row["seeds"]), error, *chosen])
    return markdown_table(lines)


def meetings(ladder: Ladder, records: Records) -> Meetings:
    """Of all runs, with their settings and lengths."""
    place = lambda record: f"{record['setting']} x {record['length']}"
    own = [(place(record), record.get("meeting")) for record in records]
    return {ladder.base.algorithm.name: own}


def report(ladder: Ladder, records: Records, out: pathlib.Path) -> str:
    """Writes ladder.json and ladder.md; returns the tables."""
    rows = summarize(records)
    settings = dict.fromkeys(row["setting"] for row in rows)
    lengths = {setting: decided_length(ladder, records, setting) for setting in settings}
    store.write_json(out / "ladder.json", {"rows": rows, "lengths": lengths})
    lines = [["setting", "decided length"]]
    lines += [
        [setting, "none yet" if length is None else f"x {length}"]
        for setting, length in lengths.items()
    ]
    text = f"{table(rows)}\n\n{markdown_table(lines)}"
    store.write_text(out / "ladder.md", text + "\n")
    return text
