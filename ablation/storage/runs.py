"""The files that a study leaves in `runs/<study>/`, and how to read and write them.

    study.json                  the manifest: what was asked, trials, provenance (see `Manifest`)
    <trial>/config.yaml         the trial's full configuration
    <trial>/metrics.jsonl       a record a line (ablation.subject.protocol.Record), in chain order
    <trial>/outcome.json        how it ended (see `Outcome`); absent while it waits or runs
    <trial>/stdout.log          what the training code printed
    <trial>/settings.json       settings of a command that asked for a file of them
    <trial>/work/               files of a function or command, until the trial has ended
    <trial>/files/              those of a command that it has named under `keep`

Tracker and report read these files and nothing else, so that both can be made again at any time.
Whole files are replaced atomically; `metrics.jsonl` only grows, and a torn last line is ignored.
Any other damaged file is reported and counts as absent: `ablate run` makes it again, from the cache
as far as possible.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import yaml

from ablation.errors import InputError, Problem
from ablation.formatting import redacted
from ablation.storage.files import (
    UNREADABLE,
    checked,
    checked_metrics,
    checked_record,
    digest,
    is_being_run,
    warn_once,
)
from ablation.storage.files import replace as replace_file
from ablation.subject.own import unfinished
from ablation.subject.protocol import Record

FORMAT = 1
# the tool's name as a package, and in a manifest's provenance
TOOL = "ablate-lt"
# folder of a trial that is removed when the trial has ended
WORK, KEPT = "work", "files"
# what the training code printed, to both streams; bytes of its end
LOG, MAX_PRINTED = "stdout.log", 1 << 20
# A key of outcome.json, and the files whose checksums it holds, as they were when the trial ended.
SUMS, SUMMED = "sha256", ("config.yaml", "metrics.jsonl")

SEARCH, UNTUNED = "search", "untuned"
"""Kinds of trials: of a search; of an arm or baseline without what its search found."""

# the first of results.csv; factors and metrics follow
IDENTITY = ("trial", "arm", "kind", "seed", "state")
# the last of results.csv
COSTS = ("epochs_trained", "epochs_shared", "wall_seconds", "error")


def studies(runs: Path) -> list[str]:
    """Names of the studies in the folder `runs`, sorted."""
    return sorted(path.parent.name for path in runs.glob("*/study.json"))


class Metric(TypedDict):
    """The primary metric of a study."""

    name: str
    # "maximize" | "minimize"
    goal: str


class Expectation(TypedDict):
    """What a claim expects of one metric."""

    metric: str
    # of a difference "up", "down" or "none"; of one side's mean "above" or "below"
    direction: str
    # with "none": how far the metric may change, in its unit
    within: NotRequired[float]
    # with "above" and "below": the number that the mean is compared with, in the metric's unit
    value: NotRequired[float]


class Claim(TypedDict):
    """What a study is expected to show, and by which contrast; see `ablation.grid.design`."""

    id: str
    # a sentence
    says: str
    # {factor, from, to} or {arm, minus}, or of one side {factor, level} or {arm} -> its name
    contrast: dict[str, str]
    expects: list[Expectation]


class Failure(TypedDict):
    """Why a trial failed."""

    # of an exception, its class: `ValueError`, `Diverged`; else what happened: `TimeLimit`
    type: str
    message: str
    # "" where no exception was raised
    traceback: str


def failure(type_: str, message: str, traceback: str = "") -> Failure:
    """Make a failure; without an exception, there is no traceback."""
    return {"type": type_, "message": message, "traceback": traceback}


@dataclass(frozen=True)
class TrialSpec:
    """One cell of the design under one seed."""

    # unique within the study and safe as a folder name, e.g. "lr_split+warmup--s0"
    trial: str
    # e.g. "lr_split+warmup", or a baseline's name
    arm: str
    # "arm" | "baseline" | "untuned": an arm or baseline without the settings of its search |
    # "search": of a search
    kind: str
    # factor -> level; {} for baselines
    levels: dict[str, str]
    seed: int
    # content hash of settings, seed, data and source
    key: str
    # dotted key -> value, experiment and levels merged
    settings: dict[str, Any]
    epochs_planned: int
    # links of its chain that no earlier trial of the plan has
    epochs_trained: int
    # links that it shares with an earlier trial of the plan
    epochs_shared: int


def of_one_link(specs: Iterable[TrialSpec]) -> bool:
    """Whether each trial is one link, as those of own code are: they are told, and no epochs."""
    return all(spec.epochs_planned == 1 for spec in specs)


class PlannedArm(TypedDict):
    """An arm or baseline, as `TrialSpec` has it."""

    levels: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class FirstPlan:
    """What verdicts rest on, as it was planned when results were first seen; see `Manifest`."""

    looks: list[int]
    # all that were planned; where these are not known, those that trials had
    seeds: list[int]
    claims: list[Claim]
    # factor -> its levels, in order; {} if not known
    levels: dict[str, list[str]] = field(default_factory=dict)
    # of arms and baselines that had no results then, as they are now; {} if not known
    arms: dict[str, PlannedArm] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What was asked for: everything that the report says that is not a result."""

    study: str
    experiment: str
    # of the experiment
    title: str
    question: str
    # key into experiments/published.yaml
    dataset: str
    design: list[str]
    metric: Metric
    # Factor -> level -> overrides; the first level is the reference.
    factors: dict[str, dict[str, dict[str, Any]]]
    seeds: list[int]
    baselines: list[str]
    # the baseline that differences are taken to
    reference: str | None
    claims: list[Claim]
    trials: list[TrialSpec]
    # {method, top1, protocol, source}
    published: list[dict[str, Any]]
    # from Subject.describe: class_counts, data_fingerprint, device, ...
    facts: dict[str, Any]
    # commit, dirty, versions, platform, command; version, commit and dirty of `TOOL`
    provenance: dict[str, Any]
    # Of the experiment, before any factor: full and nested.
    config: dict[str, Any] = field(default_factory=dict)
    # as the experiment names it
    subject: str = "core"
    # {grid, experiment, overrides, seeds}, as `ablate run` was called, and until_decided where it
    # was; {} if not known.
    asked: dict[str, Any] = field(default_factory=dict)
    # how many seeds it looks at, increasing, to add more where claims are not decided; [] for a
    # fixed number
    looks: list[int] = field(default_factory=list)
    # whether looks are to decide every main effect, too
    decides_effects: bool = False
    # all seeds of its grid, where those above are the first; [] if not known
    planned_seeds: list[int] = field(default_factory=list)
    # of them, where their number is fixed, those that have results and are not among `seeds`
    left_out: list[int] = field(default_factory=list)
    # where it has other looks, seeds, claims or arms since; else None
    first_plan: FirstPlan | None = None
    # how many were complete before it was first planned; 0 where these are of one seed at most
    known_trials: int = 0
    # fingerprints of other versions of its code that have given results of two seeds
    earlier_code: list[str] = field(default_factory=list)
    # How its arms were tuned, see `ablation.search.tuning.search_found`; {} if they were not.
    search: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    # "COMPLETE" | "FAILED"
    state: str
    # of the last record, plus best/<name> for the metrics tracked so
    metrics: dict[str, float]
    # over the whole chain, shared links included: the cost of the trial alone
    wall_seconds: float
    # of a failed trial
    error: Failure | None = None
    # UTC, ISO 8601
    started: str = ""
    finished: str = ""
    # of the last record
    vectors: dict[str, list[float]] = field(default_factory=dict)
    # of the last record, see ablation.subject.protocol.Record; "" where it has none
    hits: str = ""
    # of the trial that ended so; another key: the trial has changed since
    key: str = ""


class Damaged(InputError, ValueError):
    """A study's manifest is damaged; nothing is known of the study before it is written again."""


class RunFolder:
    """Reads and writes `runs/<study>/`."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is a manifest. A damaged one is reported and counts as absent."""
        return self.known_manifest() is not None

    def known_manifest(self) -> Manifest | None:
        """The manifest; None if there is none. A damaged one is reported and counts as absent."""
        try:
            return self.manifest()
        except FileNotFoundError:
            return None
        except Damaged as error:
            warn_once(str(error))
            return None

    def is_being_run(self) -> bool:
        """Whether a process on this machine is running the study."""
        return is_being_run(self.path)

    def has_results(self) -> bool:
        """Whether a trial is complete, of the manifest or not; a damaged outcome may be of one."""
        return any(found is None or found.state == "COMPLETE" for _, found in self._outcomes())

    def complete(self) -> dict[str, str]:
        """Trial -> its key, of all that are complete, of the manifest or not."""
        return {
            name: found.key
            for name, found in self._outcomes()
            if found is not None and found.state == "COMPLETE"
        }

    def _outcomes(self) -> Iterator[tuple[str, Outcome | None]]:
        """Trial and outcome, None if damaged, of all that have ended, of the manifest or not."""
        for path in sorted(self.path.glob("*/outcome.json")):
            yield path.parent.name, self.outcome(path.parent.name)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace study.json."""
        write_atomically(self.path / "study.json", json.dumps(asdict(manifest), indent=1) + "\n")

    def manifest(self) -> Manifest:
        """Read study.json. Raises FileNotFoundError, or Damaged if it cannot be read."""
        path = self.path / "study.json"
        try:
            manifest = checked(Manifest, _with_plan(json.loads(path.read_text(encoding="utf-8"))))
            if not {"name", "goal"} <= set(manifest.metric):
                raise ValueError("metric has no name or no goal")
            first = manifest.first_plan or FirstPlan([], [], [])
            if not all(_is_claim(claim) for claim in [*manifest.claims, *first.claims]):
                raise ValueError("claims has what is no claim")
            if not all(_is_arm(arm) for arm in first.arms.values()):
                raise ValueError("arms has what is no arm")
            return replace(manifest, trials=[checked(TrialSpec, raw) for raw in manifest.trials])
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            message = (
                f"is damaged ({error}); "
                "`ablate run` with the study's grid writes it again, and keeps the trials"
            )
            raise Damaged([Problem(str(path), "", message)]) from None

    def trial_path(self, trial: str) -> Path:
        """The folder of a trial."""
        return self.path / trial

    def write_config(self, spec: TrialSpec, config: Mapping[str, Any]) -> None:
        """Replace a trial's config.yaml."""
        head = {name: getattr(spec, name) for name in ("trial", "arm", "levels", "seed", "key")}
        told = {**head, "config": dict(config)}
        text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
        write_atomically(self.trial_path(spec.trial) / "config.yaml", text)

    def remove_work(self, trial: str, keep: Sequence[str] = ()) -> None:
        """Remove the folder that own code had while the trial ran, but for what is to be kept.

        keep: patterns of files and folders in it
        """
        work, kept = (self.trial_path(trial) / name for name in (WORK, KEPT))
        new, old = (self.trial_path(trial) / name for name in (".files", ".work"))
        if keep and work.is_dir():
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            for pattern in keep:
                files = _files_in(work, pattern)
                if not files:
                    warn_once(f"keep: a trial has left no file '{pattern}'")
                for file in files:
                    _share(file, new / file.relative_to(work))
            self.remove_kept(trial)
            new.rename(kept)
        # a part of it, left by a kill, would be taken for all
        if work.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            work.rename(old)
        shutil.rmtree(old, ignore_errors=True)

    def remove_kept(self, trial: str) -> None:
        """Remove the files that were kept of a trial."""
        shutil.rmtree(self.trial_path(trial) / KEPT, ignore_errors=True)

    def printed(self, trial: str) -> str:
        """The end of what a trial has printed; "" where it has no log."""
        try:
            with (self.trial_path(trial) / LOG).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_PRINTED))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def append_record(self, trial: str, record: Record) -> None:
        """Add a line to a trial's metrics.jsonl."""
        path = self.trial_path(trial) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_records(self, trial: str, records: Iterable[Record]) -> None:
        """Replace a trial's metrics.jsonl."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.trial_path(trial) / "metrics.jsonl", text)

    def records(self, trial: str) -> list[Record]:
        """The records, up to the first that is damaged."""
        records, why = self._records(trial)
        if why:
            warn_once(
                f"{self.trial_path(trial) / 'metrics.jsonl'}: {why}; "
                "`ablate run` makes the file again, and until then the rest is missing"
            )
        return records

    def last_record(self, trial: str) -> Record | None:
        """The last record of a file that is whole; None where there is none, or it is damaged."""
        try:
            lines = (self.trial_path(trial) / "metrics.jsonl").read_bytes().split(b"\n")
            return checked_record(lines[-2]) if len(lines) > 1 else None
        except UNREADABLE:
            return None

    def write_outcome(self, trial: str, outcome: Outcome) -> None:
        """Write outcome.json. The trial's other files must have their final content."""
        sums = {name: digest(self.trial_path(trial) / name) for name in SUMMED}
        text = json.dumps({**asdict(outcome), SUMS: sums}, indent=1) + "\n"
        write_atomically(self.trial_path(trial) / "outcome.json", text)

    def forget_outcome(self, trial: str) -> None:
        """Remove a trial's outcome, if it has one: what is not in the cache is run again."""
        (self.trial_path(trial) / "outcome.json").unlink(missing_ok=True)

    def outcome(self, trial: str) -> Outcome | None:
        """Read outcome.json; None if there is none, or a damaged one, which is reported."""
        return self._outcome(trial)[0]

    def ending(self, spec: TrialSpec) -> Outcome | None:
        """The outcome of this trial, by its key; of a complete one if its records are whole."""
        outcome, sums = self._outcome(spec.trial)
        if outcome is None or outcome.key != spec.key:
            return None
        if outcome.state == "COMPLETE" and self._changed(spec.trial, sums, ("metrics.jsonl",)):
            path = self.trial_path(spec.trial) / "metrics.jsonl"
            warn_once(f"{path} is not what the trial left; `ablate run` makes it again")
            return None
        return outcome

    def damage(self, trial: str) -> dict[str, str]:
        """File -> what is wrong: it cannot be read, or is not what it was when the trial ended."""
        _, sums, why = self._ending(trial)
        changed = self._changed(trial, sums)
        # one that is what the trial left can be read
        is_known = bool(sums.get("metrics.jsonl")) and "metrics.jsonl" not in changed
        unreadable = {
            "outcome.json": why,
            "metrics.jsonl": "" if is_known else self._records(trial)[1],
        }
        return dict.fromkeys(changed, "is not what the trial left") | {
            name: why for name, why in unreadable.items() if why
        }

    def state(self, spec: TrialSpec, outcome: Outcome | None, is_running: bool = True) -> str:
        """COMPLETE, FAILED, RUNNING (some records) or WAITING.

        outcome: what `outcome` read. That of another key is not this trial's.
        is_running: whether any process runs the study; if none does, a trial with some records was
        interrupted, and waits.
        """
        if outcome is not None:
            return outcome.state if outcome.key in ("", spec.key) else "WAITING"
        has_begun = (self.trial_path(spec.trial) / "metrics.jsonl").is_file()
        return "RUNNING" if is_running and has_begun else "WAITING"

    def _outcome(self, trial: str) -> tuple[Outcome | None, dict[str, str | None]]:
        """As `outcome`, and the checksums of the files beside it."""
        outcome, sums, why = self._ending(trial)
        if why:
            warn_once(
                f"{self.trial_path(trial) / 'outcome.json'} {why}, and counts as absent; "
                "`ablate run` closes the trial again"
            )
        return outcome, sums

    def _changed(
        self, trial: str, sums: Mapping[str, str | None], names: Sequence[str] = SUMMED
    ) -> list[str]:
        """Which of these files are not what they were when the trial ended."""
        path = self.trial_path(trial)
        return [name for name in names if sums.get(name) not in (None, digest(path / name))]

    def _records(self, trial: str) -> tuple[list[Record], str]:
        """The records up to the first that is damaged, and what is wrong with that."""
        records: list[Record] = []
        try:
            lines = (self.trial_path(trial) / "metrics.jsonl").read_bytes().split(b"\n")
            # a torn last line has no newline
            for line in lines[:-1]:
                records.append(checked_record(line))
        except FileNotFoundError:
            pass
        except UNREADABLE as error:
            return records, f"line {len(records) + 1} is damaged ({error})"
        return records, ""

    def _ending(self, trial: str) -> tuple[Outcome | None, dict[str, str | None], str]:
        """The outcome, the checksums of the files beside it at that time, and what is wrong."""
        try:
            raw = json.loads((self.trial_path(trial) / "outcome.json").read_text(encoding="utf-8"))
            sums = raw.pop(SUMS, {}) if isinstance(raw, dict) else {}
            outcome = checked(Outcome, raw)
            checked_metrics(outcome.metrics)
            if outcome.state not in ("COMPLETE", "FAILED") or not isinstance(sums, dict):
                raise ValueError("it tells of no trial's end")
            error = outcome.error or failure("", "")
            are_texts = all(isinstance(text, str) for text in error.values())
            if not (are_texts and set(error) >= Failure.__required_keys__):
                raise ValueError("its error is none")
        except FileNotFoundError:
            return None, {}, ""
        except UNREADABLE as error:
            return None, {}, f"is damaged ({error})"
        return outcome, sums, ""


def _with_plan(raw: Any) -> Any:
    """What study.json holds, its `first_plan` checked.

    Earlier versions kept `first_seeds`, of looks and seeds alone: the claims count as the first.
    """
    if not isinstance(raw, dict):
        return raw
    if isinstance(seeds := raw.get("first_seeds"), dict):
        del raw["first_seeds"]
        raw["first_plan"] = {**seeds, "claims": raw.get("claims")} if seeds else None
    first = raw.get("first_plan")
    return raw if first is None else {**raw, "first_plan": checked(FirstPlan, first)}


def _is_arm(raw: Any) -> bool:
    return isinstance(raw, dict) and isinstance(raw.get("levels"), dict) and "settings" in raw


def _is_claim(raw: Any) -> bool:
    return isinstance(raw, dict) and raw.keys() >= {"id", "contrast", "expects"}


def _files_in(folder: Path, pattern: str) -> set[Path]:
    """The files of a pattern, and in folders of it; none that a link brings in from elsewhere."""
    root, found = folder.resolve(), set[Path]()
    for path in folder.glob(pattern):
        # it follows no link to a folder
        within = (Path(place, name) for place, _, names in os.walk(path) for name in names)
        found.update(within if path.is_dir() and not path.is_symlink() else [path])
    return {file for file in found if file.is_file() and file.resolve().is_relative_to(root)}


def _share(file: Path, target: Path) -> None:
    """Have what a file holds at another place, too; a copy where there are no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(file.resolve(), target)
        except OSError:
            shutil.copy2(file, target)


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all."""
    replace_file(path, text.encode())


# failures of trials of which every epoch is there
MISSING = "MissingMetric"
UNSCORED = (MISSING, "NotFinite")


def outcome_of(spec: TrialSpec, records: Sequence[Record], metric: Metric) -> Outcome:
    """The outcome of a complete chain of records: its last epoch, and the best of the metric."""
    own = [record for record in expanded(records) if record["phase"] != "pretrain"]
    name = metric["name"]
    values = [record["metrics"][name] for record in own if name in record["metrics"]]
    if name not in own[-1]["metrics"]:
        held = ", ".join(sorted(own[-1]["metrics"]))
        message = f"the last record does not hold the metric '{name}'; it holds {held or 'none'}"
        unread = own[-1].get("unread")
        if unread is not None and name in unread:
            message += f"; it was printed as {unread[name]}"
        elif unread is not None and not held:
            message += f"; print '{name}=0.5', '{name}: 0.5' or a JSON object"
        if having := [record["epoch"] for record in own if name in record["metrics"]]:
            message += f"; epoch {having[-1]} does: report it for the last epoch, too, or return it"
        return failure_of(spec, records, failure(MISSING, message))
    if not math.isfinite(values[-1]):
        message = f"the metric '{name}' is {values[-1]}"
        return failure_of(spec, records, failure("NotFinite", message))
    # max and min of NaNs follow their order
    finite = [value for value in values if math.isfinite(value)]
    best = max(finite) if metric["goal"] == "maximize" else min(finite)
    times = [record["time"] for record in records if "time" in record]
    return Outcome(
        state="COMPLETE",
        metrics={**own[-1]["metrics"], f"best/{name}": best},
        wall_seconds=sum(record["seconds"] for record in records),
        started=_stamp(min(times)) if times else "",
        finished=_stamp(max(times)) if times else "",
        vectors=own[-1].get("vectors", {}),
        hits=own[-1].get("hits", ""),
        key=spec.key,
    )


def failure_of(spec: TrialSpec, records: Sequence[Record], error: Failure) -> Outcome:
    """The outcome of a trial that left these records and then failed."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    seconds = sum(record["seconds"] for record in records)
    # A library's messages may quote the URL of a database.
    told = failure(error["type"], redacted(error["message"]), redacted(error["traceback"]))
    return Outcome("FAILED", {}, seconds, told, finished=finished, key=spec.key)


def reason(outcome: Outcome) -> str:
    """Why a trial failed."""
    return reason_of(outcome.error or failure("", ""))


def reason_of(error: Failure) -> str:
    """A failure in one line."""
    return f"{error['type']}: {error['message']}"


# `0.1`, `1e-05`, `17`
NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")


def cause(spec: TrialSpec, error: Failure) -> str:
    """What is the same in failures that have one cause: not the trial's name, and no numbers."""
    return NUMBER.sub("0", reason_of(error).replace(spec.trial, ""))


def expanded(records: Iterable[Record]) -> Iterator[Record]:
    """A link that went through several epochs of its own reports them in `history`."""
    for record in records:
        for entry in record.get("history", []):
            if entry["epoch"] < record["epoch"]:
                yield unfinished(entry)
        last = record.copy()
        last.pop("history", None)
        yield last


def up_to(record: Record, epoch: int) -> Record:
    """The record of a link that went through several epochs, had it ended with this one."""
    history = [entry for entry in record["history"] if entry["epoch"] <= epoch]
    return {**record, "epoch": epoch, "metrics": history[-1]["metrics"], "history": history}


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
