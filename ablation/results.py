"""A study's run folder as tidy tables: a row per trial, per epoch, per class.

Nothing is dropped: a failed trial is a row with its error, a waiting one a row without metrics. Tables
hold what the run folder holds, in the manifest's order, so the same folder gives the same bytes. Published numbers are
those of the file beside the grid.
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

from ablation.columns import COSTS, IDENTITY, MARKS, POSITION, column_of, escaped
from ablation.published import published_now
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec, write_atomically

PER_CLASS = "test/per_class"
DIVERGED = "Diverged"  # type of the error of a trial whose training diverged: a result of its arm, as no other failure is


@dataclass(frozen=True)
class Results:
    """The tables of one study."""

    manifest: Manifest
    trials: (
        pd.DataFrame
    )  # trial, arm, kind, seed, state, <factors>, <metrics>, epochs_*, wall_seconds, error
    history: (
        pd.DataFrame
    )  # trial, arm, seed, phase, epoch, <metrics>, and of MARKS those that any epoch has
    per_class: pd.DataFrame  # trial, arm, seed, class, n_train, accuracy in percent
    hits: dict[
        str, str
    ]  # complete trial -> which test images are right, as in ablation.subject.Record; where known
    digests: dict[
        str, str
    ]  # complete trial -> hash of all it measured, times aside; equal means bit-identical
    renamed: dict[str, str] = field(
        default_factory=dict
    )  # metric -> its column, of those with another name than their column, see `ablation.columns`

    @cached_property
    def digests_by_cell(self) -> dict[tuple[str, int], str | None]:
        """(arm, seed) -> digest; None where the trial is not complete."""
        return {(row.arm, row.seed): self.digests.get(row.trial) for row in identities(self.trials)}

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


def load(folder: RunFolder) -> Results:
    """Read a run folder.

    Metrics are called as their columns are, from here on.

    Raises:
        FileNotFoundError: it holds no study.json
    """
    manifest, is_running = folder.manifest(), folder.is_being_run()
    manifest = replace(manifest, published=published_now(manifest))
    trials, history, per_class, hits, digests, renamed = [], [], [], {}, {}, {}
    best = _best(manifest)
    taken = {*manifest.factors, best}

    def columns(metrics: Mapping[str, float]) -> dict[str, float]:
        """Column -> value, of metrics that trials report."""
        found = {name: column_of(name, taken) for name in metrics}
        renamed.update(
            {escaped(name): column for name, column in found.items() if escaped(name) != column}
        )
        return {column: metrics[name] for name, column in found.items()}

    for spec in manifest.trials:
        outcome, records = folder.outcome(spec.trial), folder.records(spec.trial)
        state = folder.state(spec, outcome, is_running)
        if outcome is not None and outcome.key not in (
            "",
            spec.key,
        ):  # of a trial of that name before it changed
            outcome, records, state = None, [], "WAITING"
        row = _trial_row(spec, state, outcome)
        if outcome is not None and outcome.state == "COMPLETE":
            row |= columns({name: value for name, value in outcome.metrics.items() if name != best})
            row |= columns(
                {name: value for name, value in _last(records).items() if name == best}
            )  # which `outcome.metrics` has no room for
            row |= (
                {column_of(best, manifest.factors): outcome.metrics[best]}
                if best in outcome.metrics
                else {}
            )
        trials.append(row)
        identity = {"trial": spec.trial, "arm": spec.arm, "seed": spec.seed}
        for record in records:
            position = {"phase": record["phase"], "epoch": record["epoch"]}
            history.append(
                {
                    **identity,
                    **position,
                    **columns(record.get("metrics", {})),
                    **{name: record[name] for name in MARKS if name in record},
                }
            )
        if outcome is not None and outcome.state == "COMPLETE":
            digests[spec.trial] = _digest(records, outcome)
            hits |= {spec.trial: outcome.hits} if outcome.hits else {}
            counts = manifest.facts.get("class_counts") or []
            for label, accuracy in enumerate(outcome.vectors.get(PER_CLASS, [])):
                n_train = counts[label] if label < len(counts) else None
                per_class.append(
                    {**identity, "class": label, "n_train": n_train, "accuracy": accuracy}
                )
    headline = column_of(manifest.metric["name"], manifest.factors)
    marks = [name for name in MARKS if any(name in row for row in history)]
    return Results(
        manifest=manifest,
        trials=_frame(trials, [*IDENTITY, *manifest.factors], COSTS, headline).astype(
            {"epochs_trained": "Int64", "epochs_shared": "Int64"}
        ),
        history=_frame(history, POSITION, marks, headline).astype(dict.fromkeys(marks, "Int64")),
        per_class=pd.DataFrame(
            per_class, columns=["trial", "arm", "seed", "class", "n_train", "accuracy"]
        ),
        hits=hits,
        digests=digests,
        renamed=dict(sorted(renamed.items())),
    )


def identities(trials: pd.DataFrame) -> Iterator[Any]:
    """The rows of `Results.trials`, with those columns of IDENTITY that it has as attributes, and its error.

    Of those columns alone: Python takes two columns whose names differ in their Unicode form for one attribute.
    """
    return trials[[column for column in (*IDENTITY, "error") if column in trials]].itertuples()


def diverged(trials: pd.DataFrame) -> pd.Series:
    """Which trials failed since their training diverged. trials: `Results.trials`, or results.csv."""
    told = (
        trials["error"]
        .map(lambda error: isinstance(error, str) and error.startswith(f"{DIVERGED}:"))
        .astype(bool)
    )
    return told & (trials["state"] == "FAILED")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table; floats in the shortest form that reads back to the same bits."""
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _best(manifest: Manifest) -> str:
    """What the harness adds to the metrics of a finished trial."""
    return f"best/{manifest.metric['name']}"


def _last(records: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """The metrics of the last record."""
    return records[-1].get("metrics", {}) if records else {}


def _trial_row(spec: TrialSpec, state: str, outcome: Outcome | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": spec.trial,
        "arm": spec.arm,
        "kind": spec.kind,
        "seed": spec.seed,
        "state": state,
    }
    row.update(spec.levels)
    if outcome is None:
        return row
    row["wall_seconds"] = round(outcome.wall_seconds, 3)
    if (
        outcome.state == "COMPLETE"
    ):  # of the others nobody knows yet, or ever, how far the plan was carried out
        row.update(epochs_trained=spec.epochs_trained, epochs_shared=spec.epochs_shared)
    elif outcome.error:
        row["error"] = f"{outcome.error['type']}: {' '.join(outcome.error['message'].split())}"
    return row


def _frame(
    rows: list[dict[str, Any]], lead: Sequence[str], tail: Sequence[str], headline: str
) -> pd.DataFrame:
    """Rows with the columns `lead`, the metrics they have (the headline first), `tail`."""
    metrics = sorted(
        {name for row in rows for name in row} - {*lead, *tail},
        key=lambda name: (name != headline, name),
    )
    if headline not in metrics:
        metrics.insert(0, headline)
    return pd.DataFrame(rows, columns=[*lead, *metrics, *tail])


def _digest(records: list[dict[str, Any]], outcome: Outcome) -> str:
    """Of all that was measured; of the hits where there are any, so that trials of before they were kept compare as ever."""
    measured = ("phase", "epoch", "metrics", "vectors")
    timeless = [
        [record.get(part) for part in measured] + ([record["hits"]] if "hits" in record else [])
        for record in records
    ]
    text = json.dumps(
        [timeless, outcome.metrics, outcome.vectors] + ([outcome.hits] if outcome.hits else []),
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()
