"""Stopping in good order: a first signal is a request, to be met when the epoch in hand is finished and kept.

The study's process takes it from a terminal (Ctrl-C) or from whoever ends it (SIGTERM, as a cluster does before it
takes a machine back); workers take it from the study, as SIGTERM. A second one interrupts the study at once. A terminal
that is closed (SIGHUP) asks once, however often its shell and the system say so, and nothing is written to it any more.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STREAMS = (1, 2)  # standard output and error

_asked = False
_is_known_to_training = False


class Interrupted(BaseException):
    """Leaves training code that has been asked to stop and cannot leave a checkpoint. Not an error of its own."""


def requested() -> bool:
    """Whether this process has been asked to stop."""
    return _asked


def request(*_: Any, is_known_to_training: bool = False) -> None:
    """Ask this process to stop. Can be a signal's handler."""
    global _asked, _is_known_to_training
    _asked = True
    _is_known_to_training |= is_known_to_training


def is_known_to_training() -> bool:
    """Whether training code has been asked, too, by a handler of its own: it may end before it is done."""
    return _is_known_to_training


def forget() -> None:
    """The request has been met."""
    global _asked, _is_known_to_training
    _asked = _is_known_to_training = False


@contextmanager
def heeded() -> Iterator[None]:
    """Signals are requests while this lasts, and a second one raises KeyboardInterrupt.

    One that this process was told to ignore, as a shell tells what it starts in the background of SIGINT, stays ignored.
    """
    forget()
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    shown = [stream for stream in STREAMS if os.isatty(stream)]

    def heed(number: int, _: Any) -> None:
        if number == signal.SIGHUP:
            before[number] = signal.SIG_IGN  # later, too
            signal.signal(number, signal.SIG_IGN)
            _discard(shown)
        elif requested():
            raise KeyboardInterrupt
        request()

    def hung_up() -> None:
        _discard(shown)
        request()

    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, heed)
    written = {
        name: getattr(sys, name)
        for stream, name in zip(STREAMS, ("stdout", "stderr"))
        if stream in shown
    }
    for name, file in written.items():
        setattr(sys, name, _Terminal(file, hung_up))
    try:
        yield
    finally:
        for name, file in written.items():
            setattr(sys, name, file)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Terminal:
    """A stream to a terminal. That it was closed is known by a failed write before the signal is handled, in any thread."""

    def __init__(self, file: TextIO, hung_up: Callable[[], None]):
        self._file, self._hung_up = file, hung_up

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
            self._hung_up()


def _discard(streams: Sequence[int]) -> None:
    """Have what is written to these from now on go nowhere: a terminal that is closed refuses it with an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
