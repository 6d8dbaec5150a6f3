"""Where compiled code is kept, in containers and on clusters where packages cannot be written."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

# Numba's own setting. Without it, the folder of the source is tried, then one of the user.
VARIABLE = "NUMBA_CACHE_DIR"


def cache_compiled_code(package: Path) -> None:
    """Name a folder for compiled code where neither the package's nor the user's can be written.

    Numba cannot be imported with functions to cache and no folder for them. The folder is kept for
    the next process where it is certain to be this user's; code in it is executed.

    Parameters
    ----------
    package : pathlib.Path
        Folder of the package's sources.
    """
    if os.environ.get(VARIABLE):
        return
    if not any(map(_can_be_written, (package / "kernels" / "__pycache__", _users_folder()))):
        os.environ[VARIABLE] = folder = str(_temporary_folder())
        if "numba" in sys.modules:  # it has read its settings already
            sys.modules["numba"].config.CACHE_DIR = folder


def _users_folder() -> Path:
    """Folder where Numba keeps what belongs to a user."""
    if sys.platform == "darwin":
        return Path("~/Library/Caches/numba").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba"


def _can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself in the first one above it."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary_folder() -> Path:
    """A folder that nobody else can write to: the user's, or one of this process."""
    place = Path(tempfile.gettempdir()) / f"flashmm-compiled-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if private and found.st_uid == os.getuid():
        return place
    own = tempfile.mkdtemp(prefix="flashmm-compiled-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)
