"""Images per class: the exponential long-tailed profile (Cui et al. 2019), and what is held out for validation."""

from __future__ import annotations

from collections.abc import Sequence


def exponential_counts(n_max: int, n_classes: int, imbalance_factor: float) -> list[int]:
    """Training images per class: n_c = floor(n_max * IF^(-c / (C - 1))), c = 0 .. C - 1.

    5000 images, 10 classes and IF 100 give 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50.
    Raises ValueError if a class would be left without images.
    """
    if n_classes == 1:
        return [n_max]
    # the small addend: 5000 * 100**-1 is 50.00000000000001 in floating point, or 49.99999999999999 elsewhere
    counts = [
        int(n_max * imbalance_factor ** (-c / (n_classes - 1)) + 1e-6) for c in range(n_classes)
    ]
    if counts[-1] == 0:
        raise ValueError(
            f"{n_max} images of the largest class and an imbalance factor of {imbalance_factor:g} leave the smallest class empty"
        )
    return counts


def held_out_counts(counts: Sequence[int], share: float) -> list[int]:
    """Validation images of each class: the share of its training images, rounded, and one at least.

    Raises ValueError if a class would be left without training images.
    """
    held = [max(1, round(share * n)) for n in counts]
    for c, (n, n_held) in enumerate(zip(counts, held)):
        if n_held >= n:
            raise ValueError(
                f"{share:g} of the {n} training images of class {c} leaves none to train on"
            )
    return held
