"""Whole studies of a function where people run them: folders of any name, outputs that take little, code that changes."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

TRAIN = """
def train(config, seed, report):
    return {"acc": 50.0 + seed + 10 * config["flag"]}
"""
GRID = """
study: g
experiment: fn
metric: {name: acc, goal: maximize}
seeds: 2
factors:
  flag: {off: {flag: 0}, a-level-with-quite-a-long-name: {flag: 1}}
"""
ARM = "flag=a-level-with-quite-a-long-name"


def project(folder: Path) -> Path:
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments" / "fn.yaml").write_text("title: A function\nsubject: subj:train\n")
    (folder / "experiments" / "g.yaml").write_text(GRID)
    (folder / "subj.py").write_text(TRAIN)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "ablation", *arguments]  # -P: with the import path of the `ablate` script


def ablate(folder: Path, *arguments: str, expect: int = 0, **environment: str) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | environment
    done = subprocess.run(command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def run(folder: Path, *options: str, **environment: str) -> str:
    return ablate(folder, "run", "--grid", "experiments/g.yaml", "--jobs", "1", *options, **environment)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished study, which nothing below changes."""
    folder = project(tmp_path_factory.mktemp("surroundings") / "project")
    run(folder, "--offline")
    return folder


@pytest.mark.parametrize("name", ["what?now", "percent%20enc", "it's {x} #1;ünï"])
def test_a_study_is_run_and_delivered_in_a_folder_of_any_name_and_makes_nothing_outside_of_it(tmp_path, name, monkeypatch):
    folder = project(tmp_path / name)
    assert "not available" not in run(folder) + ablate(folder, "sync")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"mlflow.db", "mlartifacts"} < {path.name for path in folder.iterdir()} and (folder / ".ablate" / "optuna.db").is_file()
    monkeypatch.chdir(folder)
    client = MlflowClient(f"sqlite:///../{name.translate({ord('?'): '%3F', ord('%'): '%25'})}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("g").experiment_id])
    assert len(runs) == 5 and all(client.list_artifacts(found.info.run_id) for found in runs)


COMMANDS = [["status"], ["plan", "--grid", "experiments/g.yaml"], ["table"], ["report"], ["compare", f"g:{ARM}", "g:reference"]]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_output_cannot_take_is_replaced(finished, encoding):
    for arguments in COMMANDS:
        said = ablate(finished, *arguments, PYTHONIOENCODING=encoding)
        assert said.isascii() or encoding != "ascii"


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_reader_that_closes_its_pipe_ends_a_command_quietly(finished, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command(*arguments), cwd=finished, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def on_terminal(folder: Path, columns: int, *arguments: str) -> str:
    """What the command shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command(*arguments), cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # the terminal's other end was closed
        pass
    assert process.wait(60) == 0, said
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", said.decode())


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
@pytest.mark.parametrize("arguments", COMMANDS[:2], ids=lambda arguments: arguments[0])
def test_a_narrow_terminal_is_told_every_name_and_number(finished, arguments, columns):
    said = on_terminal(finished, columns, *arguments)
    assert "…" not in said and ARM in said.replace("\n", "").replace(" ", "")
