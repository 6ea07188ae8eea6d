"""The cache on disk: bytes under a kind and a key, whole or not at all, and bounded in size.

A file holds a magic word, the seconds that its content took to compute, the SHA-256 of all that
follows, and the content. It is written beside its place and renamed, so that readers see all of it
or nothing; what fails its checksum is removed and counts as absent, and is computed again. Keys are
content hashes: two writers of one key write the same thing, and what is evicted costs time and
never a result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError, Problem
from ablation.formatting import duration, show_size
from ablation.storage.files import being_run, replace
from ablation.subject.protocol import Record

# magic, seconds, SHA-256 of seconds and content
HEADER = struct.Struct("<8sd32s")
MAGIC = b"ablate-2"
KINDS = ("record", "state", "latents", "images")
# a few hundred bytes each, and all that reports are made of: never evicted
KEPT = ("record",)
# folder of the stores of trials that share nothing
ALONE = "alone"
# Of a path that is no entry: a folder, unreadable, a link to itself, a bad sector.
NO_ENTRY = {errno.EISDIR, errno.EACCES, errno.ELOOP, errno.EIO}


class Entry(NamedTuple):
    """One file of the cache."""

    path: Path
    kind: str
    n_bytes: int
    # what it took to compute
    seconds: float

    @property
    def worth(self) -> float:
        """Seconds saved per byte."""
        return self.seconds / self.n_bytes


class DiskStore:
    """`<root>/<kind>/<first two digits>/<key>`, and the same in `<root>/alone/<study>/<trial>` for
    each trial that shares nothing; see `ablation.subject.protocol.Store`."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def path(self, kind: str, key: str) -> Path:
        """Where an entry stands, whether it is there or not."""
        return self.root / kind / key[:2] / key

    def holds(self, kind: str, key: str) -> bool:
        """Whether there is an entry; it may be damaged."""
        # text, not a Path: plans ask for each of their epochs
        return os.path.isfile(f"{self.root}/{kind}/{key[:2]}/{key}")

    def load(self, kind: str, key: str) -> bytes | None:
        """Load an entry. Raises InputError if what is at its path is none and cannot be removed."""
        path = self.path(kind, key)
        try:
            content = _content(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if content is None:
            remove(path)
        return content

    def peek(self, kind: str, key: str) -> bytes | None:
        """As `load`, without removing a damaged entry."""
        try:
            return _content(self.path(kind, key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        """Replace an entry, whole or not at all. seconds: what it took to compute."""
        header, path = HEADER.pack(MAGIC, seconds, _checksum(seconds, data)), self.path(kind, key)
        if path.is_dir():
            remove(path)
        replace(path, header, data)

    def sealed(self, kind: str, key: str) -> bytes | None:
        """The bytes of an entry's file, with its header; None if it is absent or damaged."""
        try:
            data = self.path(kind, key).read_bytes()
        except OSError:
            return None
        return None if unsealed(data) is None else data

    def adopt(self, kind: str, key: str, sealed: bytes) -> bool:
        """Save the bytes that `sealed` returned elsewhere; False if they are damaged."""
        content = unsealed(sealed)
        if content is not None:
            self.save(kind, key, content, HEADER.unpack_from(sealed)[1])
        return content is not None

    def record(self, key: str) -> Record | None:
        """The record of a finished link."""
        data = self.load("record", key)
        return None if data is None else json.loads(data)

    def alone(self, study: str, trial: str) -> DiskStore:
        """The store of a trial that shares nothing; it is trimmed with this one."""
        return DiskStore(self.root / ALONE / study / trial)

    def entries(self) -> Iterator[Entry]:
        """Every whole file, in no particular order; reads their headers alone."""
        # it passes over folders that are removed meanwhile
        for folder, _, names in os.walk(self.root):
            kind = Path(folder).parent.name
            for name in names if kind in KINDS else ():
                # a file that is being written
                hidden = name.startswith(".")
                entry = None if hidden else _entry(f"{folder}/{name}", kind)
                if entry is not None:
                    yield entry

    def damaged(self) -> Iterator[Path]:
        """Everything at an entry's path that is no sound entry; reads the whole cache."""
        for folder, folders, names in os.walk(self.root):
            if Path(folder).parent.name not in KINDS or len(Path(folder).name) > 2:
                continue
            yield from (Path(folder, name) for name in folders)
            folders.clear()
            for path in (Path(folder, name) for name in names if not name.startswith(".")):
                try:
                    if _content(path) is None:
                        yield path
                except FileNotFoundError:
                    pass

    def trim(self, limit: int) -> list[Entry]:
        """Remove what saves the least time per byte until `limit` bytes are left; returns it.

        Records stay, so a limit below their size leaves just them. Studies that run meanwhile
        recompute what they miss.
        """
        entries = list(self.entries())
        excess = sum(entry.n_bytes for entry in entries) - limit
        gone: list[Entry] = []
        if excess <= 0:
            return gone
        for entry in sorted(
            (e for e in entries if e.kind not in KEPT), key=lambda e: (e.worth, e.path.name)
        ):
            if excess <= 0:
                break
            entry.path.unlink(missing_ok=True)
            excess -= entry.n_bytes
            gone.append(entry)
        return gone

    def clear(self) -> list[Entry]:
        """Remove everything, records too; returns it."""
        entries = list(self.entries())
        # another study may be trimming it
        shutil.rmtree(self.root, ignore_errors=True)
        return [entry for entry in entries if not entry.path.exists()]


def _entry(file: str, kind: str) -> Entry | None:
    """The entry in a file; None if it is damaged, or another study has evicted it meanwhile.

    There may be 100,000: the file is opened without what Python's own layers cost.
    """
    try:
        number = os.open(file, os.O_RDONLY)
        try:
            header, n_bytes = os.read(number, HEADER.size), os.fstat(number).st_size
        finally:
            os.close(number)
    except OSError:
        return None
    is_whole = len(header) == HEADER.size and header.startswith(MAGIC)
    return Entry(Path(file), kind, n_bytes, HEADER.unpack(header)[1]) if is_whole else None


def _content(path: Path) -> bytes | None:
    """What an entry holds; None if it is damaged, or something else. Raises FileNotFoundError."""
    try:
        return unsealed(path.read_bytes())
    except OSError as error:
        if error.errno in NO_ENTRY:
            return None
        # such as too many open files: nothing is said against the entry
        raise


def unsealed(data: bytes) -> bytes | None:
    """The content of an entry with its header; None if it is damaged."""
    content = data[HEADER.size :]
    if len(data) >= HEADER.size:
        magic, seconds, checksum = HEADER.unpack_from(data)
        if magic == MAGIC and checksum == _checksum(seconds, content):
            return content
    return None


def remove(path: Path) -> None:
    """Remove the file or folder at an entry's path. Raises InputError if it cannot be removed."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        # another process was faster
        pass
    except OSError as error:
        message = (
            f"is damaged, and cannot be removed: {error.strerror}; "
            "remove it, and run the same command again"
        )
        raise InputError([Problem(str(path), "", message)]) from None


def _checksum(seconds: float, content: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<d", seconds) + content).digest()


DEFAULT_SIZE = "20GB"
MEANING = {
    "record": "what epochs reported; never evicted",
    "state": "checkpoints",
    "latents": "data sets encoded by a pretrained encoder",
    "images": "decoded data sets",
}


def describe_entries(entries: Sequence[Entry]) -> str:
    """`12 entries, 1.5 GB`."""
    return f"{len(entries)} entries, {show_size(sum(entry.n_bytes for entry in entries))}"


def describe_cache(store: DiskStore) -> str:
    """Entries, bytes and the seconds that they save, by kind."""
    entries = list(store.entries())
    lines = [f"{store.root}", f"{'kind':8} {'entries':>8} {'size':>9} {'took':>10}"]
    for kind in KINDS:
        found = [entry for entry in entries if entry.kind == kind]
        size, seconds = sum(entry.n_bytes for entry in found), sum(entry.seconds for entry in found)
        lines.append(
            f"{kind:8} {len(found):8} {show_size(size):>9} {seconds:8.0f} s  {MEANING[kind]}"
        )
    size = sum(entry.n_bytes for entry in entries)
    return "\n".join([*lines, f"{'all':8} {len(entries):8} {show_size(size):>9}"])


def describe_clearing(store: DiskStore, runs: Path) -> str:
    """What clearing the cache would remove."""
    entries = list(store.entries())
    # A checkpoint took what its epochs' records did.
    seconds = sum(entry.seconds for entry in entries if entry.kind != "state")
    return (
        f"{describe_entries(entries)}, {duration(seconds)} of work; "
        f"finished trials keep their results in {runs}/, all others will begin anew"
    )


def require_idle(store: DiskStore, runs: Path) -> None:
    """Raise InputError while a study in `runs` is being run: it needs its epochs in the cache."""
    running = being_run(runs)
    if running:
        message = f"cannot be cleared while a study is being run: {', '.join(running)}"
        raise InputError([Problem(str(store.root), "", message)])
