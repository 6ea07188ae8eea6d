"""A study on a machine that has neither Optuna nor MLflow, and back; see `benchmarks/on_gpu.py`."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablation.storage.runs import RunFolder

FILE = Path(__file__).parents[2] / "benchmarks" / "on_gpu.py"
ABSENT = """
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {"optuna", "mlflow", "sqlalchemy", "alembic", "pydantic"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent)
"""
TRAIN = """
import time

def train(config, seed, report):
    for epoch in (1, 2, 3):
        report(epoch, {"test/top1": 10.0 * epoch + seed})
    while config["ends"] == "never":
        time.sleep(0.05)
        epoch += 1
        report(epoch, {"test/top1": 0.0})
    return {"test/top1": 30.0 + seed + (config["how"] == "better")}
"""
EXPERIMENT = """
title: A function
subject: trained:train
settings: {how: plain, ends: soon, device: any}
"""
GRID = """
study: lent
experiment: function
metric: test/top1
design: factorial
seeds: 3
factors:
  how: {plain: {how: plain}, better: {how: better}}
"""


@pytest.fixture
def home(tmp_path) -> Path:
    return project(tmp_path / "home")


def project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "trained.py").write_text(TRAIN)
    (folder / "function.yaml").write_text(EXPERIMENT)
    (folder / "grid.yaml").write_text(GRID)
    return folder


def call(folder: Path, *command: object, **environment: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", **environment}
    environment.pop("MLFLOW_TRACKING_URI", None)
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_a_study_grows_by_seeds_on_machines_without_optuna_and_mlflow(home, tmp_path):
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(ABSENT)
    path = os.pathsep.join([str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")])
    for n, seeds in enumerate(("1", "2")):
        call(home, FILE, "prepare", "grid.yaml", "--device", "cpu", "--seeds", seeds)
        lent = project(tmp_path / f"lent{n}")
        (home / ".gpu").rename(lent / ".gpu")
        said = call(
            lent, FILE, "run", "--jobs", "2", PYTHONPATH=path, OUT=str(tmp_path / f"out{n}")
        )
        assert (
            f"lent: seed {n}, 2 trials, 2 at a time" in said
            and "lent: 2 trials in lent.tar.gz" in said
        )
        assert f"lent how=better--s{n}: COMPLETE, test/top1: {31.0 + n}" in said
        call(home, FILE, "unpack", tmp_path / f"out{n}")
    assert "4/4 trials done; 0 left to train" in call(home, "-m", "ablation", "status")
    told = (
        call(home, "-m", "ablation", "report")
        + (home / "reports" / "lent" / "report.md").read_text()
    )
    assert "30.5" in told and "31.5" in told and "stale" not in told
    assert "whether code, data or settings have changed" not in told


@pytest.mark.long
def test_a_study_is_stopped_in_order_when_time_is_up(home, monkeypatch):
    spec = importlib.util.spec_from_file_location("on_gpu", FILE)
    on_gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(on_gpu)
    monkeypatch.chdir(home)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    arguments = [
        "--grid",
        "grid.yaml",
        "--seeds",
        "1",
        "-S",
        "ends=never",
        "--jobs",
        "2",
        "--offline",
    ]
    with open("log", "a") as log:
        code = on_gpu._ablate(arguments, time.monotonic() + 3, log)
    folder = RunFolder(Path("runs/lent"))
    assert code in (130, -15), Path("log").read_text()  # -15: it had not begun to train
    assert not folder.is_being_run() and not list(folder.path.glob("*/outcome.json"))
    if code == 130:
        assert "interrupted with 2 trials to go" in Path("log").read_text()
