"""README, CONTRIBUTING and docs/ lead to files and names that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
FOLDERS = "ablation|core|tests|experiments|examples|docs|benchmarks"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)`")


def links(page: Path) -> list[tuple[str, Path]]:
    """Text and target of the links to files of the repository."""
    found = LINK.findall(page.read_text(encoding="utf-8"))
    return [
        (text, page.parent / target.partition("#")[0])
        for text, target in found
        if not target.startswith(("http://", "https://", "#"))
    ]


def names_in(path: Path) -> set[str]:
    """What a module defines, methods and fields as `Class.name`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        own = defined(node)
        names |= own
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for inner in node.body for name in defined(inner)}
    return names


def defined(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_of_a_page_lead_to_files(page):
    paths = {ROOT / path for path in PATH.findall(page.read_text(encoding="utf-8"))}
    targets = {target for _, target in links(page)} | paths
    assert targets
    assert not [str(target) for target in targets if not target.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_name_that_links_to_a_module_is_defined_there(page):
    named = [
        (match[1], target)
        for text, target in links(page)
        if target.suffix == ".py" and (match := NAME.fullmatch(text))
    ]
    named = [pair for pair in named if pair[0] != pair[1].name]
    packages = {path.name for root in ("ablation", "core") for path in (ROOT / root).iterdir()}
    missing = [
        f"{name} in {target.relative_to(page.parent)}"
        for name, target in named
        if name not in packages and name not in names_in(target)
    ]
    assert not missing
    if page == ARCHITECTURE:
        assert len(named) > 60


@pytest.mark.parametrize("root", ["ablation", "core"])
def test_the_architecture_lists_every_package(root):
    text = ARCHITECTURE.read_text(encoding="utf-8")
    drawing = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    packages = [path.parent.name for path in (ROOT / root).glob("*/__init__.py")]
    assert len(packages) > 7
    for package in packages:
        assert f"[`{package}`](../{root}/{package}/" in text and f">{package}</text>" in drawing


@pytest.mark.parametrize("root", ["ablation", "core"])
def test_what_docstrings_and_comments_refer_to_exists(root):
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / root).rglob("*.py"))
    named = set(re.findall(r"`((?:ablation|core)(?:\.\w+)+)`", text))
    assert len(named) > 10
    assert not {name for name in named if not exists(name)}


@pytest.mark.parametrize(
    "path",
    [path for root in ("ablation", "core") for path in sorted((ROOT / root).rglob("__init__.py"))],
    ids=lambda path: path.parent.relative_to(ROOT).as_posix(),
)
def test_a_package_tells_where_to_enter_by_names_that_exist(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    package = ".".join(path.parent.relative_to(ROOT).parts)
    named = re.findall(r"`([a-z_]+\.\w+)`", docstring)
    assert named
    assert not [name for name in named if not exists(f"{package}.{name}")]


def exists(dotted: str) -> bool:
    """Whether it is a package, a module, or something that a module defines."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:n])
        if path.with_suffix(".py").is_file():
            return n == len(parts) or ".".join(parts[n:]) in names_in(path.with_suffix(".py"))
        if path.is_dir():
            return n == len(parts)
    return False
