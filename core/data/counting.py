"""Training images per class without decoding one: for plans and reports. Imports no torch."""

from __future__ import annotations

import gzip
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from core.config import Data
from core.data.profile import exponential_counts

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}


def class_counts(data: Data, files: Sequence[Path]) -> list[int]:
    """Training images of each class, in class order. files: as `core.fingerprint.data_files` gives them."""
    if data.source == "digits":
        with gzip.open(files[0], "rt") as file:
            labels = Counter(int(float(line.rsplit(",", 1)[1])) for line in file)
        available = [labels[c] - data.n_test for c in range(10)]
    elif data.source == "folder":
        names = Counter(path.parts[-2] for path in _train_images(files))
        available = [names[name] for name in sorted(names)]
    else:
        available = [5000] * 10 if data.source == "cifar10" else [500] * 100
    if data.imbalance_factor is None and data.n_max is None:
        return available
    return exponential_counts(data.n_max or max(available), len(available), data.imbalance_factor or 1.0)


def _train_images(files: Sequence[Path]) -> list[PurePosixPath]:
    if len(files) == 1 and files[0].parent.parent.name != "train":
        with tarfile.open(files[0]) as archive:
            paths = [PurePosixPath(member.name) for member in archive if member.isfile()]
    else:
        paths = [PurePosixPath(file.as_posix()) for file in files]
    return [path for path in paths if len(path.parts) >= 3 and path.parts[-3] == "train" and path.suffix.lower() in IMAGE_ENDINGS]
