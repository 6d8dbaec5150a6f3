"""What was tried against the package, and how many tests of each kind pass.

python benchmarks/reliability.py              # print the table of docs/reliability.md
"""

from __future__ import annotations

import re
import subprocess
import sys

import common

# What was done, and the tests that do it again.
TRIED = {
    "Writers that are killed or fail while they write, and what they leave": (
        "tests/storage/test_files.py",
    ),
    "Programs that hang, leave children or use too much memory": (
        "tests/storage/test_processes.py",
        "tests/storage/test_programs.py",
    ),
    "A run of the workflow that is killed, and its lock": ("tests/workflow/test_running.py",),
    "One flipped bit in every dataset of files of groups and of fits": (
        "tests/io/test_groups.py::test_a_flipped_bit_is_never_another_number",
        "tests/io/test_fits.py::test_a_flipped_bit_is_never_another_number",
    ),
    "Damaged chunks, truncated files, files that are replaced while they are read": (
        "tests/storage/test_chunks.py",
        "tests/cells/test_counts.py::test_a_truncated_file",
        "tests/cells/test_summary.py::test_a_file_that_is_replaced_while_it_is_in_use",
        "tests/io/test_fits.py::test_groups_that_are_replaced_while_a_fit_is_read",
    ),
    "Decompression bombs, links to other files, pipes and devices": ("tests/storage/test_hdf5.py",),
    "Configs with code, alias bombs and other traps of YAML": (
        "tests/workflow/test_check_config.py",
    ),
    "Mistakes in configs and sheets, each with its message": ("tests/workflow/test_mistakes.py",),
    "Hostile formulas, contrasts and covariates": (
        "tests/formulas/test_formulas.py",
        "tests/formulas/test_refused.py",
    ),
    "Hostile names of genes and levels on pages, in a browser where there is one": (
        "tests/report/test_browser.py::test_hostile_names_are_text",
        "tests/notebook/test_notebook.py::test_records_show_short_texts_and_escaped_html",
        "tests/io/test_tables.py",
    ),
    "Fits of tiny designs against a dense likelihood (a few of those above)": (
        "tests/test_fuzz.py",
    ),
}


def outcome(tests: tuple[str, ...]) -> str:
    """Counts of the last line that pytest prints, such as "12 passed, 1 skipped".

    Raises
    ------
    RuntimeError
        A test has failed, or is not there.
    """
    command = [sys.executable, "-m", "pytest", "-q", *tests]
    run = subprocess.run(
        command, cwd=common.ROOT, env=common.environment(), check=False, **common.QUIET
    )
    if run.returncode:
        raise RuntimeError(f"pytest {' '.join(tests)}: {run.stdout[-2_000:]}{run.stderr[-2_000:]}")
    last = run.stdout.strip().splitlines()[-1]
    return re.sub(r" in [\d.]+s.*", "", last).strip("= ")


def table() -> str:
    """Run the tests of every kind, and lay out what they say."""
    rows = [[what, f"`pytest {' '.join(tests)}`", outcome(tests)] for what, tests in TRIED.items()]
    return common.markdown_table(["what was tried", "command", "outcome"], rows)


if __name__ == "__main__":
    print(table())
