"""What a run would do and how long it may take: ``python -m flashmm.workflow.forecast OPTIONS``.

The options are Snakemake's. Its dry run says the jobs of each rule; the records that it keeps of
the jobs of earlier runs in the folder say how long those of a rule took.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

RECORDS = Path(".snakemake/metadata")
# Rules that only name what is to be done.
_NAMES_ONLY = ("all", "default", "total")
_JOB_COUNT = re.compile(r"^(\w+) +(\d+)$", re.MULTILINE)


class Took(NamedTuple):
    """How long the jobs of a rule took in earlier runs: their number, and the median in seconds."""

    jobs: int
    seconds: float


def planned_jobs(printed: str) -> dict[str, int]:
    """Rule to number of jobs, from what a dry run printed; empty where nothing is to be done."""
    found = {rule: int(jobs) for rule, jobs in _JOB_COUNT.findall(printed)}
    return {rule: jobs for rule, jobs in found.items() if rule not in _NAMES_ONLY}


def times_of_rules(folder: str | Path = RECORDS) -> dict[str, Took]:
    """How long jobs took, start-up of their processes included.

    Parameters
    ----------
    folder : path
        Snakemake's records, one file per output; a job has left several.

    Returns
    -------
    dict
        Rule to its jobs and their median time; rules without a record are left out.
    """
    spans: dict[str, dict[tuple[str, ...], float]] = {}
    for path in Path(folder).rglob("*"):
        record = _record(path)
        if record and not record.get("incomplete") and record.get("endtime"):
            job = tuple(record.get("log") or [path.name])  # a log belongs to one job
            seconds = record["endtime"] - record["starttime"]
            spans.setdefault(record["rule"], {})[job] = seconds
    return {rule: Took(len(found), median(found.values())) for rule, found in spans.items()}


def _record(path: Path) -> dict[str, Any]:
    """A record; an empty one where the file is none, or is being written."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
    except (ValueError, OSError):
        return {}
    return record if isinstance(record, dict) and "rule" in record else {}


def forecast(jobs: Mapping[str, int], took: Mapping[str, Took], cores: int) -> str:
    """A table of the jobs of a run with their expected times, and what they come to.

    Parameters
    ----------
    jobs : mapping
        Rule to number of jobs.
    took : mapping
        Rule to the times of earlier jobs.
    cores : int
        Jobs at a time.

    Returns
    -------
    str
        Lines; rules that have never run have no expected time, and this is said.
    """
    if not jobs:
        return "Nothing is to be done: all results are there.\n"
    lines = [f"{'rule':<22}{'jobs':>6}{'s per job':>12}{'s in all':>12}"]
    for rule, n in jobs.items():
        known = took.get(rule)
        each, total = (f"{known.seconds:.1f}", f"{n * known.seconds:.0f}") if known else ("?", "?")
        lines.append(f"{rule:<22}{n:>6}{each:>12}{total:>12}")
    seconds = sum(n * took[rule].seconds for rule, n in jobs.items() if rule in took)
    lines.append(f"{'total':<22}{sum(jobs.values()):>6}{'':>12}{seconds:>12.0f}")
    lines.append(_in_words(seconds, cores, [rule for rule in jobs if rule not in took]))
    return "".join(f"{line}\n" for line in lines)


def _in_words(seconds: float, cores: int, unknown: Sequence[str]) -> str:
    """The expected time of the whole run."""
    if not unknown:
        return (
            f"About {_duration(seconds / cores)} with {cores} jobs at a time, as jobs took before."
        )
    known = f"; the others about {_duration(seconds / cores)}" if seconds else ""
    return f"Not known before a first run in this folder: {', '.join(unknown)}{known}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(round(seconds), 1)} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def main(options: Sequence[str]) -> int:
    """Print the forecast of a run with these options of Snakemake; nothing is run or locked."""
    command = [sys.executable, "-m", "snakemake", *options, "--dry-run", "--nolock"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()
        ours = [line for line in said if line.startswith("flashmm: ")]
        print("\n".join(ours or said), file=sys.stderr)
        return 1
    cores = int(options[options.index("--cores") + 1]) if "--cores" in options else 1
    jobs = planned_jobs(done.stdout + "\n" + done.stderr)
    print(forecast(jobs, times_of_rules(), cores), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
