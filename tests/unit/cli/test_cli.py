"""Plain mistakes at the command line: an exit code and one line, never a traceback."""

import io
import random
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from ablation.cli.main import main
from ablation.doctor import examine as doctor
from ablation.errors import InputError
from ablation.storage.project import ProjectPaths


def said(*arguments: str, expect: int = 2) -> str:
    """The one line that the command prints on stderr."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == expect, done.output
    assert isinstance(done.exception, SystemExit)
    (line,) = done.stderr.splitlines()
    return line


def archive(path: Path, mode: str) -> Path:
    """Images of two classes for training and testing."""
    rng = random.Random(0)
    with tarfile.open(path, f"w:{mode}") as tar:
        for part in ("train", "test"):
            for name in ("cat", "dog"):
                content = io.BytesIO()
                Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3)).save(content, "PNG")
                member = tarfile.TarInfo(f"data/{part}/{name}/0.png")
                member.size = len(content.getvalue())
                tar.addfile(member, io.BytesIO(content.getvalue()))
    return path


@pytest.fixture(params=["gz", "xz", "bz2"])
def damaged(request, tmp_path) -> Path:
    path = archive(tmp_path / f"images.tar.{request.param}", request.param)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    return path


@pytest.fixture
def experiment(tmp_path):
    def write(data: Path) -> str:
        path = tmp_path / "own.yaml"
        path.write_text(f"settings: {{data: {{source: folder, path: {data}, channels: rgb}}}}\n")
        return str(path)

    return write


@pytest.mark.parametrize("folder", ["/proc/xx", "own.yaml/images"])
def test_unpacking_where_nothing_can_be_written_names_the_folder(tmp_path, folder):
    (tmp_path / "own.yaml").touch()
    target = str(tmp_path / folder)
    assert said(
        "data", "unpack", str(archive(tmp_path / "images.tar.gz", "gz")), target
    ).startswith(f"{target}: cannot be written: ")


def test_unpacking_a_damaged_archive_names_it(damaged, tmp_path):
    assert said("data", "unpack", str(damaged), str(tmp_path / "images")).startswith(
        f"'{damaged}' is not a tar archive that can be read"
    )


@pytest.mark.parametrize("command", ["describe", "verify"])
def test_looking_at_a_damaged_archive_names_it(damaged, experiment, command):
    line = said("data", command, experiment(damaged))
    assert line.startswith("own.yaml: settings.data") and damaged.name in line


def test_looking_at_a_file_that_is_no_archive_names_it(tmp_path, experiment):
    path = tmp_path / "images.tar.gz"
    path.write_text("no archive")
    assert said("data", "describe", experiment(path)).startswith(
        f"own.yaml: settings.data.path: '{path}' is not a tar archive that can be read"
    )


def test_looking_at_what_is_not_cifar_names_the_setting(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_text("no images")
    (tmp_path / "own.yaml").write_text(
        f"settings: {{data: {{source: cifar10, path: {tmp_path}}}}}\n"
    )
    assert said("data", "describe", str(tmp_path / "own.yaml")).startswith(
        f"own.yaml: settings.data.path: '{tmp_path}' cannot be read: Dataset not found or corrupted."
    )


def test_the_interface_says_that_its_store_is_out_of_reach(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlserver://ada:secret@127.0.0.1:9/mlflow")
    line = said("ui", "--port", "45871", expect=1)
    assert (
        line.startswith("MLflow at sqlserver://***@127.0.0.1:9/mlflow is not available: ")
        and "secret" not in line
    )


def test_folders_that_can_be_written_are_made_and_left_empty(tmp_path):
    ProjectPaths(tmp_path).require_writable()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".ablate", "reports", "runs"]


def test_folders_that_cannot_be_written_are_all_named(tmp_path):
    (tmp_path / "runs").touch()
    (tmp_path / ".ablate").symlink_to("/proc")
    with pytest.raises(InputError) as error:
        ProjectPaths(tmp_path).require_writable()
    first, second = map(str, error.value.problems)
    assert first == f"{tmp_path}/runs: is a file, and a folder is needed"
    assert second.startswith(f"{tmp_path}/.ablate: cannot be written: ")
    ProjectPaths(tmp_path).require_writable("reports")


def test_a_report_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "own").mkdir(parents=True)
    (tmp_path / "runs" / "own" / "study.json").touch()
    (tmp_path / "reports").touch()
    assert said("report") == "reports: is a file, and a folder is needed"


@pytest.mark.parametrize(("is_well", "code"), [(True, 0), (False, 1)])
def test_the_doctor_exits_with_whether_all_is_well(tmp_path, monkeypatch, is_well, code):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(doctor, "doctor", lambda *arguments: asked.append(arguments[:2]) or is_well)
    assert (
        CliRunner().invoke(main, ["doctor"]).exit_code
        == CliRunner().invoke(main, ["doctor", "--repair"]).exit_code
        == code
    )
    assert asked == [(None, False), (None, True)]


def test_the_doctor_does_not_know_a_study_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "fixes").mkdir(parents=True)
    (tmp_path / "runs" / "fixes" / "study.json").touch()
    assert said("doctor", "fixs") == "runs: fixs: no such study; did you mean 'fixes'?"


@pytest.mark.parametrize("group", [(), ("cache",), ("data",)])
def test_the_help_shows_whole_summaries(group):
    text = CliRunner().invoke(main, [*group, "--help"], terminal_width=60).output
    listed = text.partition("\nCommands:\n")[2]
    command = main if not group else main.commands[group[0]]
    assert listed.count(".\n") >= len(command.commands) and "..." not in listed
