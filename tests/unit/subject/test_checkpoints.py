"""A function's checkpoints: what it is given after it was broken off, and what is refused."""

from pathlib import Path

import pytest
from tiny_trials import MemoryStore

from ablation.subject.loading import FunctionSubject, _fault
from ablation.subject.own import Place


@pytest.fixture(autouse=True)
def unversioned(monkeypatch, tmp_path) -> None:
    """To read what this file imports takes a second each time."""
    monkeypatch.chdir(tmp_path)
    for name in ("project_sources", "library_versions"):
        monkeypatch.setattr(f"ablation.subject.loading.{name}", lambda of: {})


class Broken(Exception):
    """As a process that is killed."""


def advance(train, store, told=None, folder=Path("work")):
    """Run a trial of the function; returns its record, None if it was broken off."""
    subject = FunctionSubject(train)
    (link,) = subject.chain({}, 0, lambda key: None)
    told = [] if told is None else told
    place = Place("a", folder, on_epoch=lambda *each: told.append(each))
    try:
        subject.advance({}, 0, link.key, store, lambda key, record: None, place)
    except Broken:
        return None
    return store.record(link.key)


def training(broken_after=(), save=lambda value, epoch: b"%d %d" % (epoch, value), saved_every=1):
    """A function that doubles and adds; it is broken off once after each of these epochs."""
    ran, left = [], list(broken_after)

    def train(config, seed, report, resume_from=None):
        content = resume_from.read_bytes() if isinstance(resume_from, Path) else resume_from
        first, value = map(int, content.split()) if content else (0, 1)
        for epoch in range(first + 1, 7):
            value = 2 * value + epoch
            ran.append(epoch)
            checkpoint = save(value, epoch) if epoch % saved_every == 0 else None
            report(epoch, {"value": value}, checkpoint=checkpoint)
            if epoch in left:
                left.remove(epoch)
                raise Broken
        return {"value": value}

    return train, ran


def to_file(value, epoch):
    path = Path(f"at-{epoch}.pt")
    path.write_text(f"{epoch} {value}")
    return path


def timeless(record):
    return {name: value for name, value in record.items() if name not in ("seconds", "time")}


@pytest.mark.parametrize("save", [training.__defaults__[1], to_file], ids=["bytes", "a file"])
def test_a_function_that_was_broken_off_goes_on_and_ends_as_one_that_was_not(save, tmp_path):
    train, ran = training((2, 5), save)
    store = MemoryStore()
    assert advance(train, store, folder=tmp_path / "work") is None
    assert advance(train, store, folder=tmp_path / "work") is None
    found = advance(train, store, folder=tmp_path / "work")
    assert ran == [1, 2, 3, 4, 5, 6]
    whole = advance(training()[0], MemoryStore())
    assert timeless(found) == timeless(whole) and len(found["history"]) == 6


def test_epochs_after_the_last_checkpoint_are_run_again_and_only_those():
    train, ran = training((3,), saved_every=2)
    store, told = MemoryStore(), []
    advance(train, store)
    found = advance(train, store, told)
    assert ran == [1, 2, 3, 3, 4, 5, 6]
    assert [(epoch["epoch"], saved) for epoch, saved in told] == [
        (1, False), (2, False), (3, False), (4, True), (5, False), (6, True),
    ]  # fmt: skip
    assert timeless(found) == timeless(advance(training()[0], MemoryStore()))


def test_its_seconds_count_on_and_its_checkpoint_goes_at_the_end(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("ablation.subject.loading.time.perf_counter", lambda: next(clock))
    train, _ = training((2,))
    store = MemoryStore()
    advance(train, store)
    assert sum(map(len, store.values())) > 0
    found = advance(train, store)
    # two checkpoints before, four after, the start of each call left out, and the end
    assert found["seconds"] == 20 + 50
    assert [content for (kind, _), content in store.items() if kind == "state"] == [b""]


def test_a_damaged_or_lost_checkpoint_means_a_new_beginning():
    train, ran = training((2,))
    store = MemoryStore()
    advance(train, store)
    store.clear()
    assert timeless(advance(train, store)) == timeless(advance(training()[0], MemoryStore()))
    assert ran == [1, 2, 1, 2, 3, 4, 5, 6]


def test_a_function_without_the_parameter_is_given_none_and_may_save_none():
    def train(config, seed, report):
        report(1, {"a": 1}, checkpoint=b"1")
        return {"a": 1}

    with pytest.raises(TypeError, match="report got a checkpoint, but the function has no param"):
        advance(train, MemoryStore())


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        (3, r"3 \(int\)"),
        ({"w": 1}, r"\{'w': 1\} \(dict\)"),
        ("nowhere.pt", "'nowhere.pt', which is not a file"),
        (Path(), "'.', which is not a file"),
    ],
)
def test_what_is_neither_bytes_nor_the_path_of_a_file_is_refused(checkpoint, said):
    def train(config, seed, report, resume_from):
        report(1, {"a": 1}, checkpoint=checkpoint)

    with pytest.raises(TypeError, match=f"^report got checkpoint {said}; a checkpoint is bytes"):
        advance(train, MemoryStore())


def test_signatures_with_and_without_the_parameter_are_taken():
    def needed(config, seed, report, *, resume_from): ...
    def optional(config, seed, report, resume_from=None): ...
    def any_keyword(config, seed, report, **more): ...
    def another(config, seed, report, start_from): ...

    assert [_fault(each) for each in (needed, optional, any_keyword)] == ["", "", ""]
    assert "takes (config, seed, report, start_from)" in _fault(another)
    assert [FunctionSubject(each).is_resumable for each in (needed, optional, any_keyword)] == [True, True, False]  # fmt: skip
