"""Orderly stops: a first signal asks the process to finish and keep the current epoch.

The study's process receives it from a terminal (Ctrl-C) or as SIGTERM, which clusters send before
they take a machine back. It passes SIGTERM on to its workers. A second signal interrupts the study
at once. A closed terminal (SIGHUP) counts as one request, however often the signal is repeated, and
nothing is written to that terminal any more.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# standard output and error
STREAMS = (1, 2)

_asked = False
_is_known_to_training = False


class Interrupted(BaseException):
    """Raised to leave training code that was asked to stop and cannot save a checkpoint."""


def requested() -> bool:
    """Whether this process has been asked to stop."""
    return _asked


def request(*_: Any, is_known_to_training: bool = False) -> None:
    """Ask this process to stop. Can be a signal's handler."""
    global _asked, _is_known_to_training
    _asked = True
    _is_known_to_training |= is_known_to_training


def is_known_to_training() -> bool:
    """Whether a signal handler of the training code got the request, too: it may end early."""
    return _is_known_to_training


def forget() -> None:
    """Clear the request: it has been met."""
    global _asked, _is_known_to_training
    _asked = _is_known_to_training = False


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Within this context a first signal is a request, and a second raises KeyboardInterrupt.

    Signals that this process ignores stay ignored, such as SIGINT in a shell's background jobs.
    """
    forget()
    if threading.current_thread() is not threading.main_thread():
        # where Python takes no signals
        yield
        return
    shown = [stream for stream in STREAMS if os.isatty(stream)]

    def hang_up() -> None:
        request()
        _discard(shown)

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            # as its shell and the system may say again, later, too
            signal.signal(number, signal.SIG_IGN)
            hang_up()
        elif requested():
            raise KeyboardInterrupt
        request()

    def put_back(number: int, handler: Any) -> None:
        if signal.getsignal(number) is handle:
            signal.signal(number, handler)

    with ExitStack() as stack:
        for number in SIGNALS:
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                signal.signal(number, handle)
                stack.callback(put_back, number, before)
        redirects = (redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)
        for stream, (redirect, file) in zip(STREAMS, redirects, strict=True):
            if stream in shown:
                stack.enter_context(redirect(_Terminal(file, hang_up)))
        yield


class _Terminal:
    """A stream to a terminal. A write may fail before the signal is handled, in any thread."""

    def __init__(self, file: TextIO, hang_up: Callable[[], None]):
        self._file, self._hang_up = file, hang_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        with self._noticing():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with self._noticing():
            self._file.flush()

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._hang_up()


def _discard(streams: Sequence[int]) -> None:
    """Redirect these streams to /dev/null: writes to a closed terminal fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
