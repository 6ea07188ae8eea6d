"""Augmentation and normalisation of whole batches, as tensor code; no worker processes."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding, and a random horizontal flip, each image by its own draw.

    images: (B, channels, H, W) uint8 (zero padding is black). Returns the same shape.
    """
    n, _, height, width = images.shape
    device = images.device
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=device)
    # (B, H) rows of the padded image
    rows = down[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        flipped = torch.rand(n, generator=generator, device=device) < 0.5
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # (B, W)
    columns = right[:, None] + columns
    padded = F.pad(images, (padding,) * 4)
    batch = torch.arange(n, device=device)[:, None, None]
    # advanced indices around a slice put the indexed axes first: (B, H, W, channels)
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 -> float, (x / 255 - mean) / std per channel, channels last in memory."""
    mean_, std_ = (_constant(values, str(images.device)) for values in (mean, std))
    return images.to(memory_format=torch.channels_last).float().sub_(mean_).div_(std_)


# copying it to a GPU for every batch would make every batch wait
@functools.cache
def _constant(values: tuple[float, ...], device: str) -> Tensor:
    return torch.tensor(values, device=device).view(1, -1, 1, 1) * 255
