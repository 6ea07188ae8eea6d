"""The params, tags and metrics that MLflow gets of a study and its trials, from its files."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import math
import posixpath
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

from ablation.formatting import is_percent, over_seeds
from ablation.storage.files import digest, warn_once
from ablation.storage.runs import TOOL, Manifest, Outcome, RunFolder, TrialSpec
from ablation.subject.loading import BUILT_IN
from ablation.subject.protocol import Record

# Tag: how a run's content follows from the files. A run with another one is made anew.
FORMAT, FORMAT_VERSION = "ablate.format", "2"
# tag: `no` of trials that have left the grid, `yes` of the others
IN_GRID = "ablate.in_grid"
# tag of a study: that of the tool; `commit` is the project's
TOOL_COMMIT = "ablate.commit"
# decimals of percentages; significant digits of other metrics
DECIMALS, DIGITS = 4, 6
# rows of the table in a study's description, which holds 8,000 characters
MAX_ROWS = 60
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
# the largest step that a database holds
LAST_STEP = 2**63 - 1


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    # milliseconds since 1970
    time: int
    step: int


@dataclass
class TrialContent:
    """What MLflow is to hold of a trial."""

    folder: RunFolder
    spec: TrialSpec
    params: dict[str, str]
    tags: dict[str, str]
    outcome: Outcome | None
    # whether any process runs the study
    is_running: bool

    @property
    def name(self) -> str:
        """The trial's name."""
        return self.spec.trial

    @cached_property
    def records(self) -> list[Record]:
        """The records of its epochs, in their order."""
        return self.folder.records(self.name)

    @property
    def has_begun(self) -> bool:
        """Whether there is a record or an outcome."""
        return self.outcome is not None or bool(self.records)

    @property
    def status(self) -> str:
        """The run's status in MLflow: FINISHED, FAILED, RUNNING, or KILLED if interrupted."""
        if self.outcome is not None:
            return "FINISHED" if self.outcome.state == "COMPLETE" else "FAILED"
        return "RUNNING" if self.is_running else "KILLED"

    @cached_property
    def digest(self) -> str:
        """A hash of the outcome, whose file holds checksums of the others; else of the records."""
        if self.outcome is None:
            return records_digest(self.records)
        return str(digest(self.folder.trial_path(self.name) / "outcome.json"))[:16]

    def start(self) -> int:
        """When the trial started; while it runs, when its first file was written."""
        if self.outcome and (begun := begun_at(self.outcome)) is not None:
            return begun
        files = self.folder.trial_path(self.name).iterdir()
        return min((round(1000 * path.stat().st_mtime) for path in files), default=now())

    @property
    def finished(self) -> int | None:
        """When the trial ended; None as long as it has not."""
        return None if self.outcome is None else ended_at(self.folder, self.name, self.outcome)

    def end(self, start: int) -> int | None:
        """The end of a run that starts at `start`; None as long as the trial has not ended.

        MLflow's Duration is thus the trial's own seconds, without those in which it waited.
        """
        if self.outcome is None:
            return None
        # MLflow takes 0 for now.
        return max(1, start + round(1000 * self.outcome.wall_seconds))

    @property
    def per_class(self) -> str:
        """The values per class as CSV, a row per class; "" if there are none."""
        vectors = self.outcome.vectors if self.outcome else {}
        if not vectors:
            return ""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", *vectors])
        columns = zip_longest(*vectors.values(), fillvalue="")
        writer.writerows([index, *values] for index, values in enumerate(columns))
        return text.getvalue()

    def points(self, start: int, n_logged: int, columns: Collection[str]) -> list[Point]:
        """All points but those of the first `n_logged` records.

        columns: the metrics that results.csv has of complete trials.
        """
        logged = record_points(self.records[:n_logged], start)
        points = record_points(self.records, start)
        new = [point for place, point in points.items() if place not in logged]
        end = self.end(start)
        if self.outcome is None or end is None:
            return new
        after = 1 + max([end, *(point.time for point in points.values())])
        new += _outcome_points(self.records, self.outcome, end)
        return [*new, *_blank_points(self.records, self.outcome, columns, after)]


def trial_contents(folder: RunFolder, manifest: Manifest, is_running: bool) -> list[TrialContent]:
    """What MLflow is to hold of each trial.

    Its params are the levels of its factors and those settings in which the trials differ. Settings
    that all trials share would only widen the compare page; they are in config.yaml.
    """
    settings = [
        {key: _text(value) for key, value in spec.settings.items()} for spec in manifest.trials
    ]
    keys = {key for texts in settings for key in texts}
    differing = sorted(key for key in keys if len({texts.get(key) for texts in settings}) > 1)
    trials = []
    for spec, texts in zip(manifest.trials, settings, strict=True):
        outcome = folder.outcome(spec.trial)
        identity = {"arm": spec.arm, "seed": str(spec.seed)}
        own = {param_name(key, manifest): texts[key] for key in differing if key in texts}
        params = own | identity | spec.levels
        place = {"study": manifest.study, "trial": spec.trial, "kind": spec.kind, "key": spec.key}
        levels = {f"factor.{factor}": level for factor, level in spec.levels.items()}
        tags = place | identity | levels | {FORMAT: FORMAT_VERSION, IN_GRID: "yes"}
        if outcome and outcome.error:
            text = f"{outcome.error['type']}: {outcome.error['message']}"
            tags["error"] = text[:MAX_ERROR_CHARACTERS]
        params = fitted_labels("setting", params, MAX_PARAM)
        tags = fitted_labels("tag", tags, MAX_TAG)
        trials.append(TrialContent(folder, spec, params, tags, outcome, is_running))
    return trials


def param_name(setting: str, manifest: Manifest) -> str:
    """The name of a setting's param: another one where a factor, `arm` or `seed` has the setting's.

    A factor `lr` has the param `lr`, its level; the setting `lr` that it sets is `setting/lr`.
    """
    return f"setting/{setting}" if setting in (*manifest.factors, "arm", "seed") else setting


def study_tags(manifest: Manifest, trials: Sequence[TrialContent]) -> dict[str, str]:
    """The parent run's tags. Not params, which MLflow never lets change: a study can grow."""
    tags = {
        "mlflow.note.content": _description(manifest, trials),
        "study": manifest.study,
        "kind": "study",
        "experiment": manifest.experiment,
        "dataset": manifest.dataset,
        "design": ", ".join(manifest.design),
        "metric": manifest.metric["name"],
        "goal": manifest.metric["goal"],
        "seeds": ", ".join(map(str, manifest.seeds)),
        "commit": _commit(manifest.provenance),
        FORMAT: FORMAT_VERSION,
    }
    if "commit" in (tool := manifest.provenance.get(TOOL, {})):
        tags[TOOL_COMMIT] = _commit(tool)
    return fitted_labels("tag", tags, MAX_TAG)


def study_points(trials: Sequence[TrialContent], time: int) -> list[Point]:
    """The parent run's metrics: how far the study is and what it has cost.

    `study/wall_seconds` is the time from the first start to the last end; `study/trial_seconds` the
    sum of what each trial takes by itself. Their step is the number of trials that have ended.
    """
    ended = [trial.outcome for trial in trials if trial.outcome]
    begun = min((trial.start() for trial in trials if trial.outcome), default=0)
    finished = max((trial.finished for trial in trials if trial.finished is not None), default=0)
    values = {
        "study/trials": len(trials),
        "study/complete": sum(outcome.state == "COMPLETE" for outcome in ended),
        "study/failed": sum(outcome.state == "FAILED" for outcome in ended),
        "study/wall_seconds": max(0, finished - begun) / 1000,
        "study/trial_seconds": sum(outcome.wall_seconds for outcome in ended),
    }
    return [point(name, value, time, len(ended)) for name, value in values.items()]


def status_of(trials: Sequence[TrialContent], is_running: bool) -> str:
    """The status in MLflow of what stands for these trials together."""
    if all(trial.outcome for trial in trials):
        return "FINISHED"
    return "RUNNING" if is_running else "KILLED"


def records_digest(records: list[Record]) -> str:
    """A hash of the epochs of records and what was measured, times excluded."""
    held = [(record["phase"], record["epoch"], record["metrics"]) for record in records]
    return short_digest(json.dumps(held, sort_keys=True))


def short_digest(text: str | bytes) -> str:
    """The first half of a text's SHA-256."""
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return hashlib.sha256(content).hexdigest()[:16]


def record_points(records: list[Record], start: int) -> dict[tuple[str, int], Point]:
    """(metric, epoch) -> point. Of a metric measured twice in one epoch, the last value counts.

    A record's time is `start` (milliseconds) plus the seconds of the records up to it, as if the
    trial had computed all of its epochs itself. So the points are the same whenever they are made,
    and MLflow drops those that it has. Pre-training counts its own epochs: its metrics get names of
    their own.
    """
    time, points = start, {}
    for record in records:
        time += round(1000 * record.get("seconds", 0.0))
        prefix = "pretrain/" if record["phase"] == "pretrain" else ""
        for metric, value in record["metrics"].items():
            name = metric if metric.startswith(prefix) else prefix + metric
            points[name, record["epoch"]] = point(name, value, time, record["epoch"])
    return points


def milliseconds(moment: str) -> int | None:
    """A time in ISO 8601 as MLflow counts; None for ""."""
    return round(1000 * datetime.fromisoformat(moment).timestamp()) if moment else None


def now() -> int:
    """The current time as MLflow counts: milliseconds since 1970."""
    return round(1000 * time.time())


def begun_at(outcome: Outcome) -> int | None:
    """When a trial began, as MLflow counts; None if it is not known.

    Of its first epoch only the end is on record.
    """
    started, finished = milliseconds(outcome.started), milliseconds(outcome.finished)
    if finished is None:
        return started
    begun = max(0, finished - round(1000 * outcome.wall_seconds))
    return begun if started is None else min(started, begun)


def ended_at(folder: RunFolder, trial: str, outcome: Outcome) -> int:
    """When a trial ended, as MLflow counts; when its outcome was written, if no record tells."""
    told = milliseconds(outcome.finished)
    path = folder.trial_path(trial) / "outcome.json"
    return round(1000 * path.stat().st_mtime) if told is None else told


def finite(value: float) -> float:
    """The value as a float; NaN, which is a gap in the chart, if that is infinite.

    MLflow stores the largest float instead, which flattens the chart.
    """
    try:
        number = float(value)
    except OverflowError:
        # the value is a whole number
        return math.nan
    return number if math.isfinite(number) else math.nan


def rounded(name: str, value: float) -> float:
    """A metric's value without the digits that mean nothing; a whole number as it is.

    >>> rounded("test/top1", 71.66666666666667), rounded("train/loss", 0.012345678)
    (71.6667, 0.0123457)
    """
    if not math.isfinite(value) or value.is_integer():
        return value
    return round(value, DECIMALS) if is_percent(name) else float(f"{value:.{DIGITS}g}")


def _outcome_points(records: list[Record], outcome: Outcome, end: int) -> Iterator[Point]:
    """What is known only at a trial's end: its best values."""
    step = records[-1]["epoch"] if records else 0
    last = records[-1]["metrics"] if records else {}
    for name, value in outcome.metrics.items():
        if name not in last:
            yield point(name, value, end, step)


def _blank_points(
    records: list[Record], outcome: Outcome, columns: Collection[str], time: int
) -> Iterator[Point]:
    """A gap after the last value of each metric that is blank in the trial's row of results.csv.

    MLflow's tables show the last value, which is that of another epoch, or of a trial that failed.
    """
    measured = dict.fromkeys(
        name for record in records if record["phase"] != "pretrain" for name in record["metrics"]
    )
    for name in measured:
        if name not in outcome.metrics and (outcome.state == "FAILED" or name in columns):
            yield point(name, math.nan, time, records[-1]["epoch"])


def _description(manifest: Manifest, trials: Sequence[TrialContent]) -> str:
    """Markdown, shown at the head of the parent run's page."""
    metric = manifest.metric["name"]
    values = defaultdict(list)
    measured: set[str] = set()
    for trial in trials:
        metrics = trial.outcome.metrics if trial.outcome else {}
        measured |= metrics.keys()
        if metric in metrics:
            values[trial.spec.arm].append(metrics[metric])
    head = f"{manifest.title}; dataset {manifest.dataset}; commit {_commit(manifest.provenance)}"
    lines = [manifest.question, "", head]
    if values:
        rows = [f"| {arm} | {len(found)} | {over_seeds(found)} |" for arm, found in values.items()]
        lines += ["", f"| arm | seeds | {metric} |", "| --- | --- | --- |", *rows[:MAX_ROWS]]
        lines += ["", f"and {len(rows) - MAX_ROWS} more"] if len(rows) > MAX_ROWS else []
    groups = {name.partition("/")[0] for name in measured}
    # what own code calls so may be anything
    known = GROUPS if manifest.subject in BUILT_IN else {}
    meanings = [f"`{group}/` {known[group]}" for group in known if group in groups]
    lines += ["", f"Metrics, by epoch: {'; '.join(meanings)}."] if meanings else []
    return "\n".join(lines)


def _commit(known: Mapping[str, Any]) -> str:
    """The commit as a tag; `known` as in a manifest's provenance."""
    commit = str(known.get("commit", "unknown") or "none (not under git)")
    return f"{commit} (with uncommitted changes)" if known.get("dirty") else commit


def point(name: str, value: float, time: int, step: int) -> Point:
    """A point as MLflow takes it: rounded, finite, with a step that a database holds."""
    return Point(name, rounded(name, finite(value)), time, max(-LAST_STEP, min(step, LAST_STEP)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


REFUSED = re.compile(r"[^\w./: -]")
# the most characters of a name, a param's value, a tag's value
MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 8000
# how many names a message shows
SHOWN = 3


@functools.cache
def fitted_name(name: str) -> str:
    """The name of a metric, param or tag in MLflow."""
    is_path = posixpath.normpath(name) == name != "." and not name.startswith(("/", ".."))
    if is_path and len(name) <= MAX_NAME and not REFUSED.search(name):
        return name
    parts = (part.strip(".") for part in REFUSED.sub("_", name).split("/"))
    ending = f"-{short_digest(name)[:8]}"
    return "/".join(filter(None, parts))[: MAX_NAME - len(ending)] + ending


def fitted_names(kind: str, names: Iterable[str]) -> dict[str, str]:
    """Name -> its name in MLflow. A message lists those that differ.

    kind: what they name, for the message.
    """
    fitted = {name: fitted_name(name) for name in sorted(set(names))}
    changed = [f"{_shown(name)} is {_shown(new)}" for name, new in fitted.items() if name != new]
    if changed:
        more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        warn_once(
            f"names of {kind} that MLflow does not take are changed there: "
            f"{', '.join(changed[:SHOWN])}{more}"
        )
    return fitted


def fitted_labels(kind: str, texts: Mapping[str, str], limit: int) -> dict[str, str]:
    """Texts by name, names and texts as MLflow takes them."""
    names = fitted_names(f"{kind}s", texts)
    return {
        names[name]: fitted_text(text, limit, f"{kind} {_shown(name)}")
        for name, text in texts.items()
    }


def fitted_text(text: str, limit: int, what: str) -> str:
    """The text without what no database holds, shortened to `limit` characters."""
    text = _storable(text)
    if len(text) <= limit:
        return text
    note = f"... ({len(text)} characters, {short_digest(text)[:8]})"
    warn_once(
        f"{what} has more than the {limit} characters that MLflow takes; "
        "it is shortened there, and whole in the study's files"
    )
    return text[: limit - len(note)] + note


def _shown(name: str) -> str:
    name = _storable(name)
    return repr(name if len(name) <= 60 else f"{name[:40]}...{name[-12:]}")


def _storable(text: str) -> str:
    """Without lone surrogates, which no encoding has, and zeros, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
