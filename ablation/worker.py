"""A worker process: runs segments of chains that the study hands to it, one after another.

Started as `python -m ablation.worker <read fd> <write fd>`; requests and replies are JSON lines on two pipes
of their own, so that whatever the training code prints goes to the trial's log.

    -> {"subject", "settings", "seed", "until", "cache", "log"}
    <- {"event": "record", "key", "record"}, one per link, then
       {"event": "done"}; {"event": "stopped"} where it was asked to stop, by SIGTERM, and has left a checkpoint;
       {"event": "failed", "error": {type, message, traceback}}; or {"event": "blocked", "message"}: the disk is full

When nobody listens any more, because the study was killed, the epoch in hand is finished and kept, and the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from ablation import interruption
from ablation.files import describe_full, is_full
from ablation.interruption import Interrupted
from ablation.redaction import redacted
from ablation.store import DiskStore
from ablation.subjects import load_subject
from ablation.worker_process import END_SECONDS


def serve(requests: Any, replies: Any) -> None:
    """Answer requests until the pipe closes."""

    def reply(message: dict[str, Any]) -> None:
        try:
            replies.write(json.dumps(message) + "\n")
            replies.flush()
        except BrokenPipeError:
            interruption.request()

    def report(key: str, record: dict[str, Any]) -> bool:
        reply({"event": "record", "key": key, "record": record})
        return interruption.requested()

    for line in requests:
        request = json.loads(line)
        try:
            _redirect_output(Path(request["log"]))
            store = DiskStore(Path(request["cache"]))
            load_subject(request["subject"]).advance(request["settings"], request["seed"], request["until"], store, report)
        except Interrupted:
            reply({"event": "stopped"})
        except Exception as error:  # the trial boundary: it becomes a recorded failure, and the others go on
            if is_full(error):
                reply({"event": "blocked", "message": describe_full(error)})
                continue
            text = redacted(traceback.format_exc())
            with contextlib.suppress(OSError):  # the log; written first, since the study ends a process that has failed
                print(text, file=sys.stderr, flush=True)
                sys.stdout.flush()
            reply({"event": "failed", "error": {"type": type(error).__name__, "message": str(error), "traceback": text}})
        else:
            reply({"event": "stopped" if interruption.requested() else "done"})
        finally:
            interruption.forget()


def _redirect_output(log: Path) -> None:
    """What this process and its libraries print goes to `log` from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def end_within(seconds: float) -> None:
    """Kill this process and its group unless it has ended by then: threads and processes that training code has left
    would keep it, and when the study was killed nobody else ends it."""
    timer = threading.Timer(seconds, os.killpg, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which then asks its workers to stop
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interruption.request)
    serve(open(int(sys.argv[1]), encoding="utf-8"), open(int(sys.argv[2]), "w", encoding="utf-8"))
    end_within(END_SECONDS)
