"""The store of a worker on a node, in front of the driver's."""

import errno
from pathlib import Path

import pytest

from ablation.execution.ray_driver import answer_of
from ablation.execution.ray_node import NodeStore
from ablation.storage.cache import KINDS, DiskStore

KEPT = [kind for kind in KINDS if kind != "record"]


class Driver:
    """Answers a node's questions, as over the wire. `sent`: kinds of the entries that went to the node."""

    def __init__(self, root: Path):
        self.store, self.sent, self.harm = DiskStore(root / "driver"), [], lambda entry: entry

    def ask(self, question: dict) -> dict:
        payload = self.harm(Path(question["path"]).read_bytes()) if "path" in question else None
        answer, entry = answer_of(self.store, question, payload)
        if entry is not None:
            self.sent.append(question["kind"])
            Path(question["into"]).parent.mkdir(parents=True, exist_ok=True)
            Path(question["into"]).write_bytes(self.harm(entry))
        return answer


@pytest.fixture
def driver(tmp_path) -> Driver:
    return Driver(tmp_path)


@pytest.fixture
def node(tmp_path, driver) -> NodeStore:
    return NodeStore(DiskStore(tmp_path / "node"), driver.ask)


def again(driver: Driver, tmp_path: Path) -> NodeStore:
    """Another worker's of the same node."""
    return NodeStore(DiskStore(tmp_path / "node"), driver.ask)


def on_node(tmp_path: Path) -> list[str]:
    return sorted(
        path.parent.parent.name for path in (tmp_path / "node").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_worker_saves_is_at_the_driver_with_its_seconds(driver, node, kind, tmp_path):
    node.save(kind, "key", b"content", 5.0)
    assert driver.store.load(kind, "key") == b"content" and [
        entry.seconds for entry in driver.store.entries()
    ] == [5.0]
    assert node.load(kind, "key") == b"content" and driver.sent == []  # the node has it
    assert on_node(tmp_path) == ([] if kind == "record" else [kind])


@pytest.mark.parametrize("kind", KEPT)
def test_an_entry_travels_once_to_a_node_whose_workers_share_it(driver, node, kind, tmp_path):
    driver.store.save(kind, "key", b"content", 5.0)
    assert node.holds(kind, "key") and not node.holds(kind, "other")
    assert [node.load(kind, "key"), again(driver, tmp_path).load(kind, "key")] == [
        b"content",
        b"content",
    ]
    assert driver.sent == [kind] and on_node(tmp_path) == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_driver_does_not_have_is_not_there_though_the_node_has_it(
    driver, node, kind, tmp_path
):
    node.save(kind, "key", b"content")
    driver.store.clear()
    later = again(driver, tmp_path)
    assert later.load(kind, "key") is None and not later.holds(kind, "key")


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_driver_has_another_entry_that_counts(driver, node, kind, tmp_path):
    node.save(kind, "key", b"of the node")
    driver.store.save(kind, "key", b"of the driver")
    assert again(driver, tmp_path).load(kind, "key") == b"of the driver"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", [lambda entry: entry[:-1], lambda entry: b""])
def test_what_is_damaged_on_the_way_to_a_node_counts_as_absent_and_is_sent_again(
    driver, node, kind, harm
):
    driver.store.save(kind, "key", b"content")
    driver.harm = harm
    assert node.load(kind, "key") is None
    driver.harm = lambda entry: entry
    assert node.load(kind, "key") == b"content" and driver.sent == [kind] * 2


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("content", [b"", b"not an entry", None])
def test_what_is_damaged_on_a_node_is_sent_again(driver, node, kind, tmp_path, content):
    node.save(kind, "key", b"content")
    path = DiskStore(tmp_path / "node").path(kind, "key")
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert node.load(kind, "key") == b"content" and driver.sent == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_at_the_driver_counts_as_absent_and_goes(driver, node, kind):
    driver.store.save(kind, "key", b"content")
    driver.store.path(kind, "key").write_bytes(b"not an entry")
    assert node.load(kind, "key") is None and not node.holds(kind, "key")


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_of_the_drivers_that_is_full_is_told_to_the_worker(driver, node, kind, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space", "/driver/cache")

    monkeypatch.setattr(driver.store, "save", full)
    with pytest.raises(OSError) as caught:
        node.save(kind, "key", b"content")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/driver/cache")


@pytest.mark.parametrize("kind", KEPT)
def test_a_node_whose_disk_is_full_keeps_nothing_and_uses_what_comes(
    driver, node, kind, monkeypatch
):
    driver.store.save(kind, "key", b"content")

    def full(*_):
        raise OSError(errno.ENOSPC, "no space", "/node/cache")

    monkeypatch.setattr(DiskStore, "adopt", full)
    assert node.load(kind, "key") == b"content"
