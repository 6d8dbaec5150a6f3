"""The worker of a run: ``python -m flashmm.workflow.worker NAME PROCESS``.

It imports what a job needs once and becomes the job by a fork, so that a thousand small jobs do not
pay for a thousand imports. A job is a process of its own all the same, with its own memory, clock
and end. The worker itself computes nothing and has no threads; it ends with the run.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from flashmm.workflow import handing_over
from flashmm.workflow.start import do

# Seconds within which a job has to say what it is.
_SAID_WITHIN = 30.0
# Seconds after which jobs that have ended are let go, where no other job comes meanwhile.
_REAPED_EVERY = 2.0


def serve(name: str, run: int) -> int:
    """Do the jobs of a run until it has ended.

    Parameters
    ----------
    name : str
        Name of the abstract socket at which jobs are taken. Where another worker has it already,
        there is nothing to do.
    run : int
        Number of the process of the run.

    Returns
    -------
    int
        Exit code: 1 where the run has ended already.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            end = os.pidfd_open(run)
        except OSError:
            return 1
        try:
            listener.bind("\0" + name)
        except OSError:
            return 0
        listener.listen(256)
        gc.disable()  # modules are no garbage, and many
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ready: list[int] = []
        while end not in ready:
            if ready:
                connection, _ = listener.accept()
                with connection:
                    _take(connection, (listener.fileno(), end))
            ready = select.select([listener.fileno(), end], [], [], _REAPED_EVERY)[0]
            _reap()
    return 0


def _reap() -> None:
    """Let jobs that have ended go, and with them what they took: it is this process's then."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def _take(connection: socket.socket, ours: tuple[int, ...]) -> None:
    """Take a job and let a copy of this process do it; what cannot be taken is refused."""
    streams: list[int] = []
    try:
        if not handing_over.of_this_user(connection):
            return
        connection.settimeout(_SAID_WITHIN)
        request, streams = _received(connection)
        connection.settimeout(None)
        if request["identity"] != handing_over.identity():
            connection.sendall(handing_over.REFUSED)
            return
        _prepare(request)
        if os.fork() == 0:
            for number in ours:
                os.close(number)
            _become(connection, request, streams)
    except Exception:  # the job is done where it came from, and says there what is wrong
        with suppress(OSError):
            connection.sendall(handing_over.REFUSED)
    finally:
        for number in streams:
            os.close(number)


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request, and the standard output and standard error of who sent it."""
    head, streams, _, _ = socket.recv_fds(connection, struct.calcsize("Q"), 2)
    (size,) = struct.unpack("Q", head)
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(size - len(content), 2**20))
        if not part:
            raise EOFError("the job has ended")
        content += part
    return pickle.loads(content), streams


def _prepare(request: dict[str, Any]) -> None:
    """Import what the job needs, for this job and for all that follow."""
    sys.path.extend(path for path in request["path"] if path not in sys.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module("snakemake.iocontainers")
        import_module("flashmm.workflow.jobs")
        import_module(f"flashmm.workflow.steps.{request['step']}")
        make_numba_ready()
    gc.freeze()  # the memory of modules stays shared


def make_numba_ready() -> None:
    """Do what numba does before the first compiled function of a process."""
    target = import_module("numba.core.registry").cpu_target
    target.typing_context.refresh()
    target.target_context.refresh()


def _become(connection: socket.socket, request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be the job, in its folder and with its streams, and say how it ended."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.enable()
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for number, stream in enumerate(streams, start=1):
            os.dup2(stream, number)
        do(request["step"], pickle.loads(request["job"]))
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            connection.sendall(handing_over.DONE + bytes([code & 255]))
        os._exit(code)


def _end_with(connection: socket.socket) -> None:
    """End the job when the process that waits for it has ended."""
    with suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2])))
