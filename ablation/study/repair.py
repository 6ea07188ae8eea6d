"""Check the files of trials against each other and the cache; make damaged ones again.

The cache has the last word where it has all of a trial's records: they are checksummed. Without it,
a trial's outcome follows from its records. Where neither is there, `ablate run` runs the trial
again. A file that said something else is put aside, never removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from ablation.planning.plan import trial_key
from ablation.search.tuning import until
from ablation.storage.asked import SearchLog, trial_name
from ablation.storage.cache import DiskStore
from ablation.storage.files import put_aside
from ablation.storage.runs import (
    Manifest,
    Outcome,
    RunFolder,
    TrialSpec,
    expanded,
    outcome_of,
    up_to,
)
from ablation.subject.protocol import Record, Subject

TIMES = {"seconds", "time", "wall_seconds", "started", "finished"}


class TrialFiles:
    """Checks and repairs the files of one study's trials, against each other and the cache.

    subject: None where it cannot be loaded. Then, and where code or data have changed since, the
    cache cannot be asked, nor configurations be written again.
    """

    def __init__(
        self, folder: RunFolder, store: DiskStore, manifest: Manifest, subject: Subject | None
    ):
        self.folder, self.store, self.manifest, self.subject = folder, store, manifest, subject

    @property
    def unless_over(self) -> str:
        """What limits that `ablate run` runs a trial again: a search that has ended is left."""
        return ", unless the search is over" if self.manifest.search.get("of") else ""

    def restore(self) -> list[str]:
        """Write damaged files of ended trials again, before a study is run; returns what was done.

        What has not ended is begun anew by a run in any case.
        """
        done = []
        for spec in self.manifest.trials:
            has_ended = (self.folder.trial_path(spec.trial) / "outcome.json").exists()
            wrong = self.folder.damage(spec.trial) if has_ended else {}
            if wrong and not self._has_changed(spec):
                what = f"{', '.join(wrong)} {'was' if len(wrong) == 1 else 'were'} damaged"
                done.append(f"{spec.trial}: {what}: {self.mend(spec, wrong)}")
        return done

    def wrong(self, spec: TrialSpec) -> dict[str, str]:
        """File of a trial -> what is wrong with it, alone or beside the others and the cache."""
        if self._has_changed(spec):
            return {}
        found, path = self.folder.damage(spec.trial), self.folder.trial_path(spec.trial)
        has_begun = any((path / name).exists() for name in ("metrics.jsonl", "outcome.json"))
        if has_begun and _configured(path / "config.yaml") is None:
            found["config.yaml"] = "is damaged"
        outcome = self.folder.ending(spec)
        if set(found) - {"config.yaml"} or outcome is None or outcome.state != "COMPLETE":
            return found
        records, (cached, is_whole) = self.folder.records(spec.trial), self._cached(spec)
        if not records:
            found["metrics.jsonl"] = "has no records"
        elif _timeless(outcome_of(spec, records, self.manifest.metric)) != _timeless(outcome):
            found["outcome.json"] = "does not follow from the records"
        elif is_whole and list(map(_timeless, records)) != list(map(_timeless, expanded(cached))):
            found["metrics.jsonl"] = "has other records than the cache"
        return found

    def mend(self, spec: TrialSpec, wrong: Collection[str]) -> str:
        """Write these files of a trial again, as far as possible; returns what was done."""
        path, metric = self.folder.trial_path(spec.trial), self.manifest.metric
        outcome, records = self.folder.outcome(spec.trial), self.folder.records(spec.trial)
        is_own = _configured(path / "config.yaml") == spec.key
        cached, is_whole = self._cached(spec)
        known = max(list(expanded(cached)), records, key=len)
        if self.subject is not None and self._is_known(spec):
            self.folder.write_config(spec, self.subject.resolve(spec.settings))
        elif "config.yaml" in wrong:
            return "left as it is: code or data have changed since, or cannot be loaded"
        if set(wrong) == {"config.yaml"}:
            pass
        elif outcome is not None and outcome.state == "FAILED":
            records = known
        elif is_whole:
            records, outcome = list(expanded(cached)), outcome_of(spec, cached, metric)
        elif is_own and "metrics.jsonl" not in wrong and len(records) >= spec.epochs_planned:
            outcome = outcome_of(spec, records, metric)
        else:
            records, outcome = known, None
        asides = self._put_aside(spec, records, outcome)
        if records:
            self.folder.write_records(spec.trial, records)
        if outcome is not None:
            self.folder.write_outcome(spec.trial, outcome)
        again = f"to be run again by `ablate run`{self.unless_over}"
        done = "made again, without training" if outcome else again
        return f"{done} (what it said is kept in {', '.join(asides)})" if asides else done

    def _put_aside(
        self, spec: TrialSpec, records: list[Record], outcome: Outcome | None
    ) -> list[str]:
        """Put aside the files of a trial that say something else than this; returns their names."""
        path, damage = self.folder.trial_path(spec.trial), self.folder.damage(spec.trial)
        is_same = {
            "metrics.jsonl": records == self.folder.records(spec.trial),
            "outcome.json": outcome == self.folder.outcome(spec.trial),
        }
        return [
            put_aside(path / name).name
            for name, same in is_same.items()
            if (name in damage or not same) and os.path.lexists(path / name)
        ]

    def _cached(self, spec: TrialSpec) -> tuple[list[Record], bool]:
        """The cached records of a trial, up to the first gap, and whether those are all."""
        records: list[Record] = []
        if self.subject is None or not self._is_known(spec):
            return records, False
        step = self._pruned.get(spec.trial)
        for link in until(self.subject.chain(spec.settings, spec.seed, self._peek), step):
            record = self._peek(link.key)
            if record is None:
                return records, False
            records.append(record)
        if step is not None and "history" in records[-1]:
            # own code has gone further than to where it was ended
            records[-1] = up_to(records[-1], step)
        return records, True

    @cached_property
    def _pruned(self) -> dict[str, int]:
        """Trial of a search that was ended early -> the step with which it was."""
        searched = self.manifest.search.get("arms", {}) if self.manifest.search.get("of") else {}
        found: dict[str, int] = {}
        for arm, told in searched.items():
            for one in SearchLog(self.folder.path, arm, told["digest"]).trials.values():
                if one.pruned_at is not None:
                    names = [trial_name(arm, one.number, seed) for seed in self.manifest.seeds]
                    found |= dict.fromkeys(names, one.pruned_at)
        return found

    def _is_known(self, spec: TrialSpec) -> bool:
        """Whether the subject, as it is now, makes this very trial of its settings."""
        if self.subject is None:
            return False
        try:
            longest = self.subject.chain(spec.settings, spec.seed, lambda key: None)
            return trial_key(spec.trial, longest, self.subject.resolve(spec.settings)) == spec.key
        except (OSError, ValueError, KeyError):
            # its data are not there, or it does not know these settings
            return False

    def _has_changed(self, spec: TrialSpec) -> bool:
        """Whether the files are of the trial before it changed: `ablate run` begins it anew."""
        outcome = self.folder.outcome(spec.trial)
        return outcome is not None and outcome.key not in ("", spec.key)

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
    values: Mapping[str, object] = asdict(told) if isinstance(told, Outcome) else told
    return json.dumps(
        {name: value for name, value in values.items() if name not in TIMES}, sort_keys=True
    )
