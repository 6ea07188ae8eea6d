"""Brings Optuna's ledger up to the files of a study."""

from __future__ import annotations

import math

from ablation.ledger import Ledger
from ablation.runs import RunFolder


def update_ledger(storage_url: str, folder: RunFolder) -> None:
    """Enroll trials that are new, and move each to the state that its files show. Twice changes nothing."""
    manifest = folder.manifest()
    ledger = Ledger(storage_url, manifest.study, manifest.metric["goal"])
    ledger.enroll(manifest.trials)
    known = ledger.states()
    for spec in manifest.trials:
        outcome = folder.outcome(spec.trial)
        state = folder.state(spec, outcome)
        value = outcome.metrics.get(manifest.metric["name"], math.nan) if state == "COMPLETE" else math.nan
        if state == "COMPLETE" and not math.isfinite(value):
            state = "FAILED"  # Optuna takes no other; were it begun anew each time, failures would pile up
        if state == "WAITING" or known[spec.key] in (state, "COMPLETE"):
            continue
        if known[spec.key] == "FAILED":
            ledger.retry(spec.key)
        ledger.start(spec.key)
        if state == "COMPLETE":
            ledger.complete(spec.key, outcome.metrics, value)
        elif state == "FAILED":
            error = outcome.error or {"type": "MissingMetric", "message": f"{manifest.metric['name']} is {value}"}
            ledger.fail(spec.key, f"{error['type']}: {error['message']}")
