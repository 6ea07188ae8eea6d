"""What hosts of a study have of each other: records, failures and checkpoints, through each database they can share."""

import json

import pytest
from sqlalchemy import select, update

from ablation.damage import say
from ablation.runs import Outcome
from ablation.shared_database import ENTRIES, StorageUnavailable, changing, open_database, storage_url
from ablation.shared_store import SharedStore
from ablation.store import DiskStore
from ablation.subject import Link

FAILURE = Outcome("FAILED", {}, 2.0, {"type": "ArithmeticError", "message": "it diverged", "traceback": "..."}, key="trial")


@pytest.fixture
def hosts(engine, tmp_path):
    return [SharedStore(tmp_path / f"host{i}", engine, "study") for i in range(3)]


def record(n: int) -> bytes:
    return json.dumps({"epoch": n}).encode()


def test_records_of_one_host_reach_the_caches_of_all_in_order(hosts, monkeypatch):
    monkeypatch.setattr("ablation.shared_entries.BATCH", 5)  # fewer than there are
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


def test_of_two_records_of_one_key_the_first_in_the_database_is_everybodys(hosts):
    """Whoever pushes, pulls or comes late; and a checkpoint of the other one reaches nobody."""
    first, second, third = hosts
    for n, host in enumerate(hosts):
        host.save("record", "r", record(n))
        host.save("state", "r", f"weights {n}".encode())
    first.push("record", ["r"])
    second.push("record", ["r"])
    assert not second.holds("state", "r")
    second.save("state", "r", b"weights 1")  # by a worker that is still at it
    second.push("state", ["r"])
    assert first.entries.read("state", ["r"]) == {}
    first.push("state", ["r"])
    assert second.pull() == ([], {}, ["r"]) and third.pull() == ([], {}, ["r"]) and first.pull() == ([], {}, [])
    for host in hosts:
        assert host.fetch(["r"])
        assert host.load("record", "r") == record(0) and host.load("state", "r") == b"weights 0"


def test_checkpoints_that_follow_from_a_record_that_counts_no_more_go_unless_they_are_shared(hosts):
    first, second, _ = hosts
    for key in ("a", "b", "c", "d"):
        second.save("state", key, b"mine")
    first.save("state", "c", b"shared")
    first.push("state", ["c"])
    second.pull()
    links = [Link(key, "joint", i, 1.0) for i, key in enumerate("abcd")]
    assert second.forsake_after(["b"], {"of it": links, "before": links[:1], "elsewhere": []}) == ["of it"]
    assert [second.holds_here("state", key) for key in "abcd"] == [True, False, True, False]
    assert second.fetch("abcd") and second.load("state", "c") == b"shared"


def test_a_segment_is_given_only_while_it_is_the_hosts(hosts):
    first, second, _ = hosts
    for kind in ("record", "state"):
        first.save(kind, "k", record(1))
    assert not first.hand_in(["k"], ["k"], {"trial": FAILURE}, lambda connection: False)
    answers = iter([True, False])  # lost between the two
    assert not first.hand_in(["k"], ["k"], {"trial": FAILURE}, lambda connection: next(answers))
    assert second.pull() == (["k"], {}, []) and not second.is_shared("state", "k")
    assert first.hand_in(["k"], ["k"], {"trial": FAILURE}, lambda connection: True)
    assert second.pull().failures == {"trial": FAILURE} and second.fetch(["k"]) and second.load("state", "k") == record(1)


def test_a_link_that_is_run_again_for_its_checkpoint_keeps_its_record_and_gets_one(hosts):
    first, second, third = hosts
    first.save("record", "k", record(1))
    first.push("record", ["k"])  # its host was lost before it gave the checkpoint
    second.pull()
    for kind in ("record", "state"):
        second.save(kind, "k", record(2))
    assert second.hand_in(["k"], ["k"], {}, lambda connection: True)
    third.pull(), second.pull()
    assert third.fetch(["k"]) and third.load("state", "k") == record(2)
    assert second.load("record", "k") == third.load("record", "k") == record(1)


def test_the_bytes_of_a_checkpoint_are_there_before_the_study_is_locked_for_it(hosts, engine, monkeypatch):
    first, second, _ = hosts
    first.save("state", "s", b"weights")
    numbers = []

    def changing_then(*arguments):
        with engine.connect() as connection:
            numbers.extend(connection.execute(select(ENTRIES.c.sequence)).scalars())
        return changing(*arguments)

    monkeypatch.setattr("ablation.shared_entries.changing", changing_then)
    first.push("state", ["s"])
    assert numbers == [0]
    second.pull()
    assert second.fetch(["s"]) and second.load("state", "s") == b"weights"


def test_a_checkpoint_whose_host_was_lost_while_it_travelled_is_seen_by_nobody_and_replaced(hosts, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    first, second, _ = hosts
    first.save("state", "s", b"first")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ablation.shared_entries.changing", interrupted)
        first.push("state", ["s"])
    second.pull()
    assert not second.holds("state", "s") and second.entries.read("state", ["s"]) == {}
    second.save("state", "s", b"second")
    second.push("state", ["s"])
    first.pull()
    assert first.fetch(["s"]) and first.load("state", "s") == b"second"


@pytest.mark.parametrize("data", [b"\xff", b"[]", b'{"state": "FAILED"}', b'{"state": "COMPLETE", "metrics": {}, "wall_seconds": 1.0}'])
def test_a_failure_that_is_damaged_is_said_and_is_none(hosts, engine, data, caplog):
    say.cache_clear()
    first, second, _ = hosts
    first.push_failures({"trial": FAILURE})
    with engine.begin() as connection:
        connection.execute(update(ENTRIES).values(data=data))
    assert second.pull().failures == {} and "the failure of trial trial in the storage is damaged" in caplog.text


def test_a_large_checkpoint_stays_where_it_is_and_is_not_even_read(hosts, monkeypatch):
    monkeypatch.setattr("ablation.shared_store.MAX_STATE_BYTES", 1000)
    first, second, _ = hosts
    first.save("state", "s", b"w" * 1000)
    monkeypatch.setattr(DiskStore, "sealed", lambda store, kind, key: pytest.fail("it was read"))
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
