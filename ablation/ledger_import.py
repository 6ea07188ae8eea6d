"""Brings Optuna's ledger up to the files of a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime

from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablation.ledger import (
    add,
    is_of_direction,
    missing,
    one_at_a_time,
    project_of,
    reaching_ledger,
    read_trials,
    remake,
    require_ours,
    stale,
    studies_of,
)
from ablation.ledger_storage import open_storage
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec
from ablation.tracking_content import begun_at, finite, milliseconds

KINDS = ("arm", "baseline")  # of trials, in the order of `studies_of`
LAST_STEP = 2**31 - 1  # that Optuna's tables hold


def update_ledger(
    storage_url: str, folder: RunFolder, is_running: bool = True, forgets: bool = False
) -> None:
    """Add the trials that have ended; make Optuna's studies anew where they hold what is no longer so. Twice changes nothing.

    is_running: whether any process runs the study; if none does, no trial counts as running.
    forgets: whether a complete trial whose files are lost or damaged goes; else it stays until it is run again.

    Raises:
        LedgerUnavailable: the database is locked, damaged or out of reach; a later call brings the rest.
        OthersStudy: another project keeps a study of this name there.
    """
    manifest = folder.manifest()
    direction, metric = manifest.metric["goal"], manifest.metric["name"]
    states = {kind: Counter[str]() for kind in KINDS}
    for spec in manifest.trials:
        states[spec.kind][shown(manifest, folder, spec, is_running)[0]] += 1
    ended = ended_trials(manifest, folder)
    open_keys = {spec.key for spec in manifest.trials} - {
        trial.user_attrs["key"] for found in ended.values() for trial in found
    }
    kept = () if forgets else open_keys
    with (
        reaching_ledger(storage_url),
        one_at_a_time(storage_url),
        closing(open_storage(storage_url)) as storage,
    ):
        names, project = studies_of(manifest.study), project_of(storage_url, folder.path)
        if project:
            require_ours(storage, names, project)
        known = {name: read_trials(storage, name) for name in names}
        if any(
            stale(known[name], ended[name], kept) or not is_of_direction(storage, name, direction)
            for name in names
        ):
            remake(storage, names, direction)
            known = {name: read_trials(storage, name) for name in names}
        for name, kind in zip(names, KINDS):
            lacking = missing(known[name], ended[name])
            for trial in lacking:
                trial.intermediate_values = _by_epoch(folder, trial.user_attrs["trial"], metric)
            if lacking or states[kind]:
                add(storage, name, direction, metric, lacking, dict(states[kind]), project)


def ended_trials(manifest: Manifest, folder: RunFolder) -> dict[str, list[FrozenTrial]]:
    """Optuna study -> the trials that should be in it, in the manifest's order; without intermediate values."""
    choices = _choices(manifest)
    found: dict[str, list[FrozenTrial]] = {name: [] for name in studies_of(manifest.study)}
    for name, kind in zip(found, KINDS):
        for spec in (spec for spec in manifest.trials if spec.kind == kind):
            state, value, outcome = shown(manifest, folder, spec)
            if outcome is not None and state in ("COMPLETE", "FAILED"):
                found[name].append(_ended(manifest, folder, spec, choices, value, outcome))
    return found


def shown(
    manifest: Manifest, folder: RunFolder, spec: TrialSpec, is_running: bool = True,
) -> tuple[str, float, Outcome | None]:  # fmt: skip
    """The state of a trial as Optuna can hold it, the value of a COMPLETE one, and the outcome that they are of."""
    outcome = folder.outcome(spec.trial)
    state = folder.state(spec, outcome, is_running)
    value = (
        finite(outcome.metrics.get(manifest.metric["name"], math.nan))
        if state == "COMPLETE"
        else math.nan
    )
    if state == "COMPLETE" and math.isnan(value):
        state = "FAILED"  # Optuna takes no other
    return state, value, outcome


def _choices(manifest: Manifest) -> dict[str, CategoricalDistribution]:
    """Factor -> its levels, the reference first. Optuna wants them alike for all trials of a study."""
    levels = {factor: dict.fromkeys(found) for factor, found in manifest.factors.items()}
    for spec in manifest.trials:
        for factor, level in spec.levels.items():
            levels.setdefault(factor, {}).setdefault(level)
    return {
        factor: CategoricalDistribution(tuple(found)) for factor, found in levels.items() if found
    }


def _ended(
    manifest: Manifest, folder: RunFolder, spec: TrialSpec, choices: Mapping[str, CategoricalDistribution], value: float,
    outcome: Outcome,
) -> FrozenTrial:  # fmt: skip
    attributes = {name: getattr(spec, name) for name in ("trial", "arm", "kind", "seed", "key")}
    is_complete = math.isfinite(value)
    if is_complete:
        attributes["metrics"] = dict(outcome.metrics)
    else:
        name = manifest.metric["name"]
        error = outcome.error or {
            "type": "MissingMetric",
            "message": f"{name} is {outcome.metrics.get(name)}",
        }
        attributes["reason"] = f"{error['type']}: {error['message']}"
    trial = create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.FAIL,
        value=float(value) if is_complete else None,
        params=dict(spec.levels),
        distributions={factor: choices[factor] for factor in spec.levels},
        user_attrs=attributes,
    )
    end = milliseconds(outcome.finished)
    if end is None:
        end = round(1000 * (folder.trial_path(spec.trial) / "outcome.json").stat().st_mtime)
    begun = begun_at(outcome)
    begun = max(0, end - round(1000 * outcome.wall_seconds)) if begun is None else begun
    # In local time without a zone, as Optuna writes its own.
    trial.datetime_start, trial.datetime_complete = (
        datetime.fromtimestamp(moment / 1000) for moment in (begun, end)
    )
    return trial


def _by_epoch(folder: RunFolder, trial: str, metric: str) -> dict[int, float]:
    """Epoch -> value of the headline metric, where it was measured. Pre-training counts its own epochs."""
    own = [record for record in folder.records(trial) if record["phase"] != "pretrain"]
    values = {
        record["epoch"]: finite(record["metrics"][metric])
        for record in own
        if metric in record["metrics"]
    }
    return {max(-LAST_STEP, min(epoch, LAST_STEP)): value for epoch, value in values.items()}
