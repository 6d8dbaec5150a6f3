"""What a step of a run took: wall-clock time, processor time and memory, by one clock.

The peak is the process's high-water mark in ``/proc``, which can be set back, so that steps that
follow each other in one process have a peak each. The kernel's ``ru_maxrss`` is taken only where
there is no ``/proc``: after an exec it holds the memory of the process that started this one.
"""

from __future__ import annotations

import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flashmm.storage.processes import status_memory


@dataclass(frozen=True)
class Clock:
    """The beginning of a step.

    Attributes
    ----------
    wall, cpu : float
        Seconds of the clocks at the beginning; processor time counts children that have ended.
    baseline_mib : float
        Resident memory at the beginning, before anything was read.
    """

    wall: float
    cpu: float
    baseline_mib: float

    @classmethod
    def start(cls) -> Clock:
        """Begin a step; the high-water mark of the memory begins anew."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return cls(time.perf_counter(), _cpu_seconds(), _memory()[0])

    def took(self) -> dict[str, float]:
        """What was taken since.

        Returns
        -------
        dict
            `seconds, cpu_seconds, peak_memory_mib, baseline_memory_mib`.
        """
        return {
            "seconds": time.perf_counter() - self.wall,
            "cpu_seconds": _cpu_seconds() - self.cpu,
            "peak_memory_mib": peak_memory_mib(),
            "baseline_memory_mib": self.baseline_mib,
        }


def peak_memory_mib() -> float:
    """The most resident memory of this process since its start or that of the last step, MiB."""
    return _memory()[1]


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _memory() -> tuple[float, float]:
    """Resident memory of this process and its peak, MiB."""
    resident, highest = status_memory()
    if highest:
        return resident, highest
    unit = 1024**2 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return peak, peak
