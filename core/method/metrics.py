"""Accuracy on a balanced test set after training on a long tail. Accuracies are in percent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.method.groups import FEW_BELOW, MANY_ABOVE


def per_class_accuracy(predictions: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(C,) float in percent, NaN of a class without images. predictions, labels: (N,) int64."""
    totals = torch.bincount(labels, minlength=n_classes).double()
    hits = torch.bincount(labels[predictions == labels], minlength=n_classes).double()
    return 100 * hits / totals


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """() float in percent. logits: (N, C); labels: (N,)."""
    return 100 * (logits.argmax(1) == labels).double().mean()


def packed_hits(logits: Tensor, labels: Tensor, n_classes: int) -> str:
    """Which test images are right, by class and in test-set order: `36:ffff7fefe 36:...`.

    A word per class: its number of images and their bits, first image first, in hexadecimal, filled
    up with zeros to whole bytes. logits: (N, C); labels: (N,).
    """
    # (N,) bool, and (N,) int64
    hits = (logits.argmax(1) == labels).cpu().numpy()
    of_image = labels.cpu().numpy()
    of_class = [hits[of_image == c] for c in range(n_classes)]
    return " ".join(f"{len(bits)}:{np.packbits(bits).tobytes().hex()}" for bits in of_class)


def compensate_label_shift(logits: Tensor, prior: Tensor) -> Tensor:
    """Logits with a class prior divided out: log(p(y|x) / prior(y)) up to a constant.

    logits: (N, C); prior: (C,) all > 0; counts will do.
    """
    return logits - (prior.to(logits) / prior.sum()).log()


def expected_calibration_error(logits: Tensor, labels: Tensor, n_bins: int = 15) -> Tensor:
    """Mean gap between confidence and accuracy over bins of confidence, in percent.

    Guo et al. 2017; the bins are of equal width.
    """
    confidence, predictions = logits.softmax(1).max(1)
    hits = (predictions == labels).to(confidence)
    bins = (confidence * n_bins).ceil().long().sub(1).clamp(0, n_bins - 1)
    gaps = torch.zeros(n_bins, device=logits.device, dtype=confidence.dtype).index_add(
        0, bins, hits - confidence
    )
    return 100 * gaps.abs().sum() / len(labels)


def group_masks(class_counts: Tensor) -> dict[str, Tensor]:
    """Classes by number of training images: many, medium, few -> (C,) bool."""
    return {
        "many": class_counts > MANY_ABOVE,
        "medium": (class_counts >= FEW_BELOW) & (class_counts <= MANY_ABOVE),
        "few": class_counts < FEW_BELOW,
    }


def evaluate(
    logits: Tensor, labels: Tensor, class_counts: Tensor, prior: Tensor | None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """All test metrics of one set of logits, as scalars and as per-class vectors.

    logits: (N, C); labels: (N,); class_counts: (C,) training images per class; prior: (C,), the
    prior that the logits carry beyond a uniform one, which the compensated accuracy divides out
    (None: there is none). Group accuracies are means over test images; groups without classes are
    left out. Balanced accuracy is the mean over classes: top-1, where every class has as many test
    images.
    """
    predictions = logits.argmax(1)
    per_class = per_class_accuracy(predictions, labels, len(class_counts))
    scalars = {
        "test/top1": top1(logits, labels),
        "test/balanced_accuracy": per_class.nanmean(),
        "test/ece": expected_calibration_error(logits, labels),
    }
    if prior is not None:
        scalars["test/top1_compensated"] = top1(compensate_label_shift(logits, prior), labels)
    for name, mask in group_masks(class_counts).items():
        members = mask[labels]
        if members.any():
            scalars[f"test/{name}"] = 100 * (predictions == labels)[members].double().mean()
    return {name: float(value) for name, value in scalars.items()}, {
        "test/per_class": per_class.tolist()
    }
