"""Whether Optuna's ledger says of a study's trials what their files say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing

from optuna.trial import FrozenTrial, TrialState

from ablation.database import sqlite_file
from ablation.doctor_check import Check, Found, here, named, place
from ablation.doctor_files import TrialFiles
from ablation.ledger import (
    KEY,
    LedgerUnavailable,
    is_same,
    missing,
    project_of,
    reaching_ledger,
    read_trials,
    require_ours,
    stale,
    studies_of,
)
from ablation.ledger_import import ended_trials, update_ledger
from ablation.ledger_storage import open_storage
from ablation.places import Places

NO_FILES = "COMPLETE without files"
LACKING = "not there, though they have ended"
STATES = {TrialState.COMPLETE: "COMPLETE", TrialState.FAIL: "FAILED"}
Difference = dict[str, list[str]]  # what is not as in the files -> trials


def ledger_check(places: Places, files: TrialFiles) -> Check:
    return Check("Optuna", lambda: _look(places, files))


def _look(places: Places, files: TrialFiles) -> Found:
    url = places.ledger_url
    try:
        found = _difference(url, files)
    except LedgerUnavailable as error:
        return Found(
            str(error),
            False,
            f"see Optuna's database above; then `ablate sync {files.manifest.study}`",
        )
    if not found:
        return Found(f"{place(url)} has the trials that have ended as the files have them")
    what = "; ".join(f"{kind}, {named(trials)}" for kind, trials in found.items())
    remedy = f"brings it up to the files in {here(files.folder.path)}"
    return Found(f"in {place(url)}: {what}", False, remedy, lambda: _mend(url, files, found))


def _difference(url: str, files: TrialFiles) -> Difference:
    """All that update_ledger would change."""
    wanted = ended_trials(files.manifest, files.folder)
    known: dict[str, list[FrozenTrial]] = {}
    path = sqlite_file(url)
    if path is None or path.exists():  # else looking would make it
        with reaching_ledger(url), closing(open_storage(url)) as storage:
            names, project = studies_of(files.manifest.study), project_of(url, files.folder.path)
            if project:
                require_ours(storage, names, project)
            known = {name: read_trials(storage, name) for name in names}
    difference: Difference = defaultdict(list)
    for name, ended in wanted.items():
        _compare(
            difference, known.get(name, []), ended, {spec.key for spec in files.manifest.trials}
        )
    return difference


def _compare(
    difference: Difference,
    known: Sequence[FrozenTrial],
    ended: Sequence[FrozenTrial],
    current: set[str],
) -> None:
    by_key = {trial.user_attrs[KEY]: trial for trial in ended}
    said: Counter[str] = Counter()
    for trial in stale(known, ended):
        key, name = trial.user_attrs[KEY], trial.user_attrs["trial"]
        expected = by_key.get(key)
        said[key] += 1
        if expected is not None and is_same(trial, expected):
            kind = "there twice"
        elif expected is None:
            kind = (
                NO_FILES
                if key in current and trial.state == TrialState.COMPLETE
                else f"{_state(trial)}, and not so by the files"
            )
        elif trial.state != expected.state:
            kind = f"{_state(trial)}, and {_state(expected)} by the files"
        else:
            kind = f"{_state(trial)} with another result than the files'"
        difference[kind].append(name)
    for trial in missing(known, ended):
        if not said[trial.user_attrs[KEY]]:
            difference[LACKING].append(trial.user_attrs["trial"])


def _state(trial: FrozenTrial) -> str:
    return STATES.get(trial.state, trial.state.name)


def _mend(url: str, files: TrialFiles, difference: Difference) -> str:
    """Where the cache has what Optuna knows and the files do not, the files come back; else Optuna forgets it."""
    lost = [spec for spec in files.manifest.trials if spec.trial in difference.get(NO_FILES, [])]
    for spec in lost:
        if files.cached(spec)[1]:
            files.mend(spec, ["outcome.json"])
    update_ledger(url, files.folder, is_running=False, forgets=True)
    back = [spec for spec in lost if files.folder.ending(spec) is not None]
    return "now as the files have it" + (
        f"; {len(back)} of {len(lost)} trials have their files again, from the cache"
        if lost
        else ""
    )
