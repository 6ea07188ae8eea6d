"""The order in which an epoch meets its samples."""

from __future__ import annotations

import torch
from torch import Tensor


def batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """A permutation of 0 .. n - 1 in batches of `batch_size`.

    A last batch of one joins the one before: batch normalisation has no variance of one sample.
    """
    return _split(torch.randperm(n, generator=generator, device=generator.device), batch_size)


def _split(order: Tensor, batch_size: int) -> list[Tensor]:
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        last = parts.pop()
        parts[-1] = torch.cat([parts[-1], last])
    return parts


def balanced_batches(
    labels: Tensor, n_classes: int, batch_size: int, generator: torch.Generator
) -> list[Tensor]:
    """Batches that draw every class alike, with replacement; as many as for labels (N,) in turn."""
    n = len(labels)
    device = labels.device
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=n_classes)
    starts = counts.cumsum(0) - counts
    classes = torch.randint(n_classes, (n,), generator=generator, device=device)
    within = (torch.rand(n, generator=generator, device=device) * counts[classes]).long()
    return _split(order[starts[classes] + within.clamp(max=counts[classes] - 1)], batch_size)
