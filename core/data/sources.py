"""Where images come from: scikit-learn's digits, a folder or an archive of images, CIFAR."""

from __future__ import annotations

import fcntl
import io
import struct
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from core.config.schema import Data
from core.data.counting import digits_counts, held_out_counts, profiled_counts
from core.data.layout import class_names
from core.data.listing import PARTS, contents, listed, shown
from core.data.location import digits_file, locate
from core.randomness import generator

# By content: others, such as EPS, would start programs to be read.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")

# What Pillow raises for broken files.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Split(NamedTuple):
    """Images and their classes."""

    # (N, channels, H, W) uint8
    images: Tensor
    # (N,) int64, sorted
    labels: Tensor


class Dataset(NamedTuple):
    """Training and test images."""

    train: Split
    test: Split
    class_names: list[str]

    @property
    def class_counts(self) -> Tensor:
        """(C,) int64 training images per class, from the data and never from a flag."""
        return torch.bincount(self.train.labels, minlength=len(self.class_names))


def load(data: Data, seed: int = 0) -> Dataset:
    """Load the data set that the settings describe, profile applied, channels swapped.

    Validation images stand in for the test set, if there are any. The profile, the validation
    images and the test images of digits are drawn per class, with the generator of seed 0, or of
    `seed` where `data.split` says so: the same images for all arms of a seed.

    Raises ValueError, with the file's name, for images that cannot be read, sizes that differ,
    class folders that do not match, and classes without images.
    """
    draw_seed = seed if data.split == "seed" else 0
    if data.source == "digits":
        train, test, names = _digits(data, draw_seed)
    else:
        train, test, names = _folder(data) if data.source == "folder" else _cifar(data)
    if data.imbalance_factor is not None or data.n_max is not None:
        available = torch.bincount(train.labels, minlength=len(names)).tolist()
        train, _ = _drawn(train, profiled_counts(data, available), "long tail", draw_seed)
    if data.validation:
        counts = torch.bincount(train.labels, minlength=len(names)).tolist()
        held = held_out_counts(counts, data.validation)
        test, train = _drawn(train, held, "validation", draw_seed)
    if data.flip_channels:
        train, test = (
            split._replace(images=split.images.flip(1).contiguous()) for split in (train, test)
        )
    return Dataset(train, test, names)


def to_bytes(dataset: Dataset) -> bytes:
    """The data set as safetensors, so that images are decoded once."""
    names = bytearray("\n".join(dataset.class_names).encode())
    tensors = {"class_names": torch.frombuffer(names, dtype=torch.uint8)}
    for part in PARTS:
        split: Split = getattr(dataset, part)
        tensors |= {f"{part}.{name}": tensor for name, tensor in split._asdict().items()}
    return safetensors.torch.save(tensors)


def from_bytes(data: bytes) -> Dataset:
    """Read what `to_bytes` made."""
    tensors = safetensors.torch.load(data)
    names = bytes(tensors["class_names"].tolist()).decode().split("\n")
    train, test = (Split(tensors[f"{part}.images"], tensors[f"{part}.labels"]) for part in PARTS)
    return Dataset(train, test, names)


def _drawn(split: Split, counts: list[int], purpose: str, seed: int) -> tuple[Split, Split]:
    """`counts` images of each class by one draw, and the others; both sorted by class."""
    order = torch.randperm(len(split.labels), generator=generator(seed, purpose))
    labels = split.labels[order]
    # (N,) how many images drawn earlier have the same label
    seen = torch.nn.functional.one_hot(labels, len(counts)).cumsum(0)
    rank = seen.gather(1, labels[:, None])[:, 0] - 1
    is_drawn = rank < torch.tensor(counts)[labels]
    drawn, others = (_sorted(split, chosen) for chosen in (order[is_drawn], order[~is_drawn]))
    return drawn, others


def _sorted(split: Split, chosen: Tensor) -> Split:
    """The chosen images, sorted by class and otherwise in their order."""
    chosen = chosen[split.labels[chosen].argsort(stable=True)]
    return Split(split.images[chosen], split.labels[chosen])


def _digits(data: Data, seed: int) -> Dataset:
    """Handwritten digits, 8x8, about 180 a class; a draw of `n_test` each is the test set."""
    # as scikit-learn's `load_digits` reads them, which imports SciPy: 2 s of a worker's start
    table = np.loadtxt(digits_file(), delimiter=",")
    pixels = table[:, :-1].reshape(-1, 8, 8)
    images = torch.from_numpy(np.round(pixels * (255 / 16)).astype(np.uint8))
    digits = Split(images[:, None], torch.from_numpy(table[:, -1]).long())
    digits_counts(torch.bincount(digits.labels).tolist(), data.n_test)
    test, train = _drawn(digits, [data.n_test] * 10, "digits split", seed)
    return Dataset(train, test, [str(c) for c in range(10)])


def _cifar(data: Data) -> Dataset:
    """CIFAR-10 or CIFAR-100 through torchvision, ordinary RGB."""
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[data.source]
    root = locate(data.required_path)
    if data.download:
        root.mkdir(parents=True, exist_ok=True)
        # Worker processes take turns; all but the first find it there.
        with (root / ".downloading").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            cls(root, train=True, download=True)
    splits = []
    for is_train in (True, False):
        raw = cls(root, train=is_train, download=False)
        split = Split(torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets))
        splits.append(_sorted(split, torch.arange(len(split.labels))))
    train, test = splits
    return Dataset(train, test, list(raw.classes))


def _folder(data: Data) -> Dataset:
    """train/<class>/* and test/<class>/* of a folder or an archive; classes in sorted order."""
    listing = listed(locate(data.required_path))
    names = class_names(listing)
    number = {name: c for c, name in enumerate(names)}
    images: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    labels: dict[str, list[int]] = {part: [] for part in PARTS}
    shape = None
    for place, content in contents(listing):
        file = f"'{shown(listing.path)}': {shown(place)}"
        pixels = _pixels(file, content, "L" if data.channels == "gray" else "RGB", data.size)
        shape = shape or pixels.shape
        if pixels.shape != shape:
            sizes = f"{tuple(pixels.shape[1:])} pixels where the others have {tuple(shape[1:])}"
            raise ValueError(f"{file}: {sizes}; set data.size")
        images[place.part].append(pixels)
        labels[place.part].append(number[place.label])
    train, test = (Split(torch.stack(images[part]), torch.tensor(labels[part])) for part in PARTS)
    return Dataset(train, test, names)


def _pixels(file: str, content: bytes, mode: str, size: int | None) -> Tensor:
    """(channels, H, W) uint8 of an image file. file: how messages name it."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}, and pixels of 8 bits a channel are needed")
            converted = image.convert(mode)
            if size:
                converted = converted.resize((size, size), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(converted))
            return pixels[None] if mode == "L" else pixels.permute(2, 0, 1)
    except UnidentifiedImageError:
        why = f"its content is not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or is damaged"
        if not content:
            why = "it is empty"
        elif content.startswith(b"version https://git-lfs"):
            why = "it is a pointer of Git LFS; bring the file with git lfs pull"
    except BROKEN as error:
        why = str(error)
    raise ValueError(f"{file}: not an image that can be read ({why})")
