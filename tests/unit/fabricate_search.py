"""Studies whose arms were tuned, and never ran: what reports of searches are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fabricate import study

from ablation.storage.runs import RunFolder

SPACE = {
    "optim.lr.encoder": {"low": 1e-6, "high": 0.1, "log": True, "step": None},
    "losses.semantic": {"low": 0.01, "high": 1.0, "log": True, "step": None},
    "head.name": {"values": ["linear", "cosine", "wcdas"]},
}
OWN = {"optim.lr.encoder": 1e-5, "losses.semantic": 1.0, "head.name": "wcdas"}
BEST = {"optim.lr.encoder": 0.005696505980599643, "losses.semantic": 0.05, "head.name": "linear"}


def tuned_study(
    path: Path,
    gains: Mapping[str, float],
    n_trials: int = 12,
    not_searched: tuple[str, ...] = (),
    search: Mapping[str, Any] | None = None,
    without_noise: bool = False,
    **fabricated: Any,
) -> RunFolder:
    """`fabricate.study`, each arm and baseline searched.

    Args:
        gains: arm -> points of top-1 that tuning gains on the test set; of the others, the own
            settings were best
        not_searched: arms and baselines without a space
        search: fields of `Manifest.search` to replace
        without_noise: the gain is the same under every seed, but for a thousandth
        fabricated: for `fabricate.study`
    """
    folder = study(path, **fabricated)
    manifest = folder.manifest()
    names = list(dict.fromkeys(spec.arm for spec in manifest.trials))
    untuned = []
    with mock.patch("os.fsync"):
        for index, spec in enumerate(manifest.trials):
            if spec.arm not in gains:
                continue
            name = f"{spec.arm}.untuned"
            twin = replace(spec, trial=f"{name}--s{spec.seed}", arm=name, kind="untuned")
            twin = replace(twin, key=f"{spec.key}-untuned")
            untuned.append(twin)
            outcome = folder.outcome(spec.trial)
            if outcome is None:
                continue
            noise = np.random.default_rng([5, index]).normal(0, 0.001 if without_noise else 0.3)
            metrics = dict(outcome.metrics)
            if "test/top1" in metrics:
                metrics["test/top1"] -= gains[spec.arm] + noise
            folder.write_records(twin.trial, folder.records(spec.trial))
            folder.write_outcome(twin.trial, replace(outcome, metrics=metrics, key=twin.key))
        found = {
            "metric": {"name": "validation/top1", "goal": "maximize"},
            "trials": n_trials,
            "budget": 0,
            "sampler": "tpe",
            "pruner": "hyperband",
            "min_epochs": 3,
            "seeds": [100],
            "parallel": 1,
            "settings": {"data.validation": 0.2},
            "arms": {
                name: searched(index, name in gains, n_trials)
                for index, name in enumerate(names)
                if name not in not_searched
            },
        } | dict(search or {})
        trials = [*manifest.trials, *untuned]
        folder.write_manifest(replace(manifest, trials=trials, search=found))
    return folder


def searched(index: int, has_found: bool, n_trials: int = 12) -> dict[str, Any]:
    """What an arm's search found; every third trial was pruned, one in ten failed."""
    rng = np.random.default_rng([3, index])
    values = 66 + rng.normal(0, 3, n_trials) - 12 * (rng.random(n_trials) < 0.2)
    values[0] = 67.0 if has_found else 90.0
    trials: list[list[Any]] = []
    for number, value in enumerate(values.round(2).tolist()):
        if number % 10 == 7:
            trials.append([number, "FAILED", None, None])
        elif number % 3 == 2:
            trials.append([number, "PRUNED", None, value - 10])
        else:
            trials.append([number, "COMPLETE", value, value])
    if has_found:
        trials[1] = [1, "COMPLETE", 75.5, 75.5]
    complete = [trial for trial in trials if trial[1] == "COMPLETE"]
    best = max(complete, key=lambda trial: trial[2])
    states = [trial[1] for trial in trials]
    return {
        "space": SPACE,
        "counts": {state: states.count(state) for state in ("COMPLETE", "PRUNED", "FAILED")},
        "epochs": 190 + index,
        "best": BEST if has_found else OWN,
        "value": best[2],
        "number": best[0],
        "own": OWN,
        "own_value": trials[0][2],
        "importances": {
            "losses.semantic": 0.55,
            "optim.lr.encoder": 0.3312,
            "head.name": 0.1188,
        },
        "trials": trials,
    }
