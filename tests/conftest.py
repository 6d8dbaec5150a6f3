"""Hooks of all tests; where the numbers are that they compare with says `references`."""

from __future__ import annotations

from skips import pytest_sessionfinish, pytest_terminal_summary

__all__ = ["pytest_sessionfinish", "pytest_terminal_summary"]
