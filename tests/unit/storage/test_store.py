"""The cache on disk: what was saved, whole, or nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ablation
from ablation.storage.cache import KINDS, MAGIC, DiskStore

KEY = "0123456789abcdef" * 2
DATA = bytes(range(256)) * 40


def files(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "a byte", "some"])
def test_what_was_saved_is_loaded(tmp_path, kind, data):
    store = DiskStore(tmp_path)
    assert not store.holds(kind, KEY) and store.load(kind, KEY) is None
    store.save(kind, KEY, data)
    for reader in (store, DiskStore(tmp_path)):  # another process too
        assert reader.holds(kind, KEY)
        assert reader.load(kind, KEY) == data
    assert files(tmp_path) == [f"{kind}/01/{KEY}"]


def test_kinds_and_keys_are_kept_apart(tmp_path):
    store = DiskStore(tmp_path)
    entries = {
        (kind, key): f"{kind} {key}".encode()
        for kind in KINDS
        for key in (KEY, KEY[::-1], KEY[:-1] + "0")
    }
    for (kind, key), data in entries.items():
        store.save(kind, key, data)
    assert {entry: store.load(*entry) for entry in entries} == entries


def test_saving_again_replaces(tmp_path):
    store = DiskStore(tmp_path)
    store.save("state", KEY, b"first, and longer")
    store.save("state", KEY, b"second")
    assert store.load("state", KEY) == b"second"
    assert len(files(tmp_path)) == 1


def test_records_are_json(tmp_path):
    store = DiskStore(tmp_path)
    assert store.record(KEY) is None
    store.save("record", KEY, b'{"epoch": 3, "metrics": {"test/top1": 71.5}}')
    assert store.record(KEY) == {"epoch": 3, "metrics": {"test/top1": 71.5}}


def flipped(content, i):
    return content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]


DAMAGE = {
    "empty": lambda content: b"",
    "torn in the magic word": lambda content: content[:5],
    "torn in the checksum": lambda content: content[:20],
    "torn after the checksum": lambda content: content[:40],
    "last byte lost": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"\0",
    "bit flipped in the magic word": lambda content: flipped(content, 0),
    "bit flipped in the checksum": lambda content: flipped(content, 20),
    "bit flipped in the content": lambda content: flipped(content, 1000),
    "bit flipped at the end": lambda content: flipped(content, len(content) - 1),
    "zeros, as a crash leaves them": lambda content: bytes(len(content)),
    "no header": lambda content: content[48:],
    "bit flipped in the seconds": lambda content: flipped(content, 12),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_counts_as_absent_and_is_removed(tmp_path, damage):
    store = DiskStore(tmp_path)
    store.save("state", KEY, DATA)
    store.save("latents", KEY, DATA)
    path = store.path("state", KEY)
    path.write_bytes(damage(path.read_bytes()))
    assert store.load("state", KEY) is None
    assert not store.holds("state", KEY) and not path.exists()
    assert store.load("latents", KEY) == DATA  # its neighbour is untouched
    store.save("state", KEY, DATA)
    assert store.load("state", KEY) == DATA


@pytest.mark.parametrize("fails", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_what_was_there_and_no_temporary_file(
    tmp_path, monkeypatch, fails, error
):
    store = DiskStore(tmp_path)
    store.save("state", KEY, b"before")

    def fail(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, fail)
        with pytest.raises(type(error)):
            store.save("state", KEY, DATA)
        with pytest.raises(type(error)):
            store.save("state", KEY[::-1], DATA)
    assert store.load("state", KEY) == b"before"
    assert not store.holds("state", KEY[::-1])
    assert files(tmp_path) == [f"state/01/{KEY}"]


WRITER = """
import sys
import ablation
from ablation.storage.cache import DiskStore
store = DiskStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
data = sys.argv[2].encode() * 100_000
for _ in range(100):
    store.save("state", sys.argv[3], data)
    found = store.load("state", sys.argv[3])
    assert found is not None and len(found) == 100_000 and len(set(found)) == 1, "torn"
"""


def test_two_processes_may_write_one_key(tmp_path):
    root = Path(ablation.__file__).parents[1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), letter, KEY], cwd=root, **pipes
        )
        for letter in "ab"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # both at once
        writer.stdin.write("go\n")
        writer.stdin.flush()
    store = DiskStore(tmp_path)
    while any(writer.poll() is None for writer in writers):
        found = store.load("state", KEY)
        assert found is None or found in (b"a" * 100_000, b"b" * 100_000)  # whole, or not yet
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert store.load("state", KEY) in (b"a" * 100_000, b"b" * 100_000)
    assert len(files(tmp_path)) == 1


def filled(root):
    """Four entries of 1000 bytes of content, worth 1, 5 and 9 seconds, and a record."""
    store = DiskStore(root)
    for i, seconds in enumerate([5.0, 1.0, 9.0]):
        store.save("state" if i else "latents", f"{i}" * 32, bytes(1000), seconds)
    store.save("record", "f" * 32, b'{"epoch": 1}', 0.001)
    return store


def test_entries_tell_kind_size_and_what_they_took(tmp_path):
    found = {
        (entry.kind, entry.path.name[0]): (entry.n_bytes, entry.seconds)
        for entry in filled(tmp_path).entries()
    }
    assert found == {
        ("latents", "0"): (1048, 5.0),
        ("state", "1"): (1048, 1.0),
        ("state", "2"): (1048, 9.0),
        ("record", "f"): (60, 0.001),
    }


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        (10**9, "012f"),
        (3204, "012f"),
        (3203, "02f"),
        (2156, "02f"),
        (2155, "2f"),
        (61, "f"),
        (0, "f"),
    ],
)
def test_a_full_cache_loses_what_saves_least_per_byte_and_never_a_record(tmp_path, limit, left):
    store = filled(tmp_path)
    store.trim(limit)
    assert sorted(entry.path.name[0] for entry in store.entries()) == list(left)


def test_a_small_entry_may_be_worth_more_than_a_large_one_that_took_longer(tmp_path):
    store = DiskStore(tmp_path)
    store.save("state", "a" * 32, bytes(100_000), 10.0)
    store.save("state", "b" * 32, bytes(100), 1.0)
    assert [entry.path.name[0] for entry in store.trim(50_000)] == ["a"]


def test_trimming_an_absent_cache_is_harmless(tmp_path):
    assert DiskStore(tmp_path / "nothing").trim(0) == []


def test_what_an_interrupted_trial_left_that_shares_nothing_is_counted_and_trimmed_with_the_rest(
    tmp_path,
):
    store = filled(tmp_path)
    alone = store.alone("state", "reference--s0")  # a study may have any name
    alone.save("state", "3" * 32, bytes(1000), 0.5)
    alone.save("record", "e" * 32, b'{"epoch": 1}', 0.001)
    assert {entry.path.name[0] for entry in store.entries()} == set("012f3e")
    assert [entry.path.name[0] for entry in store.trim(3 * 1048 + 2 * 60)] == ["3"]
    assert alone.holds("record", "e" * 32)


def test_a_cleared_cache_is_empty_and_can_be_filled_again(tmp_path):
    store = filled(tmp_path / "cache")
    store.alone("fixes", "reference--s0").save("state", "3" * 32, b"", 1.0)
    assert {entry.path.name[0] for entry in store.clear()} == set("012f3")
    assert list(store.entries()) == [] and not (tmp_path / "cache").exists()
    store.save("record", KEY, b"{}")
    assert store.record(KEY) == {}


def test_clearing_an_absent_cache_is_harmless(tmp_path):
    assert DiskStore(tmp_path / "nothing").clear() == []


def test_entries_may_go_while_they_are_counted(tmp_path):
    """As when another study trims the cache, or a trial that shares nothing is complete."""
    store = DiskStore(tmp_path / "cache")
    for kind in KINDS:
        for key in ("aa0", "aa1", "bb0", "bb1"):
            store.save(kind, key, b"")
    entries = store.entries()
    next(entries)
    store.clear()
    assert list(entries) == []


def test_entries_may_go_while_the_cache_is_trimmed(tmp_path, monkeypatch):
    store = DiskStore(tmp_path / "cache")
    store.save("state", KEY, DATA)
    known = list(store.entries())
    store.clear()
    monkeypatch.setattr(store, "entries", lambda: iter(known))
    assert store.trim(0) == known


@pytest.mark.parametrize(
    "data", [MAGIC, MAGIC + bytes(9), bytes(100)], ids=["magic", "cut", "zeros"]
)
def test_a_file_without_a_whole_header_is_no_entry(tmp_path, data):
    store = DiskStore(tmp_path / "cache")
    path = store.path("state", KEY)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    assert not list(store.entries())


def test_nothing_is_held_where_a_file_is_in_the_place_of_a_kind(tmp_path):
    (tmp_path / "state").write_bytes(b"")
    store = DiskStore(tmp_path)
    assert (
        store.peek("state", KEY) is store.load("state", KEY) is store.sealed("state", KEY) is None
    )
    assert not store.holds("state", KEY)


def test_files_are_readable_for_whom_the_umask_lets_read(tmp_path):
    before = os.umask(0o027)
    try:
        DiskStore(tmp_path).save("record", "ab12", b"{}")
    finally:
        os.umask(before)
    assert DiskStore(tmp_path).path("record", "ab12").stat().st_mode & 0o777 == 0o640
