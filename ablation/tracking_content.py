"""What a study and its trials look like in MLflow: pure functions from files' contents to params, tags, metrics."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

from ablation.formatting import over_seeds
from ablation.runs import Manifest, Outcome, TrialSpec

MAX_ROWS = 60  # of the table in a study's description, which holds 8,000 characters
MAX_ERROR_CHARACTERS = 500
GROUPS = {
    "test": "on the test set, accuracies in percent",
    "best": "of the best epoch, picked on the test set",
    "train": "losses",
    "grad": "norms of gradients by module and by loss, and `grad/conflict_cosine*` (-1 to 1)",
    "diag": "of the latents: drift, effective rank, radii in units of the latent space",
    "gen": "of generated latents, relative to real ones",
    "head": "parameters of the classifier",
}
LAST_STEP = 2**63 - 1  # that a database holds


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    time: int  # milliseconds since 1970
    step: int


class Labels(NamedTuple):
    """What tells one trial of a study from another."""

    params: dict[str, str]
    tags: dict[str, str]


def trial_labels(manifest: Manifest) -> dict[str, Labels]:
    """Trial -> its labels: the levels of its factors, and those settings in which the trials differ.

    Settings that all trials share would only widen the compare page; they are in config.yaml.
    """
    settings = [
        {key: _text(value) for key, value in spec.settings.items()} for spec in manifest.trials
    ]
    keys = {key for texts in settings for key in texts}
    differing = sorted(key for key in keys if len({texts.get(key) for texts in settings}) > 1)
    return {
        spec.trial: _labels(
            manifest.study, spec, {key: texts[key] for key in differing if key in texts}
        )
        for spec, texts in zip(manifest.trials, settings)
    }


def study_tags(manifest: Manifest, outcomes: Mapping[str, Outcome | None]) -> dict[str, str]:
    """The parent run's tags. Not params, which MLflow never lets change: a study can grow."""
    return {
        "mlflow.note.content": _description(manifest, outcomes),
        "study": manifest.study,
        "kind": "study",
        "experiment": manifest.experiment,
        "dataset": manifest.dataset,
        "design": ", ".join(manifest.design),
        "metric": manifest.metric["name"],
        "goal": manifest.metric["goal"],
        "seeds": ", ".join(map(str, manifest.seeds)),
        "commit": _commit(manifest),
    }


def study_points(
    manifest: Manifest, outcomes: Mapping[str, Outcome | None], time: int
) -> Iterator[Point]:
    """The parent run's metrics: how far the study is and what it has cost, over the number of trials that ended."""
    ended = [outcome for outcome in outcomes.values() if outcome]
    yield _point("study/trials", len(manifest.trials), time, len(ended))
    yield _point(
        "study/complete", sum(outcome.state == "COMPLETE" for outcome in ended), time, len(ended)
    )
    yield _point(
        "study/failed", sum(outcome.state == "FAILED" for outcome in ended), time, len(ended)
    )
    yield _point(
        "study/wall_seconds", sum(outcome.wall_seconds for outcome in ended), time, len(ended)
    )


def record_points(records: list[dict[str, Any]], start: int, n_logged: int) -> Iterator[Point]:
    """The metrics of all records after the first `n_logged`.

    A record's time is `start` (milliseconds) plus the seconds of the records up to it: as if the trial had
    computed all of its epochs itself. So the points are the same whenever they are made, and MLflow drops
    those that it has. Pre-training counts its own epochs: its metrics get names of their own. Of a metric that
    was measured twice in one epoch, the last value counts.
    """
    time, points = start, {}
    for number, record in enumerate(records):
        time += round(1000 * record.get("seconds", 0.0))
        if number >= n_logged:
            for name, value in _named(record).items():
                points[name, record["epoch"]] = _point(name, value, time, record["epoch"])
    yield from points.values()


def measures_again(records: list[dict[str, Any]], n_logged: int) -> bool:
    """Whether a record after the first `n_logged` has a metric of an epoch that one of these has."""
    logged = {(name, record["epoch"]) for record in records[:n_logged] for name in _named(record)}
    return any(
        (name, record["epoch"]) in logged
        for record in records[n_logged:]
        for name in _named(record)
    )


def outcome_points(records: list[dict[str, Any]], outcome: Outcome, end: int) -> Iterator[Point]:
    """What is known only at a trial's end: its best values, and the last record's values per class."""
    last = records[-1] if records else {"epoch": 0, "metrics": {}}
    for name, value in outcome.metrics.items():
        if name not in last["metrics"]:
            yield _point(name, value, end, last["epoch"])
    for name, values in outcome.vectors.items():
        width = max(2, len(str(len(values) - 1)))
        for index, value in enumerate(values):
            yield _point(f"{name}/class_{index:0{width}}", value, end, last["epoch"])


def blank_points(
    records: list[dict[str, Any]], outcome: Outcome, columns: Collection[str], time: int
) -> Iterator[Point]:
    """A gap after the last value of each metric that a trial has measured, and that is blank in its row of results.csv.

    MLflow's tables show the last value, which is that of another epoch, or of a trial that failed.

    columns: the metrics that results.csv has of complete trials.
    """
    measured = dict.fromkeys(
        name for record in records if record["phase"] != "pretrain" for name in record["metrics"]
    )
    for name in measured:
        if name not in outcome.metrics and (outcome.state == "FAILED" or name in columns):
            yield _point(name, math.nan, time, records[-1]["epoch"])


def outcome_tags(outcome: Outcome) -> dict[str, str]:
    if not outcome.error:
        return {}
    return {"error": f"{outcome.error['type']}: {outcome.error['message']}"[:MAX_ERROR_CHARACTERS]}


def milliseconds(moment: str) -> int | None:
    """A UTC time in ISO 8601 as MLflow counts; None for ""."""
    if not moment:
        return None
    parsed = datetime.fromisoformat(moment.replace("Z", "+00:00"))  # Python 3.10 does not know Z
    return round(
        1000 * (parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)).timestamp()
    )


def begun_at(outcome: Outcome) -> int | None:
    """When a trial began, as MLflow counts; None if it is not known. Of its first epoch only the end is on record."""
    started, finished = milliseconds(outcome.started), milliseconds(outcome.finished)
    if finished is None:
        return started
    begun = max(0, finished - round(1000 * outcome.wall_seconds))
    return begun if started is None else min(started, begun)


def _labels(study: str, spec: TrialSpec, settings: dict[str, str]) -> Labels:
    identity = {"arm": spec.arm, "seed": str(spec.seed)}
    factors = {f"factor.{factor}": level for factor, level in spec.levels.items()}
    tags = {"study": study, "trial": spec.trial, "kind": spec.kind, "key": spec.key}
    return Labels(settings | identity | spec.levels, tags | identity | factors)


def _description(manifest: Manifest, outcomes: Mapping[str, Outcome | None]) -> str:
    """Markdown, shown at the head of the parent run's page."""
    metric = manifest.metric["name"]
    values = defaultdict(list)
    for spec in manifest.trials:
        outcome = outcomes.get(spec.trial)
        values[spec.arm] += (
            [outcome.metrics[metric]] if outcome and metric in outcome.metrics else []
        )
    rows = [
        f"| {arm} | {len(found)} | {over_seeds(found)} |" for arm, found in values.items() if found
    ]
    table = (
        ["", f"| arm | seeds | {metric} |", "| --- | --- | --- |", *rows[:MAX_ROWS]] if rows else []
    )
    more = ["", f"and {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    head = [
        manifest.question,
        "",
        f"{manifest.title}; dataset {manifest.dataset}; commit {_commit(manifest)}",
    ]
    return "\n".join(head + table + more + _groups(outcomes))


def _groups(outcomes: Mapping[str, Outcome | None]) -> list[str]:
    """What the groups of metrics are that finished trials have."""
    found = {
        name.partition("/")[0]
        for outcome in outcomes.values()
        if outcome
        for name in outcome.metrics
    }
    told = [f"`{group}/` {GROUPS[group]}" for group in GROUPS if group in found]
    return ["", f"Metrics, by epoch: {'; '.join(told)}."] if told else []


def _commit(manifest: Manifest) -> str:
    commit = str(manifest.provenance.get("commit") or "unknown")
    return f"{commit} (with uncommitted changes)" if manifest.provenance.get("dirty") else commit


def _point(name: str, value: float, time: int, step: int) -> Point:
    return Point(name, finite(value), time, max(-LAST_STEP, min(step, LAST_STEP)))


def finite(value: float) -> float:
    """The value as a float; NaN if that is infinite: MLflow stores the largest float, which flattens the chart, and a gap says more."""
    try:
        number = float(value)
    except OverflowError:  # of a whole number
        return math.nan
    return number if math.isfinite(number) else math.nan


def _named(record: dict[str, Any]) -> dict[str, float]:
    """The metrics of a record, by their names in MLflow."""
    prefix = "pretrain/" if record["phase"] == "pretrain" else ""
    return {
        name if name.startswith(prefix) else prefix + name: value
        for name, value in record["metrics"].items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
