"""What has changed since a study was run: its code, its data, or its settings, so that `ablate run` would train trials anew."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError
from ablation.grid import Study
from ablation.places import Places
from ablation.plan import Plan, expected
from ablation.runs import Manifest, RunFolder
from ablation.study import flat, manifest_of, refuse_mixture

SAID = {
    "source_fingerprint": "code",
    "data_fingerprint": "data",
    "checkpoint": "checkpoint",
}  # facts of a manifest


class Changes(NamedTuple):
    """Between what a study was when it was run and what its files are now."""

    stale: list[str]  # trials that have ended, and would be run anew
    said: str  # how many they are, and why; "" where nothing is stale
    plan: Plan | None = None  # of now; None where there is none


NONE = Changes([], "")


def changes(study: Study, plan: Plan, folder: RunFolder) -> Changes:
    """What `ablate run` would find changed in a study that has been run; `NONE` where nothing has, or it has not been run."""
    if not folder.exists():
        return NONE
    manifest, now = folder.manifest(), {spec.trial: spec for spec in plan.specs}
    others = [
        spec for spec in manifest.trials if spec.trial in now and spec.key != now[spec.trial].key
    ]
    stale = [spec for spec in others if folder.ending(spec) is not None]
    if not stale:
        return Changes([], "", plan)
    facts = study.subject.describe(study.common)
    reasons = [
        f"{what} changed"
        for fact, what in SAID.items()
        if manifest.facts.get(fact) != facts.get(fact)
    ]
    if manifest.facts.get("versions") != facts.get("versions"):
        reasons.append("versions of libraries changed")
    before, after = (
        flat(specs[stale[0].trial].settings)
        for specs in ({spec.trial: spec for spec in stale}, now)
    )
    settings = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    reasons += [
        f"settings changed ({key} was {before.get(key)}, is {after.get(key)})"
        for key in settings[:1]
    ]
    return Changes(
        [spec.trial for spec in stale],
        _said(len(stale), reasons, "`ablate run` trains them anew"),
        plan,
    )


def changes_since(places: Places, name: str) -> Changes:
    """`changes` of a study in `runs/`, from its grid as it is now, opened as it was when it was run."""
    from ablation.session import open_study  # which tells of changes, too

    folder = places.runs(name)
    manifest = folder.manifest()
    if not manifest.asked:
        return NONE
    try:
        opened = open_study(**{**manifest.asked, "grid": Path(manifest.asked["grid"])}, alias=name)
    except InputError as error:
        return Changes(
            [], f"whether code, data or settings have changed is not known: {error.problems[0]}"
        )
    try:
        refuse_mixture(manifest_of(opened.study, name, opened.plan, opened.published_file), folder)
    except InputError as error:
        ended = [spec.trial for spec in manifest.trials if folder.ending(spec) is not None]
        reason = f"settings changed ({error.problems[0].key} {error.problems[0].message})"
        return Changes(ended, _said(len(ended), [reason], "")) if ended else NONE
    return changes(opened.study, expected(opened.study, opened.plan, places.store, folder), folder)


def _said(n: int, reasons: list[str], then: str) -> str:
    trials = "1 trial that has ended is" if n == 1 else f"{n} trials that have ended are"
    why = f": {' and '.join(reasons)}" if reasons else ""
    return f"{trials} stale{why}" + (f"; {then}" if then else "")
