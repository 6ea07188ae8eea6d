"""The class prior that a head is trained for, and what of it is left to correct. Imports no torch.

Real and generated samples count alike: the classification loss is the mean over all of them, each
generated one weighted by `losses.generated` relative to a real one (`losses.real`). So the prior is
that of the training images and the pool together.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.config.schema import Config

# priors that differ by less, relative to each other, are the same
NEARLY = 1e-3


def quota(rule: str, class_counts: Sequence[int]) -> list[int]:
    """Return the latents to generate per class.

    ldmlr: max(round(0.2 n_c), 5), as the original code has it. balance: n_max - n_c.
    """
    if rule == "ldmlr":
        return [max(round(0.2 * n), 5) for n in class_counts]
    if rule == "balance":
        largest = max(class_counts)
        return [largest - n for n in class_counts]
    raise ValueError(f"unknown quota {rule!r}: ldmlr or balance")


def shares(config: Config, n_real: float, n_generated: float) -> tuple[float, float]:
    """Weights of the mean losses of real and of generated samples.

    n_real, n_generated: training images, and latents in the pool. With weights of 1, the shares of
    either; (1, 0) without a pool.
    """
    total = n_real + n_generated
    return config.losses.real * n_real / total, config.losses.generated * n_generated / total


def training_prior(
    config: Config, class_counts: Sequence[float], drawn: Sequence[float]
) -> list[float]:
    """(C,) share of each class in the classification loss of the last phase; sums to 1.

    class_counts, drawn: training images, and latents in the pool, of each class.
    """
    n_classes, n_real, losses = len(class_counts), sum(class_counts), config.losses
    uniform = [1 / n_classes] * n_classes
    weights = list(class_counts)
    if config.method == "staged":
        if config.staged.batching == "balanced":
            return uniform
        weights = [n + m for n, m in zip(class_counts, drawn, strict=True)]
    elif config.method == "joint":
        if config.batching == "balanced":
            weights = [n_real / n_classes] * n_classes
        weights = [
            losses.real * n + losses.generated * m for n, m in zip(weights, drawn, strict=True)
        ]
    total = sum(weights)
    return [weight / total for weight in weights] if total else uniform


def uncorrected_prior(config: Config, prior: Sequence[float]) -> list[float] | None:
    """(C,) what of the training prior the head's logits still carry; None where that is uniform.

    A head trained with tau log(prior) added to its logits estimates p(y | x) / prior(y)^tau (Menon
    et al. 2021, eq. 10): what is left is prior^(1 - tau).
    """
    tau = {"ce": 0.0, "ce-adjusted": 1.0}.get(config.method, config.losses.logit_adjustment)
    left = [p ** (1 - tau) if p else 0.0 for p in prior]
    if min(left) <= 0 or max(left) < (1 + NEARLY) * min(left):
        return None
    return [value / sum(left) for value in left]
