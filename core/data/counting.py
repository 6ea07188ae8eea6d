"""Training images per class without decoding one: for plans and reports. Imports no torch."""

from __future__ import annotations

import functools
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.config import Data
from core.data.layout import class_names
from core.data.listing import listed
from core.data.location import locate
from core.data.profile import exponential_counts, held_out_counts


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
    counts = exponential_counts(
        data.n_max or max(available), len(available), data.imbalance_factor or 1.0
    )
    for c, (asked, there) in enumerate(zip(counts, available)):
        if asked > there:
            raise ValueError(
                f"class {c} has {there} training images and the profile asks for {asked}"
            )
    return counts


def _available(data: Data, files: Sequence[Path]) -> list[int]:
    """Training images of each class before the profile."""
    if data.source == "digits":
        counts = [n - data.n_test for n in _digits(files[0])]
    elif data.source == "folder":
        listing = listed(locate(data.path))
        labels = Counter(place.label for place in listing.images if place.part == "train")
        counts = [labels[name] for name in class_names(listing)]
    else:
        counts = [5000] * 10 if data.source == "cifar10" else [500] * 100
    if min(counts) < 1:
        raise ValueError("leaves a class without training images")
    return counts


@functools.cache  # a grid has many cells
def _digits(path: Path) -> list[int]:
    """Images of each digit."""
    with gzip.open(path, "rt") as file:
        labels = Counter(int(float(line.rsplit(",", 1)[1])) for line in file)
    return [labels[c] for c in range(10)]
