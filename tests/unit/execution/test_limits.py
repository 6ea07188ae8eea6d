"""Limits on time and memory: what they are written as, and who is blamed when a worker is lost."""

import os
import re
import signal
import time
from types import SimpleNamespace

import pytest

from ablation.errors import InputError
from ablation.execution.process import WorkerProcess
from ablation.execution.workers import MAX_LOSSES, Limits, Supervision, Task, last_message
from ablation.formatting import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("45min", 2700), ("1.5h", 5400), (" 2 d ", 172_800)],
)
def test_times_have_units(text, seconds):
    assert parse_duration(text, "--time-limit") == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 years", "-1h", "0", "1e3s", "nan"])
def test_what_is_no_time_is_named(text):
    with pytest.raises(InputError, match="--time-limit: .*is not a time, such as 90s"):
        parse_duration(text, "--time-limit")


def test_the_system_tells_what_a_process_holds_and_nothing_of_one_that_is_gone():
    process = WorkerProcess(os.environ)
    while process.resident_bytes() < 10**6:
        assert not process.has_ended()
    process.kill()
    process.close()
    assert process.resident_bytes() == 0


@pytest.mark.parametrize(
    ("code", "event", "says"),
    [
        (
            -signal.SIGKILL,
            "lost",
            r"signal 9 \(Killed\), as .* when memory runs out: use fewer --jobs",
        ),
        (-signal.SIGTERM, "lost", r"signal 15 \(Terminated\)$"),
        (-signal.SIGSEGV, "died", r"signal 11 \(Segmentation fault\)$"),
        (3, "died", "exit code 3$"),
    ],
)
def test_a_worker_that_others_have_killed_is_lost_and_any_other_has_died(code, event, says):
    told = last_message(code, None)
    assert (told.event, told.error["type"]) == (event, "WorkerDied")
    assert re.search(says, told.error["message"])


class Worker:
    def __init__(self, task, n_bytes=0):
        self.task, self.n_bytes, self.killed = task, n_bytes, None

    def resident_bytes(self):
        return self.n_bytes

    def kill(self, error):
        self.killed = error["type"]


def task(seconds_before=0.0, trial="a--s0"):
    return Task(SimpleNamespace(), trial, False, seconds_before)


def test_a_chain_past_its_time_and_a_worker_past_its_memory_are_ended_and_no_others():
    workers = [
        Worker(task(3601.0)),
        Worker(task(3500.0)),
        Worker(task(), 2 * 10**9),
        Worker(task(), 10**8),
    ]
    Supervision(Limits(3600.0, 10**9)).enforce(workers)
    assert [worker.killed for worker in workers] == ["TimeLimit", None, "MemoryLimit", None]


def test_a_trial_s_time_is_that_of_its_epochs_before_and_of_the_task_in_hand(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    chain = Task(SimpleNamespace(), "a--s0", False, 10.0, begun=now)
    now += 20
    assert chain.seconds() == 30


def test_the_start_of_a_worker_counts_until_its_first_epoch_is_finished(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    chain = Task(SimpleNamespace(), "a--s0", True, 10.0, begun=now)
    now += 20
    chain.recorded(3.0)
    now += 2
    assert chain.seconds() == 10 + 3 + 2


def test_without_limits_nobody_is_ended():
    worker = Worker(task(10**9), 10**15)
    Supervision(Limits()).enforce([worker])
    assert worker.killed is None


def test_a_trial_fails_by_lost_workers_only_when_it_finishes_no_epoch_between_too_many():
    supervision = Supervision(Limits())
    lost = [supervision.is_lost_too_often("a--s0") for _ in range(MAX_LOSSES + 1)]
    assert lost == [False] * MAX_LOSSES + [True]
    supervision.made_progress("a--s0")
    assert not supervision.is_lost_too_often("a--s0")
    assert not supervision.is_lost_too_often("b--s0")
