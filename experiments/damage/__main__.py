"""Command line of the attacks: `python -m experiments.damage --help`."""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import tempfile

import tqdm

from experiments.damage import attempts, files, processes, runs
from experiments.engine import console


@dataclasses.dataclass(frozen=True)
class Damage:
    """Damage the files of a small run, of caches and of data, and count detections.

    A try is `detected` if an error names the file or its directory, and `harmless` if all numbers
    are right. It is `unnamed` if an error does not name the place, and `silent` if a number is
    wrong. The exit status is 1 if any try is unnamed or silent. If it is interrupted, the same
    command continues after the complete rows.

    Example: python -m experiments.damage --tries 20
    """

    tries: int = 100
    """Number of flipped bits for each kind of file. A fifth as many files are cut short or deleted,
    and a twentieth as many signals are sent to separate processes."""
    processes: bool = True
    """Also start two processes in one directory, and send signals to runs."""
    seed: int = 0
    """Random seed of the damage."""
    out: pathlib.Path = pathlib.Path("runs", "damage")
    """Directory of the record, damage.jsonl."""

    def run(self) -> int:
        """Prints the table, with a line for each complete row."""
        if self.tries < 1:
            raise ValueError(f"tries must be >= 1, got {self.tries}.")
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs each damage
        records = []
        with contextlib.ExitStack() as stack:
            place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            rows = runs.Run(place / "runs").rows(self.tries) + files.rows(place, self.tries)
            if self.processes:
                rows += processes.rows(place, self.tries, stack)
            bar = stack.enter_context(tqdm.tqdm(total=len(rows), unit="row", disable=None))
            for record in attempts.run_rows(rows, self.out / "damage.jsonl", self.seed):
                records.append(record)
                found = ", ".join(f"{record[name]} {name}" for name in attempts.OUTCOMES)
                bar.write(f"{record['files']}, {record['damage']}: {found}", file=sys.stderr)
                bar.update()
        print(attempts.table(records))
        return int(any(map(attempts.is_bad, records)))


if __name__ == "__main__":
    sys.exit(console.run(Damage, "python -m experiments.damage"))
