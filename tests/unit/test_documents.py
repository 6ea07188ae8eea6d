"""README, CONTRIBUTING and docs/ lead to files and names that exist, and their examples work."""

import ast
import copy
import importlib.util
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from ablation.cli.main import main

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / name for name in ("tests/README.md", "benchmarks/README.md", "reports/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "first-study.ipynb",
]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_paths_of_a_page_lead_to_files(page):
    paths = {ROOT / path for path in PATH.findall(page.read_text(encoding="utf-8"))}
    targets = {target for _, target in links(page)} | paths
    assert targets
    assert not [str(target) for target in targets if not target.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
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


# of an anchor, what is left of a heading: GitHub's and mkdocs's rules agree on these
ANCHOR = re.compile(r"[^\w\- ]")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {ANCHOR.sub("", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_headings_lead_to_headings(page):
    found = LINK.findall(page.read_text(encoding="utf-8"))
    parts = [target.partition("#") for _, target in found if not target.startswith("http")]
    missing = [
        f"{file}#{anchor}"
        for file, _, anchor in parts
        if anchor and anchor not in anchors((page.parent / file) if file else page)
    ]
    assert not missing


def test_the_overview_and_the_site_have_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    listed = {target.name for _, target in links(ROOT / "docs" / "index.md")}
    assert pages <= listed
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page for page in pages if f": {page}\n" not in site]


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").split()) < 1000


def test_the_page_of_settings_is_up_to_date():
    page = loaded("settings").page()
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == page, "python docs/settings.py"


def loaded(name: str):
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "repo_url, becomes", [("", "x"), ("https://a/b/", "[x](https://a/b/blob/main/core/c.py)")]
)
def test_on_the_site_links_to_files_outside_are_text_or_lead_to_the_repository(repo_url, becomes):
    rewrite = loaded("links_outside").on_page_markdown
    config = SimpleNamespace(repo_url=repo_url)
    for page, link in [("a.md", "../core/c.py"), ("results/s/a.md", "../../../core/c.py")]:
        page = SimpleNamespace(file=SimpleNamespace(src_uri=page))
        assert rewrite(f"see [x]({link}).", page=page, config=config) == f"see {becomes}."
    inside = "[x](../b.md) ![y](../c.png) [z](d.md)"
    page = SimpleNamespace(file=SimpleNamespace(src_uri="results/a.md"))
    assert rewrite(inside, page=page, config=config) == inside


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}(?=\S).*(?:\n {4}.*)*", re.MULTILINE)
INLINE = re.compile(r"`(ablate\s[^`]+)`")


def commands(page: Path) -> list[list[str]]:
    """The `ablate` commands in the code blocks of a page, as words."""
    text = page.read_text(encoding="utf-8")
    fenced = FENCED.findall(text)
    blocks = [code for language, code in fenced if language not in ("python", "yaml")]
    blocks += INDENTED.findall(FENCED.sub("", text))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    parts = [part.strip().removeprefix("$ ") for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("ablate ")]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
MENTIONED = [
    (page, shlex.split(text)[1:])
    for page in PAGES
    # what the changelog mentions may be gone
    if page.stem != "CHANGELOG"
    for text in INLINE.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
]


def wrong_use(words: list[str], is_whole: bool = True) -> str:
    """What click has against a command, its files aside; "" if nothing.

    is_whole: it must have all that the command needs.
    """
    command: click.Command = main
    try:
        while isinstance(command, click.Group) and words:
            _, command, words = command.resolve_command(click.Context(command), words)
        if isinstance(command, click.Group):
            return ""
        without_callbacks(command, is_whole).make_context("ablate", list(words))
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:
        # of --help, which has been shown
        pass
    return ""


def without_callbacks(command: click.Command, is_whole: bool) -> click.Command:
    """The command with parameters that look at no file and at no environment."""
    command = copy.copy(command)
    command.params = [copy.copy(parameter) for parameter in command.params]
    for parameter in command.params:
        parameter.callback = parameter.envvar = None
        parameter.required = parameter.required and is_whole
    return command


def named(commands: list[tuple[Path, list[str]]]) -> list[str]:
    return [f"{page.stem}: {' '.join(words)}" for page, words in commands]


@pytest.mark.parametrize("page, words", COMMANDS, ids=named(COMMANDS))
def test_commands_of_the_pages_are_accepted(page, words):
    assert wrong_use(words) == ""
    grids = [value for option, value in pairwise(words) if option == "--grid"]
    for grid in grids:
        assert not grid.startswith("experiments/") or (ROOT / grid).is_file()


def test_commands_that_the_pages_mention_are_accepted():
    wrong = {" ".join(words): wrong_use(words, is_whole=False) for _, words in MENTIONED}
    assert len(wrong) > 20
    assert not {words: message for words, message in wrong.items() if message}


READING = ("table fixes arms", "compare lr_split reference --study fixes", "data get")


@pytest.mark.parametrize("command", READING)
def test_commands_that_only_read_work_on_the_committed_results(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command.split() in [words for _, words in COMMANDS]
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 0 and done.output, done.output


BAD_GRID = """
study: bad
experiment: small-digits
design: factoriel
seeds: 0
factors:
  lr: {small: {optim.lr.encodre: 1.0e-5}, large: {optim.lr.encoder: -1}}
baselines: [ldmrl]
"""


def test_the_messages_that_the_page_shows_are_those_of_the_command(project):
    page = ROOT / "docs" / "grids.md"
    written(page, project)
    (project / "experiments" / "bad.yaml").write_text(BAD_GRID)
    done = CliRunner().invoke(main, ["run", "--grid", "bad"])
    assert done.exit_code == 2
    assert f"$ ablate run --grid bad\n{done.stderr}```" in page.read_text(encoding="utf-8")


def test_there_are_commands_and_wrong_ones_are_found():
    assert len(COMMANDS) > 20
    assert wrong_use(["run", "--grid", "g", "--jbos", "2"])
    assert wrong_use(["run", "--grid", "g", "--jobs", "two"])
    assert wrong_use(["plan", "--grid"])
    assert wrong_use(["rnu"])
    assert wrong_use(["compare", "a", "b", "c"])


FILE = re.compile(r"^```\w+\n# ([\w./-]+\.(?:py|yaml))\b.*?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def written(page: Path, folder: Path) -> list[Path]:
    """The files that a page shows whole, each named in its first line, below `folder`."""
    paths = []
    for name, text in FILE.findall(page.read_text(encoding="utf-8")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """An empty project as the working directory; modules that are imported from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "training", raising=False)
    yield tmp_path
    sys.modules.pop("training", None)


@pytest.mark.long
def test_the_readmes_own_function_is_ablated(project):
    (grid,) = (path for path in written(README, project) if "study:" in path.read_text())
    options = ["--seeds", "2", "--jobs", "1", "--offline"]
    done = CliRunner().invoke(main, ["run", "--grid", grid.stem, *options])
    assert done.exit_code == 0, done.output
    report = (project / "reports" / grid.stem / "report.md").read_text(encoding="utf-8")
    assert "decay=1.0+averaging=true" in report


def test_the_readmes_own_function_trains(project):
    written(README, project)
    sys.path.append(str(project))
    train = importlib.import_module("training").train
    assert 80 < train({"decay": 1e-4, "averaging": False}, 0, None)["accuracy"] <= 100


@pytest.mark.parametrize("page", ["README.md", "docs/grids.md"])
def test_the_grids_of_a_page_can_be_planned(page, project):
    paths = written(ROOT / page, project)
    grids = [path for path in paths if "study:" in path.read_text()]
    assert grids
    for grid in grids:
        done = CliRunner().invoke(main, ["plan", "--grid", grid.stem])
        assert done.exit_code == 0, done.output


def test_the_experiment_of_own_images_is_read(project):
    (path,) = written(ROOT / "docs" / "data.md", project)
    done = CliRunner().invoke(main, ["data", "describe", str(path)])
    # all of it is right but that there are no such images
    assert done.exit_code == 2 and done.output.count("\n") == 1 and "data/mine" in done.output
