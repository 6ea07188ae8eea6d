"""Studies of a subject that trains nothing, planned and executed within the test's own process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_subject import Toy

from ablation.execution import executor as execution
from ablation.execution.executor import Execution
from ablation.execution.workers import Event, Message
from ablation.grid.load import Study, load_study
from ablation.planning.forecast import Listener
from ablation.planning.plan import Plan, build_plan
from ablation.storage.cache import DiskStore
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import failure
from ablation.study import placement
from ablation.study.opening import PlannedStudy

GRID = """
study: toy
experiment: nothing
metric: {{name: top1, goal: maximize}}
design: factorial
seeds: {seeds}
factors:
  warmup: {{two: {{warmup: 2}}, settling: {{warmup: plateau}}}}
  rate: {{slow: {{rate: 1}}, fast: {{rate: 2}}}}
"""


class Worker:
    """Runs what it is sent when it is waited for."""

    def __init__(self) -> None:
        self.task, self.is_new, self.request = None, True, None

    def send(self, request: dict[str, Any], task: Any) -> None:
        self.request, self.task, self.is_new = request, task, False


class ToyStudy:
    """A project folder with a toy study. `ran`: (trial on whose behalf, key) of every epoch trained."""

    def __init__(self, root: Path, subject: Toy, seeds: str = "[0, 1]"):
        self.root, self.subject, self.ran = root, subject, []
        self.places = ProjectPaths(root)
        self.store, self.folder = self.places.store, self.places.runs("toy")
        (root / "nothing.yaml").write_text("title: Nothing\nsubject: toy:toy\n")
        (root / "grid.yaml").write_text(GRID.format(seeds=seeds))

    def study(self, seeds: str | None = None) -> Study:
        return load_study(self.root / "grid.yaml", None, [], seeds, lambda name: self.subject)

    def plan(self, seeds: str | None = None) -> Plan:
        return self.planned(seeds).plan

    def planned(self, seeds: str | None = None) -> PlannedStudy:
        study = self.study(seeds)
        plan = build_plan(study, self.store, self.folder)
        return PlannedStudy(study, "toy", plan, self.places, self.root / "published.yaml")

    def run(
        self, monkeypatch: pytest.MonkeyPatch, jobs: int = 2, share: bool = True,
        after: Callable[[dict], None] = lambda request: None, listener: Listener | None = None,
    ) -> Plan:  # fmt: skip
        """Execute the plan; `after` is called when a segment has been run and before the harness hears of it."""
        self.work_here(monkeypatch, after)
        return Execution(
            self.study(), self.plan(), self.store, self.folder, listener or Listener(), share
        ).run(jobs)

    def work_here(
        self, monkeypatch: pytest.MonkeyPatch, after: Callable[[dict], None] = lambda request: None
    ) -> None:
        """Let workers be none of their own processes."""
        for module in (execution, placement):
            monkeypatch.setattr(
                module, "Workers", lambda n, backend=None: self.make_workers(n, after)
            )

    def make_workers(self, n: int, after: Callable[[dict], None] = lambda request: None) -> Any:
        """Workers that are none of their own processes."""
        owner = self

        class Workers:
            def __init__(self):
                self.workers = [Worker() for _ in range(n)]

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

            def stop(self) -> None:
                pass

            def busy(self) -> list[Worker]:
                return [worker for worker in self.workers if worker.task is not None]

            def idle(self) -> Worker | None:
                return next((worker for worker in self.workers if worker.task is None), None)

            def wait(self, timeout: float) -> list[Event]:
                if not self.busy():
                    time.sleep(0.005)
                return [event for worker in self.busy() for event in owner._serve(worker, after)]

        return Workers()

    def _serve(self, worker: Worker, after: Callable[[dict], None]) -> list[Event]:
        request, events = worker.request, []

        def report(key: str, record: dict[str, Any]) -> None:
            self.ran.append((Path(request["log"]).parent.name, key))
            events.append(Event(worker, Message("record", key, record)))

        try:
            self.subject.advance(
                request["settings"],
                request["seed"],
                request["until"],
                DiskStore(Path(request["cache"])),
                report,
            )
        except ArithmeticError as error:
            failed = Message("failed", error=failure("ArithmeticError", str(error)))
            return [*events, Event(worker, failed)]
        after(request)
        return [*events, Event(worker, Message("done"))]
