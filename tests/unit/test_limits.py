"""Limits on time and memory: what they are written as, and who is blamed when a worker is lost."""

import os
import signal
import time
from types import SimpleNamespace

import pytest

from ablation import limits
from ablation.errors import InputError
from ablation.limits import (
    RECENT_SECONDS,
    Limits,
    MemoryKills,
    n_killed_for_memory,
    parse_duration,
    resident_bytes,
)
from ablation.supervision import MAX_LOSSES, Supervision, Task
from ablation.workers import death


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
    assert resident_bytes(os.getpid()) > 10**6
    assert resident_bytes(2**30) == 0
    assert n_killed_for_memory() >= 0


def test_kills_for_want_of_memory_are_those_of_the_own_control_group_where_it_tells(
    tmp_path, monkeypatch
):
    events = tmp_path / "memory.events"
    monkeypatch.setattr(limits, "_events_of_own_group", lambda: [events])
    of_the_machine = n_killed_for_memory()
    events.write_text("low 0\noom 9\noom_kill 1234567\n")
    assert n_killed_for_memory() == 1234567 != of_the_machine


def test_a_kill_for_want_of_memory_is_soon_no_explanation_any_more(monkeypatch):
    n, now = 3, 1000.0
    monkeypatch.setattr(limits, "n_killed_for_memory", lambda: n)
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)
    kills = MemoryKills()
    assert not kills.are_recent()  # they were before anybody looked
    n = 4
    kills.look()
    now += RECENT_SECONDS - 1
    assert kills.are_recent()
    now += 2
    assert not kills.are_recent()


@pytest.mark.parametrize(
    ("code", "for_memory", "event", "error"),
    [
        (-signal.SIGKILL, True, "died", "OutOfMemory"),
        (-signal.SIGKILL, False, "lost", "WorkerDied"),
        (-signal.SIGSEGV, True, "died", "WorkerDied"),
    ],
)
def test_a_killed_worker_has_died_for_want_of_memory_only_if_there_was_none(
    code, for_memory, event, error
):
    told = death(code, for_memory, None)
    assert (told["event"], told["error"]["type"]) == (event, error)


class Worker:
    def __init__(self, task, n_bytes=0):
        self.task, self.n_bytes, self.killed = task, n_bytes, None

    def resident_bytes(self):
        return self.n_bytes

    def kill(self, error):
        self.killed = error["type"]


def task(seconds_before=0.0, trial="a--s0"):
    return Task(SimpleNamespace(), trial, False, {"k1": seconds_before}, 1)


def test_a_chain_past_its_time_and_a_worker_past_its_memory_are_ended_and_no_others():
    workers = [
        Worker(task(3601.0)),
        Worker(task(3500.0)),
        Worker(task(), 2 * 10**9),
        Worker(task(), 10**8),
    ]
    Supervision(Limits(3600.0, 10**9)).enforce(workers)
    assert [worker.killed for worker in workers] == ["TimeLimit", None, "MemoryLimit", None]


def test_an_epoch_that_is_repeated_counts_once(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    chain = Task(
        SimpleNamespace(), "a--s0", False, {"k1": 10.0, "k2": 20.0, "k3": 30.0}, n_done=1, begun=now
    )  # a checkpoint after the first
    assert chain.seconds() == 10
    now += 20
    assert chain.seconds() == 30
    chain.recorded("k2", 20.0)
    assert chain.seconds() == 30
    now += 31
    chain.recorded("k3", 31.0)
    chain.recorded("k4", 5.0)
    assert chain.seconds() == 66 and chain.epoch_seconds == 56


def test_without_limits_nobody_is_ended():
    worker = Worker(task(10**9), 10**15)
    Supervision(Limits()).enforce([worker])
    assert worker.killed is None


def test_a_trial_is_blamed_for_lost_workers_only_when_it_finishes_no_epoch_between_too_many():
    supervision = Supervision(Limits())
    assert [supervision.blames(task()) for _ in range(MAX_LOSSES)] == [False] * MAX_LOSSES
    assert supervision.blames(task())
    supervision.recorded(task(), "k1", 1.0, is_new=False)  # that it had finished before
    assert supervision.blames(task())
    supervision.recorded(task(), "k2", 1.0, is_new=True)
    assert not supervision.blames(task()) and not supervision.blames(task(trial="b--s0"))
