"""Generated latents: drawing them from the denoiser, or from normal distributions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.config.schema import Diffusion, Generation
from core.method.diffusion import generate

BATCH = 4096


class Pool(NamedTuple):
    """Generated latents in the denoiser's coordinates; empty before the first refresh."""

    # (M, D) float
    latents: Tensor
    # (M,) int64
    labels: Tensor

    @staticmethod
    def empty(n_latents: int, device: str) -> Pool:
        """A pool without latents, each of `n_latents` dimensions."""
        return Pool(
            torch.zeros(0, n_latents, device=device),
            torch.zeros(0, dtype=torch.int64, device=device),
        )


@torch.no_grad()
def draw_gaussian(
    prototypes: Tensor, covariance: Tensor, counts: Tensor, generator: torch.Generator
) -> Pool:
    """Draw counts[c] latents of class c, normal around its prototype. (C, D), (D, D), (C,)."""
    labels = _labels(counts, prototypes.device)
    variances, axes = torch.linalg.eigh(covariance)
    shape = len(labels), len(covariance)
    noise = torch.randn(shape, generator=generator, device=prototypes.device)
    return Pool(prototypes[labels] + (noise * variances.clamp(min=0).sqrt()) @ axes.T, labels)


@torch.no_grad()
def draw(
    denoiser: nn.Module,
    diffusion: Diffusion,
    generation: Generation,
    levels: Tensor,
    counts: Tensor,
    n_latents: int,
    generator: torch.Generator,
    farthest: float,
) -> Pool:
    """Draw counts[c] latents of class c, in the denoiser's coordinates.

    farthest: the largest coordinate of a real latent, to which x0 estimates from predicted noise
    are clamped: at the first timesteps they are the noise's error divided by next to nothing.
    """
    labels = _labels(counts, levels.device)
    if not len(labels):
        return Pool.empty(n_latents, str(levels.device))
    n_used, eta = (generation.steps, 0.0) if generation.method == "ddim" else (diffusion.steps, 1.0)
    limit = farthest if diffusion.objective == "noise" else None
    if diffusion.scaling == "unit":
        limit = 1.0
    classes, parts = torch.arange(len(counts), device=levels.device), []
    for batch in labels.split(BATCH):
        # Each class's condition is worked out once; see `core.networks.denoisers`.
        def denoise(z: Tensor, t: Tensor, batch: Tensor = batch) -> Tensor:
            denoised: Tensor = denoiser(z, t[:1].expand(len(classes)), classes, batch)
            return denoised

        start = torch.randn(len(batch), n_latents, generator=generator, device=levels.device)
        parts.append(
            generate(denoise, diffusion.objective, levels, start, n_used, eta, generator, limit)
        )
    return Pool(torch.cat(parts), labels)


def _labels(counts: Tensor, device: torch.device) -> Tensor:
    classes = torch.arange(len(counts), device=device)
    return torch.repeat_interleave(classes, counts.to(device))
