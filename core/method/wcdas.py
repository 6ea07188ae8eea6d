"""WCDAS, wrapped-Cauchy distributed angular softmax (Han, ICCV 2023), as a pure function."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def wcdas_logits(
    latents: Tensor, weight: Tensor, concentration_logit: Tensor, scale: Tensor | float
) -> Tensor:
    """Scaled wrapped-Cauchy density of the angle between latent and class weight.

    logits_c = scale / (2 pi) * (1 - gamma_c^2) / (1 + gamma_c^2 - 2 gamma_c cos(theta_c)), gamma_c
    = sigmoid(concentration_logit_c). Bounded by scale / (2 pi) * (1 + gamma) / (1 - gamma); as
    gamma -> 0 the density is uniform and every logit tends to scale / (2 pi).

    latents: (B, D) float; weight: (C, D) float; concentration_logit: (C,) float. Returns (B, C)
    float. Departs from the published code in that pi is pi (there 3.14), no label is needed to
    compute it, and gamma ends at 0.9999: nearer to 1, float32 loses 1 - gamma, and latents on their
    weight give NaN.
    """
    # (B, C)
    cosine = F.normalize(latents, dim=1) @ F.normalize(weight, dim=1).T
    # (C,) concentration
    gamma = concentration_logit.sigmoid()
    # 1 - gamma without cancellation
    gap = (-concentration_logit).sigmoid().clamp(min=1e-4)
    # 1 + gamma^2 - 2 gamma cos = (1 - gamma)^2 + 2 gamma (1 - cos); rounding can lift a cosine
    # above 1
    spread = gap**2 + 2 * gamma * (1 - cosine).clamp(min=0)
    density = gap * (1 + gamma) / spread / (2 * math.pi)
    return scale * density
