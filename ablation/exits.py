"""What code of others calls to end its process: told, instead of done."""

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
from ablation.imported import is_library

OURS = Path(__file__).parent


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Import code of others: what would end this process raises SystemExit, and the command line is `name` alone."""
    arguments, leave, others = sys.argv, os._exit, (os.execv, os.execve, os.abort)
    sys.argv = [name]
    replace_exit(_raise)
    # the others of the exec family call the first two
    os.execv, os.execve = _raising(0, os.execv), _raising(0, os.execve)
    os.abort = _raising(128 + signal.SIGABRT, os.abort)
    try:
        yield
    finally:
        sys.argv, os._exit, (os.execv, os.execve, os.abort) = arguments, leave, others


@contextmanager
def refused() -> Iterator[None]:
    """Turn SystemExit of a subject into InputError: a study that ran nothing never exits with 0."""
    try:
        yield
    except SystemExit as error:
        raise InputError([Problem("", "subject", describe_exit(error))]) from None


def replace_exit(instead: Callable[[int], None]) -> None:
    """Have `os._exit` call this first. In processes that this one forks, it is as it was."""
    leave, own = os._exit, os.getpid()

    def ended(status: int) -> None:
        if os.getpid() == own:
            instead(status)
        leave(status)

    os._exit = ended


def _raising(status: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """Raises SystemExit in this process, in place of a call that would end it. In those that it forks, the call is made."""
    own = os.getpid()

    def called(*arguments: Any) -> Any:
        if os.getpid() == own:
            raise SystemExit(status)
        return call(*arguments)

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


def exit_code(error: SystemExit) -> int:
    """With which Python ends."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    return 1


def _raise(status: int) -> None:
    raise SystemExit(status)


def _is_foreign(path: Path) -> bool:
    resolved = path.resolve()
    return not path.is_file() or is_library(resolved) or resolved.is_relative_to(OURS)


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
