"""What the benchmarks share: processes that are timed from outside, the table, the documents.

Each thing that is measured runs in a process of its own (`steps.py`, `peers.R`), which prepares
itself and then waits. Two sides of a ratio are called in turn, round after round, so that both meet
the same load of the machine; the shortest time of each counts.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
LIBRARIES = (
    *("numpy", "scipy", "pandas", "anndata", "h5py", "deflate", "isal"),  # isal writes
    *("numba", "statsmodels"),
)
LONG = 20.0  # seconds after which a call is not repeated
R_VERSIONS = """cat(R.version$version.string)
for (p in c("lme4", "FLASHMM", "edgeR")) if (requireNamespace(p, quietly = TRUE))
  cat(",", p, format(packageVersion(p)))"""
sys.path.insert(0, str(ROOT))  # the package beside the benchmarks, not one that is installed
QUIET: dict[str, Any] = {"capture_output": True, "text": True}

# --- processes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One timed call: wall and CPU seconds, peak resident memory of its process (MB = 10^6)."""

    seconds: float
    cpu: float
    peak_mb: float
    start_mb: float
    more: Mapping[str, Any]

    def times(self, factor: float) -> Reading:
        """Return the reading scaled to more of the same work."""
        return Reading(
            self.seconds * factor, self.cpu * factor, self.peak_mb, self.start_mb, self.more
        )


def environment(threads: int | None = None) -> dict[str, str]:
    """Variables of a process: this folder's package, BLAS in one thread, numba in some or all."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    numba = {} if threads is None else {"NUMBA_NUM_THREADS": str(threads)}
    return os.environ | one | numba | {"PYTHONPATH": path}


class Process:
    """A process that has prepared something, and times it whenever it is asked to."""

    def __init__(self, command: Sequence[str], threads: int | None = None) -> None:
        self.name = " ".join(command[1:3])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
        )
        self.ready = self._answer()

    def call(self, what: str = "") -> Reading:
        """Have something done, and return what it took."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        named = [answer.pop(name) for name in ("seconds", "cpu", "peak_mb", "start_mb")]
        return Reading(*named, more=answer)

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended (exit {self.process.wait()}) without an answer")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def step(name: str, *, threads: int | None = None, **arguments: Any) -> Iterator[Process]:
    """Start a step of `steps.py`."""
    command = [sys.executable, str(HERE / "steps.py"), name, json.dumps(arguments)]
    yield from _started(Process(command, threads))


@contextmanager
def r_step(name: str, *arguments: str) -> Iterator[Process]:
    """Start a step of `peers.R`."""
    yield from _started(Process(["Rscript", str(HERE / "peers.R"), name, *arguments]))


def _started(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        process.close()


def run_step(name: str, what: str = "", **arguments: Any) -> Reading:
    """Time one call of a step in a process that ends with it."""
    with step(name, **arguments) as process:
        return process.call(what)


def rounds(times: int, **calls: tuple[Process, str]) -> dict[str, Reading]:
    """Shortest reading of each call; the calls are made in turn, after one that warms up.

    What takes long from the first call on is not called again: there the warming up is no part.
    """
    first = {name: process.call(what) for name, (process, what) in calls.items()}
    best = {name: reading for name, reading in first.items() if reading.seconds > LONG}
    again = calls.keys() - best.keys()
    for _ in range(times):
        for name, (process, what) in calls.items():
            if name in again:
                reading = process.call(what)
                best[name] = min(best.get(name, reading), reading, key=lambda r: r.seconds)
    return best


def r_has(package: str) -> bool:
    """Whether R and one of its packages are installed."""
    if shutil.which("Rscript") is None:
        return False
    test = ["Rscript", "-e", f'quit(status = !requireNamespace("{package}", quietly = TRUE))']
    return subprocess.run(test, **QUIET).returncode == 0


def python_has(package: str) -> bool:
    """Whether a Python package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def free_memory_mb() -> float:
    """Memory that can still be taken, MB; infinite where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return float("inf")
    return int(re.findall(r"MemAvailable: +(\d+)", text)[0]) * 1024 / 1e6


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """A target: the most that `ratio`, `seconds` or `peak_mb` of a row may be."""

    of: str
    most: float
    note: str = ""

    def __str__(self) -> str:
        unit = {"ratio": "× the yardstick", "seconds": "s", "peak_mb": "MB"}[self.of]
        return f"≤ {self.most:.3g} {unit}{self.note and f' ({self.note})'}"


@dataclass(frozen=True)
class Row:
    """One figure: what was done, at what size, and the yardstick of the same run."""

    section: str
    what: str
    size: str
    seconds: float
    yardstick: str
    its_seconds: float
    ratio: float
    target: str
    met: str
    peak_mb: float
    cpu_seconds: float


class Table:
    """Rows that are printed as they come.

    Parameters
    ----------
    busy : bool
        Whether other work fills the machine: seconds beyond their target then decide nothing.
    """

    def __init__(self, busy: bool = False) -> None:
        self.busy = busy
        self.rows: list[Row] = []
        self.skipped: list[str] = []

    def add(
        self,
        section: str,
        what: str,
        size: str,
        ours: Reading,
        yardstick: str,
        its: Reading,
        limit: Limit | None = None,
    ) -> None:
        """Print and keep a row; the target is met or missed, or the machine too busy to tell."""
        ratio = ours.seconds / its.seconds
        values = {"ratio": ratio, "seconds": ours.seconds, "peak_mb": ours.peak_mb}
        met = "" if limit is None else "met" if values[limit.of] <= limit.most else "MISSED"
        if self.busy and met == "MISSED" and limit and limit.of == "seconds":
            met = "machine busy"
        row = Row(
            section, what, size, ours.seconds, yardstick, its.seconds, ratio,
            str(limit or ""), met, ours.peak_mb, ours.cpu,
        )  # fmt: skip
        self.rows.append(row)
        print("  ".join(text for text in shown(row)[1:] if text), flush=True)

    def skip(self, what: str, why: str) -> None:
        """Say that something is not measured."""
        self.skipped.append(f"{what}: skipped, {why}.")
        print(self.skipped[-1], flush=True)

    def save(self, path: Path) -> None:
        """Write the rows, tab-separated, in full precision."""
        path.parent.mkdir(exist_ok=True)
        lines = [[field.name for field in fields(Row)], *map(astuple, self.rows)]
        path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))

    def verdict(self) -> str:
        """How many targets are met, and which are not."""
        aimed = [row for row in self.rows if row.target]
        missed = [f"{row.what} ({row.size})" for row in aimed if row.met == "MISSED"]
        met = sum(row.met == "met" for row in aimed)
        said = f"{met} of {len(aimed)} targets met"
        if met + len(missed) < len(aimed):
            said += f", {len(aimed) - met - len(missed)} not judged on a busy machine"
        return said + (f"; missed: {'; '.join(missed)}." if missed else ".")

    def markdown(self) -> str:
        """Lay out the rows as a table of a document."""
        head = [
            "what",
            "size",
            "time",
            "yardstick",
            "its time",
            "ratio",
            "target",
            "",
            "peak memory",
        ]
        table = markdown_table(head, [shown(row)[1:] for row in self.rows])
        return f"{table}\n{self.verdict()}\n" + "".join(f"\n* {line}" for line in self.skipped)


def shown(row: Row) -> list[str]:
    """The texts of a row, with units."""
    met = f"**{row.met}**" if row.met == "MISSED" else row.met
    return [
        row.section, row.what, row.size, duration(row.seconds), row.yardstick,
        duration(row.its_seconds), f"{row.ratio:.2g}", row.target, met, f"{row.peak_mb:,.0f} MB",
    ]  # fmt: skip


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, unit, factor in ((1e-6, "ns", 1e9), (1e-3, "µs", 1e6), (1.0, "ms", 1e3)):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 600 else f"{seconds / 60:.3g} min"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out texts as a table of a document."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# --- machine and documents ------------------------------------------------------------------------


def machine() -> str:
    """The machine, the versions, and what else it was doing."""
    found = {name: version(name) for name in ("flashmm", *LIBRARIES) if python_has(name)}
    lines = [
        f"{_cpu()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB; {platform.system()} "
        f"{platform.machine()}; load average {os.getloadavg()[0]:.1f}",
        f"Python {platform.python_version()}; "
        + ", ".join(f"{name} {number}" for name, number in found.items()),
    ]
    if shutil.which("Rscript"):
        lines.append(subprocess.run(["Rscript", "-e", R_VERSIONS], **QUIET).stdout)
    return "\n".join(lines)


def busy() -> bool:
    """Whether more processes want to run than there are cores."""
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def _cpu() -> str:
    try:
        found = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = []
    return found[0] if found else platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what a document has between `<!-- name -->` and `<!-- /name -->`."""
    old = path.read_text()
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    new, n = pattern.subn(lambda match: f"{match[1]}{text.strip()}\n{match[2]}", old)
    if n != 1:
        raise ValueError(f"{path.name}: {n} places marked {name}, one expected")
    path.write_text(new)
