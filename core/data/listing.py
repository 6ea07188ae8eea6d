"""Which images a folder or an archive holds, of which class, and what is left out. No torch.

Counting, loading, fingerprints, checks and unpacking all use this one listing.
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
    """Where a file is in the layout."""

    # train | test
    part: str
    # the class's folder
    label: str
    # below the class's folder; "batch1/0.png" for a file in a folder inside it
    name: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def ending(self) -> str:
        """The ending of the file's name in lower case, `.png`; empty without one."""
        return PurePosixPath(self.name).suffix.lower()


class Member(NamedTuple):
    """A file of an archive."""

    name: str
    # hex, of its content; "" for what is no image
    sha256: str


class Listing(NamedTuple):
    """What a data set holds; hidden files and folders are not in it."""

    path: Path
    # sorted
    images: Mapping[Place, Path | Member]
    # Files in classes' folders that do not end as images do; sorted.
    left_out: Mapping[Place, Path | Member]
    # (train | test, class) of each class's folder
    folders: frozenset[tuple[str, str]]
    # images in train/ or test/ that are in no class's folder
    beside: tuple[str, ...]
    # folders beside and including train and test
    top: tuple[str, ...]


Entry = tuple[tuple[str, ...], Path | Member | None]
"""Parts of a path from the folder that holds train/ and test/, and a file, or None for a folder."""


def listed(path: Path) -> Listing:
    """List the images of a folder, or of a tar archive wherever in it train/ and test/ are.

    Links in a folder are followed. The listing of an archive is kept within the process for as long
    as size and time of the file stay the same.

    Raises ValueError, with the path and on one line, for an archive that cannot be read to its end
    or holds what an archive of images has no use for, and for a folder with what is neither file
    nor folder; OSError, with the file's name, for what may not be read.
    """
    if not path.is_file():
        return _sorted_out(path, _walk(path))
    status = path.stat()
    return _archived(path, status.st_size, status.st_mtime_ns)


def contents(listing: Listing) -> Iterator[tuple[Place, bytes]]:
    """Yield place and content of every image, sorted by place."""
    if listing.path.is_file():
        yield from sorted(dict(unpacked(listing, listing.images)).items())
        return
    for place, file in listing.images.items():
        # the listing of a folder holds paths alone
        assert isinstance(file, Path)
        yield place, file.read_bytes()


def unpacked(
    listing: Listing, files: Mapping[Place, Path | Member]
) -> Iterator[tuple[Place, bytes]]:
    """Yield place and content of files of an archive, in its order.

    Of two with one place the last counts, as it does for tar.
    """
    places = {file.name: place for place, file in files.items()}
    with tarfile.open(listing.path) as archive:
        for member in archive:
            if member.isfile() and member.name in places:
                yield places[member.name], _content(archive, member)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """What a member holds that is a file."""
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file; kept for as long as its size and time stay the same."""
    status = path.stat()
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown(text: object) -> str:
    """A name as messages give it: on one line whatever it holds, and not endless."""
    name = str(text)
    name = name if name.isprintable() else repr(name)[1:-1]
    half = MAX_SHOWN // 2
    return name if len(name) <= MAX_SHOWN else f"{name[:half]}...{name[-half:]}"


def is_hidden(name: str) -> bool:
    """Whether it is no part of a data set: it starts with a dot, or a system put it there."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def is_image(name: str) -> bool:
    """Whether a file's name ends as those of images do."""
    return PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS


def _sorted_out(path: Path, entries: Iterable[Entry]) -> Listing:
    files: dict[Place, Path | Member] = {}
    folders: set[tuple[str, str]] = set()
    top: set[str] = set()
    beside: list[str] = []
    for parts, source in entries:
        if any(map(is_hidden, parts)):
            continue
        if len(parts) > 1 or source is None:
            top.add(parts[0])
        if parts[0] not in PARTS or len(parts) < 2:
            continue
        part, label, *below = parts
        if below or source is None:
            folders.add((part, label))
            if source is not None:
                files[Place(part, label, "/".join(below))] = source
        elif is_image(label):
            beside.append("/".join(parts))
    images = {place: files[place] for place in sorted(files) if is_image(place.name)}
    left_out = {place: files[place] for place in sorted(files) if place not in images}
    beside.sort()
    return Listing(path, images, left_out, frozenset(folders), tuple(beside), tuple(sorted(top)))


def _walk(path: Path) -> Iterator[Entry]:
    """Yield the folders in `path`, and all that is in train/ and test/."""

    def fail(error: OSError) -> None:
        raise error

    for name, inner, files in os.walk(path, onerror=fail, followlinks=True):
        folder = Path(name)
        parts = folder.relative_to(path).parts
        inner[:] = [name for name in inner if not is_hidden(name)]
        for name in inner:
            if (folder / name).is_symlink() and folder.resolve().is_relative_to(
                (folder / name).resolve()
            ):
                raise ValueError(
                    f"'{shown(folder / name)}' is a link to a folder that it stands in"
                )
            yield (*parts, name), None
        if not parts:
            inner[:] = [name for name in inner if name in PARTS]
            continue
        for name in files:
            file = folder / name
            if file.is_file():
                yield (*parts, name), file
            elif not is_hidden(name):
                kind = "a device or a pipe"
                if file.is_symlink():
                    kind = f"a link to '{shown(os.readlink(file))}', which is not there"
                raise ValueError(f"'{shown(file)}' is {kind}")


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
    n = len(roots[0])
    below = (entry for entry in found.items() if entry[0][:n] == roots[0] and len(entry[0]) > n)
    return _sorted_out(path, ((parts[n:], source) for parts, source in below))


def _members(path: Path) -> Iterator[Entry]:
    """Yield all files and folders of an archive by their names in it.

    Raises ValueError for a member, wherever it is, that an archive of images has no use for: whose
    name leaves the folder that it would be unpacked into, that is neither file nor folder, or
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
                if is_image(inner.name) and not is_hidden(inner.name):
                    digest = hashlib.sha256(_content(archive, member)).hexdigest()
            yield inner.parts, Member(member.name, digest)
        # To tarfile a garbled member is the end, and only the compression's checksum tells.
        rest = archive.fileobj
        while rest is not None and rest.read(2**20):
            pass


def _roots(found: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the outermost folders of an archive that hold train/ and test/; if none, either.

    Of hidden folders only if there are no others; the archive itself if there are none at all.
    """
    above = [{p[:i] for p in found for i, name in enumerate(p) if name == part} for part in PARTS]
    for folders in (above[0] & above[1], above[0] | above[1]):
        folders = {folder for folder in folders if not any(map(is_hidden, folder))} or folders
        outermost = [f for f in folders if not any(f[:i] in folders for i in range(len(f)))]
        if outermost:
            return sorted(outermost)
    return [()]
