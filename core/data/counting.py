"""Training images per class without decoding one: for plans and reports. Imports no torch."""

from __future__ import annotations

import functools
import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from core.config import Data
from core.data.location import locate
from core.data.profile import exponential_counts, held_out_counts

DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises, whichever way it is compressed."""

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
PARTS = ("train", "test")
MAX_IMAGE_BYTES = 10**8  # of one file in an archive: what is larger when unpacked was made to fill memory or disk


class Place(NamedTuple):
    """Where a file stands in the layout."""

    part: str  # train | test
    label: str  # the class's folder
    name: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def is_image(self) -> bool:
        return PurePosixPath(self.name).suffix.lower() in IMAGE_ENDINGS


def class_counts(data: Data, files: Sequence[Path]) -> list[int]:
    """Training images of each class, in class order. files: as `core.fingerprint.data_files` gives them.

    Raises ValueError, naming the setting, where the settings ask for images that are not there.
    """
    counts = _profiled(data, _available(data, files))
    if not data.validation:
        return counts
    return [n - held for n, held in zip(counts, held_out_counts(counts, data.validation))]


def _profiled(data: Data, available: list[int]) -> list[int]:
    """What the profile leaves of the images that there are."""
    if data.imbalance_factor is None and data.n_max is None:
        return available
    counts = exponential_counts(data.n_max or max(available), len(available), data.imbalance_factor or 1.0)
    for c, (asked, there) in enumerate(zip(counts, available)):
        if asked > there:
            raise ValueError(f"class {c} has {there} training images and the profile asks for {asked}")
    return counts


def _available(data: Data, files: Sequence[Path]) -> list[int]:
    """Training images of each class before the profile."""
    if data.source == "digits":
        with gzip.open(files[0], "rt") as file:
            labels = Counter(int(float(line.rsplit(",", 1)[1])) for line in file)
        counts = [labels[c] - data.n_test for c in range(10)]
    elif data.source == "folder":
        images, folders = _listed(locate(data.path))
        labels = Counter(label for part, label in images if part == "train")
        counts = [labels[name] for name in class_names(images, folders)]
    else:
        counts = [5000] * 10 if data.source == "cifar10" else [500] * 100
    if not counts or min(counts) < 1:
        raise ValueError("leaves a class without training images" if counts else "no images under train/<class>/")
    return counts


def class_names(images: Iterable[tuple[str, str]], folders: Iterable[tuple[str, str]]) -> list[str]:
    """The classes, sorted. images: (train | test, class) of each image; folders: of each class's folder.

    Raises ValueError, naming the class, unless train and test have the same ones and each has images.
    """
    filled = set(images)
    names = sorted({label for part, label in filled if part == "train"})
    if not names:
        raise ValueError("no images under train/<class>/")
    for part, label in sorted(set(folders) - filled):
        raise ValueError(f"the folder {part}/{label}/ of class '{label}' holds no images")
    odd = sorted(set(names) ^ {label for part, label in filled if part == "test"})
    if odd:
        raise ValueError(f"train and test have different classes; '{odd[0]}' is in one alone")
    return names


def class_folders(path: Path) -> list[tuple[str, str]]:
    """(train | test, class) of each folder where a class's images belong.

    Raises ValueError for an image beside them, which is of no class.
    """
    found = sorted(inner for part in PARTS for inner in (path / part).glob("*"))
    for stray in (inner for inner in found if inner.suffix.lower() in IMAGE_ENDINGS and inner.is_file()):
        raise ValueError(f"the image {stray.parent.name}/{stray.name} is in no class's folder")
    return [(inner.parent.name, inner.name) for inner in found if inner.is_dir() and not inner.name.startswith(".")]


def members(archive: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Place]]:
    """The files of train/<class>/ and test/<class>/ in a tar archive, wherever in it these are.

    Raises ValueError for a member, of whatever place, that an archive of images has no use for: whose name leaves the
    folder that it would be unpacked into, that is neither file nor folder, or larger than any image.
    """
    for member in archive:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"its member '{member.name}' would be unpacked outside the folder")
        if not (member.isfile() or member.isdir()):
            kind = f"a link to '{member.linkname}'" if member.issym() or member.islnk() else "a device"
            raise ValueError(f"its member '{member.name}' is {kind}; files and folders alone are read")
        if len(path.parts) < 3 or path.parts[-3] not in PARTS or member.isdir():
            continue
        if member.size > MAX_IMAGE_BYTES:
            raise ValueError(f"its member '{member.name}' has {member.size} bytes when unpacked, more than any image")
        yield member, Place(*path.parts[-3:])


def _listed(path: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(train | test, class) of every image in a folder or an archive, and of every class's folder."""
    if path.is_file():
        return [place[:2] for place, _ in archived_images(path)], []
    return [place[:2] for place, _ in folder_images(path)], class_folders(path)


def folder_images(path: Path) -> list[tuple[Place, Path]]:
    """Place and file of every image of a folder, sorted by place."""
    files = (file for part in PARTS for file in (path / part).glob("*/*"))
    placed = [(Place(*file.parts[-3:]), file) for file in files]
    return sorted((place, file) for place, file in placed if place.is_image and file.is_file())


def archived_images(path: Path) -> list[tuple[Place, str]]:
    """Place and SHA-256 (hex) of every image of a tar archive, sorted by place.

    Raises ValueError, with the archive's path, for one that cannot be read to its end. Remembered within the process
    for as long as size and time of the file stay the same.
    """
    status = path.stat()
    return _archived_images(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _archived_images(path: Path, size: int, modified: int) -> list[tuple[Place, str]]:
    found = []
    try:
        with tarfile.open(path) as archive:
            for member, place in members(archive):
                if place.is_image:
                    content = archive.extractfile(member).read()
                    found.append((place, hashlib.sha256(content).hexdigest()))
            read_to_checksum(archive)
    except DAMAGED as error:
        raise ValueError(f"'{path}' is not a tar archive that can be read ({' '.join(str(error).split())})") from None
    except ValueError as error:
        raise ValueError(f"'{path}' is not read: {error}") from None
    return sorted(found)


def read_to_checksum(archive: tarfile.TarFile) -> None:
    """Read what follows the last member: to tarfile a garbled one is the end, and only the compression's checksum tells."""
    while archive.fileobj.read(2**20):
        pass
