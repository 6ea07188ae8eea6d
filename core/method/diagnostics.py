"""What happens to the latents: drift, collapse, radii, distance of generated to real ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from core.method.geometry import class_means, distances

# for the two-sample test, per class and side
SAMPLES_PER_CLASS = 64


def linear_cka(a: Tensor, b: Tensor) -> Tensor:
    """Linear centred kernel alignment of two encodings of the same images.

    Kornblith et al. 2019, eq. 5.
    a, b: (N, D) float. Returns () in [0, 1]; 1 up to rotation and scale, and 0 for a collapsed
    encoding.
    """
    a, b = a.double() - a.double().mean(0), b.double() - b.double().mean(0)
    cross = (a.T @ b).square().sum()
    norms: Tensor = (a.T @ a).norm() * (b.T @ b).norm()
    return cross / norms.clamp(min=1e-30)


def drift(latents: Tensor, pretrained: Tensor) -> Tensor:
    """1 - mean cosine of latents to pretrained latents; () in [0, 2], 0 if nothing moved."""
    return 1 - F.cosine_similarity(latents, pretrained, dim=1).mean()


def spectrum(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Effective rank and total variance of (N, D) latents.

    Effective rank: exp of the entropy of the normalised eigenvalues of the covariance (Roy &
    Vetterli 2007 take singular values; eigenvalues are the shares of variance). 1 for a line, D for
    a sphere.
    """
    centred = latents.double() - latents.double().mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / len(latents)).clamp(min=0)
    total = eigenvalues.sum()
    shares = eigenvalues / total.clamp(min=1e-30)
    return torch.special.entr(shares).sum().exp(), total


def class_radii(latents: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(C,) mean distance of each class's latents to their mean; NaN of fewer than two.

    Distances to a mean of n samples are too short by sqrt((n - 1) / n), which is put right: else
    small classes would look tight.
    """
    prototypes, counts = class_means(latents, labels, n_classes)
    radii, _ = class_means(distances(latents, labels, prototypes), labels, n_classes)
    return (radii * (counts / (counts - 1)).sqrt()).masked_fill(counts < 2, float("nan"))


def one_nearest_neighbour_accuracy(real: Tensor, generated: Tensor) -> Tensor:
    """Leave-one-out 1-NN accuracy of telling real from generated (Lopez-Paz & Oquab 2017).

    real, generated: (N, D), the same N >= 2. Returns () in [0, 1]: 0.5 when they cannot be told
    apart, 1 when they can, 0 when each real point was copied.
    """
    points = torch.cat([real, generated])
    # distances by matrix product would lose the small ones, just where latents collapse
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(
        float("inf")
    )
    from_real = torch.arange(len(points), device=points.device) < len(real)
    return (from_real[apart.argmin(1)] == from_real).double().mean()


def generated_to_real(
    real: Tensor, labels: Tensor, generated: Tensor, generated_labels: Tensor, n_classes: int
) -> dict[str, Tensor]:
    """Compare generated to real latents, class by class.

    Radius ratio, distance between means in units of the real radius, 1-NN two-sample accuracy.
    real: (N, D), generated: (M, D). Returns name -> (C,) float, NaN where a class has fewer than
    two real or generated latents.
    """
    real_means, _ = class_means(real, labels, n_classes)
    generated_means, _ = class_means(generated, generated_labels, n_classes)
    real_radii = class_radii(real, labels, n_classes)
    generated_radii = class_radii(generated, generated_labels, n_classes)
    known = ~(real_radii.isnan() | generated_radii.isnan())
    gap = (real_means - generated_means).norm(dim=1).masked_fill(~known, float("nan"))
    neighbours = torch.full((n_classes,), float("nan"))
    for c in known.nonzero().flatten().tolist():
        a, b = real[labels == c], generated[generated_labels == c]
        n = min(len(a), len(b), SAMPLES_PER_CLASS)
        neighbours[c] = one_nearest_neighbour_accuracy(_spaced(a, n), _spaced(b, n))
    return {
        "gen/radius_ratio": generated_radii / real_radii,
        "gen/prototype_distance": gap / real_radii,
        "gen/one_nn": neighbours,
    }


def _spaced(latents: Tensor, n: int) -> Tensor:
    """`n` of them, evenly spaced: neighbours in the order of files may be alike."""
    return latents[torch.linspace(0, len(latents) - 1, n, device=latents.device).round().long()]
