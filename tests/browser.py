"""A real browser for the tests of pages: Chromium, driven by Selenium, without a network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# why the tests of pages in a browser are skipped; tests/skips.py allows this reason only
NO_BROWSER = "needs chromium, chromedriver and selenium"


def require_browser() -> None:
    """Skip in one line where a browser, its driver or Selenium is missing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        pytest.skip(NO_BROWSER)
    if shutil.which("chromedriver") is None or browser_path() is None:
        pytest.skip(NO_BROWSER)


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@contextmanager
def browser(downloads: Path, width: int = 1400, height: int = 1000) -> Iterator:
    """A headless Chromium that logs its console and every request, and saves into a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser_path() or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # no look-up of a newer driver, no reports
    os.environ["SE_OFFLINE"] = "true"
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()
