"""`ablate init`, and files of `experiments/` by name."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation.cli.main import SHIPPED, main
from ablation.errors import InputError
from ablation.grid.load import load_study, yaml_path
from ablation.subject.loading import load_subject

ROOT = Path(__file__).parents[3]
FILES = {
    "experiments/fixes.yaml", "experiments/digits-lt.yaml", "experiments/published.yaml", "experiments/sources.yaml",
    "experiments/own.yaml", "experiments/own-function.yaml", "training.py",
}  # fmt: skip


def ablate(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_project_begins_with_the_shipped_files_and_is_told_what_to_type_next(project):
    done = ablate("init")
    assert done.exit_code == 0
    assert {
        str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()
    } == FILES
    for name in ("fixes.yaml", "digits-lt.yaml"):
        assert (project / "experiments" / name).read_bytes() == (
            ROOT / "experiments" / name
        ).read_bytes()
    assert (
        "ablate run --grid fixes " in done.output
        and "ablate run --grid own-function " in done.output
    )


def test_files_that_are_there_are_kept(project):
    (project / "experiments").mkdir()
    Path("experiments/fixes.yaml").write_text("mine")
    Path("training.py").write_text("mine, too")
    done = ablate("init")
    assert done.exit_code == 0 and "kept  experiments/fixes.yaml, which was there" in done.output
    assert (
        Path("experiments/fixes.yaml").read_text() == "mine"
        and Path("training.py").read_text() == "mine, too"
    )
    assert ablate("init").output.count("kept") == len(FILES)


def test_a_folder_that_is_a_file_is_named(project):
    Path("experiments").write_text("")
    done = ablate("init")
    assert (
        done.exit_code == 2 and "experiments/" in done.output and "cannot be written" in done.output
    )


@pytest.mark.parametrize("name", ["fixes", "fixes.yaml", "experiments/fixes.yaml", "digits-lt"])
def test_a_file_of_experiments_is_found_by_its_name(project, name):
    ablate("init")
    assert yaml_path(name).is_file() and yaml_path(name).parent == Path("experiments")
    assert (
        yaml_path(project / "experiments" / "fixes.yaml") == project / "experiments" / "fixes.yaml"
    )


def test_a_file_here_comes_before_one_in_experiments(project):
    ablate("init")
    Path("fixes.yaml").write_text("")
    assert yaml_path("fixes.yaml") == Path("fixes.yaml")
    assert yaml_path("fixes") == Path("experiments/fixes.yaml")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fixs", "did you mean 'fixes.yaml'?"), ("digits_lt.yaml", "did you mean 'digits-lt.yaml'?")],
)
@pytest.mark.parametrize("command", [["plan", "--grid"], ["run", "--grid"], ["data", "describe"]])
def test_a_name_that_is_not_there_is_told_where_it_was_looked_for_and_the_nearest(
    project, name, hint, command
):
    ablate("init")
    done = ablate(*command, name)
    assert (done.exit_code, done.stderr) == (
        2,
        f"{name}: no such file in '{project}' or its experiments/; {hint}\n",
    )


def test_an_empty_folder_is_told_of_init(project):
    with pytest.raises(InputError, match="`ablate init` writes examples"):
        yaml_path("fixes")


def test_the_example_of_an_own_function_can_be_planned(project, monkeypatch):
    ablate("init")
    monkeypatch.syspath_prepend(project)
    study = load_study(yaml_path("own-function"), None, [], None, load_subject)
    assert [variant.name for variant in study.variants] == [
        "reference",
        "scaling",
        "averaging",
        "scaling+averaging",
    ]


def test_all_shipped_files_are_those_of_the_repository():
    assert {path.name for path in (SHIPPED / "experiments").glob("*.yaml")} == {
        path.name for path in (ROOT / "experiments").glob("*.yaml")
    }


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").iterdir()))
def test_an_example_is_written_with_the_command_that_runs_it(example, project):
    done = ablate("init", "--example", example)
    assert done.exit_code == 0
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    shipped = ROOT / "examples" / example
    assert files == {
        path.relative_to(shipped).as_posix()
        for path in shipped.rglob("*")
        if path.suffix in (".py", ".yaml")
    }
    assert f"ablate run --grid {example}" in done.output


def test_an_example_that_is_not_there_is_refused_with_those_that_are(project):
    done = ablate("init", "--example", "own-functon")
    assert done.exit_code == 2 and "own-function" in done.output
