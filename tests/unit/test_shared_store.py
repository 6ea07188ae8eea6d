"""What hosts of a study have of each other: records, failures and checkpoints, through each database they can share."""

import json

import pytest
from sqlalchemy import select, update

from ablation.runs import Outcome
from ablation.shared_database import ENTRIES, StorageUnavailable, open_database, storage_url
from ablation.shared_store import SharedStore
from ablation.store import DiskStore

FAILURE = Outcome("FAILED", {}, 2.0, {"type": "ArithmeticError", "message": "it diverged", "traceback": "..."}, key="trial")


@pytest.fixture
def hosts(engine, tmp_path):
    return [SharedStore(tmp_path / f"host{i}", engine, "study") for i in range(3)]


def record(n: int) -> bytes:
    return json.dumps({"epoch": n}).encode()


def test_records_of_one_host_reach_the_caches_of_all_in_order(hosts, monkeypatch):
    monkeypatch.setattr("ablation.shared_store.BATCH", 5)  # fewer than there are
    first, second, third = hosts
    for n in range(12):
        first.save("record", f"r{n}", record(n), seconds=float(n))
    first.push("record", [f"r{n}" for n in range(12)])
    assert second.pull().records == third.pull().records == [f"r{n}" for n in range(12)]
    assert second.pull().records == []
    assert DiskStore(second.root).load("record", "r7") == record(7)  # which is all that worker processes see
    assert second.path("record", "r7").read_bytes() == first.path("record", "r7").read_bytes()  # with its seconds


def test_what_two_hosts_have_computed_is_there_once_and_no_news_to_either(hosts, engine):
    first, second, third = hosts
    for host in (first, second):
        host.save("record", "r", record(1))
        host.push("record", ["r"])
    assert first.pull().records == second.pull().records == [] and third.pull().records == ["r"]
    with engine.connect() as connection:
        assert len(connection.execute(select(ENTRIES.c.key)).all()) == 1


def test_of_two_records_of_a_key_the_first_in_the_database_is_everybody_s(hosts):
    """As two GPUs leave them; a checkpoint that belongs to the other record is of no use any more."""
    first, second, third = hosts
    for n, host in enumerate((first, second)):
        host.save("record", "r", record(n))
        host.save("state", "r", b"weights %d" % n)
    first.push("record", ["r"])
    assert second.pull().records == [] and third.pull().records == ["r"]
    assert [host.load("record", "r") for host in hosts] == [record(0)] * 3
    assert DiskStore(first.root).holds("state", "r") and not DiskStore(second.root).holds("state", "r")


def test_failures_are_given_if_nothing_has_happened_meanwhile(hosts):
    first, second, _ = hosts
    assert not first.push_failures({"trial": FAILURE}, lambda connection: False) and second.pull().failures == {}
    assert first.push_failures({"trial": FAILURE}, lambda connection: True) and second.pull().failures == {"trial": FAILURE}


def test_a_checkpoint_too_large_to_travel_is_looked_at_once(hosts, monkeypatch):
    first, second, _ = hosts
    monkeypatch.setattr("ablation.shared_store.MAX_STATE_BYTES", 10)
    first.save("state", "s", b"weights of a large network")
    looked = []
    monkeypatch.setattr(SharedStore, "path", lambda store, kind, key: looked.append(key) or DiskStore.path(store, kind, key))
    for _ in range(3):
        first.push("state", ["s"])
    second.pull()
    assert len(looked) == 1 and not second.holds("state", "s")


def test_checkpoints_count_as_held_where_they_are_not_and_come_when_they_are_needed(hosts):
    first, second, _ = hosts
    first.save("state", "s", b"weights", seconds=9.0)
    assert not second.holds("state", "s")
    first.push("state", ["s", "not there"])
    second.pull()
    assert second.holds("state", "s") and not DiskStore(second.root).holds("state", "s") and not second.holds("state", "not there")
    assert second.fetch(["s", "not there"])
    assert DiskStore(second.root).load("state", "s") == b"weights"


def test_checkpoints_that_are_withdrawn_are_gone_for_who_has_not_fetched_them(hosts):
    first, second, third = hosts
    first.save("state", "s", b"weights")
    first.push("state", ["s"])
    second.pull(), third.pull()
    assert second.fetch(["s"])
    first.withdraw("state")
    assert first.holds("state", "s") and second.holds("state", "s") and third.holds("state", "s")
    assert not third.fetch(["s"]) and not third.holds("state", "s")
    first.push("state", ["s"])  # back again
    third.pull()
    assert third.fetch(["s"])


@pytest.mark.parametrize("kind", ["record", "state"])
def test_what_was_damaged_on_the_way_counts_as_absent_and_is_removed(hosts, engine, kind):
    first, second, _ = hosts
    first.save(kind, "k", record(1))
    first.push(kind, ["k"])
    with engine.begin() as connection:
        damaged = connection.execute(select(ENTRIES.c.data)).scalar_one()[:-1] + b"?"
        connection.execute(update(ENTRIES).values(data=damaged))
    assert second.pull().records == [] and second.fetch(["k"]) == (kind == "record")
    assert not second.holds(kind, "k")
    second.save(kind, "k", record(1))  # computed again
    second.push(kind, ["k"])
    with engine.connect() as connection:
        assert connection.execute(select(ENTRIES.c.data)).scalar_one() == second.path(kind, "k").read_bytes()


def test_failures_and_marks_reach_the_others_once(hosts):
    first, second, third = hosts
    first.push_failures({"trial": FAILURE})
    first.mark("delivered")
    assert second.pull().failures == {"trial": FAILURE} and second.pull().failures == {}
    assert second.is_shared("mark", "delivered") and not third.is_shared("mark", "delivered")
    first.withdraw("failure", ["trial"])
    assert third.pull().failures == {}


def test_a_large_checkpoint_stays_where_it_is(hosts, monkeypatch):
    monkeypatch.setattr("ablation.shared_store.MAX_STATE_BYTES", 1000)
    first, second, _ = hosts
    first.save("state", "s", b"w" * 1000)
    first.push("state", ["s"])
    second.pull()
    assert first.holds("state", "s") and not second.holds("state", "s")


def test_news_of_a_pull_that_broke_off_come_with_the_next(hosts, monkeypatch):
    first, second, _ = hosts
    first.push_failures({"trial": FAILURE})
    for n in range(2):
        first.save("record", f"r{n}", record(n))
    first.push("record", ["r0", "r1"])
    adopt = DiskStore.adopt

    def full(store, kind, key, sealed):
        if key == "r1":
            raise OSError("No space left on device")
        return adopt(store, kind, key, sealed)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(DiskStore, "adopt", full)
        second.pull()
    news = second.pull()
    assert news.records == ["r0", "r1"] and news.failures == {"trial": FAILURE}


def test_a_database_out_of_reach_is_said_without_its_password(tmp_path):
    with pytest.raises(StorageUnavailable) as caught:
        open_database(storage_url("postgresql://ablate:s3cret@127.0.0.1:1/none"))
    assert "127.0.0.1:1" in str(caught.value) and "s3cret" not in str(caught.value) and caught.value.__cause__ is None
