"""The staged baseline (LDMLR, Han et al. 2024): diffusion on frozen latents, then the head.

The head trains on real and generated latents. Without generation it is the control: head retraining
alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.batches import balanced_batches, batches
from core.method.diffusion import add_noise
from core.method.losses import diffusion_loss
from core.training.divergence import Means
from core.training.epochs import gradient_norm, update
from core.training.learner import Learner


def diffusion_epoch(
    learner: Learner, latents: Tensor, labels: Tensor, epoch: int
) -> dict[str, float]:
    """Train the denoiser alone on the latents (N, D) of the frozen encoder."""
    means, noise = Means(learner.config), learner.stream("noise", epoch)
    learner.denoiser.train()
    step = learner.repeated(diffusion_step)
    for chosen in batches(len(labels), learner.config.batch_size, learner.stream("order", epoch)):
        drawn = learner.draw_noise(len(chosen), noise)
        means.add(step(latents[chosen], labels[chosen], *drawn))
    return means.read()


def diffusion_step(
    learner: Learner, z: Tensor, y: Tensor, t: Tensor, noise: Tensor
) -> dict[str, Tensor]:
    """Update the denoiser once. z, noise: (B, D); y, t: (B,)."""
    diffusion, x0, alpha_bar = learner.config.diffusion, learner.standardise(z), learner.levels[t]
    alpha_bar = alpha_bar[:, None]
    output = learner.denoiser(add_noise(x0, noise, alpha_bar), t, y)
    loss = diffusion_loss(output, x0, noise, alpha_bar, diffusion.objective, diffusion.weighting)
    loss.backward()
    norm = gradient_norm(learner, "denoiser")
    update(learner, "denoiser")
    return {"train/diffusion_loss": loss.detach(), "grad/denoiser": norm}


def head_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> dict[str, float]:
    """Train the head alone on real latents (N, D) and, where there are any, the pool's.

    epoch: from 1, of the head's training: the order is the same with and without generation.
    """
    config, means, stream = learner.config, Means(learner.config), learner.stream("order", epoch)
    x = torch.cat([latents, learner.destandardise(learner.pool.latents)])
    y = torch.cat([labels, learner.pool.labels])
    if config.staged.batching == "balanced":
        order = balanced_batches(y, learner.n_classes, config.head_batch_size, stream)
    else:
        order = batches(len(y), config.head_batch_size, stream)
    learner.head.train()
    step = learner.repeated(head_step)
    for chosen in order:
        means.add(step(x[chosen], y[chosen]))
    return means.read()


def head_step(learner: Learner, z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Update the head once. z: (B, D); y: (B,)."""
    loss = F.cross_entropy(learner.head(z) + learner.adjustment, y)
    loss.backward()
    norm = gradient_norm(learner, "head")
    update(learner, "head")
    return {"train/real_loss": loss.detach(), "grad/head": norm}
