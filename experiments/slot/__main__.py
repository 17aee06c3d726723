"""Command line of slots: `python -m experiments.slot --help`."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile

from experiments.engine import console


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Make the bundle of a slot.

    It holds the tree, wheels that the machine lacks, images and earlier records.

    Example: python -m experiments.slot bundle --images cifar10-jpeg.tar.xz --out bundle
    """

    images: pathlib.Path
    """Archive (tar, also compressed) or folder with train/CLASS/*.jpg and test/CLASS/*.jpg."""
    out: pathlib.Path = pathlib.Path("bundle")
    """Folder to make, at most 45 MiB."""
    earlier: pathlib.Path | None = None
    """Folder of the records of earlier slots; what they have is not trained again."""
    wheels: bool = True
    """Add the packages that the machine lacks, downloaded by pip."""

    def run(self) -> None:
        """Makes it and prints its size."""
        from experiments.slot.bundle import make_bundle

        size = make_bundle(self.out, self.images, earlier=self.earlier, wheels=self.wheels)
        print(f"{self.out}: {size / 2**20:.1f} MiB. There: bash {self.out.name}/run.sh OUT")


@dataclasses.dataclass(frozen=True)
class Run:
    """Run a slot from a bundle: checks, speed, then training in the order of value.

    Writes checks.jsonl, speed.jsonl, runs.jsonl, curves.jsonl and events.jsonl, each record as it
    comes, with the device. Exit status 1 if a check failed, 75 if work is left for another slot.

    Example: bash bundle/run.sh results --time-limit 9m
    """

    bundle: pathlib.Path
    """Folder of the bundle."""
    out: pathlib.Path
    """Folder of the records; what it holds is not done again."""
    work: pathlib.Path | None = None
    """Folder for the decoded images; a temporary one by default."""
    time_limit: str = "9m"
    """Wall time, from the start of this command."""
    parts: tuple[str, ...] = ("checks", "speed", "runs")
    """What is done; several processes may do different parts, each in a folder of its own."""
    only: tuple[str, ...] = ()
    """Labels of the algorithms that are trained, for example "SGD, wider"; all by default."""
    toy: bool = False
    """Small networks on few images, for a CPU."""

    def run(self) -> int:
        """Runs everything that fits."""
        from experiments.engine.time_limit import TimeLimit, parse_duration
        from experiments.slot.run import run_slot

        limit = TimeLimit(parse_duration(self.time_limit), resumable=False)
        with tempfile.TemporaryDirectory() as temporary:
            work = self.work or pathlib.Path(temporary)
            return run_slot(
                self.bundle, self.out, work, limit, parts=self.parts, only=self.only, toy=self.toy
            )


@dataclasses.dataclass(frozen=True)
class Rehearse:
    """Rehearse a slot on a CPU at toy size: make a bundle, run it, check it.

    Takes three minutes on two cores.
    """

    wheels: bool = True
    """Download and install the packages as for a real slot."""
    time_limit: str = "12m"
    """Wall time of the slot."""

    def run(self) -> int:
        """Exit status 0 if everything ran and all checks passed."""
        from experiments.slot.bundle import make_bundle, write_toy_images
        from experiments.slot.run import check_records

        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            write_toy_images(place / "images")
            make_bundle(place / "bundle", place / "images", wheels=self.wheels)
            command = ["bash", str(place / "bundle" / "run.sh"), str(place / "out")]
            options = ["--toy", "--time-limit", self.time_limit]
            environment = os.environ | {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
            environment.pop("PYTHONPATH", None)  # the tree of the bundle, not this one
            # Most of the time is compilation, and speed is not looked at.
            flags = os.environ.get("XLA_FLAGS", "")
            environment["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
            status = subprocess.run([*command, *options], env=environment, check=False).returncode
            print(check_records(place / "out"))
        return status


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs."""
    return console.run(Bundle | Run | Rehearse, "python -m experiments.slot", arguments)


if __name__ == "__main__":
    sys.exit(main())
