"""Sharpness-aware minimisation (SAM, Foret et al. 2021): steps that lower the loss nearby, too.

The gradient g at the weights w perturbs them by rho g / |g| (eq. 2), to where the loss is about
largest within rho; the gradient there makes the step from w (eq. 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


@contextmanager
def perturbed(parameters: Sequence[Tensor], rho: float) -> Iterator[None]:
    """Move the parameters by rho g / |g| inside, with gradients g cleared; put them back after.

    The norm is that of all their gradients together. Weights are copied: to subtract what was added
    would round.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    with torch.no_grad():
        before = [parameter.clone() for parameter in moved]
        torch._foreach_add_(
            moved, torch._foreach_mul(gradients, rho / get_total_norm(gradients).clamp(min=1e-12))
        )
    for parameter in moved:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


@contextmanager
def gradients_kept(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Afterwards the parameters' gradients are those of before, whatever was added inside."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
