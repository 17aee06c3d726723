"""Races of two processes in one directory, and signals to runs at random moments."""

import contextlib
import functools
import json
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from experiments import faults
from experiments.damage.attempts import CONFIG, Row, outcome, without_times
from experiments.engine.task import make_task
from experiments.engine.train import train
from experiments.report import lock

LONG = CONFIG.changed(epochs=300.0)  # takes longer than sending a signal


def rows(place: pathlib.Path, tries: int, stack: contextlib.ExitStack) -> list[Row]:
    """Makes all rows; `place` is an empty directory, and `stack` ends the processes."""
    few = max(tries // 20, 1)
    found = [Row("run directory", "two processes at once", tries, _Race(place / "race", stack))]
    for number in (signal.SIGINT, signal.SIGTERM):
        for moment in ("while it starts", "while it trains"):
            attempts = functools.partial(_signals, place / number.name, number, moment)
            found.append(Row("run directory", f"{number.name} {moment}", few, attempts))
    return found


@functools.cache
def _task():
    """Makes the data of all runs here."""
    return make_task(CONFIG)


@functools.cache
def _wanted(config):
    return without_times(train(config, _task(), progress=False))


def _look(config, run):
    return without_times(train(config, _task(), directory=run, progress=False))


# --- races --------------------------------------------------------------------------------------


class _Race:
    """Sends two processes with the same run into one directory after another.

    One trains. The other one is refused, or finds the run complete.
    """

    def __init__(self, place: pathlib.Path, stack: contextlib.ExitStack):
        self._place, self._stack = place, stack

    @functools.cached_property
    def _racers(self) -> list[subprocess.Popen]:
        command = [sys.executable, "-m", __spec__.name]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for racer in started:
            self._stack.callback(racer.kill)
            self._stack.enter_context(racer)
        return started

    def __call__(self, draw: random.Random, tries: int) -> Iterator[str]:
        """Yields the outcomes."""
        for number in range(tries):
            run = self._place / str(number)
            first, second = draw.sample(self._racers, 2)
            _tell(first, run)
            time.sleep(draw.choice([0.0, draw.uniform(0, 0.3)]))
            _tell(second, run)
            answers = [json.loads(racer.stdout.readline()) for racer in (first, second)]
            yield self._outcome(answers, run)

    def _outcome(self, answers, run):
        found = [answer["found"] for answer in answers if "found" in answer]
        refused = [answer["error"] for answer in answers if "error" in answer]
        seen = outcome(lambda: _look(CONFIG, run), _wanted(CONFIG), run)
        if seen != "harmless" or not found or any(one != _wanted(CONFIG) for one in found):
            return "silent"
        if not refused:
            return "harmless"
        return "detected" if f"{run}/run is in use by process" in refused[0] else "unnamed"


def _tell(racer, run):
    print(run, file=racer.stdin, flush=True)


def _race_on() -> None:
    """Runs a racer: trains in each directory that it gets, and answers."""
    task = make_task(CONFIG)
    train(CONFIG, task, progress=False)  # compiles
    for line in sys.stdin:
        answer: dict[str, Any]
        try:
            directory = pathlib.Path(line.rstrip("\n"))
            found = train(CONFIG, task, directory=directory, progress=False)
            answer = {"found": without_times(found)}
        except (lock.InUseError, ValueError, OSError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


# --- signals ------------------------------------------------------------------------------------


def _signals(place, number, moment, draw, tries):
    """Sends a signal to one run after another; numbers must stay right."""
    longest = _start_seconds(place) if moment == "while it starts" else 0
    for attempt in range(tries):
        run = place / moment.replace(" ", "-") / str(attempt)
        process = faults.start(LONG, run, stderr=subprocess.PIPE, text=True)
        if moment == "while it starts":
            # In the first tenth of a second Python has not installed our handler yet.
            time.sleep(draw.uniform(0.3, longest))
        else:
            _wait_for_an_epoch(process, run)
            time.sleep(draw.uniform(0, 0.5))
        process.send_signal(number)
        error = process.communicate()[1]
        seen = outcome(lambda run=run: _look(LONG, run), _wanted(LONG), run)
        yield _signalled(number, process.returncode, error, run) if seen == "harmless" else "silent"


def _start_seconds(place):
    """Measures how long a process takes to import, compile and train for an epoch."""
    began = time.perf_counter()
    process = faults.start(LONG, place / "measured")
    _wait_for_an_epoch(process, place / "measured")
    process.kill()
    process.wait()
    return time.perf_counter() - began


def _wait_for_an_epoch(process, run):
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.01)


def _signalled(number, code, error, run) -> str:
    """Whether the process said in one line that it was stopped, and where it saved."""
    if code in (0, -number):  # it had ended already, or had started nothing
        return "harmless"
    lines = error.strip().splitlines()
    is_said = code == 128 + number and len(lines) == 1 and f"{number.name}: " in lines[0]
    if is_said and "saved in" in error:
        is_said = str(run) in error
    return "detected" if is_said else "unnamed"


if __name__ == "__main__":
    _race_on()
