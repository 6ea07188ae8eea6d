"""`ablate data get`: bring a data set from its authors' git repository, checked, whole or not at all.

Only the folders that are asked for are transferred: the repository is fetched shallow and without file contents, then
the contents by the thousand. What has arrived stays in `.ablate/downloads` until all is there, so that a transfer that was
stopped goes on where it was.
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
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ablation.caching import show_size
from ablation.data_sources import Source, SourceFile, read_sources
from ablation.errors import InputError, Problem, Unavailable, nearest
from ablation.files import replace
from ablation.lock import only_one

OLDEST_GIT = (2, 30)  # the first that is sure to take object names from standard input
PER_TRANSFER = 1000  # files
PROTOCOLS = "file:git:http:https:ssh"  # others, such as ext, start programs

Progress = Callable[[int, int], None]
"""Called with the number of files that have arrived, and of all."""


class _Blob(NamedTuple):
    """A file of the repository."""

    path: str
    name: str  # git's object name


def get(
    name: str, root: Path, downloads: Path, say: Callable[[str], None], progress: Progress
) -> None:
    """Bring every file of the source below `root`; those that are there and right are left as they are.

    Raises InputError for an unknown name, a file in the way that is another one, or a file that came and is not what was
    published; Unavailable where git, the network or the disk do not allow it. Then no file of the source is half there.
    """
    sources = read_sources()
    if name not in sources:
        raise InputError([Problem("", name, f"no such data set; {nearest(name, sources)}")])
    source = sources[name]
    missing = [file for file in source.files if not _is_there(file, root, say)]
    if not missing:
        return
    _require_space(missing, root, downloads)
    say(f"{source.repository} at {source.revision[:8]}; licence: {source.licence or 'not known'}")
    folder = downloads / name
    with only_one(folder, "getting this data set"):
        repository = _Repository(folder / "git", source)
        blobs = {file.path: repository.listed(file) for file in missing}
        repository.fetch([blob for listed in blobs.values() for blob in listed], progress)
        for file in missing:
            try:
                _write(file, repository, blobs[file.path], root / file.path)
            except InputError:
                shutil.rmtree(folder / "git", ignore_errors=True)
                raise
            say(
                f"{root / file.path}: {show_size((root / file.path).stat().st_size)}, checksum right"
            )
    shutil.rmtree(folder, ignore_errors=True)


def described(root: Path) -> str:
    """All sources, and which of their files are there, as text."""
    lines = []
    for source in read_sources().values():
        size = show_size(sum(file.n_bytes for file in source.files))
        lines += [f"{source.name}  {source.title} ({size})"]
        for file in source.files:
            lines += [
                f"  {root / file.path}{'' if (root / file.path).exists() else '  (not here)'}"
            ]
    return "\n".join(lines)


def _is_there(file: SourceFile, root: Path, say: Callable[[str], None]) -> bool:
    path = root / file.path
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
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    sums = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                inside = "/".join(PurePosixPath(member.name).parts[1:])
                sums[inside] = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
    return _digest(sums)


def _digest(sums: Mapping[str, str]) -> str:
    """SHA-256 of what `sha256sum` prints for the files, sorted by name. sums: name -> SHA-256 of its content."""
    lines = (f"{sums[name]}  {name}\n" for name in sorted(sums, key=str.encode))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _require_space(files: Sequence[SourceFile], root: Path, downloads: Path) -> None:
    """The contents are on the disk twice for a moment: as fetched, and as the file that comes out."""
    needed = sum(file.n_bytes for file in files) + 1024 * sum(file.n_files for file in files)
    for folder in (root, downloads):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < 2 * needed:
            message = f"no space: {show_size(2 * needed)} are needed in '{folder}', and {show_size(free)} are free"
            raise Unavailable(message)


def _write(file: SourceFile, repository: _Repository, blobs: Sequence[_Blob], target: Path) -> None:
    """Write the file that comes out, checked before anything is written."""
    content = io.BytesIO()
    sha256 = _copy(file, repository, blobs, content)
    if sha256 != file.sha256:
        message = f"came from the repository with the checksum {sha256}, and {file.sha256} is expected; it was not kept"
        raise InputError([Problem("", file.path, message)])
    replace(target, content.getvalue())


def _copy(
    file: SourceFile, repository: _Repository, blobs: Sequence[_Blob], stream: IO[bytes]
) -> str:
    """Write the content to the stream; returns its checksum."""
    if file.file:
        content = next(repository.contents(blobs))
        stream.write(content)
        return hashlib.sha256(content).hexdigest()
    top = PurePosixPath(file.path).name.partition(".")[0]
    sums = {}
    # Neither names nor times of this machine: the same bytes wherever it is made.
    with (
        gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for blob, content in zip(blobs, repository.contents(blobs), strict=True):
            part, prefix = next(
                (p, f"{f}/") for p, f in file.folders.items() if blob.path.startswith(f"{f}/")
            )
            inside = f"{part}/{blob.path.removeprefix(prefix)}"
            sums[inside] = hashlib.sha256(content).hexdigest()
            member = tarfile.TarInfo(f"{top}/{inside}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return _digest(sums)


class _Repository:
    """A bare, shallow clone that holds the contents of those files alone that were asked for."""

    def __init__(self, folder: Path, source: Source):
        self.folder, self.source = folder, source
        _require_git()
        if not (folder / "HEAD").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._git("init", "--quiet", "--bare")
        self._git("config", "remote.origin.url", source.repository)
        if self._run("cat-file", "-e", f"{source.revision}^{{tree}}").returncode:
            self._git(
                "fetch",
                "--quiet",
                "--depth=1",
                "--filter=blob:none",
                "--no-tags",
                "origin",
                source.revision,
            )

    def listed(self, file: SourceFile) -> list[_Blob]:
        """The repository's files that the file is made of, sorted by path. Raises InputError where there are not as many as published."""
        wanted = [file.file] if file.file else list(file.folders.values())
        out = self._git("ls-tree", "-r", "-z", self.source.revision, "--", *wanted)
        rows = [
            row.partition("\t") for row in out.decode("utf-8", "surrogateescape").split("\0") if row
        ]
        blobs = [
            _Blob(path, head.split()[2]) for head, _, path in rows if head.split()[1] == "blob"
        ]
        if len(blobs) != file.n_files:
            message = f"{', '.join(wanted)} of {self.source.repository} hold {len(blobs)} files, and {file.n_files} are expected"
            raise InputError(
                [Problem("sources.yaml", f"{self.source.name}.files.{file.path}", message)]
            )
        return sorted(blobs)

    def fetch(self, blobs: Sequence[_Blob], progress: Progress) -> None:
        """Transfer the contents that are not there yet."""
        out = self._git(
            "rev-list", "--objects", "--missing=print", "--no-object-names", self.source.revision
        )
        absent = set(re.findall(r"^\?(\w+)$", out.decode(), re.M))
        left = list(dict.fromkeys(blob.name for blob in blobs if blob.name in absent))
        n_all = len({blob.name for blob in blobs})
        progress(n_all - len(left), n_all)
        for first in range(0, len(left), PER_TRANSFER):
            names = left[first : first + PER_TRANSFER]
            options = (
                "--quiet",
                "--no-tags",
                "--no-write-fetch-head",
                "--filter=blob:none",
                "--stdin",
            )
            self._git(
                "-c",
                "fetch.negotiationAlgorithm=noop",
                "fetch",
                *options,
                "origin",
                stdin="\n".join(names),
            )
            progress(n_all - len(left) + first + len(names), n_all)

    def contents(self, blobs: Sequence[_Blob]) -> Iterator[bytes]:
        """The content of each file, in order."""
        with tempfile.TemporaryFile() as names:
            names.write("".join(f"{blob.name}\n" for blob in blobs).encode())
            names.seek(0)
            with subprocess.Popen(
                [*self._command(), "cat-file", "--batch"],
                stdin=names,
                stdout=subprocess.PIPE,
                env=_environment(),
            ) as process:
                for blob in blobs:
                    head = process.stdout.readline().split()
                    if len(head) != 3:
                        raise Unavailable(
                            f"{blob.path}: git has not kept it; run the same command again"
                        )
                    yield process.stdout.read(int(head[2]))
                    process.stdout.read(1)

    def _git(self, *arguments: str, stdin: str = "") -> bytes:
        done = self._run(*arguments, stdin=stdin)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [
                f"exit status {done.returncode}"
            ]
            cause = next((line for line in said if line.startswith(("fatal:", "error:"))), said[-1])
            message = f"{self.source.repository} could not be fetched: {cause.partition(': ')[2] or cause}"
            raise Unavailable(f"{message}; what has arrived is kept: run the same command again")
        return done.stdout

    def _run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
        command = [*self._command(), *arguments]
        return subprocess.run(
            command, input=stdin.encode(), capture_output=True, env=_environment()
        )

    def _command(self) -> list[str]:
        return ["git", "-C", str(self.folder), "-c", "gc.auto=0", "-c", "core.quotePath=false"]


def _environment() -> dict[str, str]:
    """Of git: it asks nobody for a password, speaks English, and starts no program that an address names."""
    ours = {
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": PROTOCOLS,
        "GIT_NO_LAZY_FETCH": "1",
    }
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    return inherited | ours


def _require_git() -> None:
    try:
        said = subprocess.run(["git", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise Unavailable(
            "git is not installed, and the data come by it; install git, and run the same command again"
        ) from None
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        raise Unavailable(f"git {found[0]} is too old; {oldest} or newer is needed")
