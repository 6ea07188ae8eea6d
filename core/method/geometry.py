"""Class prototypes and radii, and the equal-radius constraint that replaces covariance matching.

A tail class has too few samples for a covariance, but not for a mean distance.
"""

from __future__ import annotations

import torch
from torch import Tensor


def class_means(
    values: Tensor, labels: Tensor, n_classes: int, used: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of `values` over each class, and the number of samples of each.

    values: (B, ...) float; labels: (B,) int64; used: (B,) 0 or 1, the samples that count (default:
    all). Returns (C, ...) float, zero where a class is absent, and (C,) float counts.
    Differentiable in `values`.
    """
    used = (
        torch.ones(len(labels), device=values.device, dtype=values.dtype)
        if used is None
        else used.to(values.dtype)
    )
    values = values * used.view(-1, *(1,) * (values.dim() - 1))
    counts = torch.zeros(n_classes, device=values.device, dtype=values.dtype).index_add(
        0, labels, used
    )
    sums = torch.zeros(
        n_classes, *values.shape[1:], device=values.device, dtype=values.dtype
    ).index_add(0, labels, values)
    return sums / counts.clamp(min=1).view(-1, *(1,) * (values.dim() - 1)), counts


def mean_over(values: Tensor, used: Tensor | None) -> Tensor:
    """Mean of (B, D) `values` over the samples that count, (D,); 0 where none does.

    used: (B,) 0 or 1, the samples that count; None: all.
    """
    if used is None:
        return values.mean(0)
    return (values * used[:, None]).sum(0) / used.sum().clamp(min=1)


def distances(latents: Tensor, labels: Tensor, prototypes: Tensor) -> Tensor:
    """Euclidean distance of each latent to the prototype of its class.

    latents: (B, D); prototypes: (C, D). Returns (B,). The tiny term under the root keeps the
    gradient of a zero distance at zero instead of NaN (a plain root fails on the first class with
    one sample).
    """
    return ((latents - prototypes[labels]).square().sum(1) + 1e-12).sqrt()


def unbiased_radii(radii: Tensor, counts: Tensor) -> Tensor:
    """Mean distances to the mean of the same samples, corrected for that.

    A mean of n samples is nearer to each of them than the class's own, by sqrt(1 - 1/n). A class of
    one sample borrows the mean of the others.

    radii: (C,) float; counts: (C,) samples of each class. Returns (C,).
    """
    several = counts > 1
    corrected = radii * (counts / (counts - 1).clamp(min=1)).sqrt()
    return torch.where(several, corrected, corrected[several].mean())


def within_class_covariance(
    latents: Tensor, labels: Tensor, prototypes: Tensor, classes: Tensor, used: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean outer product of latents' differences from their prototypes, over some classes.

    latents: (B, D); labels: (B,); prototypes: (C, D); classes: (C,) bool, which; used: (B,) 0 or 1,
    the samples that count; None: all. Returns (D, D), zero where none counts, and () float, how
    many do.
    """
    apart = latents - prototypes[labels]
    weight = classes[labels].to(latents.dtype)
    weight = weight if used is None else weight * used
    n = weight.sum()
    return (apart * weight[:, None]).T @ apart / n.clamp(min=1), n


def prototype_loss(
    latents: Tensor, labels: Tensor, prototypes: Tensor, used: Tensor | None = None
) -> Tensor:
    """Mean squared distance to the class prototype, per dimension.

    latents: (B, D); prototypes: (C, D), no gradient; used: as in `mean_over`.
    """
    apart = (latents - prototypes.detach()[labels]).square()
    return apart.mean() if used is None else mean_over(apart, used).mean()


def radius_loss(
    latents: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    tracked_radii: Tensor,
    momentum: float,
    used: Tensor | None = None,
    common: Tensor | None = None,
) -> Tensor:
    """Equal-radius constraint: mean over the classes present of (r_c / r* - 1)^2.

    r_c is the mean distance of class c's latents in the batch to its prototype; a class with one
    sample counts through its tracked radius, r_c = momentum * tracked + (1 - momentum) * distance,
    since one distance says little of a mean. r* is `common`, by default the mean tracked radius
    over classes.

    latents: (B, D); tracked_radii: (C,) float > 0; used: (B,) 0 or 1, the samples that count;
    common: () float. Prototypes, tracked radii and r* carry no gradient: the constraint moves
    latents towards the common radius, not the common radius towards the latents.
    """
    tracked = tracked_radii.detach()
    radii, counts = class_means(
        distances(latents, labels, prototypes.detach()), labels, len(tracked), used
    )
    radii = torch.where(counts == 1, momentum * tracked + (1 - momentum) * radii, radii)
    present = (counts > 0).to(radii.dtype)
    common = tracked.mean() if common is None else common.detach()
    return ((radii / common - 1).square() * present).sum() / present.sum().clamp(min=1)


@torch.no_grad()
def track(tracked: Tensor, batch_means: Tensor, counts: Tensor, momentum: float) -> Tensor:
    """Exponential moving average over batches, for the classes present.

    tracked, batch_means: (C, ...); counts: (C,). Returns (C, ...).
    """
    shape = (len(counts),) + (1,) * (tracked.dim() - 1)
    return torch.where(
        (counts > 0).view(shape), momentum * tracked + (1 - momentum) * batch_means, tracked
    )
