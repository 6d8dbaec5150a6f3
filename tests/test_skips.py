"""Continuous integration fails where a test is skipped that need not be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import skips

TESTS = Path(skips.__file__).parent
FIRST, *_ = skips.ALLOWED


def skipped(name: str, reason: str) -> str:
    return f"import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef {name}(): pass\n"


PASSING = {"test_passing.py": "def test_passes(): pass\n"}
FAILING = {"test_failing.py": "def test_fails(): assert False\n"}
ALLOWED = {"test_allowed.py": "".join(skipped(*item) for item in skips.ALLOWED.items())}
UNEXPECTED = {
    "test_in_a_test.py": "import pytest\ndef test_a(): pytest.skip('no data here')\n",
    "test_file.py": "import pytest\npytest.skip('no data here', allow_module_level=True)\n",
    "test_reason.py": skipped(FIRST, "no data here"),
}


def run(folder: Path, files: dict[str, str], *options: str, ci: str = "true"):
    """Exit status and output of pytest on these files, with the hooks as its plugin."""
    for name, text in files.items():
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", *options]
    # without the variables by which xdist tells a worker that it is one
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = inherited | {"CI": ci, "PYTHONPATH": str(TESTS)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # they take seconds to import
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")], ids=["alone", "xdist"])
def test_unexpected_skips_fail_and_are_named(tmp_path, options):
    status, output = run(tmp_path, PASSING | ALLOWED | UNEXPECTED, *options)
    assert status == pytest.ExitCode.TESTS_FAILED, output
    named = re.findall(
        r"^(test_\w+\.py)\S*: no data here$", output.split("unexpected skips")[1], re.M
    )
    assert sorted(named) == sorted(UNEXPECTED)


@pytest.mark.parametrize("name", UNEXPECTED)
def test_one_is_enough(tmp_path, name):
    status, output = run(tmp_path, PASSING | {name: UNEXPECTED[name]})
    assert status == pytest.ExitCode.TESTS_FAILED, output


def test_allowed_skips_pass(tmp_path):
    status, output = run(tmp_path, PASSING | ALLOWED)
    assert status == pytest.ExitCode.OK, output
    assert f"{len(skips.ALLOWED)} skipped" in output
    assert "unexpected" not in output


def test_skips_are_no_failure_elsewhere(tmp_path):
    status, output = run(tmp_path, PASSING | UNEXPECTED, ci="")
    assert status == pytest.ExitCode.OK, output


def test_failures_are_reported_as_ever(tmp_path):
    status, output = run(tmp_path, PASSING | FAILING | UNEXPECTED)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed, 3 skipped" in output


@pytest.mark.parametrize(("test", "reason"), skips.ALLOWED.items())
def test_allowed_tests_are_there(test, reason):
    """A test that was renamed would otherwise leave its name in the list."""
    defined, said = f"\ndef {test}(", f'"{reason}"'
    texts = [path.read_text() for path in TESTS.rglob("test_*.py")]
    assert sum(defined in text and said in text for text in texts) == 1


def test_hooks_are_those_of_all_tests(pytestconfig):
    conftest = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py"))
    assert conftest.pytest_sessionfinish is skips.pytest_sessionfinish
    assert conftest.pytest_terminal_summary is skips.pytest_terminal_summary
