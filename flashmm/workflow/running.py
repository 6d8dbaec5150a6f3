"""Whether a run of Snakemake is at work in a folder: ``python -m flashmm.workflow.running``.

A killed run leaves Snakemake's lock behind, which says nothing of who holds it. `make report`
clears it only where no process of a run works in the folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flashmm.storage.files import PathLike

_PROC = Path("/proc")


def runs_in(folder: PathLike) -> list[int]:
    """Numbers of the processes of this user that run Snakemake in a folder; this one's are not.

    Where the system does not tell in which folder a process works, every Snakemake counts.
    """
    place, own = Path(folder).resolve(), _ancestors()
    return [
        pid
        for pid, arguments in _processes()
        if pid not in own and runs_snakemake(arguments) and _folder(pid) in (place, None)
    ]


def runs_snakemake(arguments: Sequence[str]) -> bool:
    """Whether a command line is that of Snakemake or of one of its jobs, and not of their shell."""
    first = arguments[:6]
    return any(
        (Path(argument).name == "snakemake" and (at < 2 or first[at - 1] == "-m"))
        or (at == 1 and ".snakemake" in Path(argument).parts)
        for at, argument in enumerate(first)
    )


def foreign_locks(folder: PathLike) -> bool:
    """Whether Snakemake's locks in a folder are another user's, whose processes are not seen."""
    locks = Path(folder) / ".snakemake" / "locks"
    return any(lock.stat().st_uid != os.getuid() for lock in locks.glob("*"))


def _processes() -> Iterator[tuple[int, list[str]]]:
    """Yield number and command line of the processes of this user."""
    if not (_PROC / "self").exists():  # macOS
        shown = subprocess.run(
            ["ps", "-x", "-o", "pid=,command="], capture_output=True, text=True, check=True
        )
        for line in shown.stdout.splitlines():
            pid, *arguments = line.split()
            yield int(pid), arguments
        return
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == os.getuid():
                    yield int(entry.name), (entry / "cmdline").read_text().split("\0")
            except (OSError, UnicodeDecodeError):  # it has ended
                continue


def _folder(pid: int) -> Path | None:
    """The folder in which a process works; None where the system does not tell."""
    try:
        if (_PROC / "self").exists():
            return Path(os.readlink(_PROC / str(pid) / "cwd"))
        shown = subprocess.run(
            ["lsof", "-a", "-d", "cwd", "-p", str(pid), "-Fn"], capture_output=True, text=True
        )
    except OSError:
        return None
    found = [line[1:] for line in shown.stdout.splitlines() if line.startswith("n")]
    return Path(found[0]) if found else None


def _ancestors() -> set[int]:
    """Numbers of this process and of its parent, the shell of `make`."""
    return {os.getpid(), os.getppid()}


def main(folder: PathLike = ".") -> int:
    """Exit code 1, with a line on the standard error, where a run is at work in the folder."""
    pids = runs_in(folder)
    if pids:
        named = ", ".join(map(str, pids))
        print(
            f"flashmm: Snakemake is at work in {Path(folder).resolve()} (process {named}). "
            "Wait for its end, or end it.",
            file=sys.stderr,
        )
    elif foreign_locks(folder):
        print(
            f"flashmm: another user has locked {Path(folder).resolve()} (.snakemake/locks). Where "
            "no run of theirs is left, they can clear it with: snakemake --unlock",
            file=sys.stderr,
        )
        return 1
    return int(bool(pids))


if __name__ == "__main__":
    sys.exit(main())
