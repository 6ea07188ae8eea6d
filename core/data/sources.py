"""Where images come from: scikit-learn's digits, an ImageFolder pair (or an archive of one), CIFAR."""

from __future__ import annotations

import fcntl
import io
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from core.config import Data
from core.data.layout import class_names
from core.data.listing import PARTS, contents, listed, shown
from core.data.location import locate
from core.data.profile import exponential_counts, held_out_counts
from core.randomness import generator

FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "WEBP",
    "PPM",
)  # by content: others, such as EPS, would start programs to be read


class Split(NamedTuple):
    images: Tensor  # (N, channels, H, W) uint8
    labels: Tensor  # (N,) int64, sorted


class Dataset(NamedTuple):
    train: Split
    test: Split
    class_names: list[str]

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 training images per class, from the data and never from a flag."""
        return torch.bincount(self.train.labels, minlength=len(self.class_names))


def load(data: Data) -> Dataset:
    """The data set that the settings describe, profile applied, channels swapped; validation images as its test set if any.

    Raises ValueError, with the file's name, for images that cannot be read, sizes that differ, class folders
    that do not match, and classes without images.
    """
    if data.source == "digits":
        dataset = _digits(data.n_test)
    elif data.source == "folder":
        dataset = _folder(locate(data.path), data)
    else:
        dataset = _cifar(data)
    if data.imbalance_factor is not None or data.n_max is not None:
        dataset = dataset._replace(
            train=_long_tailed(dataset.train, len(dataset.class_names), data)
        )
    if data.validation:
        train, held_out = _held_out(dataset.train, dataset.class_counts, data.validation)
        dataset = dataset._replace(train=train, test=held_out)
    if data.flip_channels:
        dataset = dataset._replace(train=_swapped(dataset.train), test=_swapped(dataset.test))
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    """The data set as safetensors, so that images are decoded once."""
    tensors = {
        f"{part}.{name}": tensor
        for part in ("train", "test")
        for name, tensor in getattr(dataset, part)._asdict().items()
    }
    return safetensors.torch.save(
        tensors
        | {
            "class_names": torch.frombuffer(
                bytearray("\n".join(dataset.class_names).encode()), dtype=torch.uint8
            )
        }
    )


def from_bytes(data: bytes) -> Dataset:
    tensors = safetensors.torch.load(data)
    names = bytes(tensors["class_names"].tolist()).decode().split("\n")
    parts = (
        Split(tensors[f"{part}.images"], tensors[f"{part}.labels"]) for part in ("train", "test")
    )
    return Dataset(*parts, names)


def _swapped(split: Split) -> Split:
    return split._replace(images=split.images.flip(1).contiguous())


def _digits(n_test: int) -> Dataset:
    """Handwritten digits, 8x8, about 180 a class; `n_test` of each, drawn once and for all, are the test set."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(np.round(raw.images * (255 / 16)).astype(np.uint8))[
        :, None
    ]  # (N, 1, 8, 8)
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=generator(0, "digits split"))
    rank = _rank_within_class(labels[order], 10)
    if n_test >= torch.bincount(labels).min():
        raise ValueError(f"data.n_test: {n_test} test images per class leave none to train on")
    parts = []
    for chosen in (order[rank >= n_test], order[rank < n_test]):
        chosen = chosen[labels[chosen].argsort(stable=True)]
        parts.append(Split(images[chosen], labels[chosen]))
    return Dataset(*parts, [str(c) for c in range(10)])


def _rank_within_class(labels: Tensor, n_classes: int) -> Tensor:
    """(N,) how many earlier images have the same label."""
    seen = torch.nn.functional.one_hot(labels, n_classes).cumsum(0)
    return seen.gather(1, labels[:, None])[:, 0] - 1


def _long_tailed(train: Split, n_classes: int, data: Data) -> Split:
    """The exponential profile, by one fixed draw per class: the same images for every seed and arm."""
    available = torch.bincount(train.labels, minlength=n_classes)
    n_max = data.n_max or int(available.max())
    counts = torch.tensor(exponential_counts(n_max, n_classes, data.imbalance_factor or 1.0))
    short = (counts > available).nonzero().flatten().tolist()
    if short:
        c = short[0]
        raise ValueError(
            f"data.imbalance_factor: class {c} has {available[c]} training images and the profile asks for {counts[c]}"
        )
    return _drawn(train, counts, "long tail")[0]


def _held_out(train: Split, counts: Tensor, share: float) -> tuple[Split, Split]:
    """Training and validation images, by one fixed draw per class: the same for every seed and arm."""
    validation, rest = _drawn(
        train, torch.tensor(held_out_counts(counts.tolist(), share)), "validation"
    )
    return rest, validation


def _drawn(split: Split, counts: Tensor, purpose: str) -> tuple[Split, Split]:
    """`counts` (C,) images of each class by one draw, and the others; both sorted by class."""
    order = torch.randperm(len(split.labels), generator=generator(0, purpose))
    is_drawn = _rank_within_class(split.labels[order], len(counts)) < counts[split.labels[order]]
    parts = [
        chosen[split.labels[chosen].argsort(stable=True)]
        for chosen in (order[is_drawn], order[~is_drawn])
    ]
    drawn, others = (Split(split.images[chosen], split.labels[chosen]) for chosen in parts)
    return drawn, others


def _cifar(data: Data) -> Dataset:
    """CIFAR-10 or CIFAR-100 through torchvision, ordinary RGB."""
    import torchvision

    cls = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        data.source
    ]
    root = locate(data.path)
    if data.download:
        root.mkdir(parents=True, exist_ok=True)
        with (root / ".downloading").open(
            "w"
        ) as lock:  # workers take turns; all but the first find it there
            fcntl.flock(lock, fcntl.LOCK_EX)
            cls(root, train=True, download=True)
    parts = []
    for train in (True, False):
        raw = cls(root, train=train, download=False)
        labels = torch.tensor(raw.targets)
        order = labels.argsort(stable=True)
        parts.append(
            Split(torch.from_numpy(raw.data).permute(0, 3, 1, 2)[order].contiguous(), labels[order])
        )
    return Dataset(*parts, list(raw.classes))


def _folder(path: Path, data: Data) -> Dataset:
    """train/<class>/* and test/<class>/*, a folder or a .tar.gz archive; classes in sorted folder order."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    mode = "L" if data.channels == "gray" else "RGB"
    shape = None
    listing = listed(path)
    names = class_names(listing)
    for place, content in contents(listing):
        file = f"'{shown(path)}': {shown(place)}"
        pixels = _pixels(file, content, mode, data.size)
        if shape is not None and pixels.shape != shape:
            raise ValueError(
                f"{file}: {tuple(pixels.shape[1:])} pixels where the others have {tuple(shape[1:])}; set data.size"
            )
        shape = pixels.shape
        found.setdefault((place.part, place.label), []).append(pixels)
    parts = []
    for part in PARTS:
        labels = torch.tensor([c for c, name in enumerate(names) for _ in found[part, name]])
        parts.append(
            Split(torch.stack([image for name in names for image in found[part, name]]), labels)
        )
    return Dataset(*parts, names)


def _pixels(file: str, content: bytes, mode: str, size: int | None) -> Tensor:
    """(channels, H, W) uint8 of an image file. file: how messages name it."""
    if not content:
        raise ValueError(f"{file}: not an image that can be read (it is empty)")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}, and pixels of 8 bits a channel are needed")
            image = image.convert(mode)
    except UnidentifiedImageError:
        raise ValueError(
            f"{file}: not an image that can be read ({_unidentified(content)})"
        ) from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:  # Pillow's of broken files
        raise ValueError(f"{file}: not an image that can be read ({error})") from None
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)


def _unidentified(content: bytes) -> str:
    """What may be said of a file that Pillow does not know."""
    if content.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; bring the file with git lfs pull"
    return f"its content is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or is damaged"
