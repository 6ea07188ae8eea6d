"""A worker process: runs segments of chains that the study hands to it, one after another.

Started as `python -m ablation.worker <read fd> <write fd>`; requests and replies are JSON lines on two pipes
of their own, so that whatever the training code prints goes to the trial's log.

    -> {"subject", "settings", "seed", "until", "cache", "log"}, and "is_remote": true on a node of a Ray cluster
    <- {"event": "record", "key", "record"}, one per link, then
       {"event": "done"}; {"event": "stopped"} where it was asked to stop, by SIGTERM, and has left a checkpoint;
       {"event": "failed", "error": {type, message, traceback}}; or {"event": "blocked", "message"}: the disk is full
    <- {"event": "store", ...} and -> its answer, meanwhile, where it is remote: see `ablation.on_ray.store`

When nobody listens any more, because the study was killed, the epoch in hand is finished and kept, and the process ends. Of a
function nothing could be kept: on Linux it ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ablation import interruption
from ablation.exits import describe_exit, exit_code, place, replace_exit
from ablation.files import describe_full, is_full
from ablation.interruption import Interrupted
from ablation.redaction import redacted
from ablation.store import DiskStore
from ablation.subject import Store
from ablation.subjects import FunctionSubject, load_subject
from ablation.worker_process import END_SECONDS
from ablation.worker_signals import die_with, heed, restored


def serve(requests: Any, replies: Any) -> None:
    """Answer requests until the pipe closes."""

    own = os.getpid()

    def reply(message: dict[str, Any]) -> None:
        if os.getpid() != own:  # training code has forked it, and it has come to the end
            raise SystemExit(0)
        try:
            replies.write(json.dumps(message) + "\n")
            replies.flush()
        except BrokenPipeError:
            interruption.request()

    def report(key: str, record: dict[str, Any]) -> bool:
        reply({"event": "record", "key": key, "record": record})
        return interruption.requested()

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        reply({"event": "store", **question})
        answer = requests.readline()
        if not answer:  # nobody listens any more
            raise Interrupted
        return json.loads(answer)

    def leave(status: int) -> None:
        stack = traceback.extract_stack()
        fail(
            "WorkerDied",
            f"the worker process ended: exit code {status}, by {place(stack)}",
            "".join(stack.format()),
        )

    def fail(type_: str, message: str, text: str) -> None:
        text = redacted(text)
        _put_output_back()
        with contextlib.suppress(
            OSError
        ):  # the log; written first, since the study ends a process that has failed
            print(text, file=sys.stderr, flush=True)
            sys.stdout.flush()
        reply({"event": "failed", "error": {"type": type_, "message": message, "traceback": text}})

    study = os.getppid()
    replace_exit(leave)
    while line := requests.readline():
        request = json.loads(line)
        sys.argv = [request["subject"].partition(":")[0]]
        try:
            _redirect_output(Path(request["log"]))
            store = _store(Path(request["cache"]), ask if request.get("is_remote") else None)
            with restored():
                subject = load_subject(request["subject"])
                if isinstance(subject, FunctionSubject):
                    die_with(study)
                subject.advance(
                    request["settings"], request["seed"], request["until"], store, report
                )
        except Interrupted:
            reply({"event": "stopped"})
        except (
            BaseException
        ) as error:  # the trial boundary: it becomes a recorded failure, and the others go on
            if os.getpid() != own:
                _end_forked(error)
            if is_full(error):
                reply({"event": "blocked", "message": describe_full(error)})
            elif isinstance(error, (SystemExit, KeyboardInterrupt)) and interruption.requested():
                reply({"event": "stopped"})  # as training code may end that handles SIGTERM itself
            else:
                message = str(error) if isinstance(error, Exception) else describe_exit(error)
                fail(type(error).__name__, message, traceback.format_exc())
        else:
            reply({"event": "stopped" if interruption.requested() else "done"})
        finally:
            interruption.forget()


def _store(root: Path, ask: Callable[[dict[str, Any]], dict[str, Any]] | None) -> Store:
    if ask is None:
        return DiskStore(root)
    from ablation.on_ray.store import NodeStore

    return NodeStore(root, ask)


def _end_forked(error: BaseException) -> NoReturn:
    """End a process that training code has forked, and that has left it, as Python would have ended it."""
    if isinstance(error, SystemExit):
        code = exit_code(error)
    else:
        code = 1
        traceback.print_exception(error)
    _put_output_back()
    os._exit(code)


def _redirect_output(log: Path) -> None:
    """What this process and its libraries print goes to `log` from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _put_output_back()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _put_output_back() -> None:
    """Write what is left in standard output and error; undo that training code has replaced or closed them."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it is None, or closed
            getattr(sys, name).flush()
        own = getattr(sys, f"__{name}__")
        if own is None or own.closed:
            own = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            setattr(sys, f"__{name}__", own)
        setattr(sys, name, own)


def end_within(seconds: float) -> None:
    """Kill this process and its group unless it has ended by then: threads and processes that training code has left
    would keep it, and when the study was killed nobody else ends it."""
    timer = threading.Timer(seconds, os.killpg, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    heed()
    serve(open(int(sys.argv[1]), encoding="utf-8"), open(int(sys.argv[2]), "w", encoding="utf-8"))
    end_within(END_SECONDS)
