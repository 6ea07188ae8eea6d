"""Who may import whom (DESIGN.md, section 1)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
HEART = {"groups", "diffusion", "wcdas", "geometry", "routing", "losses", "metrics"}


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "ablation").rglob("*.py")), ids=lambda path: path.name
)
def test_the_harness_never_imports_torch(path):
    assert not top_level(path) & {"torch", "torchvision"}


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=lambda path: path.name)
def test_core_never_imports_the_harness_or_its_tools(path):
    assert not top_level(path) & {"ablation", "optuna", "mlflow", "click", "pandas", "matplotlib"}


@pytest.mark.parametrize("name", sorted(HEART))
def test_the_mathematical_heart_imports_nothing_else_of_core(name):
    inside = {
        module for module in imported(ROOT / "core" / f"{name}.py") if module.startswith("core")
    }
    assert {module.split(".")[1] for module in inside} <= HEART


def test_only_core_subject_is_named_by_the_harness_and_only_data_commands_look_inside():
    users = {path.name for path in (ROOT / "ablation").rglob("*.py") if "core" in top_level(path)}
    assert users == {"dataset.py"}


def test_the_command_line_starts_without_heavy_modules():
    code = "import sys, ablation.cli.main; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    assert not set(loaded) & {
        "torch",
        "mlflow",
        "matplotlib",
        "pandas",
        "optuna",
        "numpy",
        "rich",
        "yaml",
    }


def test_planning_a_study_loads_no_torch(tmp_path):
    code = (
        "import sys; from click.testing import CliRunner; from ablation.cli.main import main\n"
        f"result = CliRunner().invoke(main, ['plan', '--grid', {str(ROOT / 'experiments' / 'fixes.yaml')!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split()
    assert not set(loaded) & {"torch", "mlflow", "matplotlib", "pandas", "optuna", "sklearn"}
