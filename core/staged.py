"""The staged baseline (LDMLR, Han et al. 2024): diffusion on frozen latents, then the head on real and
generated ones. Without generation it is the control: head retraining alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.batches import balanced_batches, batches
from core.diffusion import add_noise
from core.divergence import Means
from core.epochs import Streams, gradient_norm, update
from core.learner import Learner
from core.losses import diffusion_loss


def diffusion_epoch(
    learner: Learner, latents: Tensor, labels: Tensor, epoch: int
) -> dict[str, float]:
    """Train the denoiser alone on the latents (N, D) of the frozen encoder."""
    means, streams = Means(learner.config), Streams(learner, epoch)
    learner.denoiser.train()
    step = learner.repeated(diffusion_step)
    for chosen in batches(len(labels), learner.config.batch_size, streams.order):
        means.add(
            step(latents[chosen], labels[chosen], *learner.draw_noise(len(chosen), streams.noise))
        )
    return means.read()


def diffusion_step(
    learner: Learner, z: Tensor, y: Tensor, t: Tensor, noise: Tensor
) -> dict[str, Tensor]:
    """One update of the denoiser. z, noise: (B, D); y, t: (B,)."""
    diffusion, x0, alpha_bar = (
        learner.config.diffusion,
        learner.standardise(z),
        learner.levels[t][:, None],
    )
    output = learner.denoiser(add_noise(x0, noise, alpha_bar), t, y)
    loss = diffusion_loss(output, x0, noise, alpha_bar, diffusion.objective, diffusion.weighting)
    loss.backward()
    metrics = {
        "train/diffusion_loss": loss.detach(),
        "grad/denoiser": gradient_norm(learner, "denoiser"),
    }
    update(learner, "denoiser")
    return metrics


def head_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> dict[str, float]:
    """Train the head alone on real latents (N, D) and, where there are any, the pool's generated ones.

    epoch: from 1, of the head's training.
    """
    config, means, streams = (
        learner.config,
        Means(learner.config),
        Streams(learner, epoch),
    )  # the same with and without generation
    pool = learner.pool
    x = torch.cat([latents, learner.destandardise(pool.latents)])
    y = torch.cat([labels, pool.labels])
    if config.staged.batching == "balanced":
        order = balanced_batches(y, learner.n_classes, config.head_batch_size, streams.order)
    else:
        order = batches(len(y), config.head_batch_size, streams.order)
    learner.head.train()
    step = learner.repeated(head_step)
    for chosen in order:
        means.add(step(x[chosen], y[chosen]))
    return means.read()


def head_step(learner: Learner, z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One update of the head. z: (B, D); y: (B,)."""
    loss = F.cross_entropy(learner.head(z) + learner.adjustment, y)
    loss.backward()
    metrics = {"train/real_loss": loss.detach(), "grad/head": gradient_norm(learner, "head")}
    update(learner, "head")
    return metrics
