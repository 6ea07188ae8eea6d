"""Where files that settings name are looked for."""

from pathlib import Path

import pytest

from core.config.schema import Config, Data, Encoder
from core.data.location import data_root, locate, places
from core.planning.fingerprint import missing_inputs
from core.subject import SUBJECT


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ABLATE_DATA", raising=False)
    return folder


@pytest.fixture
def there(tmp_path, here, monkeypatch) -> Path:
    folder = tmp_path / "there"
    folder.mkdir()
    monkeypatch.setenv("ABLATE_DATA", str(folder))
    return folder


@pytest.mark.parametrize("value", ["", "  ", None])
def test_without_the_variable_files_are_below_the_working_directory(here, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("ABLATE_DATA", value)
    assert data_root() == Path(".")
    assert locate("data/x.png") == Path("data/x.png")


def test_below_the_named_folder_first_then_below_the_working_directory(here, there):
    (here / "both").touch()
    (here / "mine").touch()
    (there / "both").touch()
    (there / "theirs").touch()
    assert [locate(name) for name in ("both", "theirs", "gone")] == [
        there / "both",
        there / "theirs",
        there / "gone",
    ]
    assert locate("mine") == Path("mine")


def test_absolute_paths_are_taken_as_they_are(here, there):
    assert locate("/etc/hosts") == Path("/etc/hosts")
    assert locate("/not/there") == Path("/not/there")


def test_a_home_folder_is_expanded(here, there, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/x") == tmp_path / "x"
    monkeypatch.setenv("ABLATE_DATA", "~/there")
    assert data_root() == there


def test_what_is_missing_is_told_with_every_place_where_it_was_looked_for(here, there):
    assert places("a/b") == f"'{there / 'a/b'}' (ABLATE_DATA) and '{here / 'a/b'}'"
    assert places("/a/b") == "'/a/b'"
    encoder = Encoder(checkpoint="net.pt", channels="rgb")
    config = Config(data=Data(source="folder", path="images.tar.gz"), encoder=encoder)
    faults = {fault.key: fault for fault in missing_inputs(config)}
    assert {key: fault.absent for key, fault in faults.items()} == {
        "data.path": "images.tar.gz",
        "encoder.checkpoint": "net.pt",
    }
    assert (
        str(there / "net.pt") in faults["encoder.checkpoint"].message
        and str(here / "net.pt") in faults["encoder.checkpoint"].message
    )


def test_something_else_in_the_place_of_a_file_is_a_fault_and_not_an_absence(here):
    (here / "net.pt").mkdir()
    (here / "images").mkdir()
    settings = {
        "data.source": "folder",
        "data.path": "images",
        "encoder.checkpoint": "net.pt",
        "encoder.channels": "rgb",
    }
    faults = SUBJECT.check(settings)
    assert {fault.key for fault in faults} == {"data.path", "encoder.checkpoint"}
    assert not any(fault.absent for fault in faults)
