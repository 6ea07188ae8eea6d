"""What a module's results depend on besides its own text: the project's modules that it imports, and versions of libraries.

Found in the texts, so that nothing is run, and an import inside of a function counts too. What is imported by a name that is
put together at run time is not seen.
"""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


def project_sources(module: str) -> dict[str, bytes]:
    """Name -> text of the module and of all that it imports, directly or not, but for installed libraries."""
    top, sources, left = module.partition(".")[0], {}, [module]
    while left:
        name = left.pop()
        path = _file(name)
        if name in sources or path is None or (name.partition(".")[0] != top and is_library(path)):
            continue
        sources[name] = path.read_bytes()
        left += _imported(
            sources[name], name if path.name == "__init__.py" else name.rpartition(".")[0]
        )
    return dict(sorted(sources.items()))


def imported_names(sources: Mapping[str, bytes]) -> list[str]:
    """Every name that may be that of a module that the texts import, sorted. sources: from `project_sources`."""
    return sorted({name for package, text in sources.items() for name in _imported(text, package)})


def module_file(name: str, folder: Path) -> Path | None:
    """The text of the module of that name below a folder; None if it has none there."""
    path = folder.joinpath(*name.split("."))
    return next(
        (
            file
            for file in (path / "__init__.py", path.with_name(f"{path.name}.py"))
            if file.is_file()
        ),
        None,
    )


def taken_from(name: str) -> str | None:
    """Where Python takes a module from, or the part of its name that it knows; None if it knows none of it."""
    spec = _spec(name)
    if spec is None:
        return taken_from(name.rpartition(".")[0]) if "." in name else None
    file = getattr(sys.modules.get(name), "__file__", None)
    return file or spec.origin or next(iter(spec.submodule_search_locations or []), None)


def library_versions(sources: Mapping[str, bytes]) -> dict[str, str]:
    """Version of each installed distribution that the texts import, by name. sources: from `project_sources`."""
    names = {name.partition(".")[0] for name in imported_names(sources)}
    owners, ours = (
        importlib.metadata.packages_distributions(),
        {name.partition(".")[0] for name in sources},
    )
    found = {
        owner for name in names - ours - sys.stdlib_module_names for owner in owners.get(name, [])
    }
    return {name: importlib.metadata.version(name) for name in sorted(found)}


def _imported(text: bytes, package: str) -> Iterator[str]:
    """Every name that may be a module's: of `from a.b import c`, a, a.b and a.b.c. package: where relative imports start."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):  # whoever imports it fails, and tells
        return
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            )
            names = [
                ".".join(filter(None, [*parents, node.module, alias.name])) for alias in node.names
            ]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _file(name: str) -> Path | None:
    """Where a module's text is; None if it is no module, or has no text."""
    spec = _spec(name)
    return (
        Path(spec.origin).resolve()
        if spec and spec.origin and spec.origin.endswith(".py")
        else None
    )


def _spec(name: str) -> ModuleSpec | None:
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None:
        return loaded
    parent = name.rpartition(".")[0]
    above = _spec(parent) if parent else None
    where = list(above and above.submodule_search_locations or []) if parent else None
    found = (
        finder.find_spec(name, where) for finder in sys.meta_path if hasattr(finder, "find_spec")
    )
    return next((spec for spec in found if spec is not None), None)


def is_library(path: Path) -> bool:
    return bool(INSTALLED & set(path.parts)) or path.is_relative_to(STANDARD)
