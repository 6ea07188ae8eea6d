"""Signals in a worker: SIGTERM asks it to stop; training code may set handlers of its own.

Processes that it forks have Python's own handlers: a request to stop is not theirs, and SIGTERM
ends them. What they execute has the system's, since no signal is ignored here.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ablation import interruption

# of Linux
PR_SET_PDEATHSIG = 1

Handler = Callable[[int, Any], Any] | int | None


def ignore(*_: Any) -> None:
    """SIG_IGN would be inherited by what training code executes."""


# Ctrl-C is for the study, which then asks its workers to stop.
HANDLERS: dict[int, Handler] = {
    signal.SIGTERM: interruption.request,
    signal.SIGINT: ignore,
    signal.SIGHUP: ignore,
}

_install = signal.signal
# its mask: the signals that the thread that forks had blocked before
_forking = threading.local()


def heed() -> None:
    """Take signals as a worker does, from now on."""
    for number, handler in HANDLERS.items():
        _install(number, handler)
    worker = os.getpid()

    @functools.wraps(signal.signal)
    def install(number: int, handler: Handler) -> Handler:
        is_request = number == signal.SIGTERM and os.getpid() == worker
        return _install(number, _heeding(handler) if is_request else handler)

    signal.signal = install  # type: ignore[assignment]
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_behave_as_outside)


@contextmanager
def restored() -> Iterator[None]:
    """Undo afterwards what training code has done to signals: another trial may follow."""
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in HANDLERS.items():
            _install(number, handler)


def die_with(parent: int) -> None:
    """Be killed when the parent process ends, on Linux, however that may be."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it has ended already
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _heeding(handler: Handler) -> Handler:
    """A handler of SIGTERM of training code's, which does not keep the request from being heard."""
    if handler == signal.SIG_IGN:
        return interruption.request
    is_heeding = handler is interruption.request or getattr(handler, "func", None) is _both
    return functools.partial(_both, handler) if callable(handler) and not is_heeding else handler


def _both(handler: Callable[[int, Any], Any], number: int, frame: Any) -> Any:
    interruption.request(is_known_to_training=True)
    return handler(number, frame)


def _block() -> None:
    """A signal that comes to a forked process before its handlers are set would be lost."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLERS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _behave_as_outside() -> None:
    for number, handler in HANDLERS.items():
        if signal.getsignal(number) is handler:
            is_interrupt = number == signal.SIGINT
            _install(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    _unblock()
