"""Draws the pictures of the pages from the recorded results; trains nothing."""

import argparse
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import scaling_report, suite_figure
from experiments.configs.committee import STUDY as COMMITTEES
from experiments.configs.committee_flatness import STUDY as COMMITTEE_FLATNESS
from experiments.configs.contest import STAGES
from experiments.configs.contest import STUDY as CONTEST
from experiments.configs.fine_tuning import STUDY as FINE_TUNING
from experiments.configs.language import STUDY as LANGUAGE
from experiments.figures import overview
from experiments.report.ranking import Tau, Taus
from experiments.report.store import FIGURES, RESULTS, read_json
from experiments.studies.committee import binary, records
from experiments.studies.committee import report as committee_report
from experiments.studies.committee_flatness import report as committee_flatness_report
from experiments.studies.contest import forest as contest_forest
from experiments.studies.contest import map as contest_map
from experiments.studies.fine_tuning import report as fine_tuning_report
from experiments.studies.fine_tuning import run as fine_tuning
from experiments.studies.first_contest import report as first_contest_report
from experiments.studies.flatness_study import report as flatness_study_report
from experiments.studies.gaussian_mixture import figures as mixture_figures
from experiments.studies.language import picture as language_picture
from experiments.studies.language import run as language
from experiments.studies.matched_flatness import report as matched_flatness_report
from experiments.studies.reproduce import slots
from experiments.studies.robustness import picture as robustness_picture
from experiments.studies.scale import report as scale_report
from experiments.studies.simulations import read_simulations


def _overview(path: pathlib.Path) -> None:
    rows = read_json(RESULTS / "contest" / "contest.json")["comparisons"]
    found = read_json(RESULTS / "flatness-study" / "flatness_study.json")["rankings"]
    overview.draw(CONTEST, rows, found, path)


def _second_contest(path: pathlib.Path) -> None:
    rows = read_json(RESULTS / "contest" / "contest.json")["comparisons"]
    contest_map.draw(CONTEST, rows, path)


def _stage(name: str) -> Callable[[pathlib.Path], None]:
    def draw(path: pathlib.Path) -> None:
        rows = read_json(RESULTS / "contest" / f"{name}.json")["comparisons"]
        contest_forest.draw(STAGES[name], rows, path)

    return draw


def _first_contest(path: pathlib.Path) -> None:
    rows = read_json(RESULTS / "first-contest" / "contest.json")["rows"]
    first_contest_report.draw(rows, path)


def _fine_tuning(path: pathlib.Path) -> None:
    folder = RESULTS / "fine-tuning"
    fine_tuning_report.draw(FINE_TUNING, fine_tuning.read_study(FINE_TUNING, folder), folder, path)


def _language(path: pathlib.Path) -> None:
    found = language.read_study(LANGUAGE, RESULTS / "language")
    language_picture.draw(LANGUAGE, found, path)


def _flatness_study(path: pathlib.Path) -> None:
    found = read_json(RESULTS / "flatness-study" / "flatness_study.json")
    flatness_study_report.draw(found["solutions"], path)


def _matched_flatness(path: pathlib.Path) -> None:
    found = read_json(RESULTS / "matched-flatness" / "matched_flatness.json")
    matched_flatness_report.draw(_taus(found["taus"]), path)


def _robustness(path: pathlib.Path) -> None:
    found = read_json(RESULTS / "robustness" / "robustness.json")
    robustness_picture.draw(found["algorithms"], _taus(found["taus"]), path)


def _taus(stored: Mapping[str, Any]) -> dict[str, Taus]:
    read = lambda rows: {one: {k: Tau(**v) for k, v in row.items()} for one, row in rows.items()}
    return {
        group: {kind: read(rows) for kind, rows in kinds.items()} for group, kinds in stored.items()
    }


def _committee(path: pathlib.Path) -> None:
    folder = RESULTS / "committee"
    chosen = records.choose(COMMITTEES, folder / "tuning.jsonl")
    solutions, estimators = (
        records.read(COMMITTEES, chosen, folder / f"{name}.jsonl")
        for name in ("solutions", "estimators")
    )
    committee_report.draw(COMMITTEES, solutions, estimators, path)


def _committee_flatness(path: pathlib.Path) -> None:
    found = read_json(RESULTS / "committee-flatness" / "committee_flatness.json")["taus"]
    taus = {
        (row.pop("patterns"), row.pop("noise")): {name: Tau(**tau) for name, tau in row.items()}
        for row in found
    }
    committee_flatness_report.draw(COMMITTEE_FLATNESS, taus, path)


def _committee_binary(path: pathlib.Path) -> None:
    simulations = read_simulations(RESULTS / "committee" / "binary.jsonl")
    binary.draw(binary.tabulate(simulations), path)


def _mixture(name: str) -> Callable[[pathlib.Path], None]:
    def draw(path: pathlib.Path) -> None:
        rows = read_json(RESULTS / "gaussian-mixture" / "comparison.json")["rows"]
        mixture_figures.FIGURES[name](rows, path)

    return draw


# Name of a picture -> function of its path that draws it.
PICTURES: Mapping[str, Callable[[pathlib.Path], None]] = {
    "overview": _overview,
    "second_contest": _second_contest,
    **{f"contest_{name}": _stage(name) for name in ("paper", "variants")},
    "contest": _first_contest,
    "flatness_study": _flatness_study,
    "matched_flatness": _matched_flatness,
    "robustness": _robustness,
    "fine_tuning": _fine_tuning,
    "language": _language,
    "committee": _committee,
    "committee_binary": _committee_binary,
    "committee_flatness": _committee_flatness,
    **{f"gaussian_mixture_{name}": _mixture(name) for name in mixture_figures.FIGURES},
    "deep_networks": lambda path: slots.draw_curves("cifar10-smallconvnet", path),
    "cost_model": scale_report.draw,
    "scaling": lambda path: scaling_report.figure(
        read_json(RESULTS / "benchmarks" / "scaling.json"), path
    ),
    "benchmarks": lambda path: suite_figure.draw(
        read_json(RESULTS / "benchmarks" / "suite.json"), path
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Draws the pictures that are named; all by default."""
    parser = argparse.ArgumentParser(prog="python -m experiments.figures", description=__doc__)
    names = ", ".join(PICTURES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pictures to draw: {names}")
    parser.add_argument("--out", type=pathlib.Path, default=FIGURES, help="folder of the pictures")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in PICTURES]:
        parser.error(f"NAME must be one of {names}, got {', '.join(unknown)}.")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or PICTURES:
        PICTURES[name](chosen.out / f"{name}.png")
        print(chosen.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
