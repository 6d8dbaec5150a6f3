"""Other people's programs, run within limits of time and memory, and what they took.

A program is started in a process group of its own, so that it is stopped with all that it started.
Nothing goes through a shell.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

#: What a program that cannot run here says by its exit code: it is skipped and no failure.
SKIPPED_CODE = 77

# Seconds between looks at a program: short at first, so that short ones are seen too.
_FIRST_LOOK, _LAST_LOOK = 0.01, 0.25
# What is kept of the output of a program, in bytes and lines; one that prints more than the limit
# is stopped before it fills the disk.
_TAIL, _LINES, _MOST_OUTPUT = 2**16, 20, 2**28
_PROC = Path("/proc")
# Environment variables by which libraries are told how many threads they have.
_THREADS = (
    *("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
    *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"),
    *("RCPP_PARALLEL_NUM_THREADS", "MC_CORES"),
)


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes
    ----------
    seconds : float or None
        Wall-clock time; None for no limit.
    memory_mib : float or None
        Resident memory of all its processes together; None for no limit.
    threads : int
        Threads that libraries are told to use.
    """

    seconds: float | None = None
    memory_mib: float | None = None
    threads: int = 1


@dataclass(frozen=True)
class Ended:
    """How a program ended and what it took.

    Attributes
    ----------
    code : int or None
        Exit code, negative for the signal that ended it; None where there was no such program.
    stopped : str or None
        Why it was stopped: "time", "memory" or "output"; None where it ended by itself.
    seconds, cpu_seconds : float
        Wall-clock time, and processor time of it and of the processes that it waited for.
    peak_memory_mib : float
        The most resident memory of all its processes together that was seen.
    log : tuple of str
        Its last lines, of standard output and standard error.
    """

    code: int | None
    stopped: str | None
    seconds: float
    cpu_seconds: float
    peak_memory_mib: float
    log: tuple[str, ...]


def run_limited(
    command: Sequence[str] | Callable[[], int],
    limits: Limits | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program until it ends or goes beyond a limit; then its whole process group is killed.

    Parameters
    ----------
    command : sequence of str or callable
        The program and its arguments; there is no shell. A callable gives an exit code; it runs in
        a copy of this process, so that what is imported here need not be imported again.
    limits : Limits, optional
        What it may take; by default any time and memory, and one thread.
    folder : path, optional
        Where it puts its temporary files (``TMPDIR``).
    environment : mapping of str to str, optional
        Variables beside those of this process.

    Returns
    -------
    Ended

    Notes
    -----
    Memory is looked at every 0.01 to 0.25 seconds: what is resident of all processes of the group
    together (pages that two of them share count twice), and the high-water mark of each, so that a
    short peak counts. The kernel's ``ru_maxrss`` is no measure of a program: after an exec it still
    holds the memory of the process that started it. It is taken only where there is no ``/proc``;
    memory has no limit there.
    """
    limits = limits or Limits()
    variables = {**os.environ, **pinned(limits.threads), **(environment or {})}
    if folder is not None:
        variables["TMPDIR"] = str(folder)
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        if callable(command):
            with _ends_with_us(group := _forked(command, output)):
                watched = _watched(group, limits, output, start)
            return replace(watched, log=_last_lines(output))
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                process_group=0,
            )
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            return Ended(None, None, 0.0, 0.0, 0.0, (f"{command[0]}: {said}",))
        with _ends_with_us(process.pid):
            watched = _watched(process.pid, limits, output, start)
        process.returncode = watched.code
        return replace(watched, log=_last_lines(output))


def _forked(work: Callable[[], int], output: IO[bytes]) -> int:
    """Do some work in a copy of this process, the leader of a group, and return its number."""
    number = os.fork()
    if number:
        with suppress(OSError):  # the copy does it too: whoever is first
            os.setpgid(number, number)
        return number
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def pinned(threads: int) -> dict[str, str]:
    """Environment variables that tell libraries how many threads they have.

    Parameters
    ----------
    threads : int
        From 1 on.

    Returns
    -------
    dict of str to str
        Name of the variable to the number.
    """
    return dict.fromkeys(_THREADS, str(threads))


def _watched(group: int, limits: Limits, output: IO[bytes], start: float) -> Ended:
    """Wait for the leader of a group, within limits, and leave none of the group behind."""
    peak, pause, stopped = 0.0, _FIRST_LOOK, None
    while True:
        found, code, usage = os.wait4(group, os.WNOHANG)
        if found:
            break
        resident, highest = _group_memory(group)
        peak = max(peak, resident, highest)
        stopped = stopped or _beyond(limits, time.perf_counter() - start, resident, output)
        if stopped:
            _kill(group)
        time.sleep(pause)
        pause = min(1.5 * pause, _LAST_LOOK)
    _kill(group)
    seconds = time.perf_counter() - start
    peak = peak if _PROC.is_dir() else usage.ru_maxrss / 1024
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(os.waitstatus_to_exitcode(code), stopped, seconds, cpu, peak, ())


def _beyond(limits: Limits, seconds: float, resident: float, output: IO[bytes]) -> str | None:
    """The limit that has been passed."""
    if limits.seconds is not None and seconds > limits.seconds:
        return "time"
    if limits.memory_mib is not None and resident > limits.memory_mib:
        return "memory"
    return "output" if os.fstat(output.fileno()).st_size > _MOST_OUTPUT else None


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


@contextmanager
def _ends_with_us(group: int) -> Iterator[None]:
    """Kill the group at whatever ends the block, a signal to end this process among it."""

    def ended(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, ended) if ours else None
    try:
        yield
    finally:
        _kill(group)
        if ours:
            signal.signal(signal.SIGTERM, before)


def _group_memory(group: int) -> tuple[float, float]:
    """Resident memory of a group and the highest mark of one of its processes, in MiB."""
    resident = highest = 0.0
    for folder in _PROC.glob("[0-9]*"):
        if _group_of(folder) == group:
            now, most = status_memory(folder)
            resident, highest = resident + now, max(highest, most)
    return resident, highest


def _group_of(folder: Path) -> int | None:
    """Process group of a process of /proc; None where it has ended meanwhile."""
    try:
        # pid (name, which may hold anything) state parent group ...
        return int((folder / "stat").read_bytes().rpartition(b")")[2].split()[2])
    except (OSError, IndexError, ValueError):
        return None


def status_memory(folder: Path = _PROC / "self") -> tuple[float, float]:
    """Resident memory of a process and the highest that it was.

    Parameters
    ----------
    folder : path
        Of the process in ``/proc``; by default this one.

    Returns
    -------
    resident, highest : float
        MiB; 0 where the process has ended or there is no ``/proc``.
    """
    try:
        lines = (folder / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0.0, 0.0
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    now, most = (float(named.get(name, "0").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def _last_lines(output: IO[bytes]) -> tuple[str, ...]:
    """The last lines that a program printed, without characters that are none."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(size - _TAIL, 0))
    text = output.read().decode("utf-8", "replace")
    lines = ("".join(c for c in line if c.isprintable() or c == "\t") for line in text.splitlines())
    return tuple([line.rstrip()[:500] for line in lines if line.strip()][-_LINES:])
