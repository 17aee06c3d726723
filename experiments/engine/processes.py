"""Several processes that train one run, by `jax.distributed`.

Every process runs the same program and holds its devices' share of the arrays. A data set in memory
is in all processes; from a stream each loads what its devices need, see `feed`. Only process 0
writes metrics and result and prints. All processes write checkpoints.
"""

import contextlib
import os
import re
import socket
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that is silent for this long counts as dead, and the others stop.
HEARTBEAT_SECONDS = 30

# Texts in errors of collectives, whose types differ.
_LOST = re.compile(r"Gloo|NCCL|heartbeat|[Bb]arrier|^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED)")


class ProcessLostError(RuntimeError):
    """A process of the run died or cannot be reached."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; call it before anything else of JAX.

    Args:
      coordinator: address and port of process 0, the same for all; `"auto"` if the launcher knows
        it (SLURM, Open MPI, TPU); None for a single process.
      num_processes: number of processes; None with "auto".
      process_id: number of this process, 0 to num_processes - 1; None with "auto".

    Raises:
      ValueError: some of the three are missing, or do not match.
    """
    given = num_processes is not None, process_id is not None
    if coordinator in (None, "auto"):
        if any(given):
            raise ValueError(
                "coordinator must be ADDRESS:PORT where num_processes or process_id are given, "
                f"got {coordinator}."
            )
        if coordinator is None:
            return
    elif not all(given):
        raise ValueError("num_processes and process_id must be given with coordinator.")
    elif not 0 <= process_id < num_processes:
        raise ValueError(
            f"process_id must be in 0 ... {num_processes - 1} (num_processes - 1), "
            f"got {process_id}."
        )
    elif ":" not in coordinator:
        raise ValueError(f"coordinator must be ADDRESS:PORT or auto, got {coordinator}.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        None if coordinator == "auto" else coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )
    _yield_to_those_who_work()


def _yield_to_those_who_work():
    """Sets the scheduling of the backend's threads: none starves on CPUs.

    While a thread of gloo waits for messages, it polls without a pause if another thread holds the
    lock of the connection. On a shared core this starves the thread that holds the lock: a small
    all-reduce then takes 4 ms, not 0.3 ms. Threads that run as batch jobs wait for their turn when
    they wake up.
    """
    if not hasattr(os, "SCHED_BATCH"):  # only Linux has it
        return
    if os.sched_getscheduler(0) != os.SCHED_OTHER:  # the user chose another policy
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if jax.local_devices()[0].platform != "cpu":
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def free_address() -> str:
    """Returns an address and port for a coordinator of processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def is_main() -> bool:
    """Whether this process writes and prints."""
    return jax.process_index() == 0


def as_main(flag: bool) -> bool:
    """Returns the value of process 0, for decisions that must be the same everywhere."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(flag))


def largest(values: np.ndarray) -> np.ndarray:
    """Returns the elementwise maximum of the values of all processes."""
    if jax.process_count() == 1:
        return values
    return np.max(multihost_utils.process_allgather(values), axis=0)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Replaces the error of a collective that lost a process by a clear one.

    Raises:
      ProcessLostError: instead of the error of JAX.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        first_line = str(error).splitlines()[0]
        raise ProcessLostError(
            f"process {jax.process_index()} of {jax.process_count()} stops, as another one died or "
            "cannot be reached. Start all of them again with the same command: the run continues "
            f"from its last checkpoint. ({first_line})"
        ) from error


def leave(message: str) -> None:
    """Prints a message and ends this process, without waiting for lost processes."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
