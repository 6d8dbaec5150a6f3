"""Programs within limits: how they end, what they took, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flashmm.storage.processes import Limits, pinned, run_limited
from flashmm.storage.usage import Clock

WATCHED = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="has no /proc")


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_a_program_that_ends():
    ended = run_limited(
        python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    )
    assert (ended.code, ended.stopped) == (3, None)
    assert set(ended.log) == {"out", "err"}
    assert ended.cpu_seconds > 0 and 0 < ended.seconds < 60


def test_only_the_last_lines_are_kept_and_they_are_printable():
    ended = run_limited(python("for i in range(1000): print(i, '\\x1b[31m' + 'x' * 600)"))
    assert len(ended.log) == 20
    assert ended.log[-1].startswith("999 [31mxxx") and len(ended.log[-1]) <= 500


def test_there_is_no_shell_and_no_input():
    ended = run_limited([*python("import sys; print(sys.argv[1:], sys.stdin.read())"), "$HOME; ls"])
    assert ended.log == ("['$HOME; ls']",)


def test_no_such_program():
    ended = run_limited(["no-such-program-here"])
    assert ended.code is None and "no-such-program-here: No such file" in ended.log[0]


def test_work_in_a_copy_of_this_process():
    def work() -> int:
        print("said", os.getpid() == os.getpgrp())
        if here == os.getpid():
            raise AssertionError("it is no copy")
        return 5

    here = os.getpid()
    ended = run_limited(work)
    assert (ended.code, ended.log) == (5, ("said True",))

    def broken() -> int:
        raise ValueError("that is wrong")

    ended = run_limited(broken)
    assert ended.code == 1 and ended.log[-1] == "ValueError: that is wrong"
    ended = run_limited(lambda: time.sleep(600) or 0, Limits(seconds=0.2))
    assert ended.stopped == "time"


def test_threads_and_temporary_files(tmp_path):
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['TMPDIR'], os.environ['A'])"
    ended = run_limited(python(code), Limits(threads=3), folder=tmp_path, environment={"A": "b"})
    assert ended.log == (f"3 {tmp_path} b",)
    assert set(pinned(1).values()) == {"1"}


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def wait_for_the_end(pid: int) -> None:
    end = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < end, "the process is still there"
        time.sleep(0.02)


# a child of the program that would go on for long
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
"""


@WATCHED
def test_a_program_that_hangs_is_killed_with_its_children():
    ended = run_limited(python(PARENT + "time.sleep(600)"), Limits(seconds=1.5))
    assert ended.stopped == "time" and ended.code == -signal.SIGKILL
    assert ended.seconds < 60
    wait_for_the_end(int(ended.log[0]))


@WATCHED
def test_children_that_are_left_behind_are_killed():
    ended = run_limited(python(PARENT))
    assert (ended.code, ended.stopped) == (0, None)
    wait_for_the_end(int(ended.log[0]))


@WATCHED
def test_a_program_that_takes_too_much_memory():
    code = "import time; x = bytearray(200 * 2**20); time.sleep(600)"
    ended = run_limited(python(code), Limits(seconds=60, memory_mib=100))
    assert ended.stopped == "memory"
    assert ended.peak_memory_mib > 100


@WATCHED
def test_peak_is_that_of_the_program_not_of_this_process():
    ballast = bytearray(300 * 2**20)
    ended = run_limited(python("import time; x = bytearray(60 * 2**20); del x; time.sleep(0.2)"))
    assert len(ballast) and 60 < ended.peak_memory_mib < 150


@WATCHED
def test_a_run_that_is_ended_takes_its_program_with_it(tmp_path):
    code = (
        "from flashmm.storage.processes import run_limited; import sys\n"
        f"run_limited([sys.executable, '-S', '-c', {PARENT!r} + "
        f"\"open(r'{tmp_path}/pid', 'w').write(str(child.pid)); time.sleep(600)\"])"
    )
    run = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    run.terminate()
    assert run.wait(20) == 128 + signal.SIGTERM
    wait_for_the_end(int((tmp_path / "pid").read_text()))


@WATCHED
def test_each_step_of_a_process_has_its_own_peak():
    clock = Clock.start()
    ballast = bytearray(100 * 2**20)
    first = clock.took()
    assert first["peak_memory_mib"] >= first["baseline_memory_mib"] + 90
    del ballast
    second = Clock.start().took()
    assert second["peak_memory_mib"] < first["peak_memory_mib"] - 50
    assert second["seconds"] < first["seconds"] + 1
