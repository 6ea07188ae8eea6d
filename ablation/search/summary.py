"""What the search of a study's arms has found, JSON-able, as the manifests hold it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ablation.search.tuning import ArmTuning, Tuning
from ablation.storage.asked import COMPLETE, FAILED, PRUNED, AskedTrial


def begun(tuning: Tuning, name: str) -> dict[str, Any]:
    """Of the study of the search's trials: whose search it is, and each arm's space and events."""
    arms = {
        arm: {"space": _space(found), "digest": found.log.digest}
        for arm, found in tuning.arms.items()
    }
    return {"of": name, "arms": arms}


def found(tuning: Tuning) -> dict[str, Any]:
    """Of the study that was tuned: how it was searched, and what was found for each arm."""
    # Optuna is loaded where a study was searched.
    from ablation.search.sampling import importances

    search = tuning.search
    arms = {}
    for name, arm in tuning.arms.items():
        ended, best = arm.log.ended(), arm.best
        counts = {state: sum(one.state == state for one in ended) for state in STATES}
        own = next((one for one in ended if one.values == arm.own and one.state == COMPLETE), None)
        arms[name] = {
            "space": _space(arm),
            "counts": counts,
            "epochs": arm.epochs_spent,
            "best": best.values if best else None,
            "value": best.value if best else None,
            "number": best.number if best else None,
            "own": arm.own,
            "own_value": own.value if own else None,
            "importances": importances(search, arm.space, arm.log),
            "trials": [[one.number, one.state, *_values(one)] for one in ended],
        }
    how = {key: value for key, value in search.to_json().items() if key != "space"}
    warnings = {"warnings": tuning.warnings} if tuning.warnings else {}
    return {**how, **warnings, "arms": arms}


STATES = (COMPLETE, PRUNED, FAILED)


def _values(trial: AskedTrial) -> tuple[float | None, float | None]:
    """The metric at the end of a complete trial, and as it was reported last, if it was."""
    last = trial.steps[max(trial.steps)][0] if trial.steps else None
    return (trial.value, trial.value) if trial.state == COMPLETE else (None, last)


def _space(arm: ArmTuning) -> dict[str, Any]:
    return {key: asdict(domain) for key, domain in arm.space.items()}
