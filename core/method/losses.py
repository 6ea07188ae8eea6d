"""The semantic loss: diffusion, prototype and equal-radius terms on standardised latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from core.method.diffusion import add_noise, estimate_x0, loss_weights, target
from core.method.geometry import class_means, distances, mean_over, prototype_loss, radius_loss


class Geometry(NamedTuple):
    """Moving averages over batches, in standardised coordinates. No gradient flows through them."""

    # (C, D) class means
    prototypes: Tensor
    # (C,) mean distance of real latents to their prototype
    radii: Tensor
    # (C,) the same for the denoiser's x0 estimates
    estimate_radii: Tensor


class Weights(NamedTuple):
    """Weights of the terms of the semantic loss, and the momentum of its averages."""

    # eta_p
    prototype: float
    # eta_r
    radius: float
    # momentum of the moving averages
    momentum: float


class Semantic(NamedTuple):
    """The semantic loss and its terms, each (), and what is tracked of the x0 estimates."""

    # L_diff + eta_p L_proto + eta_r L_radius, ()
    total: Tensor
    diffusion: Tensor
    # None where its weight is 0
    prototype: Tensor | None
    radius: Tensor | None
    # (C,) mean distance of x0 estimates, (C,) counts; to be tracked
    estimate_means: tuple[Tensor, Tensor] | None


def diffusion_loss(
    output: Tensor,
    x0: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    objective: str,
    weighting: str,
    used: Tensor | None = None,
) -> Tensor:
    """Weighted mean squared error of the denoiser's output, over the samples `used`, (B,) 0 or 1.

    All others (B, D), alpha_bar (B, 1); returns ().
    """
    error = (output - target(objective, x0, noise, alpha_bar)).square()
    weighted = loss_weights(weighting, objective, alpha_bar) * error
    return weighted.mean() if used is None else mean_over(weighted, used).mean()


def standardised(latents: Tensor, used: Tensor | None = None) -> Tensor:
    """(B, D) latents with mean 0 and deviation 1 in every dimension of the batch.

    Differentiable through both. used: (B,) 0 or 1, the samples whose mean and deviation these are;
    None: all.
    """
    centred = latents - mean_over(latents, used)
    return centred / (mean_over(centred.square(), used) + 1e-6).sqrt()


def logit_adjustment(prior: Tensor, tau: float) -> Tensor:
    """tau log(prior), (C,) float; added to training logits, the head estimates balanced posteriors.

    prior: (C,), of the training samples; counts will do. Menon et al. 2021, eq. 10.
    """
    prior = prior.float()
    return tau * (prior / prior.sum()).clamp(min=1e-12).log()


def semantic_loss(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    objective: str,
    weighting: str,
    latents: Tensor,
    labels: Tensor,
    alpha_bar: Tensor,
    t: Tensor,
    noise: Tensor,
    geometry: Geometry,
    weights: Weights,
    common: Tensor | None = None,
    used: Tensor | None = None,
) -> Semantic:
    """L_diff + eta_p L_proto + eta_r L_radius, differentiable in the latents and in the denoiser.

    The prototype term acts on the real latents alone: on x0 estimates it pulls every estimate to
    its class mean and so shrinks what is generated. The radius term acts on the real latents (and
    so shapes the encoder) and on the denoiser's x0 estimates (and so shapes the denoiser). Only
    estimates with at least as much signal as noise count: from nearly pure noise the best estimate
    is the class mean, whose radius is 0 by nature and not by fault. The common radius of both is
    that of the real latents: estimates that agree on a smaller one would satisfy each other and no
    one else.

    latents: (B, D) standardised; labels: (B,); alpha_bar: (B, 1); t: (B,) int64; noise: (B, D);
    common: (), the common radius, by default the mean over classes; used: (B,) 0 or 1, the samples
    that count, by default all.
    """
    noisy = add_noise(latents, noise, alpha_bar)
    output = denoise(noisy, t, labels)
    diffusion = total = diffusion_loss(
        output, latents, noise, alpha_bar, objective, weighting, used
    )
    prototype = radius = estimate_means = None
    if weights.prototype > 0:
        prototype = prototype_loss(latents, labels, geometry.prototypes, used)
        total = total + weights.prototype * prototype
    if weights.radius > 0:
        x0 = estimate_x0(objective, output, noisy, alpha_bar)
        clear = (alpha_bar[:, 0] >= 0.5).to(latents.dtype)
        clear = clear if used is None else clear * used
        common = geometry.radii.mean() if common is None else common
        radius = radius_loss(
            latents, labels, geometry.prototypes, geometry.radii, weights.momentum, used, common
        ) + radius_loss(
            x0,
            labels,
            geometry.prototypes,
            geometry.estimate_radii,
            weights.momentum,
            clear,
            common,
        )
        total = total + weights.radius * radius
        apart = distances(x0.detach(), labels, geometry.prototypes)
        estimate_means = class_means(apart, labels, len(geometry.prototypes), clear)
    return Semantic(total, diffusion, prototype, radius, estimate_means)
