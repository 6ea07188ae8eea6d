"""A worker process: runs segments of chains that the study hands to it, one after another.

Started as `python -m ablation.worker <read fd> <write fd>`; requests and replies are JSON lines on two pipes
of their own, so that whatever the training code prints goes to the trial's log.

    -> {"subject", "settings", "seed", "until", "cache", "log"}
    <- {"event": "record", "key", "record"}, one per link, then
       {"event": "done"} or {"event": "failed", "error": {type, message, traceback}}
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from ablation.redaction import redacted
from ablation.store import DiskStore
from ablation.subjects import load_subject


def serve(requests: Any, replies: Any) -> None:
    """Answer requests until the pipe closes."""

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    for line in requests:
        request = json.loads(line)
        _redirect_output(Path(request["log"]))
        store = DiskStore(Path(request["cache"]))
        try:
            load_subject(request["subject"]).advance(
                request["settings"], request["seed"], request["until"], store,
                lambda key, record: reply({"event": "record", "key": key, "record": record}),
            )  # fmt: skip
        except Exception as error:  # the trial boundary: it becomes a recorded failure, and the others go on
            text = redacted(traceback.format_exc())
            print(text, file=sys.stderr)
            reply({"event": "failed", "error": {"type": type(error).__name__, "message": str(error), "traceback": text}})
        else:
            reply({"event": "done"})


def _redirect_output(log: Path) -> None:
    """What this process and its libraries print goes to `log` from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which then ends its workers
    serve(open(int(sys.argv[1]), encoding="utf-8"), open(int(sys.argv[2]), "w", encoding="utf-8"))
