"""One epoch of Strategy A: warm-up on cached latents, or joint training of encoder, denoiser and head."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import get_total_norm

from core.batches import batches
from core.config import Config
from core.data.augment import crop_and_flip, normalise
from core.data.sources import Split
from core.encoding import autocast
from core.learner import Learner
from core.losses import Semantic
from core.randomness import generator
from core.routing import combine, conflict


class Means:
    """Running sums on the device; read once, at the end of the epoch, so that no step waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self.n: dict[str, int] = defaultdict(int)

    def add(self, **values: Tensor | None) -> None:
        for name, value in values.items():
            if value is not None:
                name = name.replace("__", "/", 1)
                self.sums[name] = self.sums[name].to(value.device) + value.detach()
                self.n[name] += 1

    def read(self) -> dict[str, float]:
        """Raises FloatingPointError, naming the metric, if anything is not finite."""
        values = {name: float(total) / self.n[name] for name, total in self.sums.items()}
        for name, value in values.items():
            if value != value or abs(value) == float("inf"):
                raise FloatingPointError(f"{name} is {value}: the training diverged")
        return values


class Trained(NamedTuple):
    """What an epoch leaves for the diagnostics."""

    metrics: dict[str, float]
    latents: Tensor  # (N, D) of the real images, as the epoch met them
    labels: Tensor  # (N,)


def warmup_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> Trained:
    """Train head and denoiser on the frozen encoder's latents (N, D), encoded once."""
    config, means = learner.config, Means()
    standard = learner.standardise(latents)
    streams = Streams(learner, epoch)
    learner.head.train()
    learner.denoiser.train()
    for chosen in batches(len(labels), config.batch_size, streams.order):
        y = labels[chosen]
        real = F.cross_entropy(learner.head(latents[chosen]), y)
        generated = generated_loss(learner, streams.pool)
        semantic = learner.semantic(standard[chosen], y, streams.noise)
        weighted_sum(config, real, generated, semantic).backward()
        means.add(grad__head=gradient_norm(learner, "head"), grad__denoiser=gradient_norm(learner, "denoiser"))
        update(learner, "head", "denoiser")
        learner.track_estimates(semantic)
        add_losses(means, real, generated, semantic)
    return Trained(means.read(), latents, labels)


def joint_epoch(learner: Learner, train: Split, epoch: int) -> Trained:
    """Train all three modules on images; one encoder backward per batch, whatever the routing rule."""
    config, means = learner.config, Means()
    streams = Streams(learner, epoch)
    learner.encoder.train(config.batchnorm == "updating")
    learner.head.train()
    learner.denoiser.train()
    seen, seen_labels = [], []
    for chosen in batches(len(train.labels), config.batch_size, streams.order):
        y = train.labels[chosen]
        with autocast(config):
            z = learner.encoder(augmented(train.images[chosen], config, streams.augmentation))
        leaf = z.detach().float().requires_grad_()  # losses are taken here; the encoder is walked once, below
        real = F.cross_entropy(learner.head(leaf), y)
        generated = generated_loss(learner, streams.pool)
        classification = config.losses.real * real + (config.losses.generated * generated if generated is not None else 0)
        classification.backward()
        real_gradient, leaf.grad = leaf.grad, None
        semantic = learner.semantic(learner.standardise(leaf), y, streams.noise)
        (config.losses.semantic * semantic.total).backward()
        semantic_gradient = leaf.grad
        z.backward(combine(config.routing, real_gradient, semantic_gradient).to(z.dtype))
        at_latent = conflict(real_gradient, semantic_gradient)
        means.add(
            grad__encoder=gradient_norm(learner, "encoder"), grad__head=gradient_norm(learner, "head"),
            grad__denoiser=gradient_norm(learner, "denoiser"), grad__conflict_cosine=at_latent.cosine,
            grad__real_at_latent=at_latent.real_norm, grad__semantic_at_latent=at_latent.semantic_norm,
        )  # fmt: skip
        update(learner, "encoder", "head", "denoiser")
        learner.track_latents(leaf.detach(), y)
        learner.track_estimates(semantic)
        add_losses(means, real, generated, semantic)
        seen.append(leaf.detach())
        seen_labels.append(y)
    return Trained(means.read(), torch.cat(seen), torch.cat(seen_labels))


class Streams:
    """The epoch's generators; the same for every arm under one seed."""

    def __init__(self, learner: Learner, epoch: int):
        def stream(purpose: str) -> torch.Generator:
            return generator(learner.seed, purpose, epoch, learner.device)

        self.order, self.augmentation = stream("order"), stream("augmentation")
        self.noise, self.pool = stream("noise"), stream("pool")


def augmented(images: Tensor, config: Config, gen: torch.Generator) -> Tensor:
    """uint8 images (B, channels, H, W) as the encoder's training input."""
    data = config.data
    if data.augmentation != "none":
        images = crop_and_flip(images, data.padding, data.augmentation == "crop-flip", gen)
    return normalise(images, data.mean, data.std)


def generated_loss(learner: Learner, gen: torch.Generator) -> Tensor | None:
    """Cross-entropy on generated latents; None while there are none."""
    config = learner.config
    if config.losses.generated == 0 or len(learner.pool.labels) == 0:
        return None
    latents, labels = learner.generated_batch(config.generation.batch_size or config.batch_size, gen)
    return F.cross_entropy(learner.head(latents), labels)


def weighted_sum(config: Config, real: Tensor, generated: Tensor | None, semantic: Semantic) -> Tensor:
    losses = config.losses
    total = losses.real * real + losses.semantic * semantic.total
    return total if generated is None else total + losses.generated * generated


def add_losses(means: Means, real: Tensor, generated: Tensor | None, semantic: Semantic) -> None:
    means.add(
        train__real_loss=real, train__generated_loss=generated, train__diffusion_loss=semantic.diffusion,
        train__prototype_loss=semantic.prototype, train__radius_loss=semantic.radius,
    )  # fmt: skip


def gradient_norm(learner: Learner, name: str) -> Tensor:
    parameters = learner.optimisers[name].param_groups[0]["params"]
    return get_total_norm([p.grad for p in parameters if p.grad is not None])


def update(learner: Learner, *names: str) -> None:
    for name in names:
        learner.optimisers[name].step()
        learner.optimisers[name].zero_grad(set_to_none=True)
