"""The files that a study leaves in `runs/<study>/`, and how to read and write them.

    study.json                  the manifest: what was asked, the trials, provenance (see `Manifest`)
    <trial>/config.yaml         the trial's full configuration
    <trial>/metrics.jsonl       one subject record a line (ablation.subject.Record), in chain order
    <trial>/outcome.json        how it ended (see `Outcome`); absent while it waits or runs
    <trial>/stdout.log          what the training code printed

Tracker and report read these files and nothing else, so that both can be made again at any time.
Whole files are replaced atomically; `metrics.jsonl` only grows, and a torn last line is ignored. What is damaged
otherwise is said and counts as absent: `ablate run` makes it again, from the cache as far as that has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ablation.damage import UNREADABLE, checked, checked_metrics, checked_record, digest, say
from ablation.errors import InputError, Problem
from ablation.files import replace
from ablation.lock import is_being_run

FORMAT = 1
SUMS, SUMMED = (
    "sha256",
    ("config.yaml", "metrics.jsonl"),
)  # key of outcome.json: of these files, when the trial ended
ERROR = {"type", "message", "traceback"}


def studies(runs: Path) -> list[str]:
    """Names of the studies in the folder `runs`, sorted."""
    return sorted(path.parent.name for path in runs.glob("*/study.json"))


@dataclass(frozen=True)
class TrialSpec:
    """One cell of the design under one seed."""

    trial: str  # unique within the study and safe as a folder name, e.g. "lr_split+warmup--s0"
    arm: str  # e.g. "lr_split+warmup", or a baseline's name
    kind: str  # "arm" | "baseline"
    levels: dict[str, str]  # factor -> level; {} for baselines
    seed: int
    key: str  # content hash of settings, seed, data and source
    settings: dict[str, Any]  # dotted key -> value, experiment and levels merged
    epochs_planned: int
    epochs_trained: int  # links of its chain that no earlier trial of the plan has
    epochs_shared: int  # links that it shares with an earlier trial of the plan


@dataclass(frozen=True)
class Manifest:
    """What a study is. Everything the report says that is not a result."""

    study: str
    experiment: str
    title: str  # of the experiment
    question: str
    dataset: str  # key into experiments/published.yaml
    design: list[str]
    metric: dict[str, str]  # {name, goal: maximize | minimize}
    factors: dict[
        str, dict[str, dict[str, Any]]
    ]  # factor -> level -> overrides; the first level is the reference
    seeds: list[int]
    baselines: list[str]
    reference: str | None  # the baseline that differences are taken to
    claims: list[dict[str, Any]]
    trials: list[TrialSpec]
    published: list[dict[str, Any]]  # {method, top1, protocol, source}
    facts: dict[str, Any]  # from Subject.describe: class_counts, data_fingerprint, device, ...
    provenance: dict[str, Any]  # commit, dirty, versions, platform, command
    config: dict[str, Any] = field(
        default_factory=dict
    )  # of the experiment, before any factor: full and nested
    subject: str = ""  # as the experiment names it; "" in a manifest of before it was kept
    asked: dict[str, Any] = field(
        default_factory=dict
    )  # {grid, experiment, overrides, seeds}, as `ablate run` was; {} if not known
    format: int = FORMAT


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: str  # "COMPLETE" | "FAILED"
    metrics: dict[str, float]  # of the last record, plus best/<name> for the metrics tracked so
    wall_seconds: float  # over the whole chain, shared links included: the cost of the trial alone
    error: dict[str, str] | None = None  # {type, message, traceback} of a failed trial
    started: str = ""  # UTC, ISO 8601
    finished: str = ""
    vectors: dict[str, list[float]] = field(default_factory=dict)  # of the last record
    hits: str = ""  # of the last record, see ablation.subject.Record; "" where it has none
    key: str = ""  # of the trial that ended so; another key means that the trial has changed since


class Damaged(InputError, ValueError):
    """A study's manifest is damaged; nothing can be told of the study before it is written again."""


class RunFolder:
    """Reads and writes `runs/<study>/`."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether there is a manifest; a damaged one is said, and counts as absent."""
        try:
            self.manifest()
        except FileNotFoundError:
            return False
        except Damaged as error:
            say(str(error))
            return False
        return True

    def is_being_run(self) -> bool:
        """Whether a process on this machine is running the study."""
        return is_being_run(self.path)

    def write_manifest(self, manifest: Manifest) -> None:
        write_atomically(self.path / "study.json", json.dumps(asdict(manifest), indent=1) + "\n")

    def manifest(self) -> Manifest:
        """Raises FileNotFoundError where there is none, and Damaged, naming the file, if it cannot be made out."""
        path = self.path / "study.json"
        try:
            raw = checked(Manifest, json.loads(path.read_text(encoding="utf-8")))
            if not {"name", "goal"} <= set(raw["metric"]):
                raise ValueError("metric has no name or no goal")
            return Manifest(
                **{
                    **raw,
                    "trials": [TrialSpec(**checked(TrialSpec, trial)) for trial in raw["trials"]],
                }
            )
        except FileNotFoundError:
            raise
        except UNREADABLE as error:
            message = f"is damaged ({error}); `ablate run` with the study's grid writes it again, and keeps the trials"
            raise Damaged([Problem(str(path), "", message)]) from None

    def trial_path(self, trial: str) -> Path:
        return self.path / trial

    def write_config(self, spec: TrialSpec, config: Mapping[str, Any]) -> None:
        write_atomically(self.trial_path(spec.trial) / "config.yaml", config_text(spec, config))

    def append_record(self, trial: str, record: dict[str, Any]) -> None:
        path = self.trial_path(trial) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_records(self, trial: str, records: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.trial_path(trial) / "metrics.jsonl", text)

    def records(self, trial: str) -> list[dict[str, Any]]:
        """The records, up to the first that is damaged."""
        records, why = self._records(trial)
        if why:
            say(
                f"{self.trial_path(trial) / 'metrics.jsonl'}: {why}; `ablate run` makes the file again, and until then the rest is missing"
            )
        return records

    def write_outcome(self, trial: str, outcome: Outcome) -> None:
        """To be written when the trial's other files have their final content."""
        sums = {name: digest(self.trial_path(trial) / name) for name in SUMMED}
        text = json.dumps({**asdict(outcome), SUMS: sums}, indent=1) + "\n"
        write_atomically(self.trial_path(trial) / "outcome.json", text)

    def outcome(self, trial: str) -> Outcome | None:
        """None where there is none, or a damaged one, which is said."""
        return self._told_ending(trial)[0]

    def ending(self, spec: TrialSpec) -> Outcome | None:
        """The outcome of this very trial, by its key; that of a complete trial counts with its records alone."""
        outcome, sums = self._told_ending(spec.trial)
        if outcome is None or outcome.key != spec.key:
            return None
        path = self.trial_path(spec.trial) / "metrics.jsonl"
        if outcome.state == "COMPLETE" and sums.get(path.name) not in (None, digest(path)):
            say(f"{path} is not what the trial left; `ablate run` makes it again")
            return None
        return outcome

    def damage(self, trial: str) -> dict[str, str]:
        """File -> what is wrong with it, of those that cannot be read, or are not what they were when the trial ended."""
        _, sums, why = self._ending(trial)
        path = self.trial_path(trial)
        changed = {
            name: "is not what the trial left"
            for name in SUMMED
            if sums.get(name) not in (None, digest(path / name))
        }
        found = {"outcome.json": why, "metrics.jsonl": self._records(trial)[1]}
        return changed | {name: what for name, what in found.items() if what}

    def state(self, spec: TrialSpec, outcome: Outcome | None, is_running: bool = True) -> str:
        """COMPLETE, FAILED, RUNNING (some records) or WAITING, given what `outcome` read; that of another key is not this trial's.

        is_running: whether any process runs the study; if none does, a trial with some records was interrupted, and waits.
        """
        if outcome is not None:
            return outcome.state if outcome.key in ("", spec.key) else "WAITING"
        return (
            "RUNNING"
            if is_running and (self.trial_path(spec.trial) / "metrics.jsonl").is_file()
            else "WAITING"
        )

    def _records(self, trial: str) -> tuple[list[dict[str, Any]], str]:
        """The records up to the first that is damaged, and what is wrong with that."""
        records: list[dict[str, Any]] = []
        try:
            lines = (
                (self.trial_path(trial) / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
            )  # a torn last line has no newline
            for line in lines:
                records.append(checked_record(line))
        except FileNotFoundError:
            pass
        except UNREADABLE as error:
            return records, f"line {len(records) + 1} is damaged ({error})"
        return records, ""

    def _told_ending(self, trial: str) -> tuple[Outcome | None, dict[str, str | None]]:
        outcome, sums, why = self._ending(trial)
        if why:
            say(
                f"{self.trial_path(trial) / 'outcome.json'} {why}, and counts as absent; `ablate run` closes the trial again"
            )
        return outcome, sums

    def _ending(self, trial: str) -> tuple[Outcome | None, dict[str, str | None], str]:
        """The outcome, the sums of the files beside it when it was written ({} if before they were kept), and what is wrong."""
        try:
            raw = json.loads((self.trial_path(trial) / "outcome.json").read_text(encoding="utf-8"))
            sums = raw.pop(SUMS, {}) if isinstance(raw, dict) else {}
            outcome = Outcome(**checked(Outcome, raw))
            checked_metrics(outcome.metrics)
            if outcome.state not in ("COMPLETE", "FAILED") or not isinstance(sums, dict):
                raise ValueError("it tells of no trial's end")
            if outcome.error is not None and not (
                ERROR <= set(outcome.error)
                and all(isinstance(text, str) for text in outcome.error.values())
            ):
                raise ValueError("its error is none")
        except FileNotFoundError:
            return None, {}, ""
        except UNREADABLE as error:
            return None, {}, f"is damaged ({error})"
        return outcome, sums, ""


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all."""
    replace(path, text.encode())


def config_text(spec: TrialSpec, config: Mapping[str, Any]) -> str:
    """What a trial's config.yaml says."""
    head = {
        "trial": spec.trial,
        "arm": spec.arm,
        "levels": spec.levels,
        "seed": spec.seed,
        "key": spec.key,
    }
    return yaml.safe_dump({**head, "config": dict(config)}, sort_keys=False, allow_unicode=True)
