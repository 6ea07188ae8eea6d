"""A whole project around a toy study: run, reported and delivered as `ablate` does, in the test's own process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from toy_study import ToyStudy
from toy_subject import SUBJECT

from ablation.analysis.results import load, write_csv
from ablation.grid.load import Study, load_study
from ablation.planning.forecast import Listener
from ablation.planning.plan import build_plan
from ablation.storage.files import folder_lock
from ablation.storage.runs import TrialSpec
from ablation.study import opening
from ablation.study.opening import PlannedStudy, refuse_mixture
from ablation.study.repair import TrialFiles
from ablation.study.running import RunOptions, RunResult, train
from ablation.subject.protocol import Record
from ablation.tracking.ledger import update_ledger
from ablation.tracking.mlflow_sync import Tracker


class Killed(BaseException):
    """As by Ctrl-C, or worse."""


class StopAfter(Listener):
    """Kills the study when so many epochs have been recorded."""

    def __init__(self, n_epochs: float):
        self.n_left = n_epochs

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        self.n_left -= 1
        if self.n_left <= 0:
            raise Killed


class ToyProject(ToyStudy):
    """`root` is the working directory of the project. Every method works on its files alone."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        super().__init__(root, SUBJECT)
        monkeypatch.chdir(root)
        # to ask for it takes as long as all else
        provenance = {"commit": "abc123", "dirty": False}
        monkeypatch.setattr(opening, "provenance", lambda: provenance)
        (root / "nothing.yaml").write_text("title: Nothing\nsubject: toy_subject:SUBJECT\n")
        self.monkeypatch = monkeypatch
        self.url, self.uri = self.places.ledger_url, f"sqlite:///{root / 'mlflow.db'}"

    def edit(self, before: str, after: str) -> None:
        """Change the grid file."""
        text = (self.root / "grid.yaml").read_text()
        assert before in text
        (self.root / "grid.yaml").write_text(text.replace(before, after))

    def go(
        self, seeds: str | None = None, overrides: Sequence[str] = (), stop_after: float = math.inf, share: bool = True,
    ) -> RunResult | None:  # fmt: skip
        """`ablate run --offline`: the manifest, the trials that are missing, the report. Killed after some epochs: None."""
        study = load_study(
            self.root / "grid.yaml", None, list(overrides), seeds, lambda name: self.subject
        )
        planned = self._planned(study)
        refuse_mixture(planned.manifest, self.folder)
        files = TrialFiles(self.folder, self.store, planned.manifest, self.subject)
        self.restored = files.restore()
        if self.restored:  # what undecided chains came to is known again
            planned = self._planned(study)
        self.ran.clear()
        self.work_here(self.monkeypatch)
        try:
            with folder_lock(self.folder.path):
                done = train(planned, RunOptions(share=share), StopAfter(stop_after), 2)
        except Killed:
            return None
        self.report()
        return done

    def _planned(self, study: Study) -> PlannedStudy:
        plan = build_plan(study, self.store, self.folder)
        return PlannedStudy(study, "toy", plan, self.places, Path("published.yaml"))

    def report(self) -> None:
        results = load(self.folder)
        write_csv(results.trials, self.places.report("toy") / "results.csv")
        write_csv(results.history, self.places.report("toy") / "history.csv")

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """results.csv and history.csv, as they stand."""
        return tuple(
            pd.read_csv(self.places.report("toy") / f"{name}.csv")
            for name in ("results", "history")
        )

    def deliver(self, is_running: bool = False) -> None:
        """`ablate sync`."""
        update_ledger(self.url, self.folder, is_running)
        Tracker(self.uri).sync(self.folder, self.places.report("toy"), is_running)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return optuna.load_study(study_name="toy", storage=self.url).trials

    def counted(self) -> dict[str, int]:
        """State -> number of trials, as Optuna's study says."""
        return optuna.load_study(study_name="toy", storage=self.url).user_attrs["states"]

    def states(self) -> dict[str, list[str]]:
        """Trial -> states of its Optuna trials, oldest first."""
        found: dict[str, list[str]] = {}
        for trial in self.trials():
            found.setdefault(trial.user_attrs["trial"], []).append(trial.state.name)
        return found

    def runs(self, view: int = ViewType.ACTIVE_ONLY) -> dict[str, Run]:
        """Name -> MLflow run, without those of arms; fails if two have one name."""
        client = MlflowClient(self.uri)
        found = client.search_runs(
            [client.get_experiment_by_name("toy").experiment_id],
            "tags.kind != 'summary'",
            run_view_type=view,
        )
        names = {run.info.run_name: run for run in found}
        assert len(names) == len(found)
        return names

    def statuses(self) -> dict[str, str]:
        return {name: run.info.status for name, run in self.runs().items()}
