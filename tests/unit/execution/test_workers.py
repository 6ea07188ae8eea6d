"""Workers end when they should, whatever training code leaves in them, and nothing of it meets the next trial."""

import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from own_training import hear, send

from ablation import INSTALLED_IN
from ablation.execution import process as worker_process
from ablation.execution.workers import Message, Worker, Workers
from ablation.storage.runs import failure

TRAINED = """
import multiprocessing, os, threading, time
from pathlib import Path

left = []

def outlive():
    Path("child").write_text(str(os.getpid()))
    time.sleep(30)
    Path("outlived").touch()

def train(config, seed, report):
    before = len(left)
    left.append(seed)
    if config["does"] == "raises":
        raise ArithmeticError("planted")
    if config["does"] == "starts a process and segfaults":
        multiprocessing.get_context("fork").Process(target=outlive, daemon=False).start()
        while not Path("child").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), 11)
    if config["does"] == "starts a thread":
        threading.Thread(target=outlive).start()
    return {"top1": before}
"""


@pytest.fixture(autouse=True)
def trained(tmp_path, monkeypatch) -> None:
    (tmp_path / "trained.py").write_text(TRAINED)
    monkeypatch.chdir(tmp_path)


def heard(workers: Workers, worker: Worker, does: str) -> list[Message]:
    """All that a worker says of a task, its death included."""
    send(worker, does)
    return hear(workers, worker)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; whose parent was killed may not be waited for by anybody."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def test_nothing_that_a_failed_trial_leaves_behind_meets_the_next():
    with Workers(1) as workers:
        first = workers.idle()
        assert heard(workers, first, "trains")[0].record["metrics"] == {"top1": 0.0}
        assert workers.idle() is first
        assert heard(workers, first, "raises")[-1].error["message"] == "planted"
        second = workers.idle()
        assert second is not first
        assert heard(workers, second, "trains again")[0].record["metrics"] == {"top1": 0.0}


def test_the_log_of_a_failed_trial_is_whole_when_its_failure_is_told():
    with Workers(1) as workers:
        heard(workers, workers.idle(), "raises")
        assert "ArithmeticError: planted" in Path("log").read_text()


def test_a_death_is_told_as_it_was_though_a_process_that_the_worker_has_started_lives():
    with Workers(1) as workers:
        (told,) = heard(workers, workers.idle(), "starts a process and segfaults")
        assert told.event == "died" and "killed by signal 11" in told.error["message"]
    child = int(Path("child").read_text())
    while not is_gone(child):
        pass
    assert not Path("outlived").exists()


def test_a_thread_that_training_code_leaves_does_not_keep_a_study_from_ending(monkeypatch):
    monkeypatch.setattr(worker_process, "END_SECONDS", 0.2)
    with Workers(1) as workers:
        worker = workers.idle()
        assert heard(workers, worker, "starts a thread")[-1].event == "done"
    assert is_gone(worker.process.pid) and not Path("outlived").exists()


def test_a_worker_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(worker_process, "END_SECONDS", 0.2)
    with Workers(1) as workers:
        worker = workers.idle()
        os.kill(worker.process.pid, signal.SIGSTOP)
        wake = threading.Timer(
            15, os.kill, (worker.process.pid, signal.SIGCONT)
        )  # it would end in good order then
        wake.start()
    wake.cancel()
    assert worker.process._process.returncode == -signal.SIGKILL


def test_nor_does_it_keep_the_worker_of_a_study_that_was_killed():
    code = (
        "import threading, time; from ablation.execution.worker import end_within\n"
        "threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "end_within(0.1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(INSTALLED_IN)},
        start_new_session=True,
    )
    assert done.returncode == -signal.SIGKILL


def test_no_signal_of_the_terminal_reaches_a_worker_by_itself():
    with Workers(1) as workers:
        pid = workers.idle().process.pid
        assert os.getsid(pid) == os.getpgid(pid) == pid


def test_a_worker_that_was_killed_is_given_nothing_though_it_had_finished_what_it_did():
    with Workers(1) as workers:
        killed = workers.idle()
        killed.kill(failure("TimeLimit", "planted"))
        assert workers.idle() is None
        while not (events := workers.wait(0.1)):
            pass
        assert [(event.worker, event.message.event) for event in events] == [(killed, "died")]
        assert workers.idle() is not killed


@pytest.mark.parametrize("line", ["no JSON", "[1]", '{"event": "done", "unknown": 1}'])
def test_a_line_that_is_no_message_ends_the_wait_with_its_error(monkeypatch, line):
    monkeypatch.setattr(worker_process.WorkerProcess, "replies", lambda self: iter([[line]]))
    with pytest.raises((ValueError, TypeError)), Workers(1) as workers:
        workers.idle()
        while True:
            workers.wait(1.0)


def test_a_process_with_a_thousand_open_files_hears_its_workers():
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    try:
        with ExitStack() as files:
            for _ in range(1100):
                files.enter_context(open(os.devnull))
            with Workers(1) as workers:
                assert heard(workers, workers.idle(), "trains")[-1].event == "done"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
