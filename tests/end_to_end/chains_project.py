"""A project folder with a study of `chains.py`, run by the command line, killed and looked at."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import optuna
import pandas as pd
from mlflow import MlflowClient

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GRID = """
study: {study}
experiment: chains
metric: {{name: test/top1, goal: maximize}}
design: factorial
seeds: {seeds}
factors:
"""
FACTORS = """
  start: {a: {start: 1}, b: {start: 2}}
  rate: {slow: {rate: 1}, fast: {rate: 2}}
"""
EXPERIMENT = (
    "title: Chains\nsubject: chains:SUBJECT\nsettings: {{pause: {pause}, epochs: {epochs}}}\n"
)
TIMINGS = ["wall_seconds", "seconds", "time"]
WAIT_SECONDS = 120  # for what must happen; no test depends on how fast it does


def recorded(root: Path) -> list[Path]:
    """The record of every epoch in a project's cache, without what a killed process left unfinished."""
    return sorted((root / ".ablate" / "cache" / "record").glob("*/[!.]*"))


class Project:
    """`root` is the folder in which `ablate` is started."""

    def __init__(
        self,
        root: Path,
        pause: float = 0.02,
        epochs: int = 8,
        seeds: int = 2,
        faults: Iterable[str] = (),
    ):
        self.root, self.study = root, "chains"
        root.mkdir(exist_ok=True)
        shutil.copy(HERE / "chains.py", root)
        levels = {"none": {"fault": None}} | {fault: {"fault": fault, "at": 6} for fault in faults}
        self.grid("chains", seeds, "  fault: " + json.dumps(levels) if faults else FACTORS)
        (root / "chains.yaml").write_text(EXPERIMENT.format(pause=pause, epochs=epochs))

    def grid(self, study: str, seeds: int = 2, factors: str = FACTORS) -> None:
        (self.root / f"{study}.grid.yaml").write_text(
            GRID.format(study=study, seeds=seeds) + factors
        )

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        return kept | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}

    def start(self, *arguments: str, study: str | None = None) -> subprocess.Popen:
        """`ablate run` in a process group of its own."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "ablation",
            "run",
            "--grid",
            f"{study or self.study}.grid.yaml",
            "--jobs",
            "2",
            *arguments,
        ]
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )  # fmt: skip

    def run(self, *arguments: str, expect: int = 0, study: str | None = None) -> str:
        process = self.start(*arguments, study=study)
        said = process.communicate(timeout=WAIT_SECONDS)[0]
        assert process.returncode == expect, said
        return said

    def command(self, *arguments: str) -> str:
        """`ablate` with these; it must end well."""
        command = [sys.executable, "-P", "-m", "ablation", *arguments]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def n_records(self) -> int:
        """Epochs in the cache."""
        return len(recorded(self.root))

    def wait_for(self, n_records: int, process: subprocess.Popen) -> None:
        """Until so many epochs are in the cache, or the process has ended."""
        end = time.monotonic() + WAIT_SECONDS
        while self.n_records() < n_records and process.poll() is None:
            assert time.monotonic() < end, "nothing happens"
            time.sleep(0.005)

    def tables(self) -> dict[str, str]:
        """results.csv and history.csv as text, timings aside."""
        folder = self.root / "reports" / self.study
        found = {
            name: pd.read_csv(folder / name, dtype=str) for name in ("results.csv", "history.csv")
        }
        return {
            name: table.drop(columns=[column for column in TIMINGS if column in table]).to_csv(
                index=False
            )
            for name, table in found.items()
        }

    def states(self) -> pd.Series:
        return pd.read_csv(self.root / "reports" / self.study / "results.csv").set_index("trial")[
            "state"
        ]

    def states_elsewhere(self) -> tuple[list[str], list[str]]:
        """Of the trials in Optuna, and of the runs in MLflow."""
        storage = optuna.storages.RDBStorage(f"sqlite:///{self.root}/.ablate/optuna.db")
        ledger = [
            trial.state.name
            for trial in optuna.load_study(study_name=self.study, storage=storage).trials
        ]
        client = MlflowClient(f"sqlite:///{self.root}/mlflow.db")
        runs = client.search_runs(
            [client.get_experiment_by_name(self.study).experiment_id], "tags.kind != 'summary'"
        )
        return ledger, [run.info.status for run in runs]

    def points(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Steps and values of the metrics of each run in MLflow. Not of what the study's own run tells of its progress."""
        client = MlflowClient(
            self.environment.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.root}/mlflow.db")
        )
        runs = client.search_runs(
            [client.get_experiment_by_name(self.study).experiment_id], "tags.kind != 'summary'"
        )
        return {
            run.info.run_name: {
                name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
                for name in run.data.metrics if not name.startswith("study/")
            } for run in runs
        }  # fmt: skip

    def epochs_written(self) -> dict[str, list[tuple[str, int]]]:
        """Phase and number of the epochs in each trial's metrics.jsonl."""
        files = (self.root / "runs" / self.study).glob("*/metrics.jsonl")
        entries = {
            file.parent.name: [json.loads(line) for line in file.read_text().splitlines()]
            for file in files
        }
        return {
            trial: [(entry["phase"], entry["epoch"]) for entry in found]
            for trial, found in entries.items()
        }


def workers_of(process: subprocess.Popen) -> list[int]:
    """Process ids of a study's workers."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in children if "ablation.execution.worker" in _command(int(child))]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended, before or while it is read
        return ""
