"""Which grid is meant where none is named, and what there is to choose from."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation.cli.main import main
from ablation.errors import InputError
from ablation.grid.choices import experiments, grids, the_grid
from ablation.grid.load import yaml_path
from ablation.storage.files import warn_once

GRID = "study: {name}\nquestion: {question}\nexperiment: digits\n"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "digits.yaml").write_text("title: Digits\nsettings: {epochs: 2}\n")
    (tmp_path / "experiments" / "published.yaml").write_text("digits: []\n")
    (tmp_path / "experiments" / "broken.yaml").write_text("study: [\n")
    return tmp_path


def write(path: str, question: str = "Does it help?") -> None:
    Path(path).write_text(GRID.format(name=Path(path).stem, question=question))


@pytest.mark.parametrize("path", ["experiments/only.yaml", "only.yaml"])
def test_the_only_grid_that_can_be_read_is_taken_and_experiments_are_none(project, path, caplog):
    write(path)
    Path("other.yaml").write_text("stages: [\n")
    warn_once.cache_clear()
    with caplog.at_level("WARNING", "ablation"):
        assert the_grid(None) == Path(path)
    (told,) = caplog.messages
    assert told.startswith("broken.yaml: line ") and told.endswith("; this grid is passed over")
    assert [one.name for one in experiments()] == ["digits"]


def test_an_experiment_of_own_code_without_settings_is_one(project):
    Path("experiments/mine.yaml").write_text("subject: training:train\n")
    assert [one.name for one in experiments()] == ["digits", "mine"]


def test_of_several_grids_each_is_told_in_a_line_with_its_question(project):
    write("experiments/fixes.yaml")
    write("experiments/warmups.yaml", "How long " + "and how often " * 20 + "?")
    write("here.yaml")
    done = CliRunner().invoke(main, ["run"])
    head, *lines = done.stderr.splitlines()
    assert (done.exit_code, done.stdout, head) == (2, "", "--grid: name one of these grids:")
    assert lines[0] == "  fixes      Does it help?" and lines[2] == "  here.yaml  Does it help?"
    assert lines[1].startswith("  warmups    How long and how") and lines[1].endswith(" ...")
    assert len(lines) == 4 and max(map(len, lines[:3])) < 110
    assert lines[3].startswith("broken.yaml: line ") and lines[3].endswith(
        "this grid is passed over"
    )
    for choice in grids():
        assert the_grid(Path(choice.name)) == choice.path


def test_without_a_grid_init_is_named(project):
    Path("experiments/broken.yaml").unlink()
    with pytest.raises(InputError, match="there is no grid in .*`ablate init` writes two"):
        the_grid(None)


def test_what_is_wrong_with_the_only_grid_is_told_where_none_is_named(project):
    Path("experiments/broken.yaml").unlink()
    Path("experiments/mine.yaml").write_text("study: mine\nfactors:\n\trate: 1\n")
    unnamed, named = (
        CliRunner().invoke(main, ["plan", *arguments]) for arguments in ([], ["--grid", "mine"])
    )
    assert (unnamed.exit_code, named.exit_code) == (2, 2) and "mine.yaml" in named.stderr
    assert unnamed.stderr.startswith(named.stderr)
    assert "there is no other grid in" in unnamed.stderr


def test_a_name_is_looked_for_here_too_and_a_folder_of_that_name_is_no_grid(project):
    write("here.yaml")
    assert yaml_path("here") == Path("here.yaml")
    Path("fixes").mkdir()
    write("experiments/fixes.yaml")
    assert yaml_path("fixes") == Path("experiments/fixes.yaml")


@pytest.mark.parametrize("named", ["study: own", "study: 'own'  # mine"])
def test_the_name_of_a_study_leads_to_its_grid(named, project, monkeypatch):
    def read(path, *arguments, own=Path.read_text):
        assert path.is_file(), f"{path} may have no end"
        return own(path, *arguments)

    monkeypatch.setattr(Path, "read_text", read)
    Path("experiments/fixes-2.yaml").write_text(f"{named}\nfactors: {{}}\n")
    Path("experiments/owner.yaml").write_text("study: owner\nsettings: {study: own}\n")
    Path("experiments/folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    with pytest.raises(InputError, match="the study 'own' is in experiments/fixes-2.yaml"):
        yaml_path("own")
