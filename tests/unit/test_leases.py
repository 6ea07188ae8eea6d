"""Leases over each database that hosts can share: who has what in hand, and who may take it over."""

import threading
import time

import pytest
from sqlalchemy import update

from ablation.leases import Heart, Leases
from ablation.shared_database import HOSTS


@pytest.fixture
def hosts(engine):
    return [Leases(engine, "study", f"host{i}") for i in range(3)]


def silence(leases: Leases, seconds: float) -> None:
    """Let a host's last beat be so long ago."""
    with leases.engine.begin() as connection:
        connection.execute(update(HOSTS).where(HOSTS.c.host == leases.host).values(beat=HOSTS.c.beat - seconds))


def test_what_a_living_host_has_cannot_be_taken_by_another(hosts):
    first, second, _ = hosts
    assert first.take(["a", "b"]) and not second.take(["b", "c"])
    assert second.take(["c"])  # the refusal took nothing, and hindered nobody
    assert first.take(["a"])  # one's own
    assert second.held_elsewhere() == {"a", "b"} and first.held_elsewhere() == {"c"}


def test_what_was_released_can_be_taken(hosts):
    first, second, _ = hosts
    assert first.take(["a", "b"])
    second.release(["a"])  # not its own
    assert not second.take(["a"])
    first.release(["a"])
    assert second.take(["a"]) and not second.take(["b"])


def test_leases_of_a_host_that_has_fallen_silent_can_be_taken(hosts):
    first, second, _ = hosts
    first.take(["a", "b"])
    silence(first, 59)
    assert not second.take(["a"])
    silence(first, 2)
    assert second.others() == [] and second.held_elsewhere() == set()
    assert second.take(["a"])


def test_a_host_that_wakes_has_what_nobody_took_meanwhile(hosts):
    first, second, third = hosts
    first.take(["a", "b"])
    silence(first, 61)
    assert second.take(["a"])
    first.beat()
    assert not first.take(["a"]) and not third.take(["b"])
    first.release(["a", "b"])  # what is another's by now stays so
    assert not third.take(["a"])


def test_a_host_that_leaves_lets_go_of_everything_and_forgets_those_long_gone(hosts):
    first, second, third = hosts
    first.take(["a"]), second.take(["b"])
    silence(first, 10 * 60 + 1)
    second.leave()
    assert third.held_elsewhere() == set() and third.others() == []
    first.beat()  # it was forgotten with what it had
    assert third.take(["a", "b"]) and third.others() == ["host0"]


def test_studies_do_not_meet(hosts, engine):
    from ablation.shared_database import enroll

    enroll(engine, "another")
    elsewhere = Leases(engine, "another", "host9")
    hosts[0].take(["a"])
    assert elsewhere.take(["a"]) and elsewhere.held_elsewhere() == set() and elsewhere.others() == []


def test_of_many_that_take_at_once_one_gets_it(engine):
    taken: dict[str, list[str]] = {}

    def race(host: str) -> None:
        leases = Leases(engine, "study", host)
        for i in range(10):
            keys = [f"{i}", f"{i} too"] if host < "host2" else [f"{i} too", f"{i}"]
            if leases.take(keys):
                taken.setdefault(f"{i}", []).append(host)

    threads = [threading.Thread(target=race, args=(f"host{i}",)) for i in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(taken) == [f"{i}" for i in range(10)] and all(len(hosts) == 1 for hosts in taken.values())


def test_a_heart_beats_for_as_long_as_the_study_runs(engine):
    first, second = Leases(engine, "study", "host0", timeout=1.0), Leases(engine, "study", "host1")
    first.take(["a"])
    with Heart(first):
        for _ in range(2):  # not just once
            silence(first, 1000)
            while second.held_elsewhere() != {"a"}:
                time.sleep(0.02)
    silence(first, 1000)
    assert second.take(["a"])
