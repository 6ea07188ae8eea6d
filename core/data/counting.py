"""Training images per class without decoding one: for plans and reports. Imports no torch."""

from __future__ import annotations

import functools
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from core.config.schema import Data
from core.data.layout import class_names
from core.data.listing import listed
from core.data.location import locate


class UnfitSelection(ValueError):
    """A setting that does not go with the images that there are, such as one that asks for more."""

    def __init__(self, key: str, message: str):
        super().__init__(f"{key}: {message}")
        self.key, self.message = key, message


def class_counts(data: Data, files: Sequence[Path]) -> list[int]:
    """Return the training images of each class, in class order.

    files: as `core.planning.fingerprint.data_files` gives them. Raises UnfitSelection where the
    settings ask for images that are not there, and other ValueErrors for a folder that is no data
    set.
    """
    available = _available(data, files)
    counts = profiled_counts(data, available)
    if data.split == "seed" and data.drawn == ("training",) and counts == available:
        message = "seed, and no images are drawn: the profile takes all that there are"
        raise UnfitSelection("data.split", f"{message}; set data.split: fixed")
    if data.validation:
        counts = [
            n - held
            for n, held in zip(counts, held_out_counts(counts, data.validation), strict=True)
        ]
    return counts


def profiled_counts(data: Data, available: Sequence[int]) -> list[int]:
    """Return what the settings leave of the images that there are of each class.

    Raises UnfitSelection where the profile asks for more, and where a class would be left empty.
    """
    if data.imbalance_factor is None and data.n_max is None:
        return list(available)
    n_max, factor = data.n_max or max(available), data.imbalance_factor or 1.0
    counts = exponential_counts(n_max, len(available), factor)
    key = "data.n_max" if data.n_max else "data.imbalance_factor"
    for c, (asked, there) in enumerate(zip(counts, available, strict=True)):
        if asked > there:
            message = f"class {c} has {there} training images and the profile asks for {asked}"
            raise UnfitSelection(key, message)
    return counts


def exponential_counts(n_max: int, n_classes: int, imbalance_factor: float) -> list[int]:
    """Training images per class: n_c = floor(n_max * IF^(-c / (C - 1))), c = 0 .. C - 1.

    The exponential long-tailed profile of Cui et al. 2019: 5000 images, 10 classes and IF 100 give
    5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50.
    """
    steps = max(1, n_classes - 1)
    # the small addend: 5000 * 100**-1 is 50.00000000000001 here, 49.99999999999999 elsewhere
    counts = [int(n_max * imbalance_factor ** (-c / steps) + 1e-6) for c in range(n_classes)]
    if counts[-1] == 0:
        message = f"{n_max} images of the largest class and an imbalance factor of"
        message += f" {imbalance_factor:g} leave the smallest class empty"
        raise UnfitSelection("data.imbalance_factor", message)
    return counts


def held_out_counts(counts: Sequence[int], share: float) -> list[int]:
    """Return the validation images of each class: the rounded share of its images, one at least."""
    held = [max(1, round(share * n)) for n in counts]
    for c, (n, n_held) in enumerate(zip(counts, held, strict=True)):
        if n_held >= n:
            message = f"{share:g} of the {n} training images of class {c} leaves none to train on"
            raise UnfitSelection("data.validation", message)
    return held


def digits_counts(n_per_class: Sequence[int], n_test: int) -> list[int]:
    """Return the training images of each digit that `n_test` test images per class leave."""
    if n_test >= min(n_per_class):
        raise UnfitSelection("data.n_test", f"{n_test} leaves a class without training images")
    return [n - n_test for n in n_per_class]


def _available(data: Data, files: Sequence[Path]) -> list[int]:
    """Training images of each class before the profile."""
    if data.source == "digits":
        return digits_counts(_digits(files[0]), data.n_test)
    if data.source == "folder":
        listing = listed(locate(data.required_path))
        names = class_names(listing)
        labels = Counter(place.label for place in listing.images if place.part == "train")
        return [labels[name] for name in names]
    return [5000] * 10 if data.source == "cifar10" else [500] * 100


# a grid has many cells
@functools.cache
def _digits(path: Path) -> list[int]:
    """Images of each digit."""
    with gzip.open(path, "rt") as file:
        labels = Counter(int(float(line.rsplit(",", 1)[1])) for line in file)
    return [labels[c] for c in range(10)]
