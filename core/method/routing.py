"""Which loss reaches the encoder: the rules that combine gradients at the latent.

Losses are computed on a detached leaf z; each loss's gradient with respect to z is cheap; they are
combined here, and the encoder is walked backward once with the result. So no rule costs a second
encoder pass, and the conflict between the losses is known at every step for free. `alternating`
combines nothing: it takes two optimiser steps, see `core.training.epochs.alternate`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

RULES = ("summed", "decoupled", "stopgrad", "pcgrad")


class Conflict(NamedTuple):
    """How two gradients relate; all () float, on the device."""

    # in [-1, 1], below 0 where they conflict; 0 if either vanishes
    cosine: Tensor
    real_norm: Tensor
    semantic_norm: Tensor


def conflict(real: Tensor, semantic: Tensor) -> Conflict:
    """Cosine and norms of the two gradients, of one shape, taken as one vector each."""
    real_norm, semantic_norm = real.norm(), semantic.norm()
    tiny = 1e-20
    # each by itself: the product of two small norms would underflow
    cosine = (real / real_norm.clamp(min=tiny) * (semantic / semantic_norm.clamp(min=tiny))).sum()
    return Conflict(cosine, real_norm, semantic_norm)


def combine(rule: str, real: Tensor, semantic: Tensor) -> Tensor:
    """The gradient that the encoder gets, at the latent.

    summed: real + semantic. decoupled: semantic only. stopgrad: real only. pcgrad: each projected
    off the other where they conflict, then summed (Yu et al. 2020, algorithm 1, for two tasks;
    there on parameter gradients, here at the latent, where both tasks meet).

    real, semantic: (B, D) float, loss weights included. Returns (B, D).
    """
    if rule == "summed":
        return real + semantic
    if rule == "decoupled":
        return semantic
    if rule == "stopgrad":
        return real
    if rule == "pcgrad":
        inner = (real * semantic).sum()
        # 0 where they agree: nothing is projected
        overlap = inner.clamp(max=0)
        tiny = 1e-20
        real_off = real - overlap / semantic.square().sum().clamp(min=tiny) * semantic
        semantic_off = semantic - overlap / real.square().sum().clamp(min=tiny) * real
        return real_off + semantic_off
    raise ValueError(f"unknown routing rule {rule!r}: one of {', '.join(RULES)}")
