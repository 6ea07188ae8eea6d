"""Whole studies of a function where people run them: folders of any name, outputs that take little, code that changes."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.long

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
    return [
        sys.executable,
        "-P",
        "-m",
        "ablation",
        *arguments,
    ]  # -P: with the import path of the `ablate` script


def ablate(folder: Path, *arguments: str, expect: int = 0, **environment: str) -> str:
    environment = {
        name: text for name, text in os.environ.items() if name != "MLFLOW_TRACKING_URI"
    } | environment
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def run(folder: Path, *options: str, **environment: str) -> str:
    return ablate(
        folder, "run", "--grid", "experiments/g.yaml", "--jobs", "1", *options, **environment
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished study, which nothing below changes."""
    folder = project(tmp_path_factory.mktemp("surroundings") / "project")
    run(folder, "--offline")
    return folder


@pytest.mark.parametrize("name", ["what?now", "percent%20enc", "it's {x} #1;ünï"])
def test_a_study_is_run_and_delivered_in_a_folder_of_any_name_and_makes_nothing_outside_of_it(
    tmp_path, name, monkeypatch
):
    folder = project(tmp_path / name)
    assert "not available" not in run(folder) + ablate(folder, "sync")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"mlflow.db", "mlartifacts"} < {path.name for path in folder.iterdir()} and (
        folder / ".ablate" / "optuna.db"
    ).is_file()
    monkeypatch.chdir(folder)
    client = MlflowClient(
        f"sqlite:///../{name.translate({ord('?'): '%3F', ord('%'): '%25'})}/mlflow.db"
    )
    of_trials = "tags.kind != 'summary'"
    runs = client.search_runs([client.get_experiment_by_name("g").experiment_id], of_trials)
    assert len(runs) == 5 and all(client.list_artifacts(found.info.run_id) for found in runs)


COMMANDS = [
    ["status"],
    ["plan", "--grid", "experiments/g.yaml"],
    ["table"],
    ["report"],
    ["compare", f"g:{ARM}", "g:reference"],
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_output_cannot_take_is_replaced(finished, encoding):
    for arguments in COMMANDS:
        said = ablate(finished, *arguments, PYTHONIOENCODING=encoding)
        assert said.isascii() or encoding != "ascii"


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
def test_a_reader_that_closes_its_pipe_ends_a_command_quietly(finished, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command(*arguments),
        cwd=finished,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def on_terminal(folder: Path, columns: int, *arguments: str) -> str:
    """What the command shows on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
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


GROWN = GRID.replace("{flag: 1}}", "{flag: 1}}\n  more: {off: {x: 1}, on: {x: 2}}")
CHANGES = {  # what was done -> file, what it says then, trials that are stale, why, trials left
    "nothing": ("subj.py", TRAIN, 0, "", 0),
    "code": ("subj.py", TRAIN.replace("50.0", "51.0"), 4, "code changed", 4),
    "a level's settings": (
        "experiments/g.yaml",
        GRID.replace("{flag: 1}", "{flag: 2}"),
        2,
        "settings changed (flag was 1, is 2)",
        2,
    ),
    "a factor more": ("experiments/g.yaml", GROWN, 2, "settings changed (x was None, is 1)", 8),
    "more seeds": ("experiments/g.yaml", GRID.replace("seeds: 2", "seeds: 3"), 0, "", 2),
}


@pytest.mark.parametrize("what", CHANGES)
def test_plan_status_report_doctor_and_run_say_the_same_of_what_is_stale_and_left(
    finished, tmp_path, what
):
    file, text, n_stale, why, n_left = CHANGES[what]
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    (folder / file).write_text(text)
    dry = [
        ablate(folder, *arguments, "--grid", "experiments/g.yaml")
        for arguments in (["plan"], ["run", "--dry-run"])
    ]
    said = [*dry, ablate(folder, "status"), ablate(folder, "report")]
    said += [ablate(folder, "doctor", expect=1)] if what == "code" else []  # it was not delivered
    stale = (
        f"{n_stale} trials that have ended are stale: {why}"
        if n_stale and what != "a factor more"
        else None
    )
    for text in [*said, (folder / "reports" / "g" / "report.md").read_text()]:
        assert stale in text if stale else " stale" not in text or what == "a factor more"
    assert (
        f"{n_left} left to train" in dry[0]
        and f"{n_left} left to train" in dry[1]
        and f"; {n_left} left to train" in said[2]
    )
    assert (f"{n_left} trials trained" if n_left else "nothing to train") in run(
        folder, "--offline"
    )
    assert " stale" not in ablate(folder, "status") + ablate(
        folder, "report"
    ) and "; 0 left" in ablate(folder, "status")


def test_a_grid_whose_settings_a_run_would_refuse_is_refused_by_plan_and_told_by_status(
    finished, tmp_path
):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    (folder / "experiments" / "g.yaml").write_text(GRID + "settings: {rate: 1}\n")
    for arguments in (["run"], ["run", "--dry-run"], ["plan"]):
        assert "rate: was None, is 1" in ablate(
            folder, *arguments, "--grid", "experiments/g.yaml", expect=2
        )
    assert "4 trials that have ended are stale: settings changed (rate was None, is 1" in ablate(
        folder, "status"
    )
    (folder / "experiments" / "g.yaml").unlink()
    assert "have changed is not known (g.yaml: no such file" in ablate(folder, "status")


def test_the_doctor_is_content_after_its_own_repair(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    (folder / "runs" / "g" / "reference--s0" / "outcome.json").write_text("{")
    (folder / "subj.py").write_text(TRAIN.replace("50.0", "51.0"))
    ablate(folder, "doctor", "--repair")
    ablate(folder, "doctor")


def test_published_numbers_are_seen_as_they_are_now_without_a_run(finished, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(finished, folder)
    for number in (61.5, 72.5):
        (folder / "experiments" / "published.yaml").write_text(
            f"fn: [{{method: Theirs, top1: {number}, protocol: last, source: a paper}}]\n"
        )
        ablate(folder, "report")
        assert f"{number:.2f}" in (folder / "reports" / "g" / "report.md").read_text()
        # found, though it is of another metric
        assert "have no finished trials of one metric" in ablate(
            folder, "compare", "g:reference", "published:Theirs", expect=2
        )


BASELINES = """
from ablation.subject.protocol import Link

class Subject:
    def check(self, settings): return []
    def resolve(self, settings): return dict(settings)
    def baselines(self): return {"plain": {"gain": 1}, "other": {"gain": 2}}
    def describe(self, settings): return {}
    def chain(self, settings, seed, records): return [Link(f"{settings['gain']:016x}{seed:016x}", "train", 1, 1.0)]

    def advance(self, settings, seed, until, store, report):
        import json
        key = self.chain(settings, seed, None)[0].key
        record = {"phase": "train", "epoch": 1, "seconds": 0.1, "time": 0.0, "metrics": {"acc": 50.0 + seed**2 + settings["gain"]}, "vectors": {}}
        store.save("record", key, json.dumps(record).encode(), 0.1)
        report(key, record)

SUBJECT = Subject()
"""


@pytest.mark.parametrize("names", ["[plain]", "[plain, other]"])
def test_a_grid_of_baselines_alone_is_run_reported_compared_and_tracked(tmp_path, names):
    folder = project(tmp_path / "project")
    (folder / "own.py").write_text(BASELINES)
    (folder / "experiments" / "fn.yaml").write_text("subject: own:SUBJECT\n")
    (folder / "experiments" / "g.yaml").write_text(
        GRID[: GRID.index("factors")] + f"baselines: {names}\n"
    )
    run(folder)
    n = 2 * len(names.split(","))
    assert "`plain`" in ablate(folder, "table")
    assert f"{n}/{n} trials done" in ablate(folder, "status")
    text = (folder / "reports" / "g" / "report.md").read_text()
    said = "`other` (52.5 ± 0.7)" if "other" in names else "`plain` reaches 51.5 ± 0.7 acc."
    assert said in text.partition("## Results")[0]
    assert "`g:plain`" in ablate(
        folder, "compare", "g:plain", f"g:{'other' if 'other' in names else 'plain'}"
    )
    assert "every run, with its status" in ablate(folder, "doctor")
