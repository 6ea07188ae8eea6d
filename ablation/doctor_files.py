"""Whether the files of a study's trials are whole and agree with each other and with the cache, and how they are made again.

The cache has the last word where it has all of a trial's records: they are checksummed. Without it, a trial's outcome
follows from its records. Where neither is there, `ablate run` runs the trial again. A file whose content may be nowhere
else is put aside, never removed.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from ablation.doctor_check import Check, Found, here, named
from ablation.files import put_aside
from ablation.outcome import expanded, outcome_of
from ablation.plan import trial_key
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec
from ablation.store import DiskStore
from ablation.subject import Record, Subject

TIMES = {"seconds", "time", "wall_seconds", "started", "finished"}


class TrialFiles:
    """The files of one study's trials, the cache, and what each should hold.

    subject: None where it cannot be loaded. Then, and where code or data have changed since, the cache cannot be asked,
    nor configurations be written again.
    """

    def __init__(
        self, folder: RunFolder, store: DiskStore, manifest: Manifest, subject: Subject | None
    ):
        self.folder, self.store, self.manifest, self.subject = folder, store, manifest, subject

    def checks(self) -> list[Check]:
        return [
            Check("files", self._damaged),
            Check("outcomes", self._contradicting),
            Check("folders", self._strays),
        ]

    def cached(self, spec: TrialSpec) -> tuple[list[Record], bool]:
        """The records that the cache has of a trial, up to the first that it has not, and whether those are all."""
        records: list[Record] = []
        if not self._is_known(spec):
            return records, False
        for link in self.subject.chain(spec.settings, spec.seed, self._peek):
            record = self._peek(link.key)
            if record is None:
                return records, False
            records.append(record)
        return records, True

    def contradiction(self, spec: TrialSpec) -> str:
        """Why the files of a complete trial, whole as they are, cannot all be right; "" if they can."""
        outcome = self.folder.ending(spec)
        if outcome is None or outcome.state != "COMPLETE":
            return ""
        records, (cached, is_whole) = self.folder.records(spec.trial), self.cached(spec)
        if not records:
            return "has no records"
        if _timeless(outcome_of(spec, records, self.manifest.metric)) != _timeless(outcome):
            return "has not the outcome that follows from its records"
        if is_whole and list(map(_timeless, records)) != list(map(_timeless, expanded(cached))):
            return "has other records than the cache"
        return ""

    def mend(self, spec: TrialSpec, wrong: Collection[str]) -> str:
        """Write these files of a trial again, as far as can be known; returns what became of it."""
        outcome, kept, is_own = (
            self.folder.outcome(spec.trial),
            self.folder.records(spec.trial),
            self._is_of(spec),
        )
        cached, is_whole = self.cached(spec)
        known = max(list(expanded(cached)), kept, key=len)
        if self._is_known(spec):
            self.folder.write_config(spec, self.subject.resolve(spec.settings))
        elif "config.yaml" in wrong:
            return "left as it is: code or data have changed since, or cannot be loaded"
        if set(wrong) <= {"config.yaml"}:
            return self._rewrite(spec, kept, outcome)
        if outcome is not None and outcome.state == "FAILED":
            return self._rewrite(spec, known, outcome)
        if is_whole:
            return self._rewrite(
                spec, list(expanded(cached)), outcome_of(spec, cached, self.manifest.metric)
            )
        if is_own and "metrics.jsonl" not in wrong and len(kept) >= spec.epochs_planned:
            return self._rewrite(spec, kept, outcome_of(spec, kept, self.manifest.metric))
        return self._rewrite(spec, known, None)

    def restore(self) -> list[str]:
        """Make damaged files of ended trials again, before the study is run; says what became of each trial.

        What has not ended is begun anew by a run in any case.
        """
        ended = [
            spec
            for spec in self.manifest.trials
            if (self.folder.trial_path(spec.trial) / "outcome.json").exists()
        ]
        damage = [
            (spec, self.folder.damage(spec.trial)) for spec in ended if not self._has_changed(spec)
        ]
        return [
            f"{spec.trial}: {', '.join(wrong)} {'was' if len(wrong) == 1 else 'were'} damaged: {self.mend(spec, wrong)}"
            for spec, wrong in damage
            if wrong
        ]

    def _damaged(self) -> Found:
        damage = [(spec, wrong) for spec in self.manifest.trials if (wrong := self._damage(spec))]
        if not damage:
            return Found("of all trials are whole")
        what = named(
            [
                f"{here(self.folder.trial_path(spec.trial) / name)} {why}"
                for spec, wrong in damage
                for name, why in wrong.items()
            ]
        )
        remedy = "closes the trials again, from the cache or from their records; `ablate run` runs what neither has"
        return Found(what, False, remedy, lambda: self._mend_all(damage))

    def _damage(self, spec: TrialSpec) -> dict[str, str]:
        if self._has_changed(spec):
            return {}
        found, path = self.folder.damage(spec.trial), self.folder.trial_path(spec.trial)
        has_begun = any((path / name).exists() for name in ("metrics.jsonl", "outcome.json"))
        return found | (
            {"config.yaml": "is damaged"}
            if has_begun and _configured(path / "config.yaml") is None
            else {}
        )

    def _contradicting(self) -> Found:
        found = [(spec, why) for spec in self.manifest.trials if (why := self.contradiction(spec))]
        if not found:
            return Found("agree with the records and with the cache")
        what = named([f"{here(self.folder.trial_path(spec.trial))} {why}" for spec, why in found])
        remedy = "takes what the cache has, else what the records say"
        return Found(
            what,
            False,
            remedy,
            lambda: self._mend_all([(spec, ["outcome.json"]) for spec, _ in found]),
        )

    def _mend_all(self, wrong: Sequence[tuple[TrialSpec, Collection[str]]]) -> str:
        done = Counter(self.mend(spec, names) for spec, names in wrong)
        return "; ".join(f"{n} {what}" for what, n in done.items())

    def _strays(self) -> Found:
        """Folders of trials that are in the grid no more: for information."""
        known = {spec.trial for spec in self.manifest.trials}
        strays = sorted(
            path.name
            for path in self.folder.path.iterdir()
            if path.is_dir() and path.name not in known
        )
        return Found(
            f"of trials that have left the grid, {named(strays)}; they may come back"
            if strays
            else "all of trials in the grid"
        )

    def _rewrite(self, spec: TrialSpec, records: list[Record], outcome: Outcome | None) -> str:
        """Files of this content. A file that said something else, which the cache may not have, is put aside."""
        path, damage = self.folder.trial_path(spec.trial), self.folder.damage(spec.trial)
        is_in_cache = damage and self.cached(spec)[1]
        stays = {
            "metrics.jsonl": "metrics.jsonl" not in damage
            and records == self.folder.records(spec.trial),
            "outcome.json": "outcome.json" not in damage
            and outcome == self.folder.outcome(spec.trial),
        }
        asides = [
            put_aside(path / name).name
            for name, same in stays.items()
            if not (same or is_in_cache) and os.path.lexists(path / name)
        ]
        if records:
            self.folder.write_records(spec.trial, records)
        if outcome is not None:
            self.folder.write_outcome(spec.trial, outcome)
        done = (
            "made again, without training"
            if outcome is not None
            else "to be run again by `ablate run`"
        )
        return f"{done} (what it said is kept in {', '.join(asides)})" if asides else done

    def _is_known(self, spec: TrialSpec) -> bool:
        """Whether the subject, as it is now, makes this very trial of its settings."""
        if self.subject is None:
            return False
        try:
            longest = self.subject.chain(spec.settings, spec.seed, lambda key: None)
            return trial_key(spec.trial, longest, self.subject.resolve(spec.settings)) == spec.key
        except (
            OSError,
            ValueError,
            KeyError,
        ):  # its data are not there, or it does not know these settings
            return False

    def _has_changed(self, spec: TrialSpec) -> bool:
        """Whether the files are of what the trial was before it changed: `ablate run` begins it anew."""
        outcome = self.folder.outcome(spec.trial)
        return outcome is not None and outcome.key not in ("", spec.key)

    def _is_of(self, spec: TrialSpec) -> bool:
        """Whether the folder is of this trial, and not of what it was before it changed."""
        return _configured(self.folder.trial_path(spec.trial) / "config.yaml") == spec.key

    def _peek(self, key: str) -> Record | None:
        data = self.store.peek("record", key)
        return None if data is None else json.loads(data)


def _configured(path: Path) -> str | None:
    """The key of the trial whose config.yaml this is; None if it is damaged or absent.

    Not by a YAML parser: the fast one dies of damaged files.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"^key: '?([^'\n]+)'?\nconfig:", text, re.MULTILINE)
    return found[1] if found and "\0" not in text else None


def _timeless(told: Outcome | Record) -> str:
    """All but what a clock measured; as text, in which NaN equals NaN."""
    values = asdict(told) if isinstance(told, Outcome) else told
    return json.dumps(
        {name: value for name, value in values.items() if name not in TIMES}, sort_keys=True
    )
