"""`experiments/sources.yaml`: data sets and encoders that `ablate data get` brings from their authors' repositories."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ablation.errors import InputError, Problem
from ablation.reading import read_yaml, show
from ablation.section import Section

PROJECT_FILE = Path("experiments/sources.yaml")
SHIPPED_FILE = Path(__file__).parent / "shipped" / "experiments" / "sources.yaml"
ADDRESS = (
    r"(https?|ssh|git|file)://[^\s]+",
    "the address of a git repository, such as https://host/owner/name",
)
HASH = r"[0-9a-f]{64}"
REVISION = r"[0-9a-f]{40}"


@dataclass(frozen=True)
class SourceFile:
    """A file that comes out of a repository: one of its files, or an archive of some of its folders."""

    path: str  # below the data root, as experiments name it
    file: str | None  # the repository's file
    folders: Mapping[str, str]  # folder in the archive -> folder of the repository; {} for a file
    n_files: int
    n_bytes: int
    sha256: str  # of the file, or of an archive's contents (see the head of sources.yaml)


@dataclass(frozen=True)
class Source:
    """A data set in somebody's public git repository."""

    name: str
    title: str
    repository: str
    revision: str  # the commit, 40 hex digits
    licence: str
    files: tuple[SourceFile, ...]


def read_sources(path: Path | None = None) -> dict[str, Source]:
    """All sources by name; of the project's file if there is one, else of the one that came with the package.

    Raises InputError with everything that is wrong with the file.
    """
    path = path or (PROJECT_FILE if PROJECT_FILE.is_file() else SHIPPED_FILE)
    problems: list[Problem] = []
    file = Section(path.name, "", read_yaml(path), problems)
    sources = {name: _source(name, file.section(name)) for name in file.values}
    if problems:
        raise InputError(problems)
    return sources


def how_to_get(path: str) -> str:
    """How the file of that path, as a setting names it, is brought: the end of a sentence; "" where nobody knows."""
    for source in read_sources().values():
        if any(file.path == path for file in source.files):
            return f"; `ablate data get {source.name}` brings it"
    return ""


def _source(name: str, section: Section) -> Source:
    section.allow("title", "repository", "revision", "licence", "files")
    files = section.section("files")
    if not files.values:
        section.note(
            "files", "is missing; it must map each file that comes out to what it is made of"
        )
    return Source(
        name,
        section.text("title", "") or "",
        section.text("repository", None, *ADDRESS) or "",
        section.text("revision", None, REVISION, "the 40 hex digits of a commit") or "",
        section.text("licence", "") or "",
        tuple(_file(path, files.section(path)) for path in files.values),
    )


def _file(path: str, section: Section) -> SourceFile:
    section.allow("file", "folders", "n_files", "n_bytes", "sha256")
    folders = section.section("folders")
    if not _is_inside(path):
        section.note("", f"{show(path)} is not a relative path")
    if ("file" in section.values) == bool(folders.values):
        section.note("", "needs either file or folders")
    inside = {part: folders.text(part) or "" for part in folders.values}
    file = section.text("file") if "file" in section.values else None
    for key, value in [("file", file), *((f"folders.{part}", one) for part, one in inside.items())]:
        if value and not _is_inside(value):
            section.note(key, f"{show(value)} is not a path inside the repository")
    return SourceFile(
        path,
        file,
        inside,
        _count(section, "n_files") if folders.values else 1,
        _count(section, "n_bytes"),
        section.text("sha256", None, HASH, "a SHA-256, 64 hex digits") or "",
    )


def _count(section: Section, key: str) -> int:
    value = section.values.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    section.note(
        key, "is missing" if value is None else f"{show(value)} is not a number of {key[2:]}"
    )
    return 0


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return (
        bool(parts)
        and not path.startswith(("/", "-", "~"))
        and ".." not in parts
        and not re.search(r"[\n\0]", path)
    )
