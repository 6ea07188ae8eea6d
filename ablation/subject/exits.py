"""Turn attempts of training code to end its process into errors that say where."""

from __future__ import annotations

import linecache
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ablation.errors import InputError, Problem
from ablation.subject.imported import is_library

# Calls that end a process, and with which exit code: None for the first argument.
# The others of the exec family call these two.
ENDING_CALLS = {"_exit": None, "execv": 0, "execve": 0, "abort": 128 + signal.SIGABRT}


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Import code of others: SystemExit is raised by what would end this process.

    `sys.argv` is `name` alone.
    """

    def raising(code: int | None) -> Callable[..., None]:
        def instead(*arguments: Any) -> None:
            raise SystemExit(arguments[0] if code is None else code)

        return instead

    arguments, calls = sys.argv, {call: getattr(os, call) for call in ENDING_CALLS}
    sys.argv = [name]
    for call, code in ENDING_CALLS.items():
        setattr(os, call, _before(raising(code), calls[call]))
    try:
        yield
    finally:
        sys.argv = arguments
        for call, own in calls.items():
            setattr(os, call, own)


@contextmanager
def refused() -> Iterator[None]:
    """Turn SystemExit of a subject into InputError: a study that ran nothing never exits with 0."""
    try:
        yield
    except SystemExit as error:
        raise InputError([Problem("", "subject", describe_exit(error))]) from None


def replace_exit(instead: Callable[[int], None]) -> None:
    """Have `os._exit` call this first. In processes that this one forks, it is as it was."""
    os._exit = _before(instead, os._exit)


def _before(instead: Callable[..., None], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, after `instead` in this process; in processes that it forks, as it was."""
    own = os.getpid()

    def called(*arguments: Any, **named: Any) -> Any:
        if os.getpid() == own:
            instead(*arguments, *named.values())
        return call(*arguments, **named)

    return called


def describe_exit(error: BaseException) -> str:
    """What raised SystemExit, KeyboardInterrupt or the like: line, code, and reason if given."""
    code = f" with exit code {exit_code(error)}" if isinstance(error, SystemExit) else ""
    reason = _reason(error)
    where = place(traceback.extract_tb(error.__traceback__))
    return f"{where} would have ended the process{code}{reason and f': {reason}'}"


def place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line that is not of a library, nor ours: `sys.exit(1)` in train.py, line 3."""
    own = [frame for frame in frames if not _is_foreign(Path(frame.filename))]
    if not (own or frames):
        return "it"
    frame = (own or frames)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{line and f'`{line}` in '}{Path(frame.filename).name}, line {frame.lineno}"


def exit_code(error: BaseException) -> int:
    """The exit code that Python ends with if nothing catches this."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1


def _is_foreign(path: Path) -> bool:
    resolved = path.resolve()
    return not path.is_file() or is_library(resolved)


def _reason(error: BaseException) -> str:
    if not isinstance(error, SystemExit):
        return str(error)
    if not (error.code is None or isinstance(error.code, int)):
        return str(error.code)
    told = _message_of_parser(error.__traceback__)
    cause = error.__cause__ or error.__context__
    return told or (f"{type(cause).__name__}: {_message(cause)}" if cause is not None else "")


def _message_of_parser(step: TracebackType | None) -> str:
    """What argparse or click has written to standard error before it called `sys.exit`."""
    while step is not None:
        file, own = Path(step.tb_frame.f_code.co_filename), step.tb_frame.f_locals
        if file.name == "argparse.py" and step.tb_frame.f_code.co_name == "error":
            return str(own.get("message", ""))
        if file.parent.name == "click":
            # a method of the error that it reports before it exits
            fault = getattr(own.get("report"), "__self__", None)
            if isinstance(fault, Exception):
                return _message(fault)
        step = step.tb_next
    return ""


def _message(error: BaseException) -> str:
    return str(error.format_message() if hasattr(error, "format_message") else error)
