"""Whether Optuna's ledger says of a study's trials what their files say."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from ablation.doctor_check import Check, Found, here, named, place
from ablation.doctor_files import TrialFiles
from ablation.ledger import STATES, TWICE, LedgerUnavailable, reaching_ledger
from ablation.ledger_import import LEFT, shown, update_ledger
from ablation.ledger_storage import Seen, look_up, overrule
from ablation.places import Places

NO_FILES = "COMPLETE without files"
OTHER = "COMPLETE with another result than the files'"


@dataclass
class _Difference:
    """What in the ledger is not as in the files."""

    trials: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # kind -> trials
    overruled: dict[int, str] = field(default_factory=dict)  # Optuna's id -> why it must not count


def ledger_check(places: Places, files: TrialFiles) -> Check:
    return Check("Optuna", lambda: _look(places, files))


def _look(places: Places, files: TrialFiles) -> Found:
    url = places.ledger_url
    try:
        with reaching_ledger(url):
            found = _difference(look_up(url, files.manifest.study), files)
    except LedgerUnavailable as error:
        return Found(str(error), False, f"see Optuna's database above; then `ablate sync {files.manifest.study}`")
    if not found.trials:
        return Found(f"{place(url)} has all {len(files.manifest.trials)} trials as the files have them")
    what = "; ".join(f"{kind}, {named(trials)}" for kind, trials in found.trials.items())
    remedy = f"brings it up to the files in {here(files.folder.path)}"
    return Found(f"in {place(url)}: {what}", False, remedy, lambda: _mend(url, files, found))


def _difference(seen: list[Seen], files: TrialFiles) -> _Difference:
    """All that update_ledger would change, and what it cannot, since Optuna lets no ended trial change."""
    difference, by_key = _Difference(), defaultdict(list)
    for trial in seen:
        by_key[trial.key].append(trial)
    for spec in files.manifest.trials:
        enrolled = by_key.pop(spec.key, [])
        counting, *surplus = [trial for trial in enrolled if STATES[trial.state] != "FAILED"] or enrolled[-1:] or [None]
        if counting is None:
            difference.trials["not enrolled"].append(spec.trial)
            continue
        if surplus:
            difference.trials[TWICE].append(spec.trial)
            difference.overruled |= {trial.trial_id: TWICE for trial in surplus}
        state, value, _ = shown(files.manifest, files.folder, spec, is_running=False)
        known = STATES[counting.state]
        if known == "COMPLETE" and not (state == known and math.isclose(counting.value, value, rel_tol=1e-12)):
            kind = NO_FILES if state == "WAITING" else OTHER
            difference.trials[kind].append(spec.trial)
            difference.overruled[counting.trial_id] = kind
        elif known == "RUNNING":
            difference.trials["RUNNING, and nobody runs them"].append(spec.trial)
        elif known != state:
            difference.trials[f"{known}, and {state} by the files"].append(spec.trial)
    left = [trial for trials in by_key.values() for trial in trials if STATES[trial.state] in ("WAITING", "RUNNING")]
    if left:
        difference.trials[f"to be run, though they {LEFT}"] = [trial.trial for trial in left]
    return difference


def _mend(url: str, files: TrialFiles, difference: _Difference) -> str:
    """Where the cache has what Optuna knows and the files do not, the files come back; else Optuna must forget it."""
    lost = [spec for spec in files.manifest.trials if spec.trial in difference.trials.get(NO_FILES, [])]
    for spec in lost:
        if files.cached(spec)[1]:
            files.mend(spec, ["outcome.json"])
    with reaching_ledger(url):
        overruled = _difference(look_up(url, files.manifest.study), files).overruled
        if overruled:
            overrule(url, overruled)
    update_ledger(url, files.folder, is_running=False)
    back = [spec for spec in lost if files.folder.ending(spec) is not None]
    return "now as the files have it" + (f"; {len(back)} of {len(lost)} trials have their files again, from the cache" if lost else "")
