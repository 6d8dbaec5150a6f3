"""The command `flashmm`, for people who never open a notebook.

Each command reads flags, calls the public functions that a notebook would call, and says what they
found, as text or as JSON; it has no statistics of its own. Errors are said in the words of the
flags, with an exit code.
"""

from flashmm.cli.app import app, main

__all__ = ["app", "main"]
