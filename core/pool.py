"""Generated latents: how many per class, and drawing them from the denoiser."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.config import Diffusion, Generation
from core.diffusion import generate

BATCH = 4096


class Pool(NamedTuple):
    """Generated latents in the denoiser's coordinates (`diffusion.scaling`); empty before the first refresh."""

    latents: Tensor  # (M, D) float
    labels: Tensor  # (M,) int64

    @staticmethod
    def empty(n_latents: int, device: str) -> Pool:
        return Pool(
            torch.zeros(0, n_latents, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )


def quota(rule: str, class_counts: Tensor) -> Tensor:
    """Latents to generate per class, (C,) int64. class_counts: (C,) int64 training images.

    ldmlr: max(round(0.2 n_c), 5), as the original code has it. balance: n_max - n_c.
    """
    if rule == "ldmlr":
        return (0.2 * class_counts).round().long().clamp(min=5)
    if rule == "balance":
        return class_counts.max() - class_counts
    raise ValueError(f"unknown quota {rule!r}: ldmlr or balance")


@torch.no_grad()
def draw_gaussian(
    prototypes: Tensor, covariance: Tensor, counts: Tensor, generator: torch.Generator
) -> Pool:
    """A fresh pool with counts[c] latents of class c, normal around its prototype. (C, D), (D, D), (C,)."""
    device = prototypes.device
    labels = torch.repeat_interleave(torch.arange(len(counts), device=device), counts.to(device))
    variances, axes = torch.linalg.eigh(covariance)
    noise = torch.randn(len(labels), len(covariance), generator=generator, device=device)
    return Pool(prototypes[labels] + (noise * variances.clamp(min=0).sqrt()) @ axes.T, labels)


@torch.no_grad()
def draw(
    denoiser: nn.Module, diffusion: Diffusion, generation: Generation, levels: Tensor, counts: Tensor, n_latents: int, generator: torch.Generator,
    farthest: float,
) -> Pool:  # fmt: skip
    """A fresh pool with counts[c] latents of class c, in the denoiser's coordinates.

    farthest: the largest coordinate of a real latent, to which x0 estimates from predicted noise are clamped: at the first
    timesteps they are the noise's error divided by next to nothing.
    """
    device = levels.device
    labels = torch.repeat_interleave(torch.arange(len(counts), device=device), counts.to(device))
    n_used, eta = (generation.steps, 0.0) if generation.method == "ddim" else (diffusion.steps, 1.0)
    limit = (
        1.0 if diffusion.scaling == "unit" else farthest if diffusion.objective == "noise" else None
    )
    if not len(labels):
        return Pool.empty(n_latents, str(device))
    classes, parts = torch.arange(len(counts), device=device), []
    for batch in labels.split(BATCH):
        start = torch.randn(len(batch), n_latents, generator=generator, device=device)
        denoise = lambda z, t: denoiser(z, t[:1].expand(len(classes)), classes, batch)  # noqa: B023, E731
        parts.append(
            generate(denoise, diffusion.objective, levels, start, n_used, eta, generator, limit)
        )
    return Pool(torch.cat(parts), labels)
