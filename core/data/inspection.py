"""What can be said of a data set before anything is trained on it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from core.config import Config
from core.data import layout, sources
from core.data.listing import listed
from core.data.location import locate
from core.data.sources import Dataset, Split
from core.fingerprint import data_fingerprint


class Description(NamedTuple):
    fingerprint: str
    channels: str  # order as loaded
    shape: tuple[int, ...]  # (channels, H, W)
    class_names: list[str]
    train_counts: list[int]
    test_counts: list[int]
    imbalance_factor: float
    notes: list[str]  # on files and folders that are left out, and on names that look alike


class Finding(NamedTuple):
    """Something a researcher would want to know."""

    is_fault: bool  # a study on this data would mislead
    text: str


def describe(config: Config, dataset: Dataset) -> Description:
    train, test = dataset.class_counts, _counts(dataset.test, len(dataset.class_names))
    order = config.data.channels
    if config.data.flip_channels:
        order = {"rgb": "bgr", "bgr": "rgb"}[order]
    return Description(
        data_fingerprint(config), order, tuple(dataset.train.images.shape[1:]), dataset.class_names,
        train.tolist(), test.tolist(), float(train.max() / train.min().clamp(min=1)), _notes(config),
    )  # fmt: skip


def verify(config: Config, dataset: Dataset) -> list[Finding]:
    """Leaks between train and test, duplicates, empty classes, an unbalanced test set, blank images, files left out."""
    findings = [Finding(False, text) for text in _notes(config)]
    names = dataset.class_names
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        counts = _counts(split, len(names))
        for c in (counts == 0).nonzero().flatten().tolist():
            findings.append(Finding(True, f"class '{names[c]}' has no {part} images"))
        n_same = len(split.labels) - len(set(_digests(split)))
        if n_same:
            findings.append(
                Finding(False, f"{n_same} {part} images are copies of another {part} image")
            )
        blank = int((split.images.flatten(1).float().std(1) == 0).sum())
        if blank:
            findings.append(Finding(False, f"{blank} {part} images are of one colour"))
    test_counts = _counts(dataset.test, len(names))
    if test_counts.min() != test_counts.max():
        text = f"the test set is not balanced: {int(test_counts.min())} to {int(test_counts.max())} images per class; top-1 is over images, not classes"
        findings.append(Finding(False, text))
    leaked = len(set(_digests(dataset.train)) & set(_digests(dataset.test)))
    if leaked:
        findings.append(Finding(False, f"{leaked} test images also stand in train"))
    return findings


def load(config: Config) -> Dataset:
    return sources.load(config.data)


def _notes(config: Config) -> list[str]:
    return layout.notes(listed(locate(config.data.path))) if config.data.source == "folder" else []


def _counts(split: Split, n_classes: int) -> torch.Tensor:
    return torch.bincount(split.labels, minlength=n_classes)


def _digests(split: Split) -> list[bytes]:
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in split.images]
