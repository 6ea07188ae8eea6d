"""Stopping in good order: a first signal is a request to finish and keep the epoch in hand.

The study's process takes it from a terminal (Ctrl-C) or from whoever ends it (SIGTERM, as a cluster
does before it takes a machine back); workers take it from the study, as SIGTERM. A second one
interrupts the study at once. A terminal that is closed (SIGHUP) asks once, however often its shell
and the system say so, and nothing is written to it any more.
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
    """Leaves training code that has been asked to stop and cannot leave a checkpoint."""


def requested() -> bool:
    """Whether this process has been asked to stop."""
    return _asked


def request(*_: Any, is_known_to_training: bool = False) -> None:
    """Ask this process to stop. Can be a signal's handler."""
    global _asked, _is_known_to_training
    _asked = True
    _is_known_to_training |= is_known_to_training


def is_known_to_training() -> bool:
    """Whether training code has heard it, too, by a handler of its own: it may end early."""
    return _is_known_to_training


def forget() -> None:
    """The request has been met."""
    global _asked, _is_known_to_training
    _asked = _is_known_to_training = False


@contextmanager
def heeded() -> Iterator[None]:
    """Signals are requests while this lasts, and a second one raises KeyboardInterrupt.

    One that this process was told to ignore, as a shell tells what it starts in the background of
    SIGINT, stays ignored.
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

    def heed(number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            # as its shell and the system may say again, later, too
            signal.signal(number, signal.SIG_IGN)
            hang_up()
        elif requested():
            raise KeyboardInterrupt
        request()

    def put_back(number: int, handler: Any) -> None:
        if signal.getsignal(number) is heed:
            signal.signal(number, handler)

    with ExitStack() as stack:
        for number in SIGNALS:
            if (before := signal.getsignal(number)) is not signal.SIG_IGN:
                signal.signal(number, heed)
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
    """Have what is written to these from now on go nowhere: a closed terminal refuses it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
