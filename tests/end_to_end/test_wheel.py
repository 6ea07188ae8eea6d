"""The wheel, built and used in an empty folder. `pytest -m wheel` (pip fetches the build tool)."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (
    "ablation",
    "core",
    "experiments",
    "examples",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
)

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the packages of a wheel that was built from a copy of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = (
            shutil.copy
            if (ROOT / name).is_file()
            else functools.partial(shutil.copytree, symlinks=True)
        )
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, folder / "source"], check=True)
    (wheel,) = folder.glob("ablate_lt-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    shutil.rmtree(folder / "source")
    return folder / "site"


@pytest.fixture
def ablate(installed, tmp_path):
    """Runs the wheel's command in an empty folder, with an empty home."""
    project, home = tmp_path / "project", tmp_path / "home"
    project.mkdir()
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
    environment = kept | {"PYTHONPATH": str(installed), "HOME": str(home)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", "-m", "ablation", *arguments]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.project = project
    return run


def test_init_and_a_run_of_ones_own_function_work_from_a_wheel(ablate, installed):
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import ablation, core.data.location as inner, core; print(ablation.__file__, core.__file__, inner.__file__)"],
        env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert where.count(str(installed)) == 3, where
    assert "ablate run --grid own-function" in ablate("init")
    assert "report: reports/own-function/report.md" in ablate(
        "run", "--grid", "own-function", "--seeds", "2"
    )
    assert (ablate.project / "reports" / "own-function" / "figures" / "accuracy.png").is_file()
    left = {path.name for path in ablate.project.iterdir()}
    assert left == {
        ".ablate",
        "experiments",
        "mlflow.db",
        "reports",
        "runs",
        "training.py",
        "mlartifacts",
    } | ({"__pycache__"} & left)


def test_the_shipped_study_runs_from_a_wheel_by_its_name(ablate):
    ablate("init")
    shortened = ("--seeds", "1", "-S", "epochs=6", "-S", "pretraining.epochs=2")
    assert "report: reports/fixes/report.md" in ablate("run", "--grid", "fixes.yaml", *shortened)
    assert "nothing to train" in ablate("run", "--grid", "fixes", *shortened)
    assert "cifar10-lt-if100" in ablate("data", "get")
