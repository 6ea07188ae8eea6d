"""Of own scripts and functions, whose trial is one link, trials are counted and no epochs."""

import io
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from ablation.cli.main import main
from ablation.planning.forecast import Timings
from ablation.storage.files import folder_lock
from ablation.storage.runs import RunFolder
from ablation.study import live
from ablation.study.live import Progress
from ablation.study.opening import open_study

GRID = """
study: own
experiment: e
metric: {name: acc, goal: maximize}
seeds: 2
factors: {rate: {slow: {rate: 1}, fast: {rate: 2}}}
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ablation.study.opening.provenance", dict)
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *_: [])
    Path("g.yaml").write_text(GRID)
    command = f"{sys.executable} train.py {{rate}} {{seed}}"
    Path("e.yaml").write_text(
        json.dumps({"subject": {"command": command}, "settings": {"rate": 1}})
    )
    Path("train.py").write_text("for e in range(1, 9): print(f'epoch={e} acc={e}')\n")


def said(*command: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, command)
    assert done.exit_code == code, done.output
    return done.output


def test_plan_and_status_count_trials():
    before = said("plan", "--grid", "g.yaml")
    assert "4 trials, 4 left to train\nhow long that takes is known once a first trial" in before
    run = said("run", "--grid", "g.yaml", "--offline")
    after, status = said("plan", "--grid", "g.yaml"), said("status", "own")
    # a factor's warm-up would be one of another method
    for text in (before, after, status, run):
        assert "epoch" not in text and "pre-train" not in text
    assert "4/4 trials done; 0 left to train" in status and "so far" not in status


def test_the_live_table_counts_trials_and_tells_the_epoch_that_a_trial_is_in():
    planned = open_study(Path("g.yaml"))
    console = Console(file=io.StringIO(), width=100)
    shown = Progress(planned, console, Timings(Path("t"), "e", {}), 2)
    (spec, *_) = planned.plan.specs
    shown.began([spec])
    assert shown.summary().endswith("starting workers: no trial has ended yet")
    shown.reported([spec], {"epoch": 3, "metrics": {"acc": 5.0}})
    console.print(shown.view())
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert "0/4 trials, 4 left".split() == next(line for line in lines if "4" in line)[-4:]
    assert ["arm", "done", "failed", "epoch", "acc", "so", "far"] in lines
    assert ["reference", "0/2", "3", "5.00"] in lines


def test_what_a_trial_in_hand_has_taken_is_not_left(monkeypatch):
    planned, clock = open_study(Path("g.yaml")), [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    shown = Progress(planned, Console(file=io.StringIO()), Timings(Path("t"), "e", {}), 4)
    shown.timings.recorded([], {"phase": "train", "seconds": 3600.0})
    for spec in planned.plan.specs:
        shown.began([spec])
    lefts = []
    for clock[0] in (1.0, 1801.0, 3601.0, 7201.0):
        shown.tick()
        lefts.append(shown.note.seconds)
    assert lefts == [3599.0, 1799.0, 0.0, 0.0]


def stale(text: str) -> list[str]:
    return [line for line in text.splitlines() if "stale" in line]


def test_a_file_that_changed_is_named_and_what_the_cache_has_is_not_said_to_be_trained_anew():
    script = Path("train.py").read_text()
    said("run", "--grid", "g.yaml", "--offline")
    Path("train.py").write_text(f"{script}done = True\n")
    told = "4 trials that have ended are stale: code changed (train.py); `ablate run` "
    assert stale(said("plan", "--grid", "g.yaml")) == [f"{told}trains them anew"]
    # of the report's facts they are none
    assert "sources" not in Path("reports/own/report.md").read_text()
    said("run", "--grid", "g.yaml", "--offline")
    # undone
    Path("train.py").write_text(script)
    plan = said("plan", "--grid", "g.yaml")
    assert stale(plan) == [f"{told}takes what they are now from the cache"]
    assert "4 trials, 0 left to train" in plan
    Path(".ablate/cache").rename("elsewhere")
    plan = said("plan", "--grid", "g.yaml")
    assert stale(plan) == [f"{told}trains them anew"] and "4 trials, 4 left to train" in plan


def test_what_an_earlier_version_has_read_of_the_output_is_read_anew_and_said_to_be(monkeypatch):
    said("run", "--grid", "g.yaml", "--offline")
    monkeypatch.setattr("ablation.subject.command.READER", 1000)
    assert stale(said("plan", "--grid", "g.yaml")) == [
        "4 trials that have ended are stale: what a command prints is read in another way; "
        "`ablate run` trains them anew"
    ]


def test_a_trial_that_has_reported_epochs_is_left_to_train_until_it_has_ended():
    said("run", "--grid", "g.yaml", "--offline")
    folder = RunFolder(Path("runs/own"))
    (spec, *_) = folder.manifest().trials
    folder.forget_outcome(spec.trial)
    with folder_lock(folder.path):
        status = said("status", "own")
    assert "3/4 trials done; 1 left to train" in status
