"""The staged baseline (LDMLR, Han et al. 2024): diffusion on frozen latents, then the head on real and
generated ones. Without generation it is the control: head retraining alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.batches import balanced_batches, batches
from core.epochs import Means, Streams, gradient_norm, update
from core.learner import Learner
from core.losses import diffusion_loss
from core.diffusion import add_noise


def diffusion_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> dict[str, float]:
    """Train the denoiser alone on standardised latents (N, D)."""
    config, means, streams = learner.config, Means(), Streams(learner, epoch)
    standard = learner.standardise(latents)
    learner.denoiser.train()
    for chosen in batches(len(labels), config.batch_size, streams.order):
        x0, y = standard[chosen], labels[chosen]
        t = torch.randint(len(learner.levels), (len(y),), generator=streams.noise, device=learner.device)
        noise = torch.randn(x0.shape, generator=streams.noise, device=learner.device)
        alpha_bar = learner.levels[t][:, None]
        output = learner.denoiser(add_noise(x0, noise, alpha_bar), t, y)
        loss = diffusion_loss(output, x0, noise, alpha_bar, config.diffusion.objective, config.diffusion.weighting)
        loss.backward()
        means.add(train__diffusion_loss=loss, grad__denoiser=gradient_norm(learner, "denoiser"))
        update(learner, "denoiser")
    return means.read()


def head_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> dict[str, float]:
    """Train the head alone on real latents (N, D) and, where there are any, the pool's generated ones.

    epoch: from 1, of the head's training.
    """
    config, means, streams = learner.config, Means(), Streams(learner, epoch)  # the same with and without generation
    pool = learner.pool
    x = torch.cat([latents, pool.latents * learner.std + learner.mean])
    y = torch.cat([labels, pool.labels])
    if config.staged.batching == "balanced":
        order = balanced_batches(y, learner.n_classes, config.batch_size, streams.order)
    else:
        order = batches(len(y), config.batch_size, streams.order)
    learner.head.train()
    for chosen in order:
        loss = F.cross_entropy(learner.head(x[chosen]), y[chosen])
        loss.backward()
        means.add(train__real_loss=loss, grad__head=gradient_norm(learner, "head"))
        update(learner, "head")
    return means.read()
