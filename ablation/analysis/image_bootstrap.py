"""Intervals of a study with one seed: a paired bootstrap over test images, not over seeds.

The images are resampled, the same ones for all arms, so that what they find hard alike cancels.
Such an interval tells how the numbers would change with other test images of this kind and the same
trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablation.analysis.results import Results, identities
from ablation.analysis.statistics import Estimate, image_bootstrap

# Means of hits: over images, and over classes of images.
METRICS = tuple(
    f"{part}/{name}" for part in ("test", "validation") for name in ("top1", "balanced_accuracy")
)


def over_images(
    results: Results,
    metric: str,
    names: Sequence[str],
    weights: Sequence[np.ndarray],
    estimates: Sequence[Estimate],
    confidence: float = 0.95,
) -> list[Estimate]:
    """The estimates of a study of one seed, with intervals where trials record right images.

    Args:
        names: (n_cells,) arms and baselines
        weights: (n_cells,) float of each contrast
        estimates: of each contrast, without intervals
    """
    hits = _hits(results, names) if len(results.manifest.seeds) == 1 and metric in METRICS else {}
    known = np.array([name in hits for name in names])
    rows = [i for i, one in enumerate(estimates) if one.n == 1 and not weights[i][~known].any()]
    if not rows or not hits:
        return list(estimates)
    chosen = np.stack([weights[i][known] for i in rows])
    judged = list(estimates)
    intervals = _intervals(metric, list(hits.values()), chosen, confidence)
    for i, (low, high) in zip(rows, intervals, strict=True):
        judged[i] = judged[i]._replace(low=float(low), high=float(high))
    return judged


def difference_over_images(metric: str, left: str, right: str) -> tuple[float, float]:
    """The interval of one trial minus another, in points; NaN where their hits give none."""
    both = [unpacked(hits) for hits in (left, right) if hits]
    sizes = {tuple(map(len, per_class)) for per_class in both}
    if metric not in METRICS or len(both) < 2 or len(sizes) > 1:
        return np.nan, np.nan
    low, high = _intervals(metric, both, np.array([[1.0, -1.0]]))[0]
    return float(low), float(high)


def unpacked(hits: str) -> list[np.ndarray]:
    """Per class (n_images,) bool from a record's `hits`, see `ablation.subject.protocol.Record`."""
    found = []
    for word in hits.split():
        n, _, digits = word.partition(":")
        packed = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)
        found.append(np.unpackbits(packed, count=int(n)).astype(bool))
    return found


def _intervals(
    metric: str, hits: Sequence[list[np.ndarray]], weights: np.ndarray, confidence: float = 0.95
) -> np.ndarray:
    """(n_contrasts, 2) in points. hits: of each cell, per class; weights: (n_contrasts, n_cells)"""
    # (n_images of the class, n_cells) of each class
    classes = [np.stack(of_class, axis=1) for of_class in zip(*hits, strict=True)]
    strata = [np.concatenate(classes)] if metric.endswith("/top1") else classes
    strata = [stratum for stratum in strata if len(stratum)]
    return 100 * image_bootstrap(strata, weights, confidence)


def _hits(results: Results, names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Arm or baseline -> recorded hits per class; {} where they were tested on other images."""
    trials = {row.arm: results.hits.get(row.trial, "") for row in identities(results.trials)}
    found = {name: unpacked(trials[name]) for name in names if trials.get(name)}
    sizes = {tuple(map(len, per_class)) for per_class in found.values()}
    return found if len(sizes) == 1 else {}
