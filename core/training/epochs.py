"""One epoch of Strategy A: warm-up on cached latents, or joint training of all three modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from core.data.batches import balanced_batches, batches
from core.data.sources import Split
from core.device.chunks import Passes, no_update
from core.method.losses import Semantic, standardised
from core.method.routing import combine, conflict
from core.planning.trajectory import measures_gradients
from core.randomness import mixing_shares
from core.training.divergence import Means
from core.training.encoding import augmented
from core.training.learner import Learner
from core.training.sharpness import gradients_kept, perturbed
from core.training.views import boxes, cutmix

# Share of an epoch's batches on which each loss's own gradient is measured: two more encoder
# backward passes each, or 1 % of the time of joint epochs if every tenth measures.
MEASURED = 0.1

# an image's share of a blend from which on it stands for its class
PURE = 0.95
OF_PURE = {
    "train/diffusion_loss",
    "train/prototype_loss",
    "train/radius_loss",
    "grad/denoiser",
    "grad/semantic_at_latent",
    "grad/conflict_cosine",
}
"""Metrics of the semantic loss: means over the batches that have a pure image."""


class Batch(NamedTuple):
    """What a step learns from, on the device; None where the settings have no use for it."""

    # (B, D) latents in warm-up; (B, channels, H, W) float images in joint epochs
    inputs: Tensor
    # (B,)
    labels: Tensor
    # (B,) timesteps
    t: Tensor
    # (B, D)
    noise: Tensor
    # (G, D) latents
    generated: Tensor | None = None
    # (G,)
    generated_labels: Tensor | None = None
    # Mixup: an image is a blend, `share` (B,) of one of class `labels`, at least a half, and the
    # rest of one of class `minor_labels` (B,). Only pure ones count for the semantic loss, and for
    # all that is tracked of classes and latents.
    minor_labels: Tensor | None = None
    share: Tensor | None = None
    # The images' second view, see `core.training.views`, and (B,) its share of `labels`. The
    # semantic loss and what is tracked take the first view.
    second: Tensor | None = None
    second_share: Tensor | None = None


class Trained(NamedTuple):
    """What an epoch leaves for the diagnostics."""

    metrics: dict[str, float]
    # (N, D) of the real images, as the epoch met them, each image once
    latents: Tensor
    # (N,)
    labels: Tensor


class Gradients(NamedTuple):
    """What the losses of a joint batch leave, beside the gradients in `grad`."""

    metrics: dict[str, Tensor]
    # (B, D), of the first view
    latents: Tensor
    # (B,) 0 or 1, the images that stand for their class; None: all
    pure: Tensor | None
    semantic: Semantic
    # The encoder's gradients of the classification and of the semantic loss, where known.
    by_loss: tuple[list[Tensor], list[Tensor]] | None


def warmup_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> Trained:
    """Train head and denoiser on the frozen encoder's latents (N, D), encoded once."""
    means = Means(learner.config)
    noise, pool = learner.stream("noise", epoch), learner.stream("pool", epoch)
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(warmup_step)
    for chosen in order(learner, labels, epoch):
        t, noise_ = learner.draw_noise(len(chosen), noise)
        generated, generated_labels = learner.generated_batch(pool)
        batch = Batch(latents[chosen], labels[chosen], t, noise_, generated, generated_labels)
        means.add(step(*batch))
    return Trained(means.read(), latents, labels)


def warmup_step(
    learner: Learner,
    inputs: Tensor,
    labels: Tensor,
    t: Tensor,
    noise: Tensor,
    *others: Tensor | None,
) -> dict[str, Tensor]:
    """Update head and denoiser once, by the fields of a `Batch`."""
    batch = Batch(inputs, labels, t, noise, *others)
    weight = learner.config.losses.semantic
    real = F.cross_entropy(learner.head(batch.inputs) + learner.adjustment, batch.labels)
    generated = generated_loss(learner, batch)
    latents = learner.standardise(batch.inputs)
    semantic = learner.semantic(latents, batch.labels, batch.t, batch.noise)
    (classification_loss(learner, real, generated) + weight * semantic.total).backward()
    norms = {f"grad/{name}": gradient_norm(learner, name) for name in ("head", "denoiser")}
    update(learner, "head", "denoiser")
    learner.track_estimates(semantic)
    return norms | losses(real, generated, semantic)


def joint_epoch(learner: Learner, train: Split, epoch: int) -> Trained:
    """Train all modules on images; one encoder backward per batch, two with alternating or SAM."""
    config, means = learner.config, Means(learner.config, encoder_moves=True)
    learner.thaw()
    learner.encoder.train(config.batchnorm == "updating")
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(joint_step)
    chosen = order(learner, train.labels, epoch)
    shares = mixup_shares(learner, len(train.labels), epoch) if config.mixup else None
    # Known on the host, where no GPU need be waited for.
    is_pure = np.ones(len(train.labels), bool) if shares is None else shares.numpy() >= PURE
    pure_of_batch = np.split(is_pure, np.cumsum([len(part) for part in chosen])[:-1])
    measures = measures_gradients(config, epoch)
    n_to_measure = max(1, int(MEASURED * len(chosen))) if measures else 0
    seen, seen_labels = [], []
    made = joint_batches(learner, train, epoch, chosen, shares)
    for batch, pure in zip(made, pure_of_batch, strict=True):
        has_pure = bool(pure.any())
        if has_pure and n_to_measure:
            metrics, latents = step.plainly(*batch, measures=True)
            n_to_measure -= 1
        else:
            metrics, latents = step(*batch)
        means.add({name: v for name, v in metrics.items() if has_pure or name not in OF_PURE})
        # the next step may write where this one did
        seen.append(latents.clone())
        seen_labels.append(batch.labels)
    latents, labels = torch.cat(seen), torch.cat(seen_labels)
    kept = np.flatnonzero(is_pure)
    if config.batching == "balanced":
        # An image drawn again would be its own nearest neighbour, and make its class look tight.
        images = torch.cat(chosen).cpu().numpy()[kept]
        kept = kept[np.unique(images, return_index=True)[1]]
    if len(kept) < len(labels):
        rows = torch.from_numpy(kept).to(learner.device)
        latents, labels = latents[rows], labels[rows]
    return Trained(means.read(), latents, labels)


def joint_batches(
    learner: Learner, train: Split, epoch: int, chosen: list[Tensor], shares: Tensor | None
) -> Iterator[Batch]:
    """Yield the batches of a joint epoch: augmented, mixed, with a second view where asked for.

    chosen: each batch's images as indices; shares: (N,) of mixup, in the order of the batches.
    Each draw has a stream of its own: arms with and without it meet the same batches otherwise.
    """
    config, device = learner.config, learner.device
    augmentation, partners, noise, pool, second_view, centres = (
        learner.stream(purpose, epoch)
        for purpose in ("augmentation", "mixup partners", "noise", "pool", "second view", "cutmix")
    )
    sizes = [len(part) for part in chosen]
    share_of = [None] * len(sizes) if shares is None else shares.to(device).split(sizes)
    for turn, (rows, share) in enumerate(zip(chosen, share_of, strict=True)):
        images, labels = train.images[rows], train.labels[rows]
        first = augmented(images, config, augmentation, turn=turn)
        second = minor_labels = second_share = None
        if config.losses.consistency:
            second = augmented(images, config, second_view, turn=turn)
        if share is not None:
            partner = torch.randperm(len(rows), generator=partners, device=device)
            first = torch.lerp(first[partner], first, share[:, None, None, None])
            minor_labels = labels[partner]
            if second is not None:
                centre = torch.rand(len(rows), 2, generator=centres, device=device)
                box, second_share = boxes(share, centre, *second.shape[-2:])
                second = cutmix(second, second[partner], box)
        t, noise_ = learner.draw_noise(len(rows), noise)
        generated, generated_labels = learner.generated_batch(pool)
        yield Batch(
            first,
            labels,
            t,
            noise_,
            generated,
            generated_labels,
            minor_labels,
            share,
            second,
            second_share,
        )


def mixup_shares(learner: Learner, n: int, epoch: int) -> Tensor:
    """Return each image's share of its blend, (n,) in [0.5, 1], on the host."""
    shares = mixing_shares(learner.config.mixup, n, learner.seed, "mixup", epoch)
    return torch.maximum(shares, 1 - shares)


def joint_step(
    learner: Learner,
    inputs: Tensor,
    labels: Tensor,
    t: Tensor,
    noise: Tensor,
    *others: Tensor | None,
    measures: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Update all modules once, by the fields of a `Batch`; return metrics and latents (B, D).

    measures: also measure each loss's gradient by itself.
    """
    config, batch = learner.config, Batch(inputs, labels, t, noise, *others)
    found = joint_gradients(learner, batch, measures)
    rest = [name for name in learner.optimisers if name not in ("encoder", "head")]
    if config.optim.sam:
        # What is not moved learns from the first pass, and so do running statistics: they are
        # those of the weights that stay.
        moved, still = (parameters_of(learner, *names) for names in (("encoder", "head"), rest))
        with perturbed(moved, config.optim.sam), gradients_kept(still), no_update(learner.encoder):
            joint_gradients(learner, batch)
    if config.routing == "alternating":
        assert found.by_loss is not None
        alternate(learner, *found.by_loss)
    else:
        update(learner, "encoder", "head", *rest)
    if learner.average is not None:
        learner.average.follow(learner.encoder, learner.head, config.optim.ema)
    learner.track_latents(found.latents, batch.labels, found.pure)
    learner.track_estimates(found.semantic)
    return found.metrics, found.latents


def joint_gradients(learner: Learner, batch: Batch, measures: bool = False) -> Gradients:
    """Leave the gradients of all modules in `grad`; if alternating, of all but the encoder."""
    config, n, y = learner.config, len(batch.labels), batch.labels
    views = batch.inputs if batch.second is None else torch.cat([batch.inputs, batch.second])
    passes = Passes(learner.forward, views, learner.n_chunks)
    # Losses are taken at this leaf; the encoder is walked backward once, below.
    leaf = passes.latents.detach().float().requires_grad_()
    first = leaf if batch.second is None else leaf[:n]
    pure = None if batch.share is None else (batch.share >= PURE).to(leaf.dtype)

    logits = learner.head(leaf) + learner.adjustment
    real = mixed_entropy(logits[:n], y, batch.minor_labels, batch.share)
    if batch.second is not None:
        real = (real + mixed_entropy(logits[n:], y, batch.minor_labels, batch.second_share)) / 2
    generated = generated_loss(learner, batch)
    measured = head_norms(learner, real, generated) if measures else {}
    classification_loss(learner, real, generated).backward()
    # The head learns from the mean over images and pool, the encoder from the mean over images:
    # a pool would otherwise lower its rate by as much as it is large.
    real_gradient = taken_gradient(leaf) * learner.n_per_image

    if config.standardisation == "tracked":
        standard = learner.standardise(first)
    else:
        standard = standardised(first, pure)
    semantic = learner.semantic(standard, y, batch.t, batch.noise, pure)
    (config.losses.semantic * semantic.total).backward()
    semantic_gradient = taken_gradient(leaf)

    consistency = None
    if batch.second is not None:
        # made by `thaw` wherever there are second views
        assert learner.consistency is not None
        consistency = learner.consistency(first, leaf[n:])
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
    if measures or config.routing == "alternating":
        by_loss = passes.gradients(real_gradient), passes.gradients(semantic_gradient)
        if measures:
            measured |= encoder_norms(*by_loss)
    if by_loss is not None and config.routing == "alternating":
        norms["grad/encoder"] = get_total_norm([a + b for a, b in zip(*by_loss, strict=True)])
    else:
        at_encoder = combine(config.routing, real_gradient, semantic_gradient)
        # No rule routes the consistency loss: it is there for the encoder.
        passes.backward(at_encoder if consistency is None else at_encoder + taken_gradient(leaf))
        norms["grad/encoder"] = gradient_norm(learner, "encoder")
    metrics = norms | measured | losses(real, generated, semantic, consistency)
    return Gradients(metrics, first.detach(), pure, semantic, by_loss)


def taken_gradient(leaf: Tensor) -> Tensor:
    """The gradient that has arrived at a leaf, which has none any more."""
    gradient, leaf.grad = leaf.grad, None
    assert gradient is not None
    return gradient


def alternate(learner: Learner, real: list[Tensor], semantic: list[Tensor]) -> None:
    """Take two optimiser steps: with the classification loss's gradients, then the semantic ones.

    The original plan calls `real_loss.backward(retain_graph=True)`, steps and clears the one
    optimiser of all modules, then does the same with the semantic loss. That raises an error: the
    first step changes weights in place that the second backward pass still needs. Here both
    gradients are taken first, at the same weights and from one forward pass; then the two steps
    follow. As there, a step leaves a module alone that its loss does not reach: the first the
    denoiser, the second the head. A module's moments see each of its steps.

    real, semantic: gradients of the encoder's parameters; those of head and denoiser are in `grad`.
    """
    parameters = parameters_of(learner, "encoder")
    for gradients, reached in ((real, "head"), (semantic, "denoiser")):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        update(learner, "encoder", reached)


def generated_loss(learner: Learner, batch: Batch) -> Tensor | None:
    """Cross-entropy () of the generated latents, if there are any."""
    if batch.generated is None or batch.generated_labels is None:
        return None
    logits = learner.head(batch.generated) + learner.adjustment
    return F.cross_entropy(logits, batch.generated_labels)


def mixed_entropy(
    logits: Tensor, labels: Tensor, minor_labels: Tensor | None, share: Tensor | None
) -> Tensor:
    """Cross-entropy () of logits (B, C) with a `share` (B,) of labels, the rest minor ones."""
    if minor_labels is None or share is None:
        return F.cross_entropy(logits, labels)
    major = F.cross_entropy(logits, labels, reduction="none")
    minor = F.cross_entropy(logits, minor_labels, reduction="none")
    return (share * major + (1 - share) * minor).mean()


def classification_loss(learner: Learner, real: Tensor, generated: Tensor | None) -> Tensor:
    """Mean loss () over training images and pool, of which a batch has drawn some of either."""
    loss = learner.shares[0] * real
    return loss if generated is None else loss + learner.shares[1] * generated


def losses(
    real: Tensor, generated: Tensor | None, semantic: Semantic, consistency: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the terms that there are, by the names under which they are reported."""
    terms = {
        "real": real,
        "generated": generated,
        "diffusion": semantic.diffusion,
        "prototype": semantic.prototype,
        "radius": semantic.radius,
        "consistency": consistency,
    }
    return {f"train/{name}_loss": t.detach() for name, t in terms.items() if t is not None}


def head_norms(learner: Learner, real: Tensor, generated: Tensor | None) -> dict[str, Tensor]:
    """Norms of the head's gradients of the two terms of its loss; {} where there is one."""
    if generated is None:
        return {}
    parameters = list(learner.head.parameters())
    terms = {"real": learner.shares[0] * real, "generated": learner.shares[1] * generated}
    gradients = {
        name: torch.autograd.grad(term, parameters, retain_graph=True)
        for name, term in terms.items()
    }
    return {f"grad/head_{name}": get_total_norm(found) for name, found in gradients.items()}


def encoder_norms(real: list[Tensor], semantic: list[Tensor]) -> dict[str, Tensor]:
    """How the gradients of the two losses at the encoder's parameters relate."""
    found = conflict(*(torch.cat([g.reshape(-1) for g in part]) for part in (real, semantic)))
    return {
        "grad/conflict_cosine_parameters": found.cosine,
        "grad/encoder_real": found.real_norm,
        "grad/encoder_semantic": found.semantic_norm,
    }


def order(learner: Learner, labels: Tensor, epoch: int) -> list[Tensor]:
    """Return the batches of an epoch, as indices into labels (N,)."""
    config, stream = learner.config, learner.stream("order", epoch)
    if config.batching == "balanced":
        return balanced_batches(labels, learner.n_classes, config.batch_size, stream)
    return batches(len(labels), config.batch_size, stream)


def parameters_of(learner: Learner, *names: str) -> list[Tensor]:
    """Return what the optimisers of these modules train."""
    return [p for name in names for p in learner.optimisers[name].param_groups[0]["params"]]


def gradient_norm(learner: Learner, name: str) -> Tensor:
    """Norm () of a module's whole gradient."""
    return get_total_norm([p.grad for p in parameters_of(learner, name) if p.grad is not None])


def update(learner: Learner, *names: str) -> None:
    """Step each module's optimiser, gradients scaled down to `optim.clip` where that is set."""
    clip = learner.config.optim.clip
    for name in names:
        if clip is not None:
            clip_grad_norm_(parameters_of(learner, name), clip)
        learner.optimisers[name].step()
        learner.optimisers[name].zero_grad(set_to_none=True)
