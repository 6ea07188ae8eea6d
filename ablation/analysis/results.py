"""A study's results as tables, from its run folder or read again from its report's CSV files.

`load` reads a run folder: a row per trial, per epoch, per class. Nothing is dropped: a failed trial
is a row with its error, a waiting one a row without metrics. Tables hold what the run folder holds,
in the manifest's order, so the same folder gives the same bytes. Published numbers are those of the
file beside the grid.

`read_trials`, `read_effects` and `read_claims` read `reports/<study>/`. A table that was cut off or
edited by hand is an error that names its file.

A metric has the column of its name, `test/top1`, unless the tables have that name for something
else, as `error`, or as a factor of the study, or `best/acc` beside the primary metric `acc`: then
it has the column `metric/error`. So no two things share a column, and what tells trials apart stays
what it is. A name with characters that no table keeps, such as a NUL, is written with escapes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis.contrasts import claimed
from ablation.analysis.first_plan import plan_warnings
from ablation.analysis.statistics import agree
from ablation.errors import InputError, Problem
from ablation.grid.file import published_now
from ablation.grid.seeds import FEWEST
from ablation.storage.runs import (
    COSTS,
    IDENTITY,
    Manifest,
    Outcome,
    RunFolder,
    TrialSpec,
    of_one_link,
    write_atomically,
)
from ablation.subject.protocol import Record

PER_CLASS = ("test/per_class", "validation/per_class")
# groups of classes whose accuracies a trial may measure, the fewest training images last
CLASS_GROUPS = ["many", "medium", "few"]
PER_CLASS_COLUMNS = ["trial", "arm", "seed", "class", "n_train", "accuracy"]
# type of the error of a trial whose training diverged: a result of its arm, as no other failure is
DIVERGED = "Diverged"

# the first of history.csv
POSITION = ("trial", "arm", "seed", "phase", "epoch")
# the last of history.csv, where any epoch has them, see `ablation.subject.protocol.Record`
MARKS: tuple[Literal["accumulation", "encoding_batch"], ...] = ("accumulation", "encoding_batch")
# of effects.csv
EFFECT_COLUMNS = [
    *("effect", "metric", "estimate", "low", "high", "p", "p_holm", "n_seeds", "verdict"),
]
# Of claims.csv. `level_by_level` holds a factor's effect at each level of the factors that it
# interacts with, or the mean of each arm of a level where these lie on both sides of the number;
# else "".
CLAIM_COLUMNS = [
    *("claim", "says", "contrast", "metric", "direction", "estimate", "low", "high", "p"),
    *("p_holm", "n_seeds", "verdict", "claim_verdict", "level_by_level"),
]
# What claims.csv holds, too, of a study that looks at its seeds. `decided_at` is after how many of
# them an expectation was decided, `claim_decided_at` the claim; both are empty where it was not.
# `seeds_needed` would decide it with 80 % probability, were the truth what was estimated: those of
# a later look, or more than are planned. It is empty where it is decided or no number would.
# `*_fixed` is what the same results would have said of a study without looks, and no verdict.
# `low_holm` and `high_holm` are those of `ablation.analysis.claims.judged_intervals`; files of
# earlier versions have none.
LOOK_COLUMNS = [
    *("decided_at", "claim_decided_at", "seeds_needed", "p_holm_fixed", "claim_verdict_fixed"),
    *("low_holm", "high_holm"),
]
# What claims.csv holds, too, where claims were changed after results were seen: "yes" or "no", see
# `ablation.analysis.first_plan.post_hoc_claims`.
POST_HOC = "post_hoc"
# What they hold, too, where trials failed: which arms an effect or a claim does without, see
# `ablation.analysis.effects.missing_arms`, and in how many seeds the others did not fail.
OVER = "over"
# the last of effects.csv and claims.csv where the plan was changed after results were seen
WARNING = "warning"
# the least that results.csv has
TRIALS = ("trial", "arm", "seed", "state", "error")
_VERDICTS = ("verdict", "claim_verdict", "claim_verdict_fixed")
_NUMBERS = ("estimate", "low", "high", "p", "p_holm")

PREFIX = "metric/"
NOT_KEPT = re.compile("[\0\r\ud800-\udfff]")
_OWN = frozenset((*IDENTITY, *COSTS, *POSITION, *MARKS))


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
    # hash of all that a trial measured, times aside; equal means bit-identical; None where it is
    # not complete; read from the trial's files once it is asked for
    digest_of: Callable[[str], str | None]
    # metric -> its column, where that has another name, see `column_of`
    renamed: dict[str, str] = field(default_factory=dict)

    def digest(self, arm: str, seed: int) -> str | None:
        """The digest of an arm's trial; None where it is not complete."""
        return self.digest_of(self._by_cell.get((arm, seed), ""))

    @cached_property
    def is_of_own_code(self) -> bool:
        """Whether trials are of a function or command, of which what it returns alone is known."""
        trials = self.manifest.trials
        return bool(trials) and of_one_link(trials)

    def n_numbers(self, arms: Collection[str]) -> int:
        """How many different numbers the trials of these arms have measured, in all epochs."""
        found: set[float] = set()
        for table in (one for one in (self.trials, self.history) if not one.empty):
            own = table[table["arm"].isin(arms) & table["seed"].isin(self.manifest.seeds)]
            measured = own.drop(columns=[*_OWN], errors="ignore").select_dtypes("number")
            found.update(*(measured[name].dropna() for name in measured))
        return len(found)

    def seedless(self) -> list[str]:
        """Arms and baselines of own code whose primary metric is the same in all of their seeds.

        But for rounding, at their ends, and at each epoch that they reported. Those of one finished
        seed are left out.
        """
        if not self.is_of_own_code:
            return []
        ends = self.cells(self.primary)
        same = [name for name in ends if ends[name].count() > 1 and agree(ends[name])]
        if self.history.empty or not same:
            return same
        complete = self.trials.loc[self.trials["state"] == "COMPLETE", "trial"]
        own = self.history[self.history["trial"].isin(complete) & self.history["arm"].isin(same)]
        epochs = own.groupby(["arm", "phase", "epoch"])[self.primary]
        varying = {arm for (arm, *_), values in epochs if not agree(values)}
        return [name for name in same if name not in varying]

    @cached_property
    def _by_cell(self) -> dict[tuple[str, int], str]:
        """(arm, seed) -> trial."""
        return {(row.arm, row.seed): row.trial for row in identities(self.trials)}

    @property
    def looks(self) -> tuple[int, ...]:
        """How many seeds the study looks at, increasing; () for a fixed number."""
        return tuple(self.manifest.looks)

    @property
    def plan_warnings(self) -> list[str]:
        """As `first_plan.plan_warnings`, and that trials which are planned have not ended."""
        return [*plan_warnings(self.manifest), *filter(None, [self._unfinished()])]

    @property
    def early_claims(self) -> set[str]:
        """The ids of all claims, where planned trials of a fixed number of seeds have not ended.

        These are trials that any claim compares: Holm's correction is over all claims. With looks,
        claims are judged by looks that are complete. Of one seed, nothing is tested.
        """
        claims, untried = self.manifest.claims, set(self.trials.loc[~self._have_ended, "arm"])
        cells = [claimed(self.arms, claim["contrast"]).cells for claim in claims]
        is_early = len(self.manifest.seeds) >= FEWEST and not self.looks
        return {claim["id"] for claim in claims if is_early and untried & set().union(*cells)}

    @cached_property
    def failed(self) -> dict[str, int]:
        """Arm or baseline -> how many of its trials failed, of those of which any did."""
        failed = self.trials.loc[self.trials["state"] == "FAILED", "arm"]
        counts: dict[str, int] = failed.value_counts(sort=False).to_dict()
        return counts

    @property
    def _have_ended(self) -> pd.Series:
        return self.trials["state"].isin(["COMPLETE", "FAILED"])

    def _unfinished(self) -> str:
        if self._have_ended.all() or len(self.manifest.seeds) < FEWEST:
            return ""
        said = f"{self._have_ended.sum()} of {len(self.trials)} planned trials have ended"
        said += ", so that verdicts on all claims are post hoc" * bool(self.early_claims)
        what = "verdicts on effects" if self.looks else "verdicts"
        return f"{said}: p-values and {what} hold once all have"

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
    def primary(self) -> str:
        """The metric that the study is about, e.g. "test/top1", as its column is called."""
        return self.column(self.manifest.metric["name"])

    @property
    def best(self) -> str:
        """The primary metric of the best epoch, as its column is called."""
        return self.column(_best(self.manifest))

    def column(self, metric: str) -> str:
        """The column of a metric that the grid names: that is how it is called in all tables."""
        return column_of(metric, self.manifest.factors)

    @property
    def metrics(self) -> list[str]:
        """Scalar metrics of finished trials, the primary metric first, the others sorted."""
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
        seeds, names, places = self._axes
        values = np.append(self.trials[metric].to_numpy(dtype=float), np.nan)
        return pd.DataFrame(values[places], seeds, names)

    @cached_property
    def _axes(self) -> tuple[pd.Index, pd.Index, np.ndarray]:
        """Rows and columns of `cells`, and which row of `trials` is in each cell; -1 where none."""
        seeds = pd.Index(self.manifest.seeds, name="seed")
        names = pd.Index([*self.arms, *self.baselines], name="arm")
        row, column = seeds.get_indexer(self.trials["seed"]), names.get_indexer(self.trials["arm"])
        found = np.flatnonzero((self.trials["state"] == "COMPLETE") & (row >= 0) & (column >= 0))
        places = np.full((len(seeds), len(names)), -1)
        places[row[found], column[found]] = found
        return seeds, names, places


def load(folder: RunFolder, manifest: Manifest | None = None) -> Results:
    """Read a run folder.

    Metrics are called as their columns are, from here on.

    manifest: default, that of the folder

    Raises:
        FileNotFoundError: it holds no study.json
    """
    return _tables(folder, manifest or folder.manifest())


def load_scores(folder: RunFolder, manifest: Manifest) -> Results:
    """As `load`, without the epochs: `history` and `per_class` are empty, and no hits are known."""
    return _tables(folder, manifest, scores_only=True)


class _Read(NamedTuple):
    """What was read of a trial."""

    # None of one that has not ended, also where a trial of that name did before it changed
    outcome: Outcome | None
    # see `RunFolder.state`
    state: str
    # [] where scores alone are read
    records: list[Record]
    # metrics of the last record
    last: Mapping[str, float]


def _read(folder: RunFolder, spec: TrialSpec, is_running: bool, scores_only: bool) -> _Read:
    outcome = folder.outcome(spec.trial)
    state = folder.state(spec, outcome, is_running)
    if outcome is not None and outcome.key not in ("", spec.key):
        return _Read(None, state, [], {})
    if not scores_only:
        records = folder.records(spec.trial)
        return _Read(outcome, state, records, records[-1].get("metrics", {}) if records else {})
    if outcome is not None:
        outcome = replace(outcome, vectors={}, hits="")
    last = folder.last_record(spec.trial) if state == "COMPLETE" else None
    return _Read(outcome, state, [], last["metrics"] if last else {})


def _tables(folder: RunFolder, manifest: Manifest, scores_only: bool = False) -> Results:
    manifest = replace(manifest, published=published_now(manifest))
    is_running = folder.is_being_run()
    trials, history, per_class, hits, renamed = [], [], [], {}, {}
    complete: set[str] = set()
    best = _best(manifest)
    taken = {*manifest.factors, best}
    counts = dict(enumerate(manifest.facts.get("class_counts") or []))
    # metric -> column
    called: dict[str, str] = {}

    def columns(metrics: Mapping[str, float]) -> dict[str, float]:
        """Column -> value, of metrics that trials report."""
        for name in metrics.keys() - called.keys():
            called[name] = column_of(name, taken)
            if escaped(name) != called[name]:
                renamed[escaped(name)] = called[name]
        return {called[name]: value for name, value in metrics.items()}

    for spec in manifest.trials:
        outcome, state, records, last = _read(folder, spec, is_running, scores_only)
        row = _trial_row(spec, state, outcome)
        identity = {"trial": spec.trial, "arm": spec.arm, "seed": spec.seed}
        if outcome is not None and outcome.state == "COMPLETE":
            metrics = dict(outcome.metrics)
            if best in metrics:
                row[column_of(best, manifest.factors)] = metrics.pop(best)
            # a trial's own metric of that name has no room in the outcome
            row |= columns(metrics | {name: last[name] for name in [best] if name in last})
            complete.add(spec.trial)
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

    @cache
    def digest_of(trial: str) -> str | None:
        outcome = folder.outcome(trial) if trial in complete else None
        return None if outcome is None else _digest(folder.records(trial), outcome)

    primary = column_of(manifest.metric["name"], manifest.factors)
    marks = [name for name in MARKS if any(name in row for row in history)]
    lead = [*IDENTITY, *manifest.factors]
    whole = dict.fromkeys(["epochs_trained", "epochs_shared"], "Int64")
    return Results(
        manifest=manifest,
        trials=_frame(trials, lead, COSTS, primary).astype(whole),
        history=_frame(history, POSITION, marks, primary).astype(dict.fromkeys(marks, "Int64")),
        per_class=pd.DataFrame(per_class, columns=PER_CLASS_COLUMNS),
        hits=hits,
        digest_of=digest_of,
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


def with_warning(table: pd.DataFrame, results: Results) -> pd.DataFrame:
    """A table of p-values; what `Results.plan_warnings` warns of, each row says.

    `OVER` is left out where it says nothing.
    """
    if OVER in table and not table[OVER].any():
        table = table.drop(columns=OVER)
    warnings = results.plan_warnings
    return table.assign(**{WARNING: "; ".join(warnings)}) if warnings else table


def warning_of(table: pd.DataFrame) -> str:
    """What effects.csv or claims.csv warns of; "" if of nothing."""
    return str(table[WARNING].iloc[0]) if WARNING in table and len(table) else ""


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
    rows: list[dict[str, Any]], lead: Sequence[str], tail: Sequence[str], primary: str
) -> pd.DataFrame:
    """Rows with the columns `lead`, the metrics they have (the primary metric first), `tail`."""
    metrics = {name for row in rows for name in row} - {*lead, *tail, primary}
    return pd.DataFrame(rows, columns=[*lead, primary, *sorted(metrics), *tail])


def _digest(records: Sequence[Mapping[str, object]], outcome: Outcome) -> str:
    """A hash of everything that a trial measured, times excluded."""
    parts = ("phase", "epoch", "metrics", "vectors", "hits")
    measured = [[record.get(part) for part in parts] for record in records]
    text = json.dumps([measured, outcome.metrics, outcome.vectors, outcome.hits], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Reported(NamedTuple):
    """The table of results.csv, and which columns are factors and metrics."""

    trials: pd.DataFrame
    primary: str
    factors: list[str]
    # the primary metric first; called as their columns are, see `column_of`
    metrics: list[str]


def read_trials(folder: Path, effects: pd.DataFrame) -> Reported:
    """Read results.csv; raises InputError naming the file if it is no such table.

    effects: from `read_effects`
    """
    path = folder / "results.csv"
    table = read_table(path, TRIALS)
    after = list(table.columns[table.columns.get_loc("state") + 1 :])
    names = [name for name in after if name not in COSTS]
    if not names:
        raise _unusable(path, "it has no metric")
    # effects.csv has the primary metric first; without effects, it is the one whose best epoch is
    # told, else the first column that cannot be a factor's
    with_best = [name for name in names if f"best/{name}" in names]
    slashed = [name for name in names if "/" in name]
    likely = [*effects["metric"][:1], *with_best, *slashed, names[0]]
    primary = next(name for name in likely if name in names)
    first = names.index(primary)
    costs = [name for name in COSTS if name in after and name != "error"]
    trials = _typed(table, path, [*names[first:], *costs], "seed")
    return Reported(trials, primary, names[:first], names[first:])


def read_effects(folder: Path) -> pd.DataFrame:
    """Read effects.csv; an empty table where there is none."""
    path = folder / "effects.csv"
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in EFFECT_COLUMNS})
    return _typed(read_table(path, EFFECT_COLUMNS), path, _NUMBERS, "n_seeds")


def read_claims(folder: Path) -> pd.DataFrame:
    """Read claims.csv."""
    path = folder / "claims.csv"
    table = read_table(path, CLAIM_COLUMNS)
    of_looks = [name for name in LOOK_COLUMNS if name in table and name not in _VERDICTS]
    return _typed(table, path, [*_NUMBERS, *of_looks], "n_seeds")


def known_reports(folders: Sequence[Path]) -> dict[str, Path]:
    """Study -> the folder of its report; of two, that in the first of the folders."""
    found = {
        path.parent.name: path.parent
        for folder in reversed(folders)
        for path in folder.glob("*/results.csv")
    }
    return dict(sorted(found.items()))


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table of text, every cell and every column's name as it is written.

    Raises InputError naming the file if it cannot be read, a row is cut off, one of `columns` is
    missing, or a column is there twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise _unusable(path, " ".join(str(error).split())) from None
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise _unusable(path, f"row {line} has {len(row)} cells, the header {len(header)}")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise _unusable(path, f"it has the column '{twice[0]}' twice")
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise _unusable(path, f"it has no column '{lacking[0]}'")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _typed(table: pd.DataFrame, path: Path, numbers: Sequence[str], whole: str) -> pd.DataFrame:
    """The table with the columns `numbers` as floats and the column `whole` as whole numbers.

    Floats are exact to the bit, NaN where a cell is empty. pandas' own reading may be off by the
    last bit, which changes how a number that ends in 5 is rounded.
    """
    try:
        name, kind = whole, "whole number"
        table[name] = table[name].map(int).astype(int)
        for name in numbers:
            kind = "number"
            table[name] = table[name].map(lambda cell: float(cell or "nan")).astype(float)
    except (ValueError, OverflowError):
        raise _unusable(path, f"its column '{name}' holds what is no {kind}") from None
    return table


def _unusable(path: Path, why: str) -> InputError:
    how = f"is no table of a report ({why}); `ablate report` writes it again from runs/"
    return InputError([Problem(str(path), "", how)])


def column_of(metric: str, taken: Collection[str] = ()) -> str:
    """The column of a metric; two metrics never have the same one.

    `metric/error` and `metric/metric/error` have two columns, too.
    taken: the study's factors, and other columns that the metric must not have.
    """
    is_taken = (bare := _bare(metric)) in _OWN or bare in taken
    return f"{PREFIX}{metric}" if is_taken else escaped(metric)


def metric_of(column: str, taken: Collection[str] = ()) -> str:
    """The metric of a column, its name escaped: the inverse of `column_of`."""
    is_renamed = column != (bare := _bare(column)) and (bare in _OWN or bare in taken)
    return column.removeprefix(PREFIX) if is_renamed else column


def escaped(name: str) -> str:
    """A name that reads back from a CSV file as it was written.

    Carriage returns, NULs and halves of characters do not.
    """
    return name.encode("unicode_escape").decode() if NOT_KEPT.search(name) else name


def _bare(name: str) -> str:
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name
