"""What a trial's records amount to: its outcome, and the records as they stand in its folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from ablation.redaction import redacted
from ablation.storage.runs import Outcome, TrialSpec
from ablation.subject.protocol import Record

UNSCORED = ("MissingMetric", "NotFinite")  # failures of trials of which every epoch is there


def outcome_of(spec: TrialSpec, records: Sequence[Record], metric: dict[str, str]) -> Outcome:
    """What a complete chain of records amounts to: the last epoch, and the best of the metric."""
    own = [record for record in expanded(records) if record["phase"] != "pretrain"]
    name = metric["name"]
    values = [record["metrics"][name] for record in own if name in record["metrics"]]
    if name not in own[-1]["metrics"]:
        held = ", ".join(sorted(own[-1]["metrics"]))
        message = f"the last record does not hold the metric '{name}'; it holds {held or 'none'}"
        return _unscored(spec, records, "MissingMetric", message)
    if not math.isfinite(values[-1]):
        return _unscored(spec, records, "NotFinite", f"the metric '{name}' is {values[-1]}")
    # max and min of NaNs follow their order
    finite = [value for value in values if math.isfinite(value)]
    best = max(finite) if metric["goal"] == "maximize" else min(finite)
    times = [record["time"] for record in records if "time" in record]
    return Outcome(
        state="COMPLETE",
        metrics={**own[-1]["metrics"], f"best/{name}": best},
        wall_seconds=sum(record["seconds"] for record in records),
        started=_stamp(min(times)) if times else "",
        finished=_stamp(max(times)) if times else "",
        vectors=own[-1].get("vectors", {}),
        hits=own[-1].get("hits", ""),
        key=spec.key,
    )


def failure_of(spec: TrialSpec, records: Sequence[Record], error: dict[str, str]) -> Outcome:
    """The outcome of a trial that left these records and then failed."""
    finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
    seconds = sum(record["seconds"] for record in records)
    # A library's messages may quote the URL of a database.
    told = {name: redacted(text) for name, text in error.items()}
    return Outcome("FAILED", {}, seconds, told, finished=finished, key=spec.key)


def reason(outcome: Outcome) -> str:
    """Why a trial failed."""
    return "{type}: {message}".format_map(outcome.error or {})


def expanded(records: Iterable[Record]) -> Iterable[Record]:
    """A link that went through several epochs of its own reports them in `history`."""
    for record in records:
        for entry in record.get("history", []):
            if entry["epoch"] < record["epoch"]:
                yield {"phase": record["phase"], "seconds": 0.0, "vectors": {}, **entry}
        yield {name: value for name, value in record.items() if name != "history"}


def _unscored(spec: TrialSpec, records: Sequence[Record], type_: str, message: str) -> Outcome:
    return failure_of(spec, records, {"type": type_, "message": message, "traceback": ""})


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
