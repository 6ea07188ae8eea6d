"""After a study was interrupted nothing says that it runs, and what goes on is the same record."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from ablation.errors import InputError
from ablation.storage.files import LOCK, being_run, folder_lock, is_being_run

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow


def begun(toy) -> set[str]:
    return {spec.trial for spec in toy.folder.manifest().trials if toy.folder.records(spec.trial)}


def test_no_record_of_a_study_that_nobody_runs_stays_running(killed):
    assert "RUNNING" in killed.statuses().values() and killed.counted()["RUNNING"] > 0
    killed.deliver()
    assert killed.states() == {} and killed.counted() == {
        "WAITING": len(killed.folder.manifest().trials)
    }
    assert killed.statuses() == dict.fromkeys([*begun(killed), "toy on nothing"], "KILLED")


def test_saying_so_twice_changes_nothing(killed):
    killed.deliver()
    before = {
        name: (run.info.end_time, run.data.tags, run.data.metrics)
        for name, run in killed.runs().items()
    }
    states = [(trial.number, trial.state, trial.user_attrs) for trial in killed.trials()]
    killed.deliver()
    assert {
        name: (run.info.end_time, run.data.tags, run.data.metrics)
        for name, run in killed.runs().items()
    } == before
    assert [(trial.number, trial.state, trial.user_attrs) for trial in killed.trials()] == states


def test_what_goes_on_is_the_same_run(killed):
    killed.deliver()
    before = {name: run.info.run_id for name, run in killed.runs().items()}
    killed.deliver(is_running=True)
    assert {killed.statuses()[name] for name in before} == {"RUNNING"}
    assert killed.counted()["RUNNING"] == len(begun(killed))
    killed.go()
    killed.deliver()
    assert (
        before.items()
        <= {name: run.info.run_id for name, run in killed.runs(ViewType.ALL).items()}.items()
    )
    assert set(killed.statuses().values()) == {"FINISHED"} and set(
        map(tuple, killed.states().values())
    ) == {("COMPLETE",)}


def test_a_trial_that_goes_on_from_fewer_records_than_were_delivered_keeps_its_run_and_has_each_point_once(
    killed,
):
    """As when a checkpoint was lost with the record after it."""
    killed.deliver()
    name = next(name for name in sorted(begun(killed)) if len(killed.folder.records(name)) > 1)
    run = killed.runs()[name]
    killed.folder.write_records(name, killed.folder.records(name)[:1])
    killed.deliver()
    killed.deliver(is_running=True)
    assert killed.runs()[name].data.tags["ablate.records"] == run.data.tags["ablate.records"]
    killed.go()
    killed.deliver()
    assert killed.runs(ViewType.ALL)[name].info.run_id == run.info.run_id
    client = MlflowClient(killed.uri)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "top1")] == [
        1,
        2,
        3,
        4,
    ]


def test_a_trial_that_has_to_begin_anew_waits_again_even_while_the_study_runs(killed):
    name = min(begun(killed))
    (killed.folder.trial_path(name) / "metrics.jsonl").unlink()
    n_running = killed.counted()["RUNNING"]
    killed.deliver(is_running=True)
    assert killed.counted().get("RUNNING", 0) == n_running - 1


def test_a_finished_trial_that_lost_its_outcome_keeps_its_run_until_it_is_run_again(toy):
    run = toy.runs()["reference--s0"].info.run_id
    (toy.folder.trial_path("reference--s0") / "outcome.json").unlink()
    toy.deliver()
    assert toy.runs()["reference--s0"].info.run_id == run
    toy.go()
    toy.deliver()
    assert toy.runs(ViewType.ALL)["reference--s0"].info.run_id == run and set(
        toy.statuses().values()
    ) == {"FINISHED"}


def test_results_say_waiting_of_what_nobody_runs(killed):
    spec = next(spec for spec in killed.folder.manifest().trials if spec.trial in begun(killed))
    assert killed.folder.state(spec, None) == "RUNNING"
    assert killed.folder.state(spec, None, is_running=False) == "WAITING"


def test_the_lock_tells_whether_a_study_is_being_run(toy):
    folder = toy.folder.path
    assert not is_being_run(folder)
    with folder_lock(folder):
        assert (
            is_being_run(folder)
            and toy.folder.is_being_run()
            and being_run(folder.parent) == ["toy"]
        )
        with pytest.raises(InputError, match="another process is running"), folder_lock(folder):
            pass
    assert not is_being_run(folder) and being_run(folder.parent) == []


def test_whoever_looks_whether_a_study_is_being_run_does_not_keep_it_from_running(toy):
    with (toy.folder.path / LOCK).open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, fcntl.flock, [looking, fcntl.LOCK_UN]).start()
        with folder_lock(toy.folder.path):
            assert is_being_run(toy.folder.path)


def test_the_lock_is_held_by_its_process_alone_and_let_go_when_that_is_killed(tmp_path):
    """What the process has started, by fork or by exec, lives on and holds nothing."""
    code = (
        "import os, subprocess, sys, time; from pathlib import Path; from ablation.storage.files import folder_lock\n"
        "with folder_lock(Path(sys.argv[1])):\n"
        "    child = os.fork() or os.execvp('sleep', ['sleep', '60'])\n"
        "    forked = os.fork() or time.sleep(60)\n"
        "    print(child, forked, flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, tmp_path / "toy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        children = [int(pid) for pid in process.stdout.readline().split()]
        try:
            assert is_being_run(tmp_path / "toy")
            process.kill()
            process.wait()
            assert all(Path(f"/proc/{pid}").exists() for pid in children)
            # A child that the system has not run yet closes what it inherited when it runs.
            until = time.monotonic() + 30
            while is_being_run(tmp_path / "toy") and time.monotonic() < until:
                time.sleep(0.01)
            with folder_lock(tmp_path / "toy"):
                pass
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
