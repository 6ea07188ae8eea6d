"""Strong augmentation of whole batches: crop and flip, one random operation an image, Cutout.

TrivialAugment (Müller & Hutter, ICCV 2021): every image gets one operation of a list, uniformly,
with a strength that is uniform too; then Cutout (DeVries & Taylor 2017). The ranges are those of
two of its spaces (table 1 there). Left out is equalise, of its fourteen operations; shears are
about the image's centre, strengths are not in 31 steps, and pixels are not rounded after the
operation.

Operations are dealt out, not drawn: of a batch, as many images get each as any other, one more or
less, and which get one more goes round from batch to batch. So every shape is known beforehand, and
a GPU need not be waited for.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Ranges(NamedTuple):
    """How far operations go at full strength; of solarise and autocontrast there is one range."""

    # radians
    angle: float
    shear: float
    # share of the image's side
    shift: float
    # of brightness, colour, contrast and sharpness, around 1
    change: float
    # fewest that posterising keeps
    bits: int


# "Wide" there: an image may be moved out of its frame
WIDE = Ranges(angle=math.radians(135), shear=0.99, shift=1.0, change=0.99, bits=2)
# "RA" there, which the authors recommend for small networks, such as WRN-40-2; 10 of 32 pixels
NARROW = Ranges(angle=math.radians(30), shear=0.3, shift=10 / 32, change=0.9, bits=4)
# by data.augmentation
RANGES = {"medium": NARROW, "strong": WIDE}

# share of the image's side: 16 of CIFAR's 32 pixels
CUTOUT = 0.5


def strong(
    images: Tensor,
    padding: int,
    grey: tuple[float, ...],
    generator: torch.Generator,
    turn: int = 0,
    ranges: Ranges = WIDE,
) -> tuple[Tensor, Tensor]:
    """Augmented images, and what Cutout leaves of them.

    images: (B, channels, H, W) uint8; padding: of the random crop; grey: share of each channel in
    an image's grey; turn: the batch's number; ranges: of the operations.
    Returns (B, channels, H, W) float in [0, 255], channels last in memory, and (B, 1, H, W) float,
    0 where a square is cut out and 1 elsewhere.
    """
    n, _, height, width = images.shape
    device = images.device
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=device)
    is_flipped = torch.rand(n, generator=generator, device=device) < 0.5
    dealt = torch.randperm(n, generator=generator, device=device)
    strength = 2 * torch.rand(n, generator=generator, device=device) - 1
    centre = torch.rand(2, n, generator=generator, device=device)

    # From here on images are in the order in which operations are dealt to them.
    first, n_groups = turn % len(OPERATIONS), len(OPERATIONS)
    groups = {
        name: slice(n * i // n_groups, n * (i + 1) // n_groups)
        for i, name in enumerate(OPERATIONS[first:] + OPERATIONS[:first])
    }
    rows, columns, is_inside = places(groups, strength, height, width, ranges)
    columns = torch.where(is_flipped[dealt, None, None], width - 1 - columns, columns)
    rows, columns = rows + down[dealt, None, None], columns + right[dealt, None, None]
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    moved = padded[dealt[:, None, None], rows, columns] * is_inside[..., None]
    # (B, H, W, channels), which is channels last
    pixels = moved.permute(0, 3, 1, 2).float()
    for name, change in CHANGES.items():
        group = groups[name]
        pixels[group] = change(pixels[group], strength[group, None, None, None], grey, ranges)
    augmented = torch.empty_like(pixels)
    augmented[dealt] = pixels
    return augmented, cutout(centre, height, width)


def places(
    groups: dict[str, slice], strength: Tensor, height: int, width: int, ranges: Ranges
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each pixel of the moved images comes from.

    groups: the images that get each operation; strength: (B,) in [-1, 1]. Returns row and column,
    each (B, H, W) int64 and inside the image, and (B, H, W) bool, False where the pixel comes from
    outside it.
    """
    matrix = torch.eye(2, device=strength.device).repeat(len(strength), 1, 1)
    shift = torch.zeros(len(strength), 2, device=strength.device)
    angle = ranges.angle * strength[groups["rotate"]]
    matrix[groups["rotate"], 0, 0] = matrix[groups["rotate"], 1, 1] = angle.cos()
    matrix[groups["rotate"], 0, 1], matrix[groups["rotate"], 1, 0] = -angle.sin(), angle.sin()
    matrix[groups["shear-x"], 1, 0] = ranges.shear * strength[groups["shear-x"]]
    matrix[groups["shear-y"], 0, 1] = ranges.shear * strength[groups["shear-y"]]
    shift[groups["translate-x"], 1] = ranges.shift * width * strength[groups["translate-x"]]
    shift[groups["translate-y"], 0] = ranges.shift * height * strength[groups["translate-y"]]

    y = torch.arange(height, device=strength.device) - (height - 1) / 2
    x = torch.arange(width, device=strength.device) - (width - 1) / 2
    # (B, H, 1) of what the row contributes, (B, 1, W) of what the column does
    row = matrix[:, 0, 0, None, None] * y[:, None] + matrix[:, 0, 1, None, None] * x
    column = matrix[:, 1, 0, None, None] * y[:, None] + matrix[:, 1, 1, None, None] * x
    row = (row + shift[:, 0, None, None] + (height - 1) / 2).round().long()
    column = (column + shift[:, 1, None, None] + (width - 1) / 2).round().long()
    is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), is_inside


def cutout(centre: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W) float, 0 in a square around the centre, clipped at the border, and 1 elsewhere.

    centre: (2, B) in [0, 1), shares of height and width.
    """
    masks: list[Tensor] = []
    for share, side in zip(centre, (height, width), strict=True):
        start = (share * side).long() - round(CUTOUT * side) // 2
        position = torch.arange(side, device=centre.device)
        after = position >= start[:, None]
        masks.append(after & (position < start[:, None] + round(CUTOUT * side)))
    rows, columns = masks
    return 1.0 - (rows[:, None, :, None] & columns[:, None, None, :]).float()


def blend(base: Tensor, pixels: Tensor, strength: Tensor, change: float) -> Tensor:
    """From `base`, a factor around 1 as far as `pixels` are; Pillow's ImageEnhance."""
    return (base + (1 + change * strength) * (pixels - base)).clamp(0, 255)


def grey_of(pixels: Tensor, grey: tuple[float, ...]) -> Tensor:
    """(B, 1, H, W) grey of images (B, channels, H, W). grey: share of each channel."""
    parts = [share * pixels[:, i : i + 1] for i, share in enumerate(grey)]
    return functools.reduce(torch.add, parts)


def brightness(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Blend with black."""
    return blend(torch.zeros_like(pixels), pixels, strength, ranges.change)


def colour(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Blend with the image's grey."""
    return blend(grey_of(pixels, grey), pixels, strength, ranges.change)


def contrast(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Blend with the mean of the image's grey."""
    return blend(
        grey_of(pixels, grey).mean((1, 2, 3), keepdim=True), pixels, strength, ranges.change
    )


def sharpness(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Against Pillow's SMOOTH: weights of 5 for a pixel and 1 for neighbours; borders stay."""
    inner = pixels[:, :, 1:-1, 1:-1]
    blurred = pixels.clone()
    blurred[:, :, 1:-1, 1:-1] = (
        9 * F.avg_pool2d(pixels, 3, 1, 1)[:, :, 1:-1, 1:-1] + 4 * inner
    ) / 13
    return blend(blurred, pixels, strength, ranges.change)


def posterise(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Keep the highest bits of each value: all eight, or the fewest at full strength."""
    step = 2 ** ((8 - ranges.bits) * strength.abs()).round()
    return (pixels / step).floor() * step


def solarise(pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges) -> Tensor:
    """Invert what is above a threshold, which falls with the strength."""
    return torch.where(pixels >= 255 * (1 - strength.abs()), 255 - pixels, pixels)


def autocontrast(
    pixels: Tensor, strength: Tensor, grey: tuple[float, ...], ranges: Ranges
) -> Tensor:
    """Stretch each channel of each image to 0 .. 255; the strength is not used."""
    darkest, brightest = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    stretched = (pixels - darkest) * (255 / (brightest - darkest))
    return torch.where(brightest > darkest, stretched, pixels)


CHANGES = {
    change.__name__: change
    for change in (brightness, colour, contrast, sharpness, posterise, solarise, autocontrast)
}
MOVES = ("identity", "rotate", "shear-x", "shear-y", "translate-x", "translate-y")
OPERATIONS = (*MOVES, *CHANGES)
