"""Training images per class without decoding one: for plans and reports. Imports no torch."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from core.config import Data
from core.data.profile import exponential_counts, held_out_counts

DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What reading a damaged archive raises, whichever way it is compressed."""

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


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
        names = Counter(path.parts[-2] for path in _train_images(files))
        counts = [names[name] for name in sorted(names)]
    else:
        counts = [5000] * 10 if data.source == "cifar10" else [500] * 100
    if not counts or min(counts) < 1:
        raise ValueError("leaves a class without training images" if counts else "no images under train/<class>/")
    return counts


def _train_images(files: Sequence[Path]) -> list[PurePosixPath]:
    if len(files) == 1 and files[0].parent.parent.name != "train":
        try:
            with tarfile.open(files[0]) as archive:
                paths = [PurePosixPath(member.name) for member in archive if member.isfile()]
                read_to_checksum(archive)
        except DAMAGED as error:
            raise ValueError(f"'{files[0]}' is not a tar archive that can be read ({' '.join(str(error).split())})") from None
    else:
        paths = [PurePosixPath(file.as_posix()) for file in files]
    return [path for path in paths if len(path.parts) >= 3 and path.parts[-3] == "train" and path.suffix.lower() in IMAGE_ENDINGS]


def read_to_checksum(archive: tarfile.TarFile) -> None:
    """Read what follows the last member: to tarfile a garbled one is the end, and only the compression's checksum tells."""
    while archive.fileobj.read(2**20):
        pass
