"""Heads h: latents (B, D) float -> logits (B, C) float. No labels needed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.method.wcdas import wcdas_logits


class Scale(nn.Module):
    """A positive factor, trainable as softplus(raw) + 1 or fixed."""

    def __init__(self, value: float, trainable: bool):
        super().__init__()
        # inverse of softplus
        raw = torch.tensor(value - 1 + math.log(-math.expm1(1 - value)))
        self.raw = nn.Parameter(raw) if trainable else None
        self.fixed = value

    def forward(self) -> Tensor | float:
        """The factor; () where it is trainable."""
        return self.fixed if self.raw is None else F.softplus(self.raw) + 1


class CosineHead(nn.Module):
    """logits_c = scale * cos(theta_c)."""

    def __init__(self, n_latents: int, n_classes: int, scale: float, trainable_scale: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, n_latents))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.scale = Scale(scale, trainable_scale)

    def forward(self, latents: Tensor) -> Tensor:
        """Logits (B, C) of latents (B, D)."""
        scale: Tensor | float = self.scale()
        return scale * F.normalize(latents, dim=1) @ F.normalize(self.weight, dim=1).T


class WCDASHead(nn.Module):
    """Wrapped-Cauchy angular softmax with a concentration per class; see `core.method.wcdas`."""

    def __init__(self, n_latents: int, n_classes: int, scale: float, trainable_scale: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_classes, n_latents))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        # gamma = 1/2
        self.concentration_logit = nn.Parameter(torch.zeros(n_classes))
        self.scale = Scale(scale, trainable_scale)

    def forward(self, latents: Tensor) -> Tensor:
        """Logits (B, C) of latents (B, D)."""
        return wcdas_logits(latents, self.weight, self.concentration_logit, self.scale())

    @property
    def concentrations(self) -> Tensor:
        """gamma, (C,) in (0, 1)."""
        return self.concentration_logit.detach().sigmoid()


def build_head(
    name: str, n_latents: int, n_classes: int, scale: float, trainable_scale: bool
) -> nn.Module:
    """A head by its config name."""
    if name == "linear":
        return nn.Linear(n_latents, n_classes)
    cls = {"cosine": CosineHead, "wcdas": WCDASHead}[name]
    return cls(n_latents, n_classes, scale, trainable_scale)
