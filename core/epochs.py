"""One epoch of Strategy A: warm-up on cached latents, or joint training of encoder, denoiser and head."""

from __future__ import annotations

from typing import NamedTuple

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


class JointStep(NamedTuple):
    """What a joint step returns."""

    metrics: dict[str, Tensor]
    latents: Tensor  # (B, D)
    apart: dict[str, Tensor]  # of each loss's gradient by itself, where that was to be measured


class Gradients(NamedTuple):
    """What the losses of a joint batch leave, beside the gradients in `grad`."""

    metrics: dict[str, Tensor]
    latents: Tensor  # (B, D), of the first view
    semantic: Semantic
    apart: dict[str, Tensor]  # of each loss's gradient by itself, where that was to be measured
    by_loss: tuple[list[Tensor], list[Tensor]] | None  # the encoder's, of classification and semantic loss, where known


def warmup_epoch(learner: Learner, latents: Tensor, labels: Tensor, epoch: int) -> Trained:
    """Train head and denoiser on the frozen encoder's latents (N, D), encoded once."""
    means, streams = Means(learner.config), Streams(learner, epoch)
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(warmup_step)
    for chosen in order(learner, labels, streams):
        means.add(step(latents[chosen], labels[chosen], *draws(learner, len(chosen), streams)))
    return Trained(means.read(), latents, labels)


def warmup_step(learner: Learner, z: Tensor, y: Tensor, t: Tensor, noise: Tensor, g: Tensor | None, y_g: Tensor | None) -> dict[str, Tensor]:
    """One update of head and denoiser. z: (B, D) latents; y: (B,); the rest from `draws`."""
    config = learner.config
    real = F.cross_entropy(learner.head(z) + learner.adjustment, y)
    generated = None if g is None else F.cross_entropy(learner.head(g) + learner.adjustment, y_g)
    semantic = learner.semantic(learner.standardise(z), y, t, noise)
    (classification(learner, real, generated) + config.losses.semantic * semantic.total).backward()
    norms = {"grad/head": gradient_norm(learner, "head"), "grad/denoiser": gradient_norm(learner, "denoiser")}
    update(learner, "head", "denoiser")
    learner.track_estimates(semantic)
    return norms | losses(real, generated, semantic)


def joint_epoch(learner: Learner, train: Split, epoch: int) -> Trained:
    """Train all three modules on images; one encoder backward per batch, two if alternating."""
    config, means, streams = learner.config, Means(learner.config, encoder_moves=True), Streams(learner, epoch)
    learner.thaw()
    learner.encoder.train(config.batchnorm == "updating")
    learner.head.train()
    learner.denoiser.train()
    step = learner.repeated(joint_step)
    seen, seen_labels = [], []
    chosen_batches = order(learner, train.labels, streams)
    measures = measures_gradients(config, epoch)
    n_measured = max(1, int(MEASURED * len(chosen_batches))) if measures else 0
    apart = Means(config, encoder_moves=True)
    shares = major_shares(learner, len(chosen_batches), epoch)
    second_views = SecondViews(config, learner.seed, epoch, train.images.shape, shares) if config.losses.consistency else None
    for i, chosen in enumerate(chosen_batches):
        images, y = augmented(train.images[chosen], config, streams.augmentation), train.labels[chosen]
        y_minor, partner, share = None, None, None if shares is None else shares[i]
        if share is not None:
            partner = torch.randperm(len(chosen), generator=streams.augmentation, device=learner.device)
            images, y_minor = share * images + (1 - share) * images[partner], y[partner]
        second = (None, None) if second_views is None else second_views.of(train.images[chosen], partner, i)
        inputs = (images, y, *draws(learner, len(chosen), streams), y_minor, share, *second)
        if i < n_measured:
            done = step.plainly(*inputs, measures=True)
            apart.add(done.apart)
        else:
            done = step(*inputs)
        means.add(done.metrics)
        seen.append(done.latents.clone())  # the next step may write where this one did
        seen_labels.append(y)
    return Trained(means.read() | apart.read(), torch.cat(seen), torch.cat(seen_labels))


def major_shares(learner: Learner, n: int, epoch: int) -> Tensor | None:
    """(n,) each batch's share of the images that keep their label, at least a half; None without mixup."""
    if not learner.config.mixup:
        return None
    shares = mixing_shares(learner.config.mixup, n, learner.seed, "mixup", epoch)
    return torch.maximum(shares, 1 - shares).to(learner.device)


def joint_step(learner: Learner, images: Tensor, y: Tensor, *drawn: Tensor | None, measures: bool = False) -> JointStep:
    """One update of all three modules. The inputs are those of `joint_gradients`."""
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
    learner.track_latents(found.latents, y)
    learner.track_estimates(found.semantic)
    return JointStep(found.metrics, found.latents, found.apart)


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
    """Leaves the gradients of all modules in `grad`; if alternating, those of all but the encoder.

    images: (B, channels, H, W) float, augmented; y: (B,); t to y_g from `draws`. With mixup, every image is `share`, (),
    of an image of class y and the rest of one of y_minor (B,).
    second: the images' second view, if there is one, of which `kept`, (), is of class y; see `core.views`. The semantic loss
    and what is tracked take the first.
    measures: each loss's gradient by itself, too, which changes nothing else.
    """
    config, n = learner.config, len(y)
    alternates = config.routing == "alternating"
    passes = Passes(learner.encoder, images if second is None else torch.cat([images, second]), config, learner.n_chunks)
    leaf = passes.latents.detach().float().requires_grad_()  # losses are taken here; the encoder is walked once, below
    first = leaf if second is None else leaf[:n]
    logits = learner.head(leaf) + learner.adjustment
    real = mixed_entropy(logits[:n], y, y_minor, share)
    if second is not None:
        real = (real + mixed_entropy(logits[n:], y, y_minor, kept)) / 2
    generated = None if g is None else F.cross_entropy(learner.head(g) + learner.adjustment, y_g)
    apart = head_norms(learner, real, generated) if measures else {}
    classification(learner, real, generated).backward()
    # The head learns from the mean over images and pool, the encoder from the mean over images: a pool would otherwise lower
    # its rate by as much as it is large.
    real_gradient, leaf.grad = leaf.grad * learner.n_per_image, None
    standard = learner.standardise(first) if config.standardisation == "tracked" else standardised(first)
    semantic = learner.semantic(standard, y, t, noise)
    (config.losses.semantic * semantic.total).backward()
    semantic_gradient, leaf.grad = leaf.grad, None
    at_encoder = combine(config.routing, real_gradient, semantic_gradient) if not alternates else None
    consistency = None if second is None else learner.consistency(first, leaf[n:])
    if consistency is not None:  # no rule routes it: it is there for the encoder
        (config.losses.consistency * consistency).backward()
        at_encoder = at_encoder + leaf.grad
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
        apart |= encoder_norms(*by_loss)
    if alternates:
        norms["grad/encoder"] = get_total_norm([a + b for a, b in zip(*by_loss)])
    else:
        passes.backward(at_encoder)
        norms["grad/encoder"] = gradient_norm(learner, "encoder")
    found = norms | losses(real, generated, semantic, consistency)
    return Gradients(found, first.detach(), semantic, apart, by_loss)


def mixed_entropy(logits: Tensor, y: Tensor, y_minor: Tensor | None, share: Tensor | None) -> Tensor:
    """Cross-entropy () of logits (B, C) with labels of which `share`, (), is y (B,) and the rest y_minor (B,)."""
    real = F.cross_entropy(logits, y)
    return real if share is None else share * real + (1 - share) * F.cross_entropy(logits, y_minor)


def head_norms(learner: Learner, real: Tensor, generated: Tensor | None) -> dict[str, Tensor]:
    """Norms of the head's gradients of the two terms of its loss; {} where there is one."""
    if generated is None:
        return {}
    parameters = list(learner.head.parameters())
    terms = {"real": learner.shares[0] * real, "generated": learner.shares[1] * generated}
    return {
        f"grad/head_{name}": get_total_norm(torch.autograd.grad(term, parameters, retain_graph=True))
        for name, term in terms.items()
    }


def encoder_norms(real: list[Tensor], semantic: list[Tensor]) -> dict[str, Tensor]:
    """How the gradients of the two losses at the encoder's parameters relate."""
    found = conflict(*(torch.cat([g.reshape(-1) for g in gradients]) for gradients in (real, semantic)))
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
    return learner.shares[0] * real if generated is None else learner.shares[0] * real + learner.shares[1] * generated


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


def draws(learner: Learner, n: int, streams: Streams) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What a step takes from chance: timesteps (n,), noise (n, D), generated latents (B, D) and their labels (B,).

    The last two are None while nothing has been generated, or nothing is to be learned from it.
    """
    config = learner.config
    t, noise = learner.draw_noise(n, streams.noise)
    if config.losses.generated == 0 or len(learner.pool.labels) == 0:
        return t, noise, None, None
    return t, noise, *learner.generated_batch(config.generation.batch_size or config.batch_size, streams.pool)


def losses(real: Tensor, generated: Tensor | None, semantic: Semantic, consistency: Tensor | None = None) -> dict[str, Tensor]:
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
    return [parameter for name in names for parameter in learner.optimisers[name].param_groups[0]["params"]]


def update(learner: Learner, *names: str) -> None:
    """A step of each module's optimiser, its gradient scaled down to `optim.clip` where that is set."""
    clip = learner.config.optim.clip
    for name in names:
        if clip is not None:
            clip_grad_norm_(parameters_of(learner, name), clip)
        learner.optimisers[name].step()
        learner.optimisers[name].zero_grad(set_to_none=True)
