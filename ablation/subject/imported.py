"""What training code imports, and its attempts to end the process.

What its results depend on, the project's modules and libraries that it imports, is found in the
texts, so that nothing is run, and an import inside of a function counts too. What is imported by a
name that is put together at run time is not seen.

Attempts to end the process are turned into errors that say where (`contained`, `refused`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import linecache
import os
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import TracebackType
from typing import Any

from ablation import PACKAGE
from ablation.errors import InputError, Problem

INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()


def project_sources(module: str) -> dict[str, bytes]:
    """Name -> text of the module and of all that it imports but installed libraries."""
    top = module.partition(".")[0]

    def find(name: str) -> Path | None:
        path = _file(name)
        is_ours = path is None or name.partition(".")[0] == top or not is_library(path)
        return path if is_ours else None

    return _with_imports({}, [module], find)


def script_sources(scripts: Mapping[str, bytes], module: str | None) -> dict[str, bytes]:
    """Name -> text of Python scripts, and of all that they import but installed libraries.

    scripts: path -> text. module: one that is run by its name, too (`python -m`).
    """
    folders = [*(Path(path).resolve().parent for path in scripts), Path.cwd()]
    left = [name for text in scripts.values() for name in _imported(text, "")]
    left += [module, f"{module}.__main__"] if module else []

    def find(name: str) -> Path | None:
        near = (module_file(name, folder) for folder in folders)
        path = next((file for file in near if file), None) or _file(name)
        return path if path and not is_library(path.resolve()) else None

    return _with_imports(scripts, left, find)


def _with_imports(
    sources: Mapping[str, bytes], left: list[str], find: Callable[[str], Path | None]
) -> dict[str, bytes]:
    """These sources, the modules that are left, and all that those import, sorted by name.

    find: returns the file of a module; None if it is not to be followed
    """
    found, seen = dict(sources), set(sources)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        path = find(name)
        if path is None:
            continue
        found[name] = path.read_bytes()
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        left += _imported(found[name], package)
    return dict(sorted(found.items()))


def source_digests(sources: Mapping[str, bytes]) -> dict[str, str]:
    """Name -> hash of a Python source, comments and layout aside.

    Docstrings count: `argparse` and `docopt` read them. So does every byte of what is no Python.
    """
    return {name: _digest(text) for name, text in sources.items()}


# workers ask for every trial
@functools.lru_cache(maxsize=1024)
def _digest(text: bytes) -> str:
    # not at the top: a project's own `core` may be found until `load_subject` has prevented it
    from core.planning.syntax import plain

    try:
        meaning = json.dumps(plain(ast.parse(text))).encode()
    except (SyntaxError, ValueError, RecursionError):
        meaning = text
    return hashlib.sha256(meaning).hexdigest()


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
    if not names:
        return {}
    # loads `email`, which would take a tenth of a worker's start
    from importlib.metadata import version

    owners = _distributions(tuple(sys.path))
    found = {owner for name in names for owner in owners.get(name, [])}
    return {name: version(name) for name in sorted(found)}


@functools.cache
def _distributions(_path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Top-level module -> installed distributions that have it; half a second to find out."""
    from importlib.metadata import packages_distributions

    return packages_distributions()


def is_library(path: Path) -> bool:
    """Whether a file is of the standard library, of an installed package, or of this one."""
    is_ours = path.is_relative_to(PACKAGE)
    return is_ours or bool(INSTALLED & set(path.parts)) or path.is_relative_to(STANDARD)


@functools.lru_cache(maxsize=1024)
def _imported(text: bytes, package: str) -> tuple[str, ...]:
    """Every name that may be a module's: of `from a.b import c`, a, a.b and a.b.c.

    package: where relative imports start.
    """
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        # the import fails, and tells
        return ()
    found: dict[str, None] = {}
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
            found |= dict.fromkeys(".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return tuple(found)


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


# Calls that end a process, and with which exit code: None for the first argument.
# The others of the exec family call these two.
ENDING_CALLS = {"_exit": None, "execv": 0, "execve": 0, "abort": 128 + signal.SIGABRT}


@contextmanager
def contained(name: str) -> Iterator[None]:
    """Import code of others: SystemExit is raised by what would end this process.

    `sys.argv` is `name` alone.
    """

    arguments, calls = sys.argv, {call: getattr(os, call) for call in ENDING_CALLS}
    sys.argv = [name]
    for call, code in ENDING_CALLS.items():
        setattr(os, call, _before(functools.partial(_exit, code), calls[call]))
    try:
        yield
    finally:
        sys.argv = arguments
        for call, own in calls.items():
            setattr(os, call, own)


def _exit(code: int | None, *arguments: Any) -> None:
    raise SystemExit(arguments[0] if code is None else code)


@contextmanager
def refused() -> Iterator[None]:
    """Turn SystemExit of a subject into InputError: a study that ran nothing never exits with 0."""
    try:
        yield
    except SystemExit as error:
        raise InputError([Problem("", "subject", describe_exit(error))]) from None


def replace_exit(instead: Callable[[int], None]) -> None:
    """Have `os._exit` call this first. In processes that this one forks, it is as it was."""
    os._exit = _before(instead, os._exit)


def _before(instead: Callable[..., None], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, after `instead` in this process; in processes that it forks, as it was."""
    own = os.getpid()

    def called(*arguments: Any, **named: Any) -> Any:
        if os.getpid() == own:
            instead(*arguments, *named.values())
        return call(*arguments, **named)

    return called


def describe_exit(error: BaseException) -> str:
    """What raised SystemExit, KeyboardInterrupt or the like: line, code, and reason if given."""
    code = f" with exit code {exit_code(error)}" if isinstance(error, SystemExit) else ""
    reason = _reason(error)
    where = place(traceback.extract_tb(error.__traceback__))
    return f"{where} would have ended the process{code}{reason and f': {reason}'}"


def place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line that is not of a library, nor ours: `sys.exit(1)` in train.py, line 3."""
    own = [frame for frame in frames if not _is_foreign(Path(frame.filename))]
    if not (own or frames):
        return "it"
    frame = (own or frames)[-1]
    line = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return f"{line and f'`{line}` in '}{Path(frame.filename).name}, line {frame.lineno}"


def exit_code(error: BaseException) -> int:
    """The exit code that Python ends with if nothing catches this."""
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1


def _is_foreign(path: Path) -> bool:
    resolved = path.resolve()
    return not path.is_file() or is_library(resolved)


def _reason(error: BaseException) -> str:
    if not isinstance(error, SystemExit):
        return str(error)
    if not (error.code is None or isinstance(error.code, int)):
        return str(error.code)
    told = _message_of_parser(error.__traceback__)
    cause = error.__cause__ or error.__context__
    return told or (f"{type(cause).__name__}: {_message(cause)}" if cause is not None else "")


def _message_of_parser(step: TracebackType | None) -> str:
    """What argparse or click has written to standard error before it called `sys.exit`."""
    while step is not None:
        file, own = Path(step.tb_frame.f_code.co_filename), step.tb_frame.f_locals
        if file.name == "argparse.py" and step.tb_frame.f_code.co_name == "error":
            return str(own.get("message", ""))
        if file.parent.name == "click":
            # a method of the error that it reports before it exits
            fault = getattr(own.get("report"), "__self__", None)
            if isinstance(fault, Exception):
                return _message(fault)
        step = step.tb_next
    return ""


def _message(error: BaseException) -> str:
    return str(error.format_message() if hasattr(error, "format_message") else error)
