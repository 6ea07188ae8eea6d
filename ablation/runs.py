"""The files that a study leaves in `runs/<study>/`, and how to read and write them.

    study.json                  the manifest: what was asked, the trials, provenance (see `Manifest`)
    <trial>/config.yaml         the trial's full configuration
    <trial>/metrics.jsonl       one subject record a line (ablation.subject.Record), in chain order
    <trial>/outcome.json        how it ended (see `Outcome`); absent while it waits or runs
    <trial>/stdout.log          what the training code printed

Tracker and report read these files and nothing else, so that both can be made again at any time.
Whole files are replaced atomically; `metrics.jsonl` only grows, and a torn last line is ignored.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ablation.files import replace

FORMAT = 1


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
    factors: dict[str, dict[str, dict[str, Any]]]  # factor -> level -> overrides; the first level is the reference
    seeds: list[int]
    baselines: list[str]
    reference: str | None  # the baseline that differences are taken to
    claims: list[dict[str, Any]]
    trials: list[TrialSpec]
    published: list[dict[str, Any]]  # {method, top1, protocol, source}
    facts: dict[str, Any]  # from Subject.describe: class_counts, data_fingerprint, device, ...
    provenance: dict[str, Any]  # commit, dirty, versions, platform, command
    config: dict[str, Any] = field(default_factory=dict)  # of the experiment, before any factor: full and nested
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


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all."""
    replace(path, text.encode())


class RunFolder:
    """Reads and writes `runs/<study>/`."""

    def __init__(self, path: Path):
        self.path = Path(path)

    def exists(self) -> bool:
        return (self.path / "study.json").is_file()

    def write_manifest(self, manifest: Manifest) -> None:
        write_atomically(self.path / "study.json", json.dumps(asdict(manifest), indent=1) + "\n")

    def manifest(self) -> Manifest:
        raw = json.loads((self.path / "study.json").read_text(encoding="utf-8"))
        return Manifest(**{**raw, "trials": [TrialSpec(**trial) for trial in raw["trials"]]})

    def trial_path(self, trial: str) -> Path:
        return self.path / trial

    def write_config(self, spec: TrialSpec, config: dict[str, Any]) -> None:
        head = {"trial": spec.trial, "arm": spec.arm, "levels": spec.levels, "seed": spec.seed, "key": spec.key}
        text = yaml.safe_dump({**head, "config": config}, sort_keys=False, allow_unicode=True)
        write_atomically(self.trial_path(spec.trial) / "config.yaml", text)

    def append_record(self, trial: str, record: dict[str, Any]) -> None:
        path = self.trial_path(trial) / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_records(self, trial: str, records: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.trial_path(trial) / "metrics.jsonl", text)

    def records(self, trial: str) -> list[dict[str, Any]]:
        path = self.trial_path(trial) / "metrics.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # a torn last line has no newline
            records.append(json.loads(line))
        return records

    def write_outcome(self, trial: str, outcome: Outcome) -> None:
        text = json.dumps(asdict(outcome), indent=1) + "\n"
        write_atomically(self.trial_path(trial) / "outcome.json", text)

    def outcome(self, trial: str) -> Outcome | None:
        path = self.trial_path(trial) / "outcome.json"
        return Outcome(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def ending(self, spec: TrialSpec) -> Outcome | None:
        """The outcome of this very trial, by its key."""
        outcome = self.outcome(spec.trial)
        return outcome if outcome is not None and outcome.key == spec.key else None

    def state(self, spec: TrialSpec, outcome: Outcome | None) -> str:
        """COMPLETE, FAILED, RUNNING (some records) or WAITING, given what `outcome` read; that of another key is not this trial's."""
        if outcome is not None:
            return outcome.state if outcome.key in ("", spec.key) else "WAITING"
        return "RUNNING" if (self.trial_path(spec.trial) / "metrics.jsonl").is_file() else "WAITING"
