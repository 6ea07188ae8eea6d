"""Checks of trials' files: they are whole, and agree with each other and with the cache."""

from __future__ import annotations

from collections import Counter

from ablation.doctor.check import Check, Found, here, named
from ablation.study.repair import TrialFiles


def trial_checks(files: TrialFiles) -> list[Check]:
    """The checks of the files of a study's trials, and of folders that belong to no trial."""
    return [
        Check("files", lambda: _look_at_files(files)),
        Check("folders", lambda: _look_for_strays(files)),
    ]


def _look_at_files(files: TrialFiles) -> Found:
    found = [(spec, wrong) for spec in files.manifest.trials if (wrong := files.wrong(spec))]
    if not found:
        return Found("of all trials are whole, and agree with each other and with the cache")
    what = named(
        f"{here(files.folder.trial_path(spec.trial) / name)} {why}"
        for spec, wrong in found
        for name, why in wrong.items()
    )

    def mend() -> str:
        done = Counter(files.mend(spec, wrong) for spec, wrong in found)
        return "; ".join(f"{n} {what}" for what, n in done.items())

    remedy = (
        "closes the trials again, from the cache or from their records; "
        "`ablate run` runs what neither has"
    )
    return Found(what, False, remedy, mend)


def _look_for_strays(files: TrialFiles) -> Found:
    """Look for folders of trials that have left the grid: for information."""
    known = {spec.trial for spec in files.manifest.trials}
    folders = sorted(path.name for path in files.folder.path.iterdir() if path.is_dir())
    strays = [name for name in folders if name not in known]
    if not strays:
        return Found("all of trials in the grid")
    return Found(f"of trials that have left the grid, {named(strays)}; they may come back")
