"""Jobs that a worker does in copies of itself, and what becomes of them and of it."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake.iocontainers import InputFiles, Log, OutputFiles, Params, Snakemake, Wildcards

from flashmm.workflow import handing_over
from flashmm.workflow.start import start

SPEC = {
    "distribution": "gaussian",
    "n_genes": 5,
    "n_cells": 60,
    "n_subjects": 4,
    "n_cell_types": 1,
    "n_de_genes": 1,
}
# sends a job as a script of Snakemake does, in a process that can be ended
SCRIPT = """
import pickle, sys
from flashmm.workflow.start import start
start("simulate_groups", pickle.loads(open(sys.argv[1], "rb").read()))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are used on Linux only")


def job(folder: Path, **spec) -> Snakemake:
    """What Snakemake hands to the script that simulates groups."""
    folder.mkdir(exist_ok=True)
    output = {"groups": str(folder / "groups.h5ad"), "truth": str(folder / "truth.tsv")}
    params = {"spec": {**SPEC, **spec}, "seed": [1, 2, 3], "version": "0"}
    return Snakemake(
        InputFiles(),
        OutputFiles(fromdict=output),
        Params(fromdict=params),
        Wildcards(fromdict={"scenario": "a"}),
        1,
        {},
        Log([str(folder / "log.txt")]),
        {},
        "simulate_groups",
        None,
        ".",
    )


@pytest.fixture(scope="module")
def run():
    """A process in the place of the run, and the address of its worker, in the environment."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"flashmm-test-{os.getpid()}"
    before = os.environ.get(handing_over.VARIABLE)
    os.environ[handing_over.VARIABLE] = f"{name} {process.pid}"
    yield process, name
    os.environ.pop(handing_over.VARIABLE)
    if before is not None:
        os.environ[handing_over.VARIABLE] = before
    process.kill()
    process.communicate()


def worker_of(name: str) -> int:
    """The number of the worker's process, which the kernel tells."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect("\0" + name)
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, 17, 4), sys.byteorder)


def ends(pid: int) -> bool:
    """Whether a process ends within some seconds; one that nobody waits for is gone then."""
    for _ in range(500):
        try:
            if (Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_copy_of_the_worker_does_the_same(tmp_path, run, monkeypatch):
    start("simulate_groups", job(tmp_path / "there"))
    assert worker_of(run[1]) != os.getpid()
    monkeypatch.delenv(handing_over.VARIABLE)
    assert handing_over.done_by_worker("simulate_groups", job(tmp_path / "here")) is None
    start("simulate_groups", job(tmp_path / "here"))
    for name in ("groups.h5ad", "truth.tsv", "log.txt"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_a_job_that_fails_says_so_here(tmp_path, run, capfd):
    with pytest.raises(SystemExit) as end:
        start("simulate_groups", job(tmp_path / "bad", n_subjects=0))
    assert end.value.code == 1
    assert "flashmm: " in capfd.readouterr().err
    assert "n_subjects" in (tmp_path / "bad/log.txt").read_text()


def test_another_interpreter_does_its_jobs_itself(tmp_path, run, monkeypatch):
    monkeypatch.setattr(handing_over, "identity", lambda: ("another", "package"))
    assert handing_over.done_by_worker("simulate_groups", job(tmp_path / "other")) is None
    assert not (tmp_path / "other/groups.h5ad").exists()


def test_a_step_that_cannot_be_imported_is_left_to_the_job(tmp_path, run):
    assert handing_over.done_by_worker("no_such_step", job(tmp_path / "none")) is None


def test_a_job_ends_with_the_process_that_waits_for_it(tmp_path, run):
    large = job(tmp_path / "large", n_genes=200_000, n_cells=2_000)
    (tmp_path / "job").write_bytes(pickle.dumps(large))
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "job")])
    log = tmp_path / "large/log.txt"
    while not log.exists() and script.poll() is None:
        time.sleep(0.01)
    worker = worker_of(run[1])
    children = (Path("/proc") / str(worker) / "task" / str(worker) / "children").read_text()
    assert script.poll() is None and len(children.split()) == 1
    script.send_signal(signal.SIGKILL)
    script.wait()
    assert ends(int(children))
    assert not (tmp_path / "large/truth.tsv").exists()


def test_the_worker_ends_with_the_run(run):
    worker = worker_of(run[1])
    run[0].kill()
    run[0].wait()
    assert ends(worker)


def test_no_worker_is_offered_where_none_is_wanted(monkeypatch):
    monkeypatch.setenv(handing_over.VARIABLE, "off")
    handing_over.offer_worker(True)
    assert os.environ[handing_over.VARIABLE] == "off"
    monkeypatch.setenv(handing_over.VARIABLE, "flashmm-0-old 1")
    handing_over.offer_worker(False)
    assert handing_over.VARIABLE not in os.environ
    handing_over.offer_worker(True)
    assert handing_over.Address.of_environment().run == os.getpid()


def test_a_process_has_one_worker_for_all_its_runs(monkeypatch):
    monkeypatch.setenv(handing_over.VARIABLE, f"flashmm-0-mine {os.getpid()}")
    handing_over.offer_worker(True)
    assert handing_over.Address.of_environment().name == "flashmm-0-mine"
    handing_over.offer_worker(False)
    assert handing_over.VARIABLE not in os.environ
