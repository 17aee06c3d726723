"""Command line of the experiments; `python -m experiments --help`."""

import dataclasses
import json
import pathlib
import sys
from typing import Annotated, Literal

import jax
import tyro

from experiments import (
    committee,
    contest,
    cost_report,
    flatness,
    flatness_study,
    gaussian_mixture,
    reproduce,
)
from experiments.compare import compare
from experiments.configs import committee as committee_rules
from experiments.configs import contest as contest_rules
from experiments.configs import deep, study_of
from experiments.configs import flatness_study as study_rules
from experiments.engine import interruption, processes
from experiments.engine.config import TrainConfig
from experiments.engine.loggers import LoggerName
from experiments.engine.placement import make_mesh
from experiments.engine.train import train
from experiments.engine.trainer import Trainer
from experiments.report.store import slug
from experiments.tune import report, tune


@dataclasses.dataclass(frozen=True)
class Train:
    """Train one network (or y replicas) with one algorithm, and measure it.

    Metrics, checkpoints and the result are written to --out; an interrupted run resumes there and
    ends in the same parameters, bit for bit. It may resume on another mesh, or on another number
    of devices or processes: it is the same run, to rounding.

    Example: python -m experiments train --algorithm rsgd --dataset fashion_mnist
    --model small_convnet --epochs 10
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=TrainConfig
    )
    out: pathlib.Path | None = None
    """Directory of the run; runs/<dataset>-<model>-<algorithm>-seed-<seed> by default."""
    checkpoint_seconds: float = 20.0
    """Save at the first end of an epoch after this long."""
    progress: bool = True
    """Show a progress bar."""
    log: tuple[LoggerName, ...] = ()
    """Send the metrics of each epoch to tensorboard (written to --out) or wandb as well."""
    mesh: str | None = None
    """Spread replicas and their batches over devices, for example replica=3,data=2 on six; auto for
    all devices there are. By default one device, or auto with several processes."""
    coordinator: str | None = None
    """Train with several processes: ADDRESS:PORT of the first, or auto under SLURM or Open MPI; see
    docs/distributed.md."""
    num_processes: int | None = None
    """How many processes, with --coordinator ADDRESS:PORT."""
    process_id: int | None = None
    """Which of them this one is, 0 to num_processes - 1."""

    def run(self) -> int:
        """Trains and prints the result as one JSON line."""
        processes.join(self.coordinator, self.num_processes, self.process_id)
        with processes.explained():
            return self._run()

    def _run(self) -> int:
        c = self.config
        name = f"{c.dataset}-{c.model}-{c.algorithm}-seed-{c.seed}"
        out = pathlib.Path("runs", slug(name)) if self.out is None else self.out
        mesh = self.mesh or ("auto" if jax.process_count() > 1 else None)
        trainer = Trainer(c, mesh=None if mesh is None else make_mesh(mesh, c))
        result = train(
            trainer,
            directory=out,
            progress=self.progress,
            checkpoint_seconds=self.checkpoint_seconds,
            log=self.log,
        )
        if not processes.is_main():
            return 0
        shown = ("test_error", "replica_test_errors", "ensemble_test_error", "train_error")
        shown += ("gradient_evaluations", "seconds", "local_energy")
        print(json.dumps({name: result[name] for name in shown}))
        return 0


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare SGD, Entropy-SGD, Replicated-SGD and others at equal gradient evaluations.

    Prints a table (test error, local energy, gradient evaluations, time; mean and standard error
    over seeds) and writes comparison.json, comparison.md and comparison.png. The settings of each
    algorithm stand in experiments/configs/. Runs that are complete are not repeated.

    Example: python -m experiments compare --dataset digits
    """

    dataset: str = "digits"
    """digits (embedded, under two minutes on two cores), fashion_mnist, or any image classification
    set of TensorFlow Datasets."""
    seeds: int | None = None
    """Seeds of each algorithm; the study's own number by default."""
    epochs_scale: float = 1.0
    """Multiplies every budget: 0.1 for a first look."""
    only: tuple[str, ...] = ()
    """Labels of the runs wanted, for example --only SGD "rSGD x 3"; all by default."""
    report_only: bool = False
    """Report the runs that are complete, train nothing."""
    out: pathlib.Path | None = None
    """Directory of the study; runs/compare-<dataset> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        study = study_of(self.dataset)
        runs = _chosen(self.only, study.runs)
        if self.epochs_scale != 1.0:
            runs = {
                k: v | {"epochs": self.epochs_scale * v.get("epochs", study.base.epochs)}
                for k, v in runs.items()
            }
        study = dataclasses.replace(study, runs=runs, seeds=self.seeds or study.seeds)
        name = f"compare-{self.dataset}"
        name += f"-{self.epochs_scale:g}" if self.epochs_scale != 1.0 else ""
        out = pathlib.Path("runs", name) if self.out is None else self.out
        return compare(study, out, progress=self.progress, report_only=self.report_only)


@dataclasses.dataclass(frozen=True)
class Tune:
    """Choose the settings of each algorithm on validation data, by the same grid search for all.

    The grids stand in experiments/configs/; the best candidates are to be copied there by hand.
    """

    dataset: str = "digits"
    """A data set, as for compare, or a row, as for reproduce."""
    only: tuple[str, ...] = ()
    """Labels to search; all that have a grid by default."""
    seeds: int = 2
    """Runs of each candidate."""
    out: pathlib.Path | None = None
    """Directory; runs/tune-<dataset> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Searches and prints the candidates, best first."""
        study = study_of(self.dataset)
        labels = tuple(_chosen(self.only, study.grids))
        out = pathlib.Path("runs", f"tune-{self.dataset}") if self.out is None else self.out
        found = tune(study, out, labels=labels, seeds=self.seeds, progress=self.progress)
        print(report(found))
        return 0


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Reproduce a row of the paper's table of deep networks, or list all rows with their state.

    The settings of each row stand in experiments/configs/deep/. Runs resume; results are written
    as by compare.

    Example: python -m experiments reproduce cifar10-resnet18 --reduced
    """

    row: tyro.conf.Positional[Literal[deep.ROWS] | None] = None
    """Which network on which data."""
    table: bool = False
    """List all rows: what the paper reports, what is here, how long it takes. Runs nothing."""
    reduced: bool = False
    """A small network for a few epochs on Fashion-MNIST (digits, where that is missing): minutes on
    two CPU cores, and everything runs, nothing is learned about the algorithms."""
    only: tuple[str, ...] = ()
    """Labels of the algorithms wanted, for example --only SGD "rSGD x 3"; all by default."""
    seeds: int | None = None
    """Seeds of each algorithm; the row's own number by default."""
    out: pathlib.Path | None = None
    """Directory; runs/reproduce/<row> by default."""
    teraflops: float = 20.0
    """For --table: 10^12 operations a second that your accelerator sustains."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Runs and reports; 1 if a run failed."""
        if self.table:
            print(reproduce.table(teraflops=self.teraflops))
            return 0
        if self.row is None:
            raise ValueError(f"row must be one of {', '.join(deep.ROWS)}, or give --table.")
        dataset = reproduce.available_dataset() if self.reduced else None
        study = deep.row_of(self.row).study(reduced_on=dataset)
        runs = _chosen(self.only, study.runs)
        study = dataclasses.replace(study, runs=runs, seeds=self.seeds or study.seeds)
        out = self.out or reproduce.default_directory(self.row, reduced=self.reduced)
        return reproduce.reproduce(study, out, reduced=self.reduced, progress=self.progress)


@dataclasses.dataclass(frozen=True)
class _InParts:
    """A study of hours that can be run in parts, in several processes, and goes on where it was."""

    small: bool = False
    """Little of everything, in two or three minutes: to see how it works, not what comes out."""
    algorithms: tuple[str, ...] = ()
    """Labels of the algorithms to run now; all by default."""
    report_only: bool = False
    """Report what is complete, train nothing."""
    out: pathlib.Path | None = None
    """Directory, which processes that run different parts may share; runs/<command> by default."""
    progress: bool = True
    """Show progress bars."""

    def _directory(self, command):
        name = f"{command}-small" if self.small else command
        return pathlib.Path("runs", name) if self.out is None else self.out


@dataclasses.dataclass(frozen=True)
class Contest(_InParts):
    """Tune every algorithm alike on validation data, then test each once, on fresh seeds.

    The protocol, the settings and the search spaces stand in experiments/configs/contest.py. Prints
    a table (test error, paired difference to SGD, corrected p-values, local energy) and writes
    contest.json, contest.md and contest.png. Stopped, it goes on where it was.

    Example: python -m experiments contest --small
    """

    settings: tuple[str, ...] = ()
    """Labels of the settings to run now, for example "MLP, 2k"; all by default."""

    def run(self) -> int:
        """Runs and reports; 1 if there is nothing to report."""
        contested = _from_rules(contest.Contest, contest_rules, self.small)
        out = self._directory("contest")
        if not self.report_only:
            part = dataclasses.replace(
                contested,
                settings=_chosen(self.settings, contested.settings, "settings"),
                spaces=_chosen(self.algorithms, contested.spaces, "algorithms"),
            )
            contest.run_contest(part, out, progress=self.progress)
        results = contest.read_contest(contested, out)
        if not results:
            raise ValueError(f"out ({out}) holds no complete setting of this contest yet.")
        print(contest.report(contested, results, out))
        return 0


@dataclasses.dataclass(frozen=True)
class Flatness:
    """Measure how flat saved runs are.

    Prints a table (local energy, sharpness, PAC-Bayes, Hessian, Gauss-Newton) and writes
    flatness.json, flatness.md and flatness.png.

    Example: python -m experiments flatness runs/compare-digits/sgd/seed-0
    runs/compare-digits/rsgd/seed-0
    """

    runs: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Directories that train or compare wrote."""
    samples: int = 30
    """Draws of the noise, and random vectors of the traces."""
    out: pathlib.Path = pathlib.Path("runs", "flatness")
    """Directory of the report."""
    progress: bool = True
    """Print a line as each run is measured."""

    def run(self) -> int:
        """Measures and prints the table."""
        effort = flatness.Effort(num_samples=self.samples, num_probes=self.samples)
        if not self.runs:
            raise ValueError("runs must name at least one directory of a run.")
        print(flatness.measure_runs(list(self.runs), self.out, effort, progress=self.progress))
        return 0


@dataclasses.dataclass(frozen=True)
class FlatnessStudy(_InParts):
    """Does flatness predict the test error? Train a full factorial, measure all, rank.

    Prints Kendall's tau of every measure against the test error, overall and within groups that
    differ in one setting, and writes flatness_study.json, flatness_study.md and flatness_study.png.
    Stopped, it goes on where it was.

    Example: python -m experiments flatness-study --small
    """

    tasks: tuple[str, ...] = ()
    """Labels of the tasks to run now, for example "MLP, clean"; all by default."""

    def run(self) -> int:
        """Runs and reports."""
        study = _from_rules(flatness_study.FlatnessStudy, study_rules, self.small)
        out = self._directory("flatness-study")
        if not self.report_only:
            part = dataclasses.replace(
                study,
                tasks=_chosen(self.tasks, study.tasks, "tasks"),
                algorithms=_chosen(self.algorithms, study.algorithms, "algorithms"),
            )
            flatness_study.run_study(part, out, progress=self.progress)
        solutions = flatness_study.read_study(study, out)
        if not solutions:
            raise ValueError(f"out ({out}) holds no complete block of this study yet.")
        print(flatness_study.report(study, solutions, out))
        return 0


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Solve the theory of the Gaussian mixture, confirm it by simulation, and draw the chapter.

    Prints a table theory / simulation / z and writes simulations.jsonl (as they come; stopped, it
    goes on where it was), comparison.json, comparison.md and the figures.

    Example: python -m experiments gaussian-mixture --small
    """

    small: bool = False
    """Minima only, of few features and samples, in about two minutes: to see how it works."""
    parts: tuple[Literal["minima", "algorithms", "replicas", "entropy"], ...] = ()
    """Parts of the chapter; all by default."""
    features: int | None = None
    """N; 1000 by default, 200 with --small. Slow simulations have fewer, and more samples."""
    seeds: int | None = None
    """Samples of each point; 10 by default, 6 with --small."""
    report_only: bool = False
    """Report the simulations that are there, make none."""
    out: pathlib.Path | None = None
    """Directory; runs/gaussian-mixture by default."""
    progress: bool = True
    """Show a progress bar."""

    def run(self) -> int:
        """Simulates, compares, draws."""
        num_features = self.features or (200 if self.small else 1000)
        seeds = self.seeds or (6 if self.small else 10)
        parts = self.parts or (("minima",) if self.small else tuple(gaussian_mixture.PARTS))
        default = "gaussian-mixture-small" if self.small else "gaussian-mixture"
        out = pathlib.Path("runs", default) if self.out is None else self.out
        print(
            gaussian_mixture.run_chapter(
                out,
                parts=parts,
                num_features=num_features,
                seeds=seeds,
                simulate=not self.report_only,
                progress=self.progress,
            )
        )
        return 0


@dataclasses.dataclass(frozen=True)
class Committee:
    """Committees learn Dress or Coat by every algorithm; their flatness is measured in every way.

    Chooses settings by validation patterns, trains, measures test error, local entropy (counted,
    by chains, AMP and EP) and local energy. Writes tuning.jsonl, solutions.jsonl, estimators.jsonl,
    tempering.jsonl (as they come; stopped, it goes on where it was), committee.md, committee.png.

    With `--weights binary`: how many random patterns message passing stores in weights of +-1,
    beside published thresholds, in ten minutes (binary.jsonl, binary.md, binary.png).

    Example: python -m experiments committee --small
    """

    small: bool = False
    """One subset, one seed, three algorithms, nothing tuned, in less than three minutes."""
    dataset: Literal["fashion_mnist", "digits"] = "fashion_mnist"
    """fashion_mnist (Dress against Coat), or digits (3 against 8), which are there instead where
    Fashion-MNIST is not."""
    weights: Literal["spherical", "binary"] = "spherical"
    """Weights on spheres learn the data; binary ones random patterns."""
    report_only: bool = False
    """Report what is complete, train nothing."""
    out: pathlib.Path | None = None
    """Directory; runs/committee-<dataset> or runs/committee-binary by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> int:
        """Trains, measures, reports."""
        if self.weights == "binary":
            out = pathlib.Path("runs/committee-binary") if self.out is None else self.out
            options = {"simulate": not self.report_only, "progress": self.progress}
            print(committee.run_binary(out, seeds=2 if self.small else 16, **options))
            return 0
        study = _from_rules(committee.CommitteeStudy, committee_rules, self.small)
        task = committee.available(committee_rules.TASKS[self.dataset], committee_rules.TASKS)
        study = dataclasses.replace(study, task=task)
        default = f"committee-{task.dataset}{'-small' if self.small else ''}"
        out = pathlib.Path("runs", default) if self.out is None else self.out
        if not self.report_only:
            committee.run_study(study, out, progress=self.progress)
        print(committee.report(study, out))
        return 0


@dataclasses.dataclass(frozen=True)
class CostModel:
    """Predict the time of a step on up to 4096 accelerators: where replicas and periods pay.

    Prints a table and writes it, and a picture, as cost_model.md and cost_model.png. The model is
    explained in docs/scale.md.

    Example: python -m experiments cost-model
    """

    out: pathlib.Path = pathlib.Path("runs", "cost-model")
    """Directory of the report."""

    def run(self) -> int:
        """Predicts; runs nothing."""
        print(cost_report.report(self.out))
        return 0


def _from_rules(kind, module, small):
    """A study, made of the constants of its file; SMALL there replaces some."""
    rules = {name.lower(): value for name, value in vars(module).items()}
    rules |= rules["small"] if small else {}
    names = [field.name for field in dataclasses.fields(kind) if field.name in rules]
    return kind(**{name: rules[name] for name in names})


def _chosen(labels, known, name="only"):
    """The entries of a mapping that are named; all if none is."""
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"{name} must hold labels of {list(known)}, got {unknown}.")
    return {label: value for label, value in known.items() if not labels or label in labels}


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs; mistakes of the user end in one line, not a traceback."""
    command = tyro.cli(
        Train
        | Compare
        | Tune
        | Reproduce
        | Contest
        | Flatness
        | FlatnessStudy
        | GaussianMixture
        | Committee
        | CostModel,
        prog="python -m experiments",
        description=__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        return command.run()
    except interruption.Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    except processes.ProcessLostError as error:
        processes.leave(f"{type(error).__name__}: {error}")
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
