"""Find what a module's results depend on: the project's modules and libraries that it imports.

Found in the texts, so that nothing is run, and an import inside of a function counts too. What is
imported by a name that is put together at run time is not seen.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from ablation import PACKAGE

INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


def project_sources(module: str) -> dict[str, bytes]:
    """Name -> text of the module and of all that it imports but installed libraries."""
    top, left = module.partition(".")[0], [module]
    sources: dict[str, bytes] = {}
    while left:
        name = left.pop()
        path = _file(name)
        if name in sources or path is None or (name.partition(".")[0] != top and is_library(path)):
            continue
        sources[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        left += _imported(sources[name], package)
    return dict(sorted(sources.items()))


def imported_names(sources: Mapping[str, bytes]) -> list[str]:
    """Every name that may be that of an imported module, sorted. sources: see `project_sources`."""
    return sorted({name for package, text in sources.items() for name in _imported(text, package)})


def module_file(name: str, folder: Path) -> Path | None:
    """The text of the module of that name below a folder; None if it has none there."""
    path = folder.joinpath(*name.split("."))
    files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((file for file in files if file.is_file()), None)


def taken_from(name: str) -> str | None:
    """Where Python takes a module from, or the part of its name that it knows, if any."""
    spec = _spec(name)
    if spec is None:
        return taken_from(name.rpartition(".")[0]) if "." in name else None
    file = getattr(sys.modules.get(name), "__file__", None)
    return file or spec.origin or next(iter(spec.submodule_search_locations or []), None)


def library_versions(sources: Mapping[str, bytes]) -> dict[str, str]:
    """Version of each installed distribution that the texts import, by name."""
    names = {name.partition(".")[0] for name in imported_names(sources)}
    names -= {name.partition(".")[0] for name in sources} | sys.stdlib_module_names
    owners = _distributions(tuple(sys.path)) if names else {}
    found = {owner for name in names for owner in owners.get(name, [])}
    return {name: importlib.metadata.version(name) for name in sorted(found)}


@functools.cache
def _distributions(_path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Top-level module -> installed distributions that have it; half a second to find out."""
    return importlib.metadata.packages_distributions()


def is_library(path: Path) -> bool:
    """Whether a file is of the standard library, of an installed package, or of this one."""
    is_ours = path.is_relative_to(PACKAGE)
    return is_ours or bool(INSTALLED & set(path.parts)) or path.is_relative_to(STANDARD)


def _imported(text: bytes, package: str) -> Iterator[str]:
    """Every name that may be a module's: of `from a.b import c`, a, a.b and a.b.c.

    package: where relative imports start.
    """
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        # the import fails, and tells
        return
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            n_parents = package.count(".") + 2 - node.level if node.level else 0
            parents = [*package.split(".")[:n_parents], node.module]
            names = [".".join(filter(None, [*parents, alias.name])) for alias in node.names]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _file(name: str) -> Path | None:
    """Where a module's text is; None if it is no module, or has no text."""
    origin = getattr(_spec(name), "origin", None)
    return Path(origin).resolve() if origin and origin.endswith(".py") else None


def _spec(name: str) -> ModuleSpec | None:
    """As importlib.util.find_spec, which would run the packages above."""
    loaded: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if loaded is not None:
        return loaded
    parent = name.rpartition(".")[0]
    above = _spec(parent) if parent else None
    where = list((above and above.submodule_search_locations) or []) if parent else None
    finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for finder in finders if (spec := finder.find_spec(name, where))), None)
