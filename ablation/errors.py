"""Errors that end a command: wrong input, a full disk, a database that cannot be reached."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One mistake in the input: where it stands and what is allowed there."""

    # the file's name, or the command-line option
    file: str
    # dotted path inside the file, "" for the file as a whole
    key: str
    # what is wrong, the value, and what is allowed
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class InputError(Exception):
    """The input cannot be used; nothing has been run. The command line exits with 2."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DiskFull(Exception):
    """A disk is full or read-only: the study stops, and the command line exits with 1.

    Nothing that was finished is lost.
    """


class Unavailable(Exception):
    """A database or server cannot be reached, read or written; results are safe in files."""

    # whether a later attempt may succeed
    is_for_now = True


def nearest(value: object, choices: Iterable[str]) -> str:
    """A hint towards the choice meant: `did you mean 'warmup'?`, else all the choices."""
    choices = sorted(str(choice) for choice in choices)
    close = difflib.get_close_matches(str(value), choices, n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose from {', '.join(choices)}" if choices else "none is allowed here"
