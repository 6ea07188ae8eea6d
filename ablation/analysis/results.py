"""A study's run folder as tidy tables: a row per trial, per epoch, per class.

Nothing is dropped: a failed trial is a row with its error, a waiting one a row without metrics.
Tables hold what the run folder holds, in the manifest's order, so the same folder gives the same
bytes. Published numbers are those of the file beside the grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.analysis.published import published_now
from ablation.storage.columns import COSTS, IDENTITY, MARKS, POSITION, column_of, escaped
from ablation.storage.runs import Manifest, Outcome, RunFolder, TrialSpec, write_atomically

PER_CLASS = ("test/per_class", "validation/per_class")
PER_CLASS_COLUMNS = ["trial", "arm", "seed", "class", "n_train", "accuracy"]
# type of the error of a trial whose training diverged: a result of its arm, as no other failure is
DIVERGED = "Diverged"


@dataclass(frozen=True)
class Results:
    """The tables of one study."""

    manifest: Manifest
    # trial, arm, kind, seed, state, <factors>, <metrics>, epochs_*, wall_seconds, error
    trials: pd.DataFrame
    # trial, arm, seed, phase, epoch, <metrics>, and of MARKS those that any epoch has
    history: pd.DataFrame
    # PER_CLASS_COLUMNS, accuracy in percent
    per_class: pd.DataFrame
    # complete trial -> which test images are right, as in ablation.subject.protocol.Record; where
    # known
    hits: dict[str, str]
    # complete trial -> hash of all it measured, times aside; equal means bit-identical
    digests: dict[str, str]
    # metric -> its column, where that has another name, see `ablation.storage.columns`
    renamed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def digests_by_cell(self) -> dict[tuple[str, int], str | None]:
        """(arm, seed) -> digest; None where the trial is not complete."""
        return {(row.arm, row.seed): self.digests.get(row.trial) for row in identities(self.trials)}

    @property
    def looks(self) -> tuple[int, ...]:
        """How many seeds the study looks at, increasing; () for a fixed number."""
        return tuple(self.manifest.looks)

    def first(self, n_seeds: int) -> Results:
        """The results of the first seeds alone."""
        seeds = self.manifest.seeds[:n_seeds]
        return replace(
            self,
            manifest=replace(self.manifest, seeds=seeds),
            trials=self.trials[self.trials["seed"].isin(seeds)],
        )

    def without_looks(self) -> Results:
        """The results as those of a fixed number of seeds."""
        return replace(self, manifest=replace(self.manifest, looks=[], decides_effects=False))

    @property
    def headline(self) -> str:
        """The metric that the study is about, e.g. "test/top1", as its column is called."""
        return self.column(self.manifest.metric["name"])

    @property
    def best(self) -> str:
        """The headline metric of the best epoch, as its column is called."""
        return self.column(_best(self.manifest))

    def column(self, metric: str) -> str:
        """The column of a metric that the grid names: that is how it is called in all tables."""
        return column_of(metric, self.manifest.factors)

    @property
    def metrics(self) -> list[str]:
        """Scalar metrics of finished trials, the headline first, the others sorted."""
        first = self.trials.columns.get_loc("state") + 1 + len(self.manifest.factors)
        return list(self.trials.columns[first : self.trials.columns.get_loc("epochs_trained")])

    @property
    def arms(self) -> dict[str, dict[str, str]]:
        """Arm -> factor -> level, in the manifest's order."""
        return {spec.arm: spec.levels for spec in self.manifest.trials if spec.kind == "arm"}

    @property
    def factors(self) -> dict[str, list[str]]:
        """Factor -> its levels, the reference first."""
        return {factor: list(levels) for factor, levels in self.manifest.factors.items()}

    @property
    def baselines(self) -> list[str]:
        """Baselines that have trials, in the manifest's order."""
        return list(
            dict.fromkeys(spec.arm for spec in self.manifest.trials if spec.kind == "baseline")
        )

    def complete(self, arm: str) -> pd.DataFrame:
        """The finished trials of an arm or baseline."""
        return self.trials[(self.trials["arm"] == arm) & (self.trials["state"] == "COMPLETE")]

    def cells(self, metric: str) -> pd.DataFrame:
        """(seeds, arms and baselines) of a metric, NaN where there is no finished trial."""
        finished = self.trials[self.trials["state"] == "COMPLETE"]
        table = finished.pivot(index="seed", columns="arm", values=metric)
        return table.reindex(
            index=self.manifest.seeds, columns=[*self.arms, *self.baselines]
        ).astype(float)


def load(folder: RunFolder, manifest: Manifest | None = None) -> Results:
    """Read a run folder.

    Metrics are called as their columns are, from here on.

    manifest: default, that of the folder

    Raises:
        FileNotFoundError: it holds no study.json
    """
    manifest, is_running = manifest or folder.manifest(), folder.is_being_run()
    manifest = replace(manifest, published=published_now(manifest))
    trials, history, per_class, hits, digests, renamed = [], [], [], {}, {}, {}
    best = _best(manifest)
    counts = dict(enumerate(manifest.facts.get("class_counts") or []))

    def columns(metrics: Mapping[str, float]) -> dict[str, float]:
        """Column -> value, of metrics that trials report."""
        found = {}
        for name, value in metrics.items():
            column = column_of(name, {*manifest.factors, best})
            found[column] = value
            if escaped(name) != column:
                renamed[escaped(name)] = column
        return found

    for spec in manifest.trials:
        outcome, records = folder.outcome(spec.trial), folder.records(spec.trial)
        state = folder.state(spec, outcome, is_running)
        # of a trial of that name before it changed
        if outcome is not None and outcome.key not in ("", spec.key):
            outcome, records = None, []
        row = _trial_row(spec, state, outcome)
        identity = {"trial": spec.trial, "arm": spec.arm, "seed": spec.seed}
        if outcome is not None and outcome.state == "COMPLETE":
            metrics = dict(outcome.metrics)
            if best in metrics:
                row[column_of(best, manifest.factors)] = metrics.pop(best)
            # a trial's own metric of that name has no room in the outcome
            last = records[-1].get("metrics", {}) if records else {}
            row |= columns(metrics | {name: last[name] for name in [best] if name in last})
            digests[spec.trial] = _digest(records, outcome)
            if outcome.hits:
                hits[spec.trial] = outcome.hits
            per_class += [
                {**identity, "class": label, "n_train": counts.get(label), "accuracy": accuracy}
                for name in PER_CLASS
                for label, accuracy in enumerate(outcome.vectors.get(name, []))
            ]
        trials.append(row)
        for record in records:
            position = {"phase": record["phase"], "epoch": record["epoch"]}
            memory: dict[str, int] = {name: record[name] for name in MARKS if name in record}
            history.append({**identity, **position, **columns(record.get("metrics", {})), **memory})
    headline = column_of(manifest.metric["name"], manifest.factors)
    marks = [name for name in MARKS if any(name in row for row in history)]
    lead = [*IDENTITY, *manifest.factors]
    whole = dict.fromkeys(["epochs_trained", "epochs_shared"], "Int64")
    return Results(
        manifest=manifest,
        trials=_frame(trials, lead, COSTS, headline).astype(whole),
        history=_frame(history, POSITION, marks, headline).astype(dict.fromkeys(marks, "Int64")),
        per_class=pd.DataFrame(per_class, columns=PER_CLASS_COLUMNS),
        hits=hits,
        digests=digests,
        renamed=dict(sorted(renamed.items())),
    )


def identities(trials: pd.DataFrame) -> Iterator[Any]:
    """The rows of `Results.trials`, with attributes for the columns of IDENTITY and the error.

    Other columns are left out, and so are those that the table does not have: Python takes two
    columns whose names differ in their Unicode form for one attribute.
    """
    columns = [column for column in (*IDENTITY, "error") if column in trials]
    rows: Iterator[Any] = trials[columns].itertuples()
    return rows


def diverged(trials: pd.DataFrame) -> pd.Series:
    """Which trials failed because their training diverged.

    trials: `Results.trials`, or results.csv
    """
    errors = trials["error"].astype("string")
    told = errors.str.startswith(f"{DIVERGED}:").fillna(False).astype(bool)
    return told & (trials["state"] == "FAILED")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; floats in the shortest form that reads back to the same bits."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _best(manifest: Manifest) -> str:
    """What the harness adds to the metrics of a finished trial."""
    return f"best/{manifest.metric['name']}"


def _trial_row(spec: TrialSpec, state: str, outcome: Outcome | None) -> dict[str, Any]:
    row = {name: getattr(spec, name) for name in IDENTITY if name != "state"}
    row |= {"state": state, **spec.levels}
    if outcome is not None:
        row["wall_seconds"] = round(outcome.wall_seconds, 3)
        # how far the other trials got is not known
        if outcome.state == "COMPLETE":
            row.update(epochs_trained=spec.epochs_trained, epochs_shared=spec.epochs_shared)
        elif outcome.error:
            row["error"] = f"{outcome.error['type']}: {' '.join(outcome.error['message'].split())}"
    return row


def _frame(
    rows: list[dict[str, Any]], lead: Sequence[str], tail: Sequence[str], headline: str
) -> pd.DataFrame:
    """Rows with the columns `lead`, the metrics they have (the headline first), `tail`."""
    metrics = {name for row in rows for name in row} - {*lead, *tail, headline}
    return pd.DataFrame(rows, columns=[*lead, headline, *sorted(metrics), *tail])


def _digest(records: Sequence[Mapping[str, object]], outcome: Outcome) -> str:
    """Of all that was measured."""
    parts = ("phase", "epoch", "metrics", "vectors", "hits")
    measured = [[record.get(part) for part in parts] for record in records]
    text = json.dumps([measured, outcome.metrics, outcome.vectors, outcome.hits], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
