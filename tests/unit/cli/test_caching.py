"""The cache as a user sees it."""

from contextlib import ExitStack

import click
import pytest
from click.testing import CliRunner

from ablation.cli.main import main
from ablation.errors import InputError
from ablation.formatting import parse_size, show_size
from ablation.storage.files import folder_lock
from ablation.storage.project import ProjectPaths


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("12", 12),
        ("1.5 kB", 1500),
        ("500MB", 500_000_000),
        ("2GiB", 2**31),
        (" 3 gb ", 3 * 10**9),
    ],
)
def test_sizes_are_read_as_people_write_them(text, n_bytes):
    assert parse_size(text, "--size") == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 parsec", "1e3", "1,5GB"])
def test_what_is_no_size_is_refused_by_name(text):
    with pytest.raises(InputError, match="--cache-size: .*is not a size"):
        parse_size(text, "--cache-size")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (7e12, "7000.0 GB")],
)
def test_sizes_are_shown_in_the_unit_that_suits(n_bytes, text):
    assert show_size(n_bytes) == text


def test_the_cache_command_shows_and_trims(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = ProjectPaths().store
    store.save("state", "a" * 32, bytes(5000), 12.0)
    store.save("record", "b" * 32, b"{}", 0.5)
    shown = CliRunner().invoke(main, ["cache"]).output
    assert "state" in shown and "5.0 kB" in shown and "12 s" in shown
    said = CliRunner().invoke(main, ["cache", "trim", "--size", "100"]).output
    assert said.startswith("evicted 1 entries, 5.0 kB, which took 12 s")
    assert not store.holds("state", "a" * 32) and store.holds("record", "b" * 32)


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """The cache of a project with a record, its checkpoint, and what a trial that shares nothing has left."""
    monkeypatch.chdir(tmp_path)
    store = ProjectPaths().store
    store.save("record", "b" * 32, b"{}", 120.0)
    store.save("state", "b" * 32, bytes(5000), 120.0)
    store.alone("fixes", "reference--s0").save("record", "c" * 32, b"{}", 60.0)
    return store


def test_clearing_asks_first_and_says_what_would_go(filled):
    done = CliRunner().invoke(main, ["cache", "clear"], input="n\n")
    assert (
        "3 entries, 5.1 kB, 3.0 min of work; finished trials keep their results in runs/"
        in done.output
    )
    assert done.exit_code == 1 and len(list(filled.entries())) == 3


@pytest.mark.parametrize(("arguments", "typed"), [(["--yes"], ""), ([], "y\n")])
def test_clearing_removes_everything_and_says_so(filled, arguments, typed):
    done = CliRunner().invoke(main, ["cache", "clear", *arguments], input=typed)
    assert done.exit_code == 0 and done.output.endswith("removed 3 entries, 5.1 kB\n")
    assert not list(filled.entries())


def test_a_cache_in_use_is_not_cleared(filled):
    with folder_lock(ProjectPaths().runs("fixes").path):
        done = CliRunner().invoke(main, ["cache", "clear", "--yes"])
        assert (
            done.exit_code == 2
            and done.stderr
            == ".ablate/cache: cannot be cleared while a study is being run: fixes\n"
        )
        assert len(list(filled.entries())) == 3
    assert CliRunner().invoke(main, ["cache", "clear", "--yes"]).exit_code == 0


def test_a_study_that_is_started_while_the_user_is_asked_keeps_its_cache(filled, monkeypatch):
    with ExitStack() as running:
        monkeypatch.setattr(
            click,
            "confirm",
            lambda *_, **__: running.enter_context(folder_lock(ProjectPaths().runs("fixes").path)),
        )
        assert CliRunner().invoke(main, ["cache", "clear"]).exit_code == 2
    assert len(list(filled.entries())) == 3
