"""Runs of Snakemake in a folder are found, those of other folders are not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flashmm.workflow import running
from flashmm.workflow.running import main, runs_in, runs_snakemake

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        ("/venv/bin/python /venv/bin/snakemake --cores 2", True),
        ("snakemake --cores 2", True),
        ("python -m snakemake --cores 1", True),
        ("python -u -m snakemake", True),
        ("python /here/.snakemake/scripts/tmp1.fit.py", True),
        ("python -m pytest tests/snakemake", False),
        ("vi notes about snakemake", False),
    ],
)
def test_command_lines(command: str, is_one: bool) -> None:
    assert runs_snakemake(command.split()) == is_one


def test_shells_are_not_what_they_start() -> None:
    assert not runs_snakemake(["bash", "-c", "mkdir a; snakemake --cores 1"])


def test_a_run_is_found_where_it_works(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    script = tmp_path / "snakemake"
    script.write_text("print('on', flush=True); input()")
    here = tmp_path / "here"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], cwd=here, stdin=pipe, stdout=pipe) as run:
        assert run.stdout.readline()
        assert runs_in(here) == [run.pid]
        assert runs_in(tmp_path / "there") == []
        assert main(here) == 1
        assert f"at work in {here} (process {run.pid})" in capsys.readouterr().err
        run.communicate(b"\n")
    assert main(here) == 0


def test_locks_of_somebody_else_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    assert main(tmp_path) == 0
    monkeypatch.setattr(running, "runs_in", lambda folder: [])
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert main(tmp_path) == 1
    assert "another user has locked" in capsys.readouterr().err


FAKE = """#!{python}
import sys
open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with our Makefile and a set-up environment whose Snakemake only says it was run."""
    bin_ = tmp_path / ".venv" / "bin"
    bin_.mkdir(parents=True)
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    (bin_ / "python").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} "$@"\n')
    (bin_ / "snakemake").write_text(FAKE.format(python=sys.executable, log=str(tmp_path / "log")))
    for tool in bin_.iterdir():
        tool.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text("seed: 1")
    return tmp_path


def make_report(project: Path) -> tuple[subprocess.CompletedProcess, list[str]]:
    """`make report`, and what Snakemake was asked for."""
    command = ["make", "report", "CONFIG=config.yaml"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    log = project / "log"
    asked = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return done, asked


@pytest.mark.skipif(shutil.which("flock") is None, reason="locks are cleared where there is flock")
def test_make_clears_the_lock_of_a_dead_run_only(project: Path) -> None:
    run = "--cores 2 --configfile config.yaml"
    (project / ".snakemake" / "locks" / "0.output.lock").touch()
    script = project / "elsewhere" / "snakemake"
    script.parent.mkdir()
    script.write_text("print('on', flush=True); input()")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, script], cwd=project, stdin=pipe, stdout=pipe) as live:
        assert live.stdout.readline()
        done, asked = make_report(project)
        assert done.returncode != 0
        assert f"Snakemake is at work in {project} (process {live.pid})" in done.stderr
        assert asked == []
        live.communicate(b"\n")
    done, asked = make_report(project)
    assert done.returncode == 0, done.stderr
    assert asked == [f"{run} --unlock", run]


def test_make_hands_no_config_with_code_to_snakemake(project: Path) -> None:
    (project / "config.yaml").write_text("__use_yte__: true\nseed: ?exit(3)")
    done, asked = make_report(project)
    assert done.returncode != 0
    assert "which Snakemake would execute as Python" in done.stderr
    assert asked == []
