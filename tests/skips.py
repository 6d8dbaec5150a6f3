"""Hooks that fail a run of continuous integration in which a test was skipped unexpectedly.

A skipped test looks like a passed one from afar. Where the environment has ``CI=true``, every skip
that is not of ``ALLOWED`` makes the run fail, and the end of the report names it.
"""

from __future__ import annotations

import os

import pytest
from browser import NO_BROWSER

# names of tests that a platform cannot run, and the reason that they give
ALLOWED = {
    "test_memory_does_not_grow_with_the_values": "ru_maxrss in KiB",
    "test_the_method_in_r": "has no Rscript",
    "test_each_cell_type_is_tested_alone_by_r": "R with edgeR is not installed",
    "test_types_without_replicates_are_left_out_by_r": "R with edgeR is not installed",
    "test_shipped_scripts_of_r_run_or_say_what_is_missing": "has no Rscript",
    "test_a_program_that_hangs_is_killed_with_its_children": "has no /proc",
    "test_children_that_are_left_behind_are_killed": "has no /proc",
    "test_a_program_that_takes_too_much_memory": "has no /proc",
    "test_peak_is_that_of_the_program_not_of_this_process": "has no /proc",
    "test_a_run_that_is_ended_takes_its_program_with_it": "has no /proc",
    "test_each_step_of_a_process_has_its_own_peak": "has no /proc",
    "test_versions_of_the_packages_that_scripts_of_r_name": "has no Rscript",
    "test_dask_arrays": "dask is not installed",
    "test_lazy_anndata": "dask is not installed",
    "test_a_full_disk_is_said_and_leaves_nothing": "has no limits of resources",
}
# files whose tests need a program that a machine may lack, and the reason that they give
ALLOWED_FILES = {"test_browser.py": NO_BROWSER}


def on_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


def unexpected(reporter: pytest.TerminalReporter) -> list[str]:
    """Skipped tests, or files, that are not allowed to be, with their reasons."""
    skipped = [(report.nodeid, reason(report)) for report in reporter.stats.get("skipped", [])]
    # each worker of xdist reports the files that are skipped as a whole
    return [
        f"{nodeid}: {why}" for nodeid, why in dict.fromkeys(skipped) if not allowed(nodeid, why)
    ]


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def allowed(nodeid: str, why: str) -> bool:
    test = nodeid.split("::")[-1].split("[")[0]
    file = nodeid.split("::")[0].rsplit("/", maxsplit=1)[-1]
    return why in (ALLOWED.get(test), ALLOWED_FILES.get(file))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn success into failure; the workers of xdist have no reporter and leave it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if on_ci() and reporter and exitstatus == pytest.ExitCode.OK and unexpected(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = unexpected(terminalreporter) if on_ci() else []
    if found:
        terminalreporter.section("unexpected skips", red=True)
        terminalreporter.line("\n".join(found))
