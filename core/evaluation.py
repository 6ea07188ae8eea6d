"""What an epoch reports: test metrics, and diagnostics of latents and generated latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core import diagnostics, metrics
from core.learner import Learner

Report = tuple[dict[str, float], dict[str, list[float]]]


@torch.no_grad()
def test_report(learner: Learner, latents: Tensor, labels: Tensor, pretrained: Tensor) -> Report:
    """Test metrics, and how far the test images' latents (M, D) have moved from their pretrained ones."""
    learner.head.eval()
    scalars, vectors = metrics.evaluate(learner.head(latents), labels, learner.class_counts)
    scalars["diag/latent_drift"] = float(diagnostics.drift(latents, pretrained))
    scalars["diag/cka"] = float(diagnostics.linear_cka(latents, pretrained))
    vectors["diag/radius_test"] = diagnostics.class_radii(latents, labels, learner.n_classes).tolist()
    return scalars, vectors


@torch.no_grad()
def latent_report(learner: Learner, latents: Tensor, labels: Tensor) -> Report:
    """Collapse and radii of the training latents (N, D) as the epoch met them, and the pool beside them."""
    rank, variance = diagnostics.spectrum(latents)
    radii = diagnostics.class_radii(latents, labels, learner.n_classes)
    masks = metrics.group_masks(learner.class_counts)
    scalars = {
        "diag/effective_rank": float(rank),
        "diag/total_variance": float(variance),
        "diag/radius_spread": float(radii[~radii.isnan()].std() / radii.nanmean().clamp(min=1e-12)),
        "diag/radius_head": float(radii[_head(masks)].nanmean()),
        "diag/radius_tail": float(radii[_tail(masks)].nanmean()),
        "diag/diffusion_loss_at_thaw": learner.diffusion_loss_at_thaw,
    }
    vectors = {"diag/radius": radii.tolist()}
    concentrations = getattr(learner.head, "concentrations", None)
    if concentrations is not None:
        scalars["head/concentration"] = float(concentrations.mean())
        vectors["head/concentration"] = concentrations.tolist()
    if len(learner.pool.labels):
        generated = learner.pool.latents * learner.std + learner.mean
        found = diagnostics.generated_to_real(latents, labels, generated, learner.pool.labels, learner.n_classes)
        vectors |= {name: values.tolist() for name, values in found.items()}
        scalars |= {name: float(values.nanmean()) for name, values in found.items()}
    return {name: value for name, value in scalars.items() if math.isfinite(value)}, vectors


def _head(masks: dict[str, Tensor]) -> Tensor:
    """The group of classes with the most images that is not empty."""
    return next(mask for mask in masks.values() if mask.any())


def _tail(masks: dict[str, Tensor]) -> Tensor:
    return next(mask for mask in reversed(masks.values()) if mask.any())
