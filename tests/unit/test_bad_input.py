"""Whatever is wrong with the input is named, with exit code 2, before anything is executed or left behind."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import CANARY, CASES, IN_A_PROCESS_OF_ITS_OWN, PROJECT, Case
from click.testing import CliRunner

from ablation.cli.main import main
from ablation.storage.files import warn_once
from ablation.study import opening, placement

# these load torch
SLOW_TO_START = {"a truncated image, run", "code in a checkpoint"}
ROOT = Path(__file__).parents[2]


def write(root: Path, files) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def left(root: Path) -> dict[str, bytes | None]:
    """All that is there and is no folder; of the cache, the trials and what was unpacked the folders too.

    Without what Python keeps of the user's own modules that it imports.
    """
    kept = ("runs/", ".ablate/", "reports/", "unpacked")
    found = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if "__pycache__" not in path.parts
    }
    return {
        name: path.read_bytes() if path.is_file() else None
        for name, path in found.items()
        if not path.is_dir()
        or (f"{name}/".removeprefix("project/").startswith(kept) and name.count("/") > 1)
    }


def train(n_jobs: int, gpus: object) -> None:
    raise RuntimeError("something is being trained")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A sound project, inside a folder that must stay as it is, and no worker to train anything in it."""
    root = tmp_path / "project"
    write(root, PROJECT)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(placement, "Workers", train)
    monkeypatch.setattr(opening, "_ask", opening.inspect)  # here, where torch is loaded
    warn_once.cache_clear()
    return root


def refused(output: str, case: Case) -> None:
    said = [case.said] if isinstance(case.said, str) else case.said
    assert all(word in output for word in said), output
    assert "Traceback" not in output


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_is_named_and_nothing_is_done(project, case):
    write(project, case.files)
    before = left(project.parent)
    done = CliRunner().invoke(main, shlex.split(case.command))
    assert isinstance(done.exception, SystemExit) and done.exit_code == 2, (
        done.output,
        done.exc_info,
    )
    refused(done.output, case)
    assert left(project.parent) == before and CANARY not in before


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.long if case.name in SLOW_TO_START else [])
        for case in CASES
        if case.name in IN_A_PROCESS_OF_ITS_OWN
    ],
    ids=lambda case: case.name,
)
def test_bad_input_is_named_by_the_command_as_users_start_it(project, case):
    write(project, case.files)
    before = left(project.parent)
    done = subprocess.run(
        [sys.executable, "-m", "ablation", *shlex.split(case.command)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    refused(done.stderr, case)
    assert left(project.parent) == before and CANARY not in before


@pytest.mark.parametrize("experiment", ["digits", "images"])
def test_the_project_is_sound_but_for_what_a_case_changes(project, experiment):
    done = CliRunner().invoke(
        main, ["run", "--grid", "grid.yaml", "--experiment", experiment, "--offline"]
    )
    assert done.exit_code == 1 and str(done.exception) == "something is being trained", done.output


def test_the_corpus_is_of_many_and_distinct_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert IN_A_PROCESS_OF_ITS_OWN <= {case.name for case in CASES}
