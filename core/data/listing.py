"""Which images a folder or an archive holds, of which class, and what is left out. No torch.

What counts, loads, fingerprints, verifies and unpacks images goes by this one listing.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises, whichever way it is compressed."""

PARTS = ("train", "test")
IMAGE_ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
# Of one file in an archive: what is larger when unpacked was made to fill memory or disk.
MAX_IMAGE_BYTES = 10**8
# Of a name in a message: longer ones are possible in archives only.
MAX_SHOWN = 400


class Place(NamedTuple):
    """Where a file stands in the layout."""

    part: str  # train | test
    label: str  # the class's folder
    name: str  # below the class's folder; "batch1/0.png" for a file in a folder inside it

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def ending(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    @property
    def is_image(self) -> bool:
        return self.ending in IMAGE_ENDINGS

    @property
    def is_deeper(self) -> bool:
        """Whether it stands in a folder inside the class's folder."""
        return "/" in self.name


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    sha256: str  # hex, of its content; "" for what is no image


class Listing(NamedTuple):
    """What a data set holds; hidden files and folders are not in it."""

    path: Path
    images: Mapping[Place, Path | Member]  # sorted
    # Files in classes' folders that do not end as images do; sorted.
    left_out: Mapping[Place, Path | Member]
    folders: frozenset[tuple[str, str]]  # (train | test, class) of each class's folder
    beside: tuple[str, ...]  # images that stand in train/ or test/ and in no class's folder
    top: tuple[str, ...]  # folders beside and including train and test


def is_hidden(name: str) -> bool:
    """Whether it is no part of a data set: it starts with a dot, or a system put it there."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def shown(text: object) -> str:
    """A name as messages give it: on one line whatever it holds, and not endless."""
    name = str(text)
    name = name if name.isprintable() else repr(name)[1:-1]
    half = MAX_SHOWN // 2
    return name if len(name) <= MAX_SHOWN else f"{name[:half]}...{name[-half:]}"


def listed(path: Path) -> Listing:
    """The images of a folder, or of a tar archive wherever in it train/ and test/ are.

    Links in a folder are followed. The listing of an archive is remembered within the process for
    as long as size and time of the file stay the same.

    Raises ValueError, with the path and on one line, for an archive that cannot be read to its end
    or holds what an archive of images has no use for, and for a folder with what is neither file
    nor folder; OSError, with the file's name, for what may not be read.
    """
    if not path.is_file():
        return _sorted_out(path, _walk(path, (), ()))
    status = path.stat()
    return _archived(path, status.st_size, status.st_mtime_ns)


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; remembered for as long as its size and time stay the same."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(listing: Listing) -> Iterator[tuple[Place, bytes]]:
    """Place and content of every image, sorted by place."""
    if listing.path.is_file():
        yield from sorted(dict(unpacked(listing, listing.images)).items())
        return
    for place, file in listing.images.items():
        yield place, file.read_bytes()


def unpacked(
    listing: Listing, files: Mapping[Place, Path | Member]
) -> Iterator[tuple[Place, bytes]]:
    """Place and content of files of an archive, in its order.

    Of two with one place the last counts, as it does for tar.
    """
    places = {file.name: place for place, file in files.items()}
    with tarfile.open(listing.path) as archive:
        for member in archive:
            if member.isfile() and member.name in places:
                yield places[member.name], archive.extractfile(member).read()


Entry = tuple[tuple[str, ...], Path | Member | None]
"""Where a file or (None) a folder stands, from the folder that holds train/ and test/."""


def _sorted_out(path: Path, entries: Iterable[Entry]) -> Listing:
    files: dict[Place, Path | Member] = {}
    folders, top, beside = set(), set(), []
    for parts, source in entries:
        if any(map(is_hidden, parts)):
            continue
        if len(parts) > 1 or source is None:
            top.add(parts[0])
        if parts[0] not in PARTS or len(parts) < 2:
            continue
        if len(parts) > 2 or source is None:
            folders.add(parts[:2])
        elif Place(parts[0], "", parts[1]).is_image:
            beside.append("/".join(parts))
        if len(parts) > 2 and source is not None:
            files[Place(*parts[:2], "/".join(parts[2:]))] = source
    images = {place: files[place] for place in sorted(files) if place.is_image}
    left_out = {place: files[place] for place in sorted(files) if not place.is_image}
    beside.sort()
    return Listing(path, images, left_out, frozenset(folders), tuple(beside), tuple(sorted(top)))


def _walk(
    folder: Path, inner: tuple[str, ...], above: tuple[tuple[int, int], ...]
) -> Iterator[Entry]:
    """What stands in the folder and, for train/ and test/, below it.

    inner: where the folder stands. above: device and inode of the folders that it is in.
    """
    status = folder.stat()
    here = (*above, (status.st_dev, status.st_ino))
    if here[-1] in above:
        raise ValueError(f"'{shown(folder)}' is a link to a folder that it stands in")
    for entry in os.scandir(folder):
        if is_hidden(entry.name):
            continue
        file, parts = Path(entry.path), (*inner, entry.name)
        if entry.is_dir():
            yield parts, None
            if parts[0] in PARTS:
                yield from _walk(file, parts, here)
        elif entry.is_file():
            yield parts, file
        elif parts[0] in PARTS:
            of = f" of class '{shown(parts[1])}'" if len(parts) > 2 else ""
            kind = "a device or a pipe"
            if entry.is_symlink():
                kind = f"a link to '{shown(os.readlink(file))}', which is not there"
            raise ValueError(f"'{shown(file)}'{of} is {kind}")


@functools.cache
def _archived(path: Path, size: int, modified: int) -> Listing:
    file = f"'{shown(path)}'"
    try:
        found = dict(_members(path))
    except DAMAGED as error:
        if zipfile.is_zipfile(path):
            message = f"{file} is a zip archive; unpack it, or pack it as .tar.gz"
        else:
            why = " ".join(str(error).split())
            message = f"{file} is not a tar archive that can be read ({why})"
        raise ValueError(message) from None
    except ValueError as error:
        raise ValueError(f"{file} is not read: {error}") from None
    roots = _roots(found)
    if len(roots) > 1:
        places = " and ".join(f"'{shown('/'.join(root))}/'" for root in roots[:2])
        raise ValueError(f"{file} holds more than one data set: train/ or test/ stand in {places}")
    root = roots[0] if roots else ()
    n = len(root)
    below = (entry for entry in found.items() if entry[0][:n] == root and len(entry[0]) > n)
    return _sorted_out(path, ((parts[n:], source) for parts, source in below))


def _members(path: Path) -> Iterator[Entry]:
    """All files and folders of an archive by their names in it.

    Raises ValueError for a member, of whatever place, that an archive of images has no use for:
    whose name leaves the folder that it would be unpacked into, that is neither file nor folder, or
    larger than any image.
    """
    with tarfile.open(path) as archive:
        for member in archive:
            name, inner = shown(member.name), PurePosixPath(member.name)
            if inner.is_absolute() or ".." in inner.parts:
                raise ValueError(f"its member '{name}' would be unpacked outside the folder")
            if not (member.isfile() or member.isdir()):
                is_link = member.issym() or member.islnk()
                kind = f"a link to '{shown(member.linkname)}'" if is_link else "a device"
                raise ValueError(f"its member '{name}' is {kind}; files and folders alone are read")
            if not inner.parts:
                continue
            if member.isdir():
                yield inner.parts, None
                continue
            digest = ""
            if set(PARTS) & set(inner.parts[:-1]):
                if member.size > MAX_IMAGE_BYTES:
                    size = f"has {member.size} bytes when unpacked, more than any image"
                    raise ValueError(f"its member '{name}' {size}")
                if inner.suffix.lower() in IMAGE_ENDINGS and not is_hidden(inner.name):
                    digest = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
            yield inner.parts, Member(member.name, digest)
        # To tarfile a garbled member is the end, and only the compression's checksum tells.
        while archive.fileobj.read(2**20):
            pass


def _roots(found: Mapping[tuple[str, ...], Member | None]) -> list[tuple[str, ...]]:
    """The folders of an archive that hold train/ and test/; if none, either; if none, one alike."""
    inside: dict[tuple[str, ...], set[str]] = {}
    for parts, source in found.items():
        for depth in range(len(parts) if source is None else len(parts) - 1):
            inside.setdefault(parts[:depth], set()).add(parts[depth])
    plain = {folder: names for folder, names in inside.items() if not any(map(is_hidden, folder))}
    rules = set(PARTS).issubset, set(PARTS).intersection, lambda names: any(map(alike, names))
    for folders in (plain, inside):
        for fits in rules:
            chosen = {folder for folder, names in folders.items() if fits(names)}
            if chosen:
                return sorted(folder for folder in chosen if chosen.isdisjoint(_above(folder)))
    return []


def _above(folder: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The folders that this one is in."""
    return (folder[:depth] for depth in range(len(folder)))


def alike(name: str) -> str | None:
    """The part that a folder of this name may be meant for."""
    plain = name.strip().casefold()
    for part, starts in (("train", ("train",)), ("test", ("test", "val", "eval"))):
        if plain.startswith(starts) or plain.endswith(part):
            return part
    return None
