"""What an epoch reports: test metrics, and diagnostics of latents and generated latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from core.config.schema import Config
from core.method import diagnostics, metrics
from core.training.averaging import Average
from core.training.divergence import require_finite
from core.training.learner import Learner
from core.training.priors import uncorrected_prior

T = TypeVar("T")


class Report(NamedTuple):
    """What an epoch reports."""

    metrics: dict[str, float]
    # a value per class
    vectors: dict[str, list[float]]
    # which test images are right, see `metrics.packed_hits`; "" if not evaluated
    hits: str = ""


def named(values: Mapping[str, T], config: Config) -> dict[str, T]:
    """The values by name; those of held-out images are called validation/* and not test/*."""
    part = "validation/" if config.data.validation else "test/"
    return {
        part + name.removeprefix("test/") if name.startswith("test/") else name: value
        for name, value in values.items()
    }


@torch.no_grad()
def test_report(learner: Learner, latents: Tensor, labels: Tensor, pretrained: Tensor) -> Report:
    """Test metrics, and the state of the test images' latents (M, D): drift, collapse, radii.

    Drift is from the pretrained ones (M, D). Test images, in eval mode, measure warm-up and joint
    epochs alike; and the tail's radius on its training images is that of memorised ones.
    """
    learner.head.eval()
    logits = learner.head(latents)
    require_finite("a test image's logit", logits)
    left = uncorrected_prior(learner.config, learner.training_prior())
    prior = None if left is None else torch.tensor(left)
    scalars, vectors = metrics.evaluate(logits, labels, learner.class_counts, prior)
    rank, variance = diagnostics.spectrum(latents)
    radii = diagnostics.class_radii(latents, labels, learner.n_classes)
    spread = radii[~radii.isnan()].std() / radii.nanmean().clamp(min=1e-12)
    scalars |= {
        "diag/latent_drift": float(diagnostics.drift(latents, pretrained)),
        "diag/cka": float(diagnostics.linear_cka(latents, pretrained)),
        "diag/effective_rank": float(rank),
        "diag/total_variance": float(variance),
        "diag/radius_spread": float(spread),
        **_head_and_tail("diag/radius", radii, learner),
    }
    vectors["diag/radius"] = radii.tolist()
    return Report(_finite(scalars), vectors, metrics.packed_hits(logits, labels, learner.n_classes))


@torch.no_grad()
def averaged_metrics(
    average: Average, latents: Tensor, labels: Tensor, class_counts: Tensor
) -> dict[str, float]:
    """Accuracies of the averaged weights; their names end in `_ema`.

    latents: (M, D), of the averaged encoder; labels: (M,). Calibration and compensated accuracy are
    the raw weights' alone.
    """
    logits = average.head(latents)
    require_finite("a test image's averaged logit", logits)
    scalars, _ = metrics.evaluate(logits, labels, class_counts, None)
    return {f"{name}_ema": value for name, value in scalars.items() if name != "test/ece"}


@torch.no_grad()
def latent_report(learner: Learner, latents: Tensor, labels: Tensor) -> Report:
    """Radii of the training latents (N, D) as the epoch met them, and the pool beside them.

    Warm-up meets them in eval mode without augmentation, joint epochs in training mode and
    augmented, staged ones as `staged.encoding` says: these are not one curve.
    """
    radii = diagnostics.class_radii(latents, labels, learner.n_classes)
    scalars = _head_and_tail("diag/train_radius", radii, learner)
    scalars["diag/diffusion_loss_at_thaw"] = learner.diffusion_loss_at_thaw
    vectors = {"diag/train_radius": radii}
    concentrations = getattr(learner.head, "concentrations", None)
    if concentrations is not None:
        vectors["head/concentration"] = concentrations
        scalars["head/concentration"] = float(concentrations.mean())
    if len(learner.pool.labels):
        generated = learner.destandardise(learner.pool.latents)
        found = diagnostics.generated_to_real(
            latents, labels, generated, learner.pool.labels, learner.n_classes
        )
        vectors |= found
        scalars |= {name: float(values.nanmean()) for name, values in found.items()}
    return Report(_finite(scalars), {name: values.tolist() for name, values in vectors.items()})


def _head_and_tail(name: str, radii: Tensor, learner: Learner) -> dict[str, float]:
    """Mean radius (C,) over the group of the largest classes and that of the smallest.

    Nothing where all classes are in one group.
    """
    groups = [mask for mask in metrics.group_masks(learner.class_counts).values() if mask.any()]
    if len(groups) < 2:
        return {}
    head, tail = (float(radii[mask].nanmean()) for mask in (groups[0], groups[-1]))
    return {f"{name}_head": head, f"{name}_tail": tail}


def _finite(scalars: dict[str, float]) -> dict[str, float]:
    """Leave out what is not defined, such as the radius of classes of one image."""
    return {name: value for name, value in scalars.items() if math.isfinite(value)}
