"""Download the data sets and encoders of `experiments/sources.yaml` (`ablate data get`).

Only the folders that are asked for are transferred: the repository is fetched shallow and without
file contents, then the contents by the thousand. What has arrived stays in `.ablate/downloads`
until all is there, so that a transfer that was stopped goes on where it was.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ablation import PACKAGE
from ablation.errors import InputError, Problem, Unavailable, nearest
from ablation.formatting import show_size
from ablation.grid.strict_yaml import CheckedMapping, read_yaml, show
from ablation.storage.files import folder_lock, replace

PROJECT_FILE = Path("experiments/sources.yaml")
SHIPPED_FILE = PACKAGE / "shipped" / "experiments" / "sources.yaml"
ADDRESS = (
    r"(https?|ssh|git|file)://[^\s]+",
    "the address of a git repository, such as https://host/owner/name",
)
HASH = r"[0-9a-f]{64}"
REVISION = r"[0-9a-f]{40}"
DOWNLOADS = Path(".ablate/downloads")
# the first that is sure to take object names from standard input
OLDEST_GIT = (2, 30)
# files in one transfer
PER_TRANSFER = 1000
NO_SUCH_GIT = "git is not installed, and the data come by it; install git, and run this again"
ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    # Others, such as ext, start programs.
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_NO_LAZY_FETCH": "1",
}

Say = Callable[[str], object]


@dataclass(frozen=True)
class SourceFile:
    """A file that comes out of a repository: one of its files, or an archive of folders."""

    # below the data root, as experiments name it
    path: str
    # the repository's file
    file: str | None
    # folder in the archive -> folder of the repository; {} for a file
    folders: Mapping[str, str]
    n_files: int
    n_bytes: int
    # of the file, or of an archive's contents (see the head of sources.yaml)
    sha256: str


@dataclass(frozen=True)
class Source:
    """A data set in a public git repository."""

    name: str
    title: str
    repository: str
    # the commit, 40 hex digits
    revision: str
    licence: str
    files: tuple[SourceFile, ...]


def get(name: str, root: Path, say: Say) -> None:
    """Download every file of a source below `root`, unless it is there and right.

    Raises InputError for an unknown name, another file in the way, or a file that is not what was
    published; Unavailable where git or the network fail. Then no file of the source is half there.
    """
    sources = read_sources()
    if name not in sources:
        raise InputError([Problem("", name, f"no such data set; {nearest(name, sources)}")])
    source = sources[name]
    missing = [file for file in source.files if not _is_there(file, root / file.path, say)]
    if not missing:
        return
    say(f"{source.repository} at {source.revision[:8]}; licence: {source.licence or 'not known'}")
    folder = DOWNLOADS / name
    with folder_lock(folder, "getting this data set"):
        repository = _Repository(folder / "git", source)
        listed = {file.path: repository.listed(file) for file in missing}
        repository.fetch([blob for blobs in listed.values() for blob in blobs.values()], say)
        for file in missing:
            content, sha256 = _made(file, repository.contents(listed[file.path]))
            if sha256 != file.sha256:
                shutil.rmtree(folder / "git", ignore_errors=True)
                came = f"came from the repository with the checksum {sha256}"
                message = f"{came}, and {file.sha256} is expected; it was not kept"
                raise InputError([Problem("", file.path, message)])
            replace(root / file.path, content)
            say(f"{root / file.path}: {show_size(len(content))}, checksum right")
    shutil.rmtree(folder, ignore_errors=True)


def described(root: Path) -> str:
    """All sources, and which of their files are there, as text."""
    lines = []
    for source in read_sources().values():
        size = show_size(sum(file.n_bytes for file in source.files))
        lines.append(f"{source.name}  {source.title} ({size})")
        for path in (root / file.path for file in source.files):
            lines.append(f"  {path}{'' if path.exists() else '  (not here)'}")
    return "\n".join(lines)


def read_sources(path: Path | None = None) -> dict[str, Source]:
    """All sources by name; of the project's file if there is one, else of the package's.

    Raises InputError with everything that is wrong with the file.
    """
    path = path or (PROJECT_FILE if PROJECT_FILE.is_file() else SHIPPED_FILE)
    problems: list[Problem] = []
    file = CheckedMapping(path.name, "", read_yaml(path), problems)
    sources = {name: _source(name, file.section(name)) for name in file.values}
    if problems:
        raise InputError(problems)
    return sources


def how_to_get(path: str) -> str:
    """The end of a message: how to download the file that a setting names; "" if unknown."""
    for source in read_sources().values():
        if any(file.path == path for file in source.files):
            return f"; `ablate data get {source.name}` brings it"
    return ""


def _source(name: str, section: CheckedMapping) -> Source:
    section.allow("title", "repository", "revision", "licence", "files")
    files = section.section("files")
    if not files.values:
        message = "is missing; it must map each file that comes out to what it is made of"
        section.note("files", message)
    return Source(
        name,
        section.text("title", "") or "",
        section.text("repository", None, *ADDRESS) or "",
        section.text("revision", None, REVISION, "the 40 hex digits of a commit") or "",
        section.text("licence", "") or "",
        tuple(_file(path, files.section(path)) for path in files.values),
    )


def _file(path: str, section: CheckedMapping) -> SourceFile:
    section.allow("file", "folders", "n_files", "n_bytes", "sha256")
    folders = section.section("folders")
    if ("file" in section.values) == bool(folders.values):
        section.note("", "needs either file or folders")
    inside = {part: folders.text(part) or "" for part in folders.values}
    file = section.text("file") if "file" in section.values else None
    named = {"file": file, **{f"folders.{part}": folder for part, folder in inside.items()}}
    if not _is_inside(path):
        section.note("", f"{show(path)} is not a relative path")
    for key, value in named.items():
        if value and not _is_inside(value):
            section.note(key, f"{show(value)} is not a path inside the repository")
    n_files = _count(section, "n_files") if folders.values else 1
    sha256 = section.text("sha256", None, HASH, "a SHA-256, 64 hex digits") or ""
    return SourceFile(path, file, inside, n_files, _count(section, "n_bytes"), sha256)


def _count(section: CheckedMapping, key: str) -> int:
    value = section.values.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    wrong = "is missing" if value is None else f"{show(value)} is not a number of {key[2:]}"
    section.note(key, wrong)
    return 0


def _is_inside(path: str) -> bool:
    """Whether it is a relative path that leads nowhere else, and no option for git."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and not re.search(r"^[/~-]|[\n\0]", path)


def _is_there(file: SourceFile, path: Path, say: Say) -> bool:
    if not path.exists():
        return False
    try:
        found = _checksum(file, path)
    except (OSError, EOFError, tarfile.TarError) as error:
        found = str(error)
    if found != file.sha256:
        message = (
            f"is there already and is another file ({found}, not {file.sha256}); move it away first"
        )
        raise InputError([Problem("", str(path), message)])
    say(f"{path}: is there already, checksum right")
    return True


def _checksum(file: SourceFile, path: Path) -> str:
    if file.file:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    sums = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is not None:
                inside = "/".join(PurePosixPath(member.name).parts[1:])
                sums[inside] = hashlib.sha256(stream.read()).hexdigest()
    return _digest(sums)


def _digest(sums: Mapping[str, str]) -> str:
    """SHA-256 of what `sha256sum` prints for the files, sorted by name. sums: name -> SHA-256."""
    lines = (f"{sums[name]}  {name}\n" for name in sorted(sums, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _made(file: SourceFile, contents: Iterator[tuple[str, bytes]]) -> tuple[bytes, str]:
    """The file that comes out of the repository's (path, content), and its checksum."""
    if file.file:
        [(_, content)] = contents
        return content, hashlib.sha256(content).hexdigest()
    top = PurePosixPath(file.path).name.partition(".")[0]
    sums = {}
    made = io.BytesIO()
    # Neither names nor times of this machine: the same bytes wherever it is made.
    with (
        gzip.GzipFile("", "wb", 6, made, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, content in contents:
            part, folder = next(
                (part, f"{folder}/")
                for part, folder in file.folders.items()
                if path.startswith(f"{folder}/")
            )
            inside = f"{part}/{path.removeprefix(folder)}"
            sums[inside] = hashlib.sha256(content).hexdigest()
            member = tarfile.TarInfo(f"{top}/{inside}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue(), _digest(sums)


class _Repository:
    """A bare, shallow clone that holds the contents of those files alone that were asked for."""

    def __init__(self, folder: Path, source: Source):
        self.folder, self.source = folder, source
        _require_git()
        folder.mkdir(parents=True, exist_ok=True)
        self._git("init", "--quiet", "--bare")
        self._git("config", "remote.origin.url", source.repository)
        self._fetch("--depth=1", source.revision)

    def listed(self, file: SourceFile) -> dict[str, str]:
        """Path -> git's object name of the repository's files that the file is made of, sorted.

        Raises InputError where there are not as many as published.
        """
        wanted = [file.file] if file.file else list(file.folders.values())
        out = self._git("ls-tree", "-r", "-z", self.source.revision, "--", *wanted)
        rows = out.decode("utf-8", "surrogateescape").split("\0")[:-1]
        entries = sorted(
            (path, head.split()) for head, _, path in (r.partition("\t") for r in rows)
        )
        blobs = {path: name for path, (_, kind, name) in entries if kind == "blob"}
        if len(blobs) != file.n_files:
            folders = f"{', '.join(wanted)} of {self.source.repository}"
            message = f"{folders} hold {len(blobs)} files, and {file.n_files} are expected"
            key = f"{self.source.name}.files.{file.path}"
            raise InputError([Problem("sources.yaml", key, message)])
        return blobs

    def fetch(self, blobs: Sequence[str], say: Say) -> None:
        """Transfer the contents that are not there yet."""
        options = ("--objects", "--missing=print", "--no-object-names")
        out = self._git("rev-list", *options, self.source.revision)
        absent = set(re.findall(r"^\?(\w+)$", out.decode(), re.M))
        left = [blob for blob in dict.fromkeys(blobs) if blob in absent]
        n_all = len(set(blobs))
        for first in range(0, len(left), PER_TRANSFER):
            say(f"getting {self.source.name}: {n_all - len(left) + first} of {n_all} files")
            self._fetch("--stdin", stdin="\n".join(left[first : first + PER_TRANSFER]))
        say(f"getting {self.source.name}: {n_all} of {n_all} files")

    def contents(self, blobs: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
        """(path, content) of each file, in order."""
        names = "".join(f"{name}\n" for name in blobs.values())
        out = io.BytesIO(self._git("cat-file", "--batch", stdin=names))
        for path in blobs:
            # name, type and size; then the content and a line break
            head = out.readline().split()
            if len(head) != 3:
                raise Unavailable(f"{path}: git has not kept it; run the same command again")
            yield path, out.read(int(head[2]))
            out.read(1)

    def _fetch(self, *what: str, stdin: str = "") -> None:
        options = ("--quiet", "--no-tags", "--no-write-fetch-head", "--filter=blob:none")
        self._git("fetch", *options, "origin", *what, stdin=stdin)

    def _git(self, *arguments: str, stdin: str = "") -> bytes:
        inherited = dict(os.environ)
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            inherited.pop(name, None)
        settings = ("-c", "gc.auto=0", "-c", "fetch.negotiationAlgorithm=noop")
        done = subprocess.run(
            ["git", "-C", str(self.folder), *settings, *arguments],
            input=stdin.encode(),
            capture_output=True,
            env=inherited | ENVIRONMENT,
        )
        if done.returncode:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            lines = lines or [f"exit status {done.returncode}"]
            cause = next((x for x in lines if x.startswith(("fatal:", "error:"))), lines[-1])
            failed = f"{self.source.repository} could not be fetched"
            then = "what has arrived is kept: run the same command again"
            raise Unavailable(f"{failed}: {cause.partition(': ')[2] or cause}; {then}")
        return done.stdout


def _require_git() -> None:
    try:
        version = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise Unavailable(NO_SUCH_GIT) from None
    found = re.search(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        raise Unavailable(f"git {found[0]} is too old; {oldest} or newer is needed")
