"""What can be said of a data set before anything is trained on it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from core.config.schema import Config
from core.data import layout
from core.data.listing import listed
from core.data.location import locate
from core.data.sources import Dataset, Split
from core.planning.fingerprint import data_fingerprint


class Description(NamedTuple):
    """Facts about a data set."""

    fingerprint: str
    # order as loaded
    channels: str
    # (channels, H, W)
    shape: tuple[int, ...]
    class_names: list[str]
    train_counts: list[int]
    test_counts: list[int]
    imbalance_factor: float
    # on files and folders that are left out, and on names that look alike
    notes: list[str]


class Finding(NamedTuple):
    """Something a researcher would want to know."""

    # a study on this data would mislead
    is_fault: bool
    text: str


def describe(config: Config, dataset: Dataset) -> Description:
    """Return the facts about a data set."""
    train, test = dataset.class_counts, _counts(dataset.test, len(dataset.class_names))
    order = config.data.channels
    return Description(
        fingerprint=data_fingerprint(config),
        channels={"rgb": "bgr", "bgr": "rgb"}[order] if config.data.flip_channels else order,
        shape=tuple(dataset.train.images.shape[1:]),
        class_names=dataset.class_names,
        train_counts=train.tolist(),
        test_counts=test.tolist(),
        imbalance_factor=float(train.max() / train.min().clamp(min=1)),
        notes=_notes(config),
    )


def verify(config: Config, dataset: Dataset) -> list[Finding]:
    """Find leaks, duplicates, empty classes, unbalanced tests, blank images, files left out."""
    names, faults, notes = dataset.class_names, [], _notes(config)
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        counts = _counts(split, len(names))
        empty = (counts == 0).nonzero().flatten().tolist()
        faults += [f"class '{names[c]}' has no {part} images" for c in empty]
        if n_same := len(split.labels) - len(_digests(split)):
            notes.append(f"{n_same} {part} images are copies of another {part} image")
        if blank := int((split.images.flatten(1).float().std(1) == 0).sum()):
            notes.append(f"{blank} {part} images are of one colour")
    fewest, most = (int(n) for n in _counts(dataset.test, len(names)).aminmax())
    if fewest != most:
        range_ = f"{fewest} to {most} images per class; top-1 is over images, not classes"
        notes.append(f"the test set is not balanced: {range_}")
    if leaked := len(_digests(dataset.train) & _digests(dataset.test)):
        notes.append(f"{leaked} test images also stand in train")
    return [Finding(True, text) for text in faults] + [Finding(False, text) for text in notes]


def _notes(config: Config) -> list[str]:
    data, notes = config.data, []
    if data.split == "seed":
        drawn = " and ".join(data.drawn)
        notes.append(f"every seed draws its own {drawn} images; these are those of seed 0")
    if data.source == "folder":
        notes += layout.notes(listed(locate(data.required_path)))
    return notes


def _counts(split: Split, n_classes: int) -> torch.Tensor:
    return torch.bincount(split.labels, minlength=n_classes)


def _digests(split: Split) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image in split.images}
