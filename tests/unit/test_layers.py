"""Who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Each package may import what stands below it. What stands in no package may be imported by all.
ORDER = {
    "ablation": (
        "cli", "doctor", "study", "reporting", "execution", "search", "tracking", "analysis",
        "planning", "grid", "storage", "subject",
    ),
    "core": (
        "subject", "trial", "training", "networks", "method", "planning", "device", "data", "config",
    ),
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, at its top or inside functions, but for types alone."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def is_for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


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


@pytest.mark.parametrize(
    "path",
    [path for name in ORDER for path in sorted((ROOT / name).glob("*/**/*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_imports_run_downward(path):
    root, package, *_ = path.relative_to(ROOT).parts
    order = ORDER[root]
    above = set(order[: order.index(package)])
    inside = {name.split(".")[1] for name in imported(path) if name.startswith(f"{root}.")}
    assert not inside & above


@pytest.mark.parametrize(
    "path", sorted((ROOT / "core" / "method").glob("*.py")), ids=lambda path: path.name
)
def test_the_mathematical_heart_imports_nothing_else_of_core(path):
    assert all(name.startswith("core.method") for name in imported(path) if name.startswith("core"))


def test_only_core_subject_is_named_by_the_harness_and_few_look_inside():
    """Data commands, and for the meaning of a source what reads own code."""
    users = {path.name for path in (ROOT / "ablation").rglob("*.py") if "core" in top_level(path)}
    assert users == {"data.py", "imported.py"}


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
        f"result = CliRunner().invoke(main, ['plan', '--seeds', '1', '--grid', {str(ROOT / 'experiments' / 'fixes.yaml')!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.split()
    assert not set(loaded) & {"torch", "mlflow", "matplotlib", "pandas", "optuna", "sklearn"}


def test_a_report_loads_matplotlib_only_where_figures_are_drawn():
    code = "import sys, ablation.reporting.report; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
