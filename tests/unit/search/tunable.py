"""A subject with a planted best rate, whose epochs cost nothing; and a project that tunes it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
from toy_study import ToyStudy

from ablation.reporting import figures
from ablation.study import opening, running
from ablation.study.closing import Closing
from ablation.subject.protocol import Fault, Link

N_EPOCHS = 9
KEYS = {"method", "rate", "mode", "validation", "noise", "epochs"}
DEFAULTS = {"method": "plain", "rate": 1e-3, "mode": "soft", "validation": 0, "noise": 0.3}
# method -> the rate that is best for it, and the accuracy with that
PLANTED = {"plain": (1e-3, 70.0), "other": (1e-1, 80.0), "same": (1e-3, 70.0)}


class Tunable:
    """Accuracy falls with the distance of `rate` from what is best for `method`.

    A mode `broken` diverges; `unfit` does not go with method `other`. `noise` is that of the
    metric, by seed and settings.
    """

    def check(self, settings):
        faults = [Fault(key, f"unknown setting '{key}'") for key in settings.keys() - KEYS]
        rate = settings.get("rate", 1.0)
        if not isinstance(rate, int | float) or rate <= 0:
            faults.append(Fault("rate", f"{rate} is not above 0"))
        if settings.get("mode") == "unfit" and settings.get("method") == "other":
            faults.append(Fault("mode", "'unfit' does not go with method other"))
        return faults

    def resolve(self, settings):
        return DEFAULTS | dict(settings)

    def baselines(self):
        return {"nothing": {"method": "same"}}

    def describe(self, settings):
        return {}

    def metrics(self, settings):
        return {self._metric(settings)}

    def ignored(self, settings, keys):
        return [key for key in keys if key == "mode" and settings.get("method") == "plain"]

    def counts_with(self, settings, key):
        return None

    def effective(self, settings):
        config = self.resolve(settings)
        return json.dumps([config[key] for key in sorted(DEFAULTS)])

    def chain(self, settings, seed, records):
        config, links = self.resolve(settings), []
        for epoch in range(1, config.get("epochs", N_EPOCHS) + 1):
            told = (self.effective(settings), seed, epoch, links[-1].key if links else "")
            # the first three epochs depend on the seed alone
            told = (seed, epoch) if epoch <= 3 else told
            key = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
            links.append(Link(key, "joint", epoch, 1.0))
        return links

    def advance(self, settings, seed, until, store, report):
        for link in self.chain(settings, seed, None):
            if store.load("record", link.key) is None:
                if settings.get("mode") == "broken" and link.epoch > 3:
                    raise ArithmeticError("too much")
                metrics = {self._metric(settings): self.accuracy(settings, seed, link.epoch)}
                record = {
                    "phase": "joint", "epoch": link.epoch, "seconds": 1.0, "time": 0.0,
                    "metrics": metrics, "vectors": {},
                }  # fmt: skip
                store.save("record", link.key, json.dumps(record).encode(), 1.0)
                report(link.key, record)
            if link.key == until:
                store.save("state", link.key, b"checkpoint", 1.0)
                return

    def _metric(self, settings):
        return "validation/top1" if settings.get("validation") else "test/top1"

    def accuracy(self, settings, seed, epoch):
        config = self.resolve(settings)
        best, top = PLANTED[config["method"]]
        told = repr((seed, self.effective(settings), "noise"))
        digest = hashlib.sha256(told.encode()).digest()
        uniform = (int.from_bytes(digest[:8], "big") + 1) / (2**64 + 2)
        angle = 2 * math.pi * int.from_bytes(digest[8:16], "big") / 2**64
        noise = config["noise"] * math.sqrt(-2 * math.log(uniform)) * math.cos(angle)
        seeds = 3 * math.sin(seed + 1)
        return top - 10 * abs(math.log10(config["rate"] / best)) + seeds + noise + epoch / 10


SEARCH = """
search:
  space:
    rate: {low: 1.0e-5, high: 1.0, log: true}
    mode: {choices: [soft, hard]}
  trials: 8
  metric: validation/top1
  pruner: {name: hyperband, min_epochs: 2}
  settings: {validation: 1}
"""
GRID = """
study: tune
experiment: nothing
metric: {name: test/top1, goal: maximize}
seeds: 4
factors:
  method: {plain: {method: plain}, other: {method: other}}
claims:
  - id: other-is-better
    says: The other method is better.
    contrast: {factor: method, from: plain, to: other}
    expects: [{metric: test/top1, direction: up}]
"""


class TunedProject:
    """A project in a folder, run in the test's own process.

    Reports take a second each, so none is written unless `reports` asks for one without figures.
    """

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        grid: str = GRID + SEARCH,
        reports: bool = False,
    ):
        self.root, self.subject = root, Tunable()
        root.mkdir(exist_ok=True)
        (root / "nothing.yaml").write_text("title: Nothing\nsubject: toy:toy\n")
        self.grid = root / "grid.yaml"
        self.grid.write_text(grid)
        monkeypatch.chdir(root)
        monkeypatch.setattr(opening, "load_subject", lambda name: self.subject)
        # git and the versions of libraries take as long as all else
        monkeypatch.setattr(opening, "provenance", dict)
        if reports:
            monkeypatch.setattr(figures, "draw", lambda *arguments: [])
        else:
            monkeypatch.setattr(Closing, "write", lambda closing: [])
        self.workers = ToyStudy.__new__(ToyStudy)
        self.workers.subject, self.workers.ran = self.subject, []
        self.workers.work_here(monkeypatch)

    @property
    def trained(self) -> list[str]:
        """Keys of the epochs that were trained, in order."""
        return [key for _, key in self.workers.ran]

    def open(self, **asked) -> opening.PlannedStudy:
        return opening.open_study(self.grid, **asked)

    def run(self, jobs: int = 1, **asked) -> running.RunResult:
        options = running.RunOptions(jobs=jobs, offline=True)
        return running.run(self.open(**asked), options)

    def events(self) -> dict[str, list[dict]]:
        """Arm -> the events of its search."""
        files = sorted((self.root / "runs" / "tune.search").glob("*.asked.jsonl"))
        return {
            file.name: [json.loads(line) for line in file.read_text().splitlines()]
            for file in files
        }
