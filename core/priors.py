"""The class prior that a head is trained for, and what of it is left to correct. Imports no torch.

Real and generated samples count alike: the classification loss is the mean over all of them, each generated one weighted by
`losses.generated` relative to a real one (`losses.real`). So the prior is that of the training images and the pool together.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.config import Config

NEARLY = 1e-3  # priors closer to each other, relative, are the same


def shares(config: Config, n_real: float, n_generated: float) -> tuple[float, float]:
    """Weights of the mean losses of real and of generated samples, so that each sample counts as it should.

    n_real, n_generated: training images, and latents in the pool. With weights of 1, the shares of either; (1, 0) without
    a pool.
    """
    total = n_real + n_generated
    return config.losses.real * n_real / total, config.losses.generated * n_generated / total


def training_prior(
    config: Config, class_counts: Sequence[float], drawn: Sequence[float]
) -> list[float]:
    """(C,) share of each class in the classification loss of the last phase; sums to 1.

    class_counts, drawn: training images, and latents in the pool, of each class.
    """
    n_classes = len(class_counts)
    if config.method in ("ce", "ce-adjusted"):
        weights = list(class_counts)
    elif config.method == "staged":
        is_balanced = config.staged.batching == "balanced"
        weights = (
            [1.0] * n_classes
            if is_balanced
            else [n + m for n, m in zip(class_counts, drawn, strict=True)]
        )
    else:
        n_real = sum(class_counts)
        real = [n_real / n_classes] * n_classes if config.batching == "balanced" else class_counts
        losses = config.losses
        weights = [losses.real * n + losses.generated * m for n, m in zip(real, drawn, strict=True)]
    total = sum(weights)
    return [weight / total for weight in weights] if total else [1 / n_classes] * n_classes


def uncorrected_prior(config: Config, prior: Sequence[float]) -> list[float] | None:
    """(C,) what of the training prior the head's logits still carry; None where that is uniform.

    A head trained with tau log(prior) added to its logits estimates p(y | x) / prior(y)^tau (Menon et al. 2021, eq. 10):
    what is left is prior^(1 - tau).
    """
    tau = (
        1.0
        if config.method == "ce-adjusted"
        else 0.0
        if config.method == "ce"
        else config.losses.logit_adjustment
    )
    left = [p ** (1 - tau) if p else 0.0 for p in prior]
    if min(left) <= 0 or max(left) < (1 + NEARLY) * min(left):
        return None
    return [value / sum(left) for value in left]
