"""What may befall a study, each once; `test_chaos.py` does it at a hundred random moments."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import Project, kill, workers_of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    project.run()
    return project


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def kill_study(process: subprocess.Popen) -> None:
    process.kill()


def kill_workers(process: subprocess.Popen) -> None:
    for worker in workers_of(process):
        kill(worker)


def kill_all(process: subprocess.Popen) -> None:
    workers = workers_of(process)
    process.kill()
    for worker in workers:
        kill(worker)


@pytest.mark.long
@pytest.mark.parametrize(
    "who",
    [
        pytest.param(kill_study, marks=pytest.mark.chaos),
        kill_workers,
        kill_all,
    ],
)
def test_whoever_is_killed_the_same_command_ends_as_if_nothing_had_been(project, undisturbed, who):
    process = project.start()
    project.wait_for(10, process)
    who(process)
    said = process.communicate()[0]
    if who is kill_workers:
        assert process.returncode == 0, said
    else:
        assert process.returncode == -signal.SIGKILL
        project.run()
    assert project.tables() == undisturbed.tables()
    assert project.states_elsewhere() == undisturbed.states_elsewhere()
    assert project.points() == undisturbed.points()


@pytest.mark.long
def test_epochs_that_are_repeated_from_a_checkpoint_are_written_once(tmp_path):
    """The trial fails in epoch 6, and has a checkpoint after epoch 4."""
    project, once = (
        Project(tmp_path, faults=["raises"], seeds=1),
        [("warmup", 1), ("warmup", 2), ("warmup", 3), ("joint", 4), ("joint", 5)],
    )
    project.run("--offline", expect=1)
    for _ in range(2):
        assert project.epochs_written()["fault=raises--s0"] == once
        assert "1 epochs trained" in project.run("--offline", "--retry-failed", expect=1)
    history = pd.read_csv(tmp_path / "reports" / "chains" / "history.csv")
    assert not history.duplicated(["trial", "phase", "epoch"]).any()


def assert_nothing_is_lost(project: Project, undisturbed: Project) -> None:
    """Of a study that was asked to stop: nothing runs, and the same command trains what is left and no more."""
    n_before = project.n_records()
    ledger, runs = project.states_elsewhere()
    assert "RUNNING" not in ledger and "RUNNING" not in runs
    said = project.run()
    assert f"{undisturbed.n_records() - n_before} epochs trained, {n_before} reused" in said, said
    assert project.tables() == undisturbed.tables()


@pytest.mark.long
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.chaos), signal.SIGTERM]
)
def test_a_first_signal_finishes_the_epochs_in_hand_and_nothing_is_lost(
    project, undisturbed, number
):
    process = project.start()
    project.wait_for(10, process)
    process.send_signal(number)
    said = process.communicate()[0]
    assert process.returncode == 130 and "the same command continues" in said, said
    assert_nothing_is_lost(project, undisturbed)


def test_a_second_signal_stops_at_once(tmp_path):
    project = Project(tmp_path, pause=60.0)
    process = project.start("--offline")
    while len(workers_of(process)) < 2:
        pass
    process.send_signal(signal.SIGINT)
    for line in process.stdout:  # that the first one was heard
        if "a second signal (Ctrl-C) stops at once" in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130 and "interrupted" in said


@pytest.mark.long
def test_a_closed_terminal_finishes_the_epochs_in_hand_and_nothing_is_lost(project, undisturbed):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(project.root)
        command = [
            sys.executable,
            "-P",
            "-m",
            "ablation",
            "run",
            "--grid",
            "chains.grid.yaml",
            "--jobs",
            "2",
        ]
        os.execve(sys.executable, command, project.environment)
    shown = b""
    while b"test/top1 so far" not in shown or project.n_records() < 10:
        shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert_nothing_is_lost(project, undisturbed)


FAULTS = {
    "raises": "ArithmeticError: planted",
    "segfaults": "WorkerDied: the worker process ended: killed by signal 11",
    "exits": "WorkerDied: the worker process ended: exit code 7",
    "hangs": "TimeLimit: ran past its limit of 10 s",
    "hoards": "MemoryLimit: held",
    "is_killed": "WorkerDied: the worker process ended: killed by signal 9",
    "turns_nan": "NotFinite: the metric 'test/top1' is nan",
}


@pytest.mark.long
def test_trials_that_fail_are_recorded_with_their_reasons_the_others_go_on_and_those_alone_are_retried(
    tmp_path,
):
    project = Project(tmp_path, faults=FAULTS, seeds=1)
    said = project.run("--offline", "--time-limit", "10s", "--memory-limit", "400MB", expect=1)
    for fault, error in FAULTS.items():
        assert f"FAILED fault={fault}--s0: {error}" in said
    assert project.states().to_dict() == {"reference--s0": "COMPLETE"} | {
        f"fault={fault}--s0": "FAILED" for fault in FAULTS
    }
    report = (tmp_path / "reports" / "chains" / "report.md").read_text()
    assert all(error in report for error in FAULTS.values())
    n_before = project.n_records()
    (tmp_path / "mended").touch()
    assert "7 trials that had failed before were not run again" in project.run(
        "--offline", expect=1
    )
    assert project.n_records() == n_before
    project.run("--offline", "--retry-failed")
    assert set(project.states()) == {"COMPLETE"}


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.long
def test_a_full_disk_stops_the_study_fails_no_trial_and_the_same_command_goes_on_when_there_is_room(
    small_disk, undisturbed
):
    project = Project(small_disk)
    (small_disk / "ballast").write_bytes(bytes(850_000))
    said = project.run("--offline", expect=1)
    assert (
        "no space is left for" in said
        and "nothing that was finished is lost" in said
        and "Traceback" not in said
    ), said
    assert not [
        path for path in small_disk.glob("runs/*/*/outcome.json") if "FAILED" in path.read_text()
    ]
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    project.run("--offline")
    assert project.tables() == undisturbed.tables()


def test_a_reports_folder_that_cannot_be_written_is_named_before_anything_runs(project):
    (project.root / "reports").write_text("a file, and no folder")
    assert "reports: is a file, and a folder is needed" in project.run("--offline", expect=2)
    assert project.n_records() == 0
