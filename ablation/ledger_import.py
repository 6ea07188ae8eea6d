"""Brings Optuna's ledger up to the files of a study."""

from __future__ import annotations

import math
from contextlib import closing

from ablation.ledger import Ledger
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec

LEFT = "left the grid"


def update_ledger(storage_url: str, folder: RunFolder, is_running: bool = True) -> None:
    """Enroll trials that are new, and move each to the state that its files show. Twice changes nothing.

    Trials that are in the grid no more end as failed, and wait again when they come back.

    is_running: whether any process runs the study; if none does, no trial stays RUNNING.
    """
    manifest = folder.manifest()
    with closing(Ledger(storage_url, manifest.study, manifest.metric["goal"])) as ledger:
        _update(ledger, manifest, folder, is_running)


def _update(ledger: Ledger, manifest: Manifest, folder: RunFolder, is_running: bool) -> None:
    ledger.enroll(manifest.trials)
    if not is_running:
        ledger.recover()
    known = ledger.states()
    for key in known.keys() - {spec.key for spec in manifest.trials}:
        if known[key] in ("WAITING", "RUNNING"):
            ledger.fail(key, LEFT)
    for spec in manifest.trials:
        state, value, outcome = shown(manifest, folder, spec, is_running)
        if known[spec.key] in (state, "COMPLETE"):
            continue
        if known[spec.key] == "FAILED":
            ledger.retry(spec.key)
        if state == "WAITING":
            ledger.wait(spec.key)
            continue
        ledger.start(spec.key)
        if state == "COMPLETE":
            ledger.complete(spec.key, outcome.metrics, value)
        elif state == "FAILED":
            error = outcome.error or {"type": "MissingMetric", "message": f"{manifest.metric['name']} is {value}"}
            ledger.fail(spec.key, f"{error['type']}: {error['message']}")


def shown(manifest: Manifest, folder: RunFolder, spec: TrialSpec, is_running: bool) -> tuple[str, float, Outcome | None]:
    """The state of a trial as Optuna can hold it, the value of a COMPLETE one, and the outcome that they are of."""
    outcome = folder.outcome(spec.trial)
    state = folder.state(spec, outcome, is_running)
    value = outcome.metrics.get(manifest.metric["name"], math.nan) if state == "COMPLETE" else math.nan
    if state == "COMPLETE" and not math.isfinite(value):
        state = "FAILED"  # Optuna takes no other; were it begun anew each time, failures would pile up
    return state, value, outcome
