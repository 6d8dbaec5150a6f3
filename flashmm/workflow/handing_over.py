"""Hand a job over to the worker of its run, and wait until it is done.

The address of the worker is in the environment (`VARIABLE`), put there by the Snakefile; the first
job starts it. It listens at an abstract Unix socket, which leaves no file behind; both sides ask
the kernel whose process the other one is.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

#: Environment variable with the worker's address; "off", set by a user, keeps every job to itself.
VARIABLE = "FLASHMM_WORKER"
# Seconds until a worker that was started has to answer, and between two attempts.
_STARTS_WITHIN, _PAUSE = 20.0, 0.02
# Not resolved: a link to the package may stand alone in its folder.
_PACKAGE = Path(__file__).absolute().parents[1]
# What the worker answers, followed by the exit code where a job is done.
REFUSED, DONE = b"r", b"d"


class Address(NamedTuple):
    """Where a worker listens, and the process with which it ends: Snakemake's."""

    name: str
    run: int

    @classmethod
    def of_environment(cls) -> Address | None:
        """The address in the environment; None where there is none."""
        name, _, run = os.environ.get(VARIABLE, "").partition(" ")
        return cls(name, int(run)) if run.isdigit() else None


def offer_worker(is_main: bool) -> None:
    """Say to the jobs of this process where their worker is; none is started yet.

    Parameters
    ----------
    is_main : bool
        Whether this is the process that a user started. The jobs of others, such as those on the
        nodes of a cluster, are few and have none.
    """
    if os.environ.get(VARIABLE) == "off":
        return
    address = Address.of_environment()
    if is_main and address is not None and address.run == os.getpid():
        return  # of an earlier run in this process, or one that it has started itself
    os.environ.pop(VARIABLE, None)
    # elsewhere there is no way to know that a process has ended, or no safe fork
    if is_main and sys.platform == "linux" and hasattr(os, "pidfd_open"):
        os.environ[VARIABLE] = f"flashmm-{os.getuid()}-{secrets.token_hex(8)} {os.getpid()}"


def done_by_worker(step: str, job: Any) -> int | None:
    """Have a job done by the worker of the run.

    Returns
    -------
    int or None
        The exit code of the job; None where there is no worker, or it cannot do the job.
    """
    address = Address.of_environment()
    worker = None if address is None else _connected(address)
    if worker is None:
        return None
    with worker:
        try:
            _send(worker, step, job)
            answer = worker.recv(2)
        except OSError:
            answer = b""
        if answer[:1] == REFUSED:
            return None
        if answer[:1] == DONE:
            return answer[1]
    print("flashmm: the process of the job was ended from outside.", file=sys.stderr)
    return 1


def identity() -> tuple[str, str]:
    """What a job and its worker must have in common: the interpreter and the package."""
    return sys.prefix, str(_PACKAGE)


def of_this_user(connection: socket.socket) -> bool:
    """Whether the process at the other end belongs to the user of this one."""
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


def _send(worker: socket.socket, step: str, job: Any) -> None:
    """Send a job with all that a process passes on: folder, environment, paths and streams."""
    request = {
        "identity": identity(),
        "step": step,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "path": sys.path,
        "job": pickle.dumps(job),
    }
    content = pickle.dumps(request)
    socket.send_fds(worker, [struct.pack("Q", len(content))], [1, 2])
    worker.sendall(content)


def _connected(address: Address) -> socket.socket | None:
    """A connection to the worker, which is started where it does not listen yet."""
    started: int | None = None
    for _ in _attempts():
        worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            worker.connect("\0" + address.name)
            if of_this_user(worker):
                return worker
            worker.close()
            return None
        except OSError:
            worker.close()
        if started is None:
            started = _start(address)
        elif _has_failed(started):  # it could not even begin
            return None
    return None


def _attempts() -> Iterator[None]:
    until = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < until:
        yield
        time.sleep(_PAUSE)


def _start(address: Address) -> int:
    """Start a worker, which outlives this process; of two that jobs start, the later one ends.

    Returns
    -------
    int
        The number of its process.
    """
    paths = [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "flashmm.workflow.worker", address.name, str(address.run)],
        {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        file_actions=[(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_RDWR, 0) for n in (0, 1, 2)],
        setsid=True,
    )


def _has_failed(worker: int) -> bool:
    """Whether a worker has ended with an error; one that found another one has not."""
    try:
        ended, status = os.waitpid(worker, os.WNOHANG)
    except ChildProcessError:  # it has been asked for already
        return False
    return bool(ended) and status != 0
