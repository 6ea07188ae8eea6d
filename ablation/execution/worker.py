"""A worker process: runs segments of chains that the study sends to it, one after another.

Started as `python -m ablation.execution.worker <read fd> <write fd>`; requests and replies are JSON
lines on two pipes of their own, so that whatever the training code prints goes to the trial's log.

    -> an `ablation.execution.workers.Request`
    <- an `ablation.execution.workers.Message` for each epoch, and one for how it ended; own code
       also reports epochs of a link that goes on
    <- {"event": "store", ...} and -> its answer, on a Ray node:
       see `ablation.execution.ray_node`

SIGTERM asks it to stop: it saves a checkpoint and replies `stopped`. Training code may set handlers
of its own. Processes that it forks have Python's own handlers: a request to stop is not theirs, and
SIGTERM ends them. What they execute has the system's, since no signal is ignored here.

If the study was killed, so that nothing reads the replies, the worker finishes and keeps its epoch
and ends. A function or command has no epoch to keep: on Linux its worker ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ablation import interruption
from ablation.execution.process import END_SECONDS
from ablation.execution.workers import Request
from ablation.formatting import redacted
from ablation.interruption import Interrupted
from ablation.storage.cache import DiskStore
from ablation.storage.files import describe_full, is_full
from ablation.storage.runs import failure
from ablation.subject.imported import describe_exit, exit_code, place, replace_exit
from ablation.subject.loading import load_subject
from ablation.subject.own import OwnCode, Place, unfinished
from ablation.subject.protocol import Record, ReportedEpoch, Store
from ablation.subject.spawned import CommandFailed

# of Linux
PR_SET_PDEATHSIG = 1

Handler = Callable[[int, Any], Any] | int | None


def ignore(*_: Any) -> None:
    """Do nothing. (SIG_IGN would be inherited by what training code executes.)"""


# Ctrl-C is for the study, which then asks its workers to stop.
HANDLERS: dict[int, Handler] = {
    signal.SIGTERM: interruption.request,
    signal.SIGINT: ignore,
    signal.SIGHUP: ignore,
}

_install = signal.signal
# its mask: the signals that the thread that forks had blocked before
_forking = threading.local()


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer requests until the pipe closes."""
    own, study = os.getpid(), os.getppid()

    def reply(event: str, **content: Any) -> None:
        # training code has forked it, and it has come to the end
        if os.getpid() != own:
            raise SystemExit(0)
        try:
            replies.write(json.dumps({"event": event, **content}) + "\n")
            replies.flush()
        except BrokenPipeError:
            interruption.request()

    def report(key: str, record: Record) -> bool:
        reply("record", key=key, record=record)
        return interruption.requested()

    def report_epoch(epoch: ReportedEpoch, is_saved: bool) -> None:
        reply("epoch", record=unfinished(epoch), is_saved=is_saved)

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        reply("store", **question)
        line = requests.readline()
        # the study is gone
        if not line:
            raise Interrupted
        answer: dict[str, Any] = json.loads(line)
        return answer

    def fail(type_: str, message: str, stack: str, is_logged: bool = False) -> None:
        stack = redacted(stack)
        _put_output_back()
        if not is_logged:
            # first, since the study ends a process that has failed; it may be on a full disk
            with contextlib.suppress(OSError):
                print(stack, file=sys.stderr, flush=True)
        reply("failed", error=failure(type_, message, stack))

    def leave(status: int) -> None:
        stack = traceback.extract_stack()
        message = f"the worker process ended: exit code {status}, by {place(stack)}"
        fail("WorkerDied", message, "".join(stack.format()))

    replace_exit(leave)
    while line := requests.readline():
        request: Request = json.loads(line)
        sys.argv = [request["subject"].partition(":")[0]]
        try:
            _redirect_output(Path(request["log"]))
            here = DiskStore(Path(request["cache"]))
            store: Store = here
            if request.get("is_remote"):
                from ablation.execution.ray_node import NodeStore

                # its actor may be killed at any time, and another then does the same
                die_with(study)
                store = NodeStore(here, ask)
            with restored():
                subject = load_subject(request["subject"])
                asked = (request["settings"], request["seed"], request["until"], store, report)
                if isinstance(subject, OwnCode):
                    die_with(study)
                    subject.advance(*asked, _place(request, report_epoch))
                else:
                    subject.advance(*asked)
        except Interrupted:
            reply("stopped")
        except BaseException as error:
            # the trial boundary: it becomes a recorded failure, and the others go on
            if os.getpid() != own:
                _end_forked(error)
            if isinstance(error, OSError) and is_full(error):
                reply("blocked", error=failure("DiskFull", describe_full(error)))
            elif isinstance(error, (SystemExit, KeyboardInterrupt)) and interruption.requested():
                # as training code may end that handles SIGTERM itself
                reply("stopped")
            elif isinstance(error, CommandFailed):
                fail(type(error).__name__, str(error), error.details, is_logged=True)
            else:
                message = str(error) if isinstance(error, Exception) else describe_exit(error)
                fail(type(error).__name__, message, traceback.format_exc())
        else:
            reply("stopped" if interruption.requested() else "done")
        finally:
            interruption.forget()


def _place(request: Request, on_epoch: Callable[[ReportedEpoch, bool], None]) -> Place:
    # on a Ray node the log's file is one of the node's
    where = {} if request.get("is_remote") else {"log": os.path.relpath(request["log"])}
    return Place(request["trial"], Path(request["folder"]), on_epoch=on_epoch, **where)


def _end_forked(error: BaseException) -> NoReturn:
    """End a process that training code has forked and that has left it, as Python would."""
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    _put_output_back()
    os._exit(exit_code(error))


def _redirect_output(log: Path) -> None:
    """What this process and its libraries print goes to `log` from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _put_output_back()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _put_output_back() -> None:
    """Flush standard output and error; undo that training code has replaced or closed them."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        # it is None, or closed
        with contextlib.suppress(AttributeError, OSError, ValueError):
            getattr(sys, name).flush()
        own = getattr(sys, f"__{name}__")
        if own is None or own.closed:
            own = os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, f"__{name}__", own)
        setattr(sys, name, own)


def end_within(seconds: float) -> None:
    """Kill this process and its group unless it has ended by then.

    Threads and processes that training code has left would keep it, and when the study was killed
    nothing else ends it.
    """
    timer = threading.Timer(seconds, os.killpg, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def install_handlers() -> None:
    """Install the signal handlers of a worker, from now on."""
    for number, handler in HANDLERS.items():
        _install(number, handler)
    worker = os.getpid()

    @functools.wraps(signal.signal)
    def install(number: int, handler: Handler) -> Handler:
        is_request = number == signal.SIGTERM and os.getpid() == worker
        return _install(number, _with_request(handler) if is_request else handler)

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
    """On Linux, have this process killed when its parent process ends, for whatever reason."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # it has ended already
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _with_request(handler: Handler) -> Handler:
    """The training code's handler of SIGTERM, wrapped so that the request to stop is noted, too."""
    if handler == signal.SIG_IGN:
        return interruption.request
    passes_it_on = handler is interruption.request or getattr(handler, "func", None) is _both
    return functools.partial(_both, handler) if callable(handler) and not passes_it_on else handler


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


if __name__ == "__main__":
    install_handlers()
    request_end, reply_end = int(sys.argv[1]), int(sys.argv[2])
    serve(os.fdopen(request_end, encoding="utf-8"), os.fdopen(reply_end, "w", encoding="utf-8"))
    end_within(END_SECONDS)
