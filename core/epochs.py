"""One epoch of Strategy A: warm-up on cached latents, or joint training of encoder, denoiser and head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from core.batches import balanced_batches, batches
from core.chunks import Passes, no_update
from core.data.sources import Split
from core.divergence import Means
from core.encoding import augmented
from core.learner import Learner
from core.losses import Semantic, standardised
from core.randomness import generator, mixing_shares
from core.routing import combine, conflict
from core.trajectory import measures_gradients

MEASURED = 0.1
"""Share of an epoch's batches on which each loss's own gradient is measured: two more encoder backward passes each, or
1 % of the time of joint epochs if every tenth measures."""
from core.sharpness import gradients_kept, perturbed
from core.views import SecondViews


class Trained(NamedTuple):
    """What an epoch leaves for the diagnostics."""

    metrics: dict[str, float]
    latents: Tensor  # (N, D) of the real images, as the epoch met them
    labels: Tensor  # (N,)


PURE = 0.95  # an image's part in a blend from which on it stands for its class
OF_PURE = {
    "train/diffusion_loss", "train/prototype_loss", "train/radius_loss",
    "grad/denoiser", "grad/semantic_at_latent", "grad/conflict_cosine",
}  # fmt: skip
"""Metrics of the semantic loss: means over the batches that have a pure image, for it has nothing to say of the others."""


class Mixing(NamedTuple):
    """How an epoch's images are mixed with others."""

    shares: list[
        Tensor
    ]  # of each batch (B,) float, on the device: each image's part in its blend, at least a half
    has_pure: list[bool]  # of each batch, whether it has a pure image
    pure: Tensor  # (n,) int64, on the device: the pure ones among all images in their order


class Gradients(NamedTuple):
    """What the losses of a joint batch leave, beside the gradients in `grad`."""

    metrics: dict[str, Tensor]
    latents: Tensor  # (B, D), of the first view
    pure: Tensor | None  # (B,) 0 or 1, the images that stand for their class; None: all
    semantic: Semantic
    by_loss: (
        tuple[list[Tensor], list[Tensor]] | None
    )  # the encoder's, of classification and semantic loss, where known


def warmup_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> Trained:
    """Train head and denoiser on the frozen encoder's latents (N, D), encoded once."""
    means, streams = Means(learner.config), Streams(learner, epoch)
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(warmup_step)
    for chosen in order(learner, labels, streams):
        means.add(step(latents[chosen], labels[chosen], *draws(learner, len(chosen), streams)))
    return Trained(means.read(), latents, labels)


def warmup_step(
    learner: Learner,
    z: Tensor,
    y: Tensor,
    t: Tensor,
    noise: Tensor,
    g: Tensor | None,
    y_g: Tensor | None,
) -> dict[str, Tensor]:
    """One update of head and denoiser. z: (B, D) latents; y: (B,); the rest from `draws`."""
    config = learner.config
    real = F.cross_entropy(learner.head(z) + learner.adjustment, y)
    generated = None if g is None else F.cross_entropy(learner.head(g) + learner.adjustment, y_g)
    semantic = learner.semantic(learner.standardise(z), y, t, noise)
    (classification(learner, real, generated) + config.losses.semantic * semantic.total).backward()
    norms = {
        "grad/head": gradient_norm(learner, "head"),
        "grad/denoiser": gradient_norm(learner, "denoiser"),
    }
    update(learner, "head", "denoiser")
    learner.track_estimates(semantic)
    return norms | losses(real, generated, semantic)


def joint_epoch(learner: Learner, train: Split, epoch: int) -> Trained:
    """Train all three modules on images; one encoder backward per batch, two if alternating."""
    config, means, streams = (
        learner.config,
        Means(learner.config, encoder_moves=True),
        Streams(learner, epoch),
    )
    learner.thaw()
    learner.encoder.train(config.batchnorm == "updating")
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(joint_step)
    seen, seen_labels = [], []
    chosen_batches = order(learner, train.labels, streams)
    n_to_measure = (
        max(1, int(MEASURED * len(chosen_batches))) if measures_gradients(config, epoch) else 0
    )
    mixing = (
        mix(learner, [len(chosen) for chosen in chosen_batches], epoch) if config.mixup else None
    )
    second_views = SecondViews(config, learner.seed, epoch) if config.losses.consistency else None
    for i, chosen in enumerate(chosen_batches):
        images, y = (
            augmented(train.images[chosen], config, streams.augmentation, turn=i),
            train.labels[chosen],
        )
        y_minor = partner = share = None
        if mixing is not None:
            share, partner = (
                mixing.shares[i],
                torch.randperm(len(chosen), generator=streams.augmentation, device=learner.device),
            )
            images, y_minor = (
                torch.lerp(images[partner], images, share[:, None, None, None]),
                y[partner],
            )
        second = (
            (None, None)
            if second_views is None
            else second_views.of(train.images[chosen], partner, share, i)
        )
        inputs = (images, y, *draws(learner, len(chosen), streams), y_minor, share, *second)
        has_pure = mixing is None or mixing.has_pure[i]
        if has_pure and n_to_measure:
            metrics, latents = step.plainly(*inputs, measures=True)
            n_to_measure -= 1
        else:
            metrics, latents = step(*inputs)
        means.add(
            {name: value for name, value in metrics.items() if has_pure or name not in OF_PURE}
        )
        seen.append(latents.clone())  # the next step may write where this one did
        seen_labels.append(y)
    found = Trained(means.read(), torch.cat(seen), torch.cat(seen_labels))
    return (
        found
        if mixing is None
        else found._replace(latents=found.latents[mixing.pure], labels=found.labels[mixing.pure])
    )


def mix(learner: Learner, sizes: list[int], epoch: int) -> Mixing:
    """The shares of an epoch whose batches have these sizes."""
    shares = mixing_shares(learner.config.mixup, sum(sizes), learner.seed, "mixup", epoch)
    shares = torch.maximum(shares, 1 - shares)
    is_pure = shares.numpy() >= PURE  # here, where no GPU need be waited for
    has_pure = [bool(part.any()) for part in np.split(is_pure, np.cumsum(sizes)[:-1])]
    pure = torch.from_numpy(np.flatnonzero(is_pure))
    return Mixing(list(shares.to(learner.device).split(sizes)), has_pure, pure.to(learner.device))


def joint_step(
    learner: Learner, images: Tensor, y: Tensor, *drawn: Tensor | None, measures: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """One update of all modules; returns metrics and latents (B, D). The inputs are those of `joint_gradients`."""
    config = learner.config
    found = joint_gradients(learner, images, y, *drawn, measures=measures)
    others = [name for name in learner.optimisers if name not in ("encoder", "head")]
    if config.optim.sam:
        # what is not moved learns from the first pass, and so do running statistics: they are those of the weights that stay
        moved, still = (parameters_of(learner, *names) for names in (("encoder", "head"), others))
        with perturbed(moved, config.optim.sam), gradients_kept(still), no_update(learner.encoder):
            joint_gradients(learner, images, y, *drawn)
    if config.routing == "alternating":
        alternate(learner, *found.by_loss)
    else:
        update(learner, "encoder", "head", *others)
    if learner.average is not None:
        learner.average.follow(learner.encoder, learner.head, config.optim.ema)
    learner.track_latents(found.latents, y, found.pure)
    learner.track_estimates(found.semantic)
    return found.metrics, found.latents


def joint_gradients(
    learner: Learner,
    images: Tensor,
    y: Tensor,
    t: Tensor,
    noise: Tensor,
    g: Tensor | None,
    y_g: Tensor | None,
    y_minor: Tensor | None,
    share: Tensor | None,
    second: Tensor | None,
    kept: Tensor | None,
    measures: bool = False,
) -> Gradients:
    """Leaves the gradients of all modules in `grad`; if alternating, of all but the encoder.

    images: (B, channels, H, W) float, augmented; y: (B,); t to y_g from `draws`. With mixup, an image is a blend: `share`
    (B,) of one of class y and the rest of one of y_minor (B,). Only pure ones count for the semantic loss, and for all
    that is followed of the classes and of the latents that this loss takes.
    second: the images' second view, if there is one, of which `kept` (B,) is of class y; see `core.views`. The semantic
    loss, and what is followed, take the first.
    measures: each loss's gradient by itself, too, which changes nothing else.
    """
    config, n, alternates = learner.config, len(y), learner.config.routing == "alternating"
    passes = Passes(
        learner.encoder,
        images if second is None else torch.cat([images, second]),
        config,
        learner.n_chunks,
    )
    leaf = (
        passes.latents.detach().float().requires_grad_()
    )  # losses are taken here; the encoder is walked once, below
    first = leaf if second is None else leaf[:n]
    logits = learner.head(leaf) + learner.adjustment
    real = mixed_entropy(logits[:n], y, y_minor, share)
    if second is not None:
        real = (real + mixed_entropy(logits[n:], y, y_minor, kept)) / 2
    pure = None if share is None else (share >= PURE).to(leaf.dtype)
    generated = None if g is None else F.cross_entropy(learner.head(g) + learner.adjustment, y_g)
    measured = head_norms(learner, real, generated) if measures else {}
    classification(learner, real, generated).backward()
    # The head learns from the mean over images and pool, the encoder from the mean over images: a pool would otherwise lower
    # its rate by as much as it is large.
    real_gradient, leaf.grad = leaf.grad * learner.n_per_image, None
    standard = (
        learner.standardise(first)
        if config.standardisation == "tracked"
        else standardised(first, pure)
    )
    semantic = learner.semantic(standard, y, t, noise, pure)
    (config.losses.semantic * semantic.total).backward()
    semantic_gradient, leaf.grad = leaf.grad, None
    consistency = None if second is None else learner.consistency(first, leaf[n:])
    if consistency is not None:
        (config.losses.consistency * consistency).backward()
    at_latent = conflict(real_gradient, semantic_gradient)
    norms = {
        "grad/head": gradient_norm(learner, "head"),
        "grad/denoiser": gradient_norm(learner, "denoiser"),
        "grad/conflict_cosine": at_latent.cosine,
        "grad/real_at_latent": at_latent.real_norm,
        "grad/semantic_at_latent": at_latent.semantic_norm,
    }
    by_loss = None
    if measures or alternates:
        by_loss = passes.gradients(real_gradient), passes.gradients(semantic_gradient)
    if measures:
        measured |= encoder_norms(*by_loss)
    if alternates:
        norms["grad/encoder"] = get_total_norm([a + b for a, b in zip(*by_loss)])
    else:
        at_encoder = combine(config.routing, real_gradient, semantic_gradient)
        # No rule routes the consistency loss: it is there for the encoder.
        passes.backward(at_encoder if consistency is None else at_encoder + leaf.grad)
        norms["grad/encoder"] = gradient_norm(learner, "encoder")
    metrics = norms | measured | losses(real, generated, semantic, consistency)
    return Gradients(metrics, first.detach(), pure, semantic, by_loss)


def mixed_entropy(
    logits: Tensor, y: Tensor, y_minor: Tensor | None, share: Tensor | None
) -> Tensor:
    """Cross-entropy () of logits (B, C) with labels of which `share` (B,) is y (B,) and the rest y_minor (B,)."""
    if share is None:
        return F.cross_entropy(logits, y)
    each, each_minor = (
        F.cross_entropy(logits, labels, reduction="none") for labels in (y, y_minor)
    )
    return (share * each + (1 - share) * each_minor).mean()


def head_norms(learner: Learner, real: Tensor, generated: Tensor | None) -> dict[str, Tensor]:
    """Norms of the head's gradients of the two terms of its loss; {} where there is one."""
    if generated is None:
        return {}
    parameters = list(learner.head.parameters())
    terms = {"real": learner.shares[0] * real, "generated": learner.shares[1] * generated}
    return {
        f"grad/head_{name}": get_total_norm(
            torch.autograd.grad(term, parameters, retain_graph=True)
        )
        for name, term in terms.items()
    }


def encoder_norms(real: list[Tensor], semantic: list[Tensor]) -> dict[str, Tensor]:
    """How the gradients of the two losses at the encoder's parameters relate."""
    found = conflict(
        *(torch.cat([g.reshape(-1) for g in gradients]) for gradients in (real, semantic))
    )
    return {
        "grad/conflict_cosine_parameters": found.cosine,
        "grad/encoder_real": found.real_norm,
        "grad/encoder_semantic": found.semantic_norm,
    }


def alternate(learner: Learner, real: list[Tensor], semantic: list[Tensor]) -> None:
    """Two optimiser steps over all parameters: with the classification loss's gradients, then with
    the semantic loss's.

    The plan's third fix calls `real_loss.backward(retain_graph=True)`, steps and clears the one
    optimiser of all modules, then does the same with the semantic loss. That raises an error: the
    first step changes weights in place that the second backward pass still needs. Here both
    gradients are taken first, at the same weights and from one forward pass; then the two steps
    follow. As there, a step leaves a module alone that its loss does not reach: the first the
    denoiser, the second the head. A module's moments see each of its steps.

    real, semantic: gradients of the encoder's parameters; those of head and denoiser are in `grad`.
    """
    parameters = learner.optimisers["encoder"].param_groups[0]["params"]
    for gradients, reached in ((real, "head"), (semantic, "denoiser")):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        update(learner, "encoder", reached)


def classification(learner: Learner, real: Tensor, generated: Tensor | None) -> Tensor:
    """The classification loss (): the mean over training images and pool, of which a batch has drawn some of either."""
    return (
        learner.shares[0] * real
        if generated is None
        else learner.shares[0] * real + learner.shares[1] * generated
    )


class Streams:
    """The epoch's generators; the same for every arm under one seed."""

    def __init__(self, learner: Learner, epoch: int):
        def stream(purpose: str) -> torch.Generator:
            return generator(learner.seed, purpose, epoch, learner.device)

        self.order, self.augmentation = stream("order"), stream("augmentation")
        self.noise, self.pool = stream("noise"), stream("pool")


def order(learner: Learner, labels: Tensor, streams: Streams) -> list[Tensor]:
    """The batches of an epoch, as indices into labels (N,)."""
    config = learner.config
    if config.batching == "balanced":
        return balanced_batches(labels, learner.n_classes, config.batch_size, streams.order)
    return batches(len(labels), config.batch_size, streams.order)


def draws(
    learner: Learner, n: int, streams: Streams
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a step takes from chance: timesteps (n,), noise (n, D), generated latents (B, D) and their labels (B,).

    The last two are None while nothing has been generated, or nothing is to be learned from it.
    """
    config = learner.config
    t, noise = learner.draw_noise(n, streams.noise)
    if config.losses.generated == 0 or len(learner.pool.labels) == 0:
        return t, noise, None, None
    return (
        t,
        noise,
        *learner.generated_batch(config.generation.batch_size or config.batch_size, streams.pool),
    )


def losses(
    real: Tensor, generated: Tensor | None, semantic: Semantic, consistency: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms that there are, by the names under which they are reported."""
    terms = {
        "train/real_loss": real, "train/generated_loss": generated, "train/diffusion_loss": semantic.diffusion,
        "train/prototype_loss": semantic.prototype, "train/radius_loss": semantic.radius, "train/consistency_loss": consistency,
    }  # fmt: skip
    return {name: term.detach() for name, term in terms.items() if term is not None}


def gradient_norm(learner: Learner, name: str) -> Tensor:
    return get_total_norm([p.grad for p in parameters_of(learner, name) if p.grad is not None])


def parameters_of(learner: Learner, *names: str) -> list[Tensor]:
    """What the optimisers of these modules train."""
    return [
        parameter
        for name in names
        for parameter in learner.optimisers[name].param_groups[0]["params"]
    ]


def update(learner: Learner, *names: str) -> None:
    """A step of each module's optimiser, its gradient scaled down to `optim.clip` where that is set."""
    clip = learner.config.optim.clip
    for name in names:
        if clip is not None:
            clip_grad_norm_(parameters_of(learner, name), clip)
        learner.optimisers[name].step()
        learner.optimisers[name].zero_grad(set_to_none=True)
