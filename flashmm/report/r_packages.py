"""Versions of R and of the packages that the scripts of methods name."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from flashmm.storage.programs import located

# needs("edgeR", "limma"), library(limma), requireNamespace("nebula"), edgeR::estimateDisp
_CALLS = re.compile(r"\b(?:needs|library|require|requireNamespace)\(([^()]*)\)")
_NAME = re.compile(r"""^["']?([A-Za-z][A-Za-z0-9.]*)["']?$""")
_PREFIX = re.compile(r"\b([A-Za-z][A-Za-z0-9.]*):::?[A-Za-z.]")
_ASK = """cat("R ", as.character(getRversion()), "\\n", sep = "")
for (p in commandArgs(TRUE)) cat(p, " ", tryCatch(as.character(utils::packageVersion(p)),
  error = function(e) "not installed"), "\\n", sep = "")"""
_WITHIN = 60.0  # seconds


def r_versions(commands: Iterable[Sequence[str]]) -> dict[str, str]:
    """Ask R for its version and those of the packages in the scripts of some commands.

    Parameters
    ----------
    commands : iterable of sequence of str
        Arguments of commands; those that do not run Rscript do not count.

    Returns
    -------
    dict
        "R" and packages to versions, or "not installed"; empty where no command runs R, or R is
        not there.
    """
    runs = [command for command in commands if command and Path(command[0]).name == "Rscript"]
    scripts = {argument for command in runs for argument in command[1:] if argument.endswith(".R")}
    if not runs:
        return {}
    packages = sorted({name for path in scripts for name in _packages(Path(located(path)))})
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [runs[0][0], "-e", _ASK, *packages],
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            check=True,
        )
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return {}


def _packages(script: Path) -> set[str]:
    """Names of packages in a script; none where it cannot be read."""
    with suppress(OSError, UnicodeDecodeError):
        text = re.sub(r"#.*", "", script.read_text("utf-8"))
        named = [item.strip() for call in _CALLS.findall(text) for item in call.split(",")]
        found = {match[1] for item in named if (match := _NAME.match(item))}
        return found | set(_PREFIX.findall(text))
    return set()
