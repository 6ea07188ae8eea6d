"""Contrasts across seeds, Holm's correction, the power of n seeds, and a bootstrap over images.

Every comparison of a study is one linear contrast of its cells (arms, baselines): arm minus
baseline, a main effect (levels averaged over the other factors), an interaction (a difference of
differences). It is taken within each seed, so that what the cells of one seed share cancels, and
then estimated across seeds. Seeds are the unit: never epochs, images or cells. Where there is one
seed only, there is the bootstrap over test images, which speaks of that one training run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

# Differences that agree to this fraction of the values that they were taken from are equal but for
# rounding. A float32 is rounded by up to 1.2e-7 of itself, and a mean of a few by several times
# that; one image of a million moves an accuracy by more.
RELATIVE_RESOLUTION = 1e-6

# the probability with which a true difference is to be found
POWER = 0.8

N_RESAMPLES = 9_999


class Estimate(NamedTuple):
    """A contrast across seeds, in the unit of the cells. NaN says "not defined", never 0."""

    mean: float
    # low and high: confidence interval; NaN with one seed, or where the seeds agree exactly
    low: float
    high: float
    # of the two-sided t-test of mean = 0, or of the number that it is tested against; NaN where the
    # interval is
    p: float
    # number of seeds that have every cell of the contrast
    n: int
    # standard deviation of the per-seed values, n - 1 in the denominator; NaN with one seed
    sd: float
    # between what is added and what is subtracted, over seeds; NaN below 3 seeds
    correlation: float


def contrast(
    cells: ArrayLike, weights: ArrayLike, confidence: float = 0.95, null: float = 0.0
) -> Estimate:
    """Estimate `sum_c weights_c cells_c` across seeds by Student's t, tested against `null`.

    A positive correlation is what pairing by seed gains: var(a - b) = var a + var b - 2 cov(a, b).
    With one seed there is no spread to judge by, and where all seeds agree exactly the t-interval
    would shrink to a point, a certainty that no number of seeds can give: both leave interval and p
    undefined.

    Args:
        cells: (n_seeds, n_cells) float, NaN where a trial has no result
        weights: (n_cells,) float; cells of weight 0 play no part
        confidence: of the interval, in (0, 1)
        null: the number that p is of, in the unit of `cells`

    Raises:
        ValueError: `weights` does not fit `cells`
    """
    table, signs = np.asarray(cells, dtype=float), np.asarray(weights, dtype=float)
    if table.ndim != 2 or signs.shape != table.shape[1:]:
        raise ValueError(
            f"cells {table.shape} and weights {signs.shape} "
            "are not (n_seeds, n_cells) and (n_cells,)"
        )
    used = signs != 0
    table, signs = table[:, used], signs[used]
    table = table[np.isfinite(table).all(axis=1)]
    n = len(table) if used.any() else 0
    if n == 0:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, np.nan, np.nan)
    added, subtracted = table @ np.maximum(signs, 0), table @ np.maximum(-signs, 0)
    # (n_seeds,)
    values = added - subtracted - null
    mean, resolution = float(values.mean()), RELATIVE_RESOLUTION * np.abs(table).max()
    if np.abs(values).max() <= resolution:
        # equal but for rounding
        mean = 0.0
    if n == 1:
        return Estimate(mean + null, np.nan, np.nan, np.nan, 1, np.nan, np.nan)
    if np.ptp(values) <= resolution:
        return Estimate(
            mean + null, np.nan, np.nan, np.nan, n, 0.0, _correlation(added, subtracted, resolution)
        )
    # as `scipy.stats.ttest_1samp`, which takes ten times as long to look at its arguments
    sd = float(values.std(ddof=1))
    error = float(np.sqrt(np.square(values - mean).mean() * (n / (n - 1)) / n))
    tail = (1 - confidence) / 2
    low, high = mean + null + error * special.stdtrit(n - 1, [tail, 1 - tail])
    p = 2 * float(special.stdtr(n - 1, -abs(mean / error)))
    correlation = _correlation(added, subtracted, resolution)
    return Estimate(mean + null, float(low), float(high), p, n, sd, correlation)


def agree(values: ArrayLike) -> bool:
    """Whether numbers are equal but for rounding; NaN plays no part."""
    found = np.asarray(values, dtype=float)
    found = found[~np.isnan(found)]
    return np.allclose(found, found[:1], rtol=RELATIVE_RESOLUTION, atol=0)


def paired_difference(treated: ArrayLike, control: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Estimate `treated - control`.

    Both are (n_seeds,) float in the same order of seeds; NaN where missing.
    """
    return contrast(np.stack([treated, control], axis=1), [1.0, -1.0], confidence)


def adjusted_means(cells: ArrayLike) -> np.ndarray:
    """(n_cells,) mean of each cell without what its seeds share.

    Where no seed lacks a cell, that is the plain mean.

    Plain means of cells that lack seeds are not to be compared: one may miss the seed that is hard
    for all. These are the least-squares means of cell plus seed, at the average seed.

    Args:
        cells: (n_seeds, n_cells) float, NaN where a trial has no result; each cell has one
    """
    table = np.asarray(cells, dtype=float)
    means: np.ndarray
    if np.isfinite(table).all():
        means = table.mean(axis=0)
        return means
    (n_seeds, n_cells), (seeds, own) = table.shape, np.nonzero(np.isfinite(table))
    design = np.zeros((len(seeds), n_cells + n_seeds))
    rows = np.arange(len(seeds))
    design[rows, own] = design[rows, n_cells + seeds] = 1.0
    fitted = np.linalg.lstsq(design, table[seeds, own])[0]
    means = fitted[:n_cells] + fitted[n_cells:][np.unique(seeds)].mean()
    return means


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjustment, controlling the family-wise error under any dependence.

    Args:
        p_values: (n_tests,) float. A test that yielded no p-value (NaN) keeps its place in the
            family, as if its p were 1, so that a family does not become easier to pass by losing a
            member.

    Returns:
        (n_tests,) float, adjusted p-values; NaN where they were
    """
    # statsmodels' `multipletests` gives the same bits, and collects garbage at each call: 0.1 s
    found = np.asarray(p_values, dtype=float)
    known = np.where(np.isnan(found), 1.0, found)
    order = np.argsort(known)
    scaled = known[order] * np.arange(found.size, 0, -1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return np.where(np.isnan(found), np.nan, adjusted)


def smallest_permutation_p(n: int) -> float:
    """The smallest two-sided p that the sign-flip permutation test can reach with n seeds: 2 / 2^n.

    Of the 2^n ways to flip the signs of n paired differences, the observed one and its mirror image
    are the most extreme at best. The t-test has no such floor; what it has instead is the
    assumption that the differences are normal, which few seeds cannot check.
    """
    return min(1.0, 2.0 ** (1 - n))


def power_of(effect_size: float, n: int, alpha: float = 0.05) -> float:
    """Probability that a paired two-sided t-test over n seeds finds a true difference.

    effect_size: the difference in standard deviations

    The square of t is noncentral F. (statsmodels' solver gives wrong sizes below 5 seeds at a
    corrected alpha: SciPy's noncentral t, on which it stands, fails there.)
    """
    critical, noncentrality = special.stdtrit(n - 1, alpha / 2) ** 2, n * effect_size**2
    missed = float(special.ncfdtr(1, n - 1, noncentrality, critical))
    # It is NaN where it is below the smallest float. `scipy.stats` is right there, and takes half a
    # second to load.
    return 1.0 if np.isnan(missed) and noncentrality > critical else 1 - missed


def smallest_detectable(sd: float, n: int, alpha: float = 0.05) -> float:
    """The smallest true difference that a paired two-sided t-test finds with probability `POWER`.

    Args:
        sd: of the paired differences, in their unit
        n: seeds
        alpha: of the test; for Holm's first step, divided by the number of tests

    Returns:
        a difference in the unit of `sd`; NaN below 2 seeds or where `sd` is 0 or NaN
    """
    if n < 2 or not sd > 0:
        return float("nan")
    below, above = 0.0, 1.0
    while power_of(above, n, alpha) < POWER:
        above *= 2
    # Bisection to the last bit. To load scipy.optimize takes a thousand times as long.
    while below < (middle := (below + above) / 2) < above:
        if power_of(middle, n, alpha) < POWER:
            below = middle
        else:
            above = middle
    return sd * above


def margin_p(found: Estimate, margin: float) -> float:
    """The p of deciding whether a true difference lies within `margin` of 0.

    It is decided on the side of the margin that the estimate lies on.

    Inside: of the two one-sided t-tests against the bounds the larger p (TOST), so that a small one
    says "within". Outside: two-sided, against the nearer bound, so that a small one says "beyond".
    NaN where the interval is.
    """
    if not found.sd > 0:
        return float("nan")
    # t against the nearer bound
    t = (abs(found.mean) - margin) / (found.sd / np.sqrt(found.n))
    return float((1 if t < 0 else 2) * special.stdtr(found.n - 1, -abs(t)))


def image_bootstrap(
    strata: Sequence[np.ndarray], weights: np.ndarray, confidence: float = 0.95
) -> np.ndarray:
    """Percentile intervals of contrasts of accuracies, by a bootstrap over test images.

    Images are resampled within strata, the same ones for all cells.

    The accuracy of a cell is the mean over strata of its share of hits. The seed is fixed: the same
    hits give the same bits. An interval without width (cells that are right about the same images)
    is no certainty, but none at all: NaN.

    Args:
        strata: (n_images, n_cells) bool each, none of them empty
        weights: (n_contrasts, n_cells) float

    Returns:
        (n_contrasts, 2) low and high, as shares
    """
    intervals = [_image_interval(strata, row, confidence) for row in weights]
    return np.array(intervals).reshape(-1, 2)


def _image_interval(
    strata: Sequence[np.ndarray], weights: np.ndarray, confidence: float
) -> tuple[float, float]:
    """The interval of one contrast. weights: (n_cells,)

    How often images of the same value are drawn together is multinomial, so that the few values
    that there are need be drawn in place of images.
    """
    rng, shares = np.random.default_rng(0), np.zeros(N_RESAMPLES)
    for hits in strata:
        values, counts = np.unique(np.round(hits @ weights, 12), return_counts=True)
        # in an order that a contrast shares with its negative
        order = np.argsort(counts, kind="stable")
        values, counts = values[order], counts[order]
        drawn = rng.multinomial(len(hits), counts / len(hits), size=N_RESAMPLES)
        shares += drawn @ values / len(hits)
    outside = (1 - confidence) / 2
    low, high = np.quantile(shares / len(strata), [outside, 1 - outside])
    return (low, high) if high - low > RELATIVE_RESOLUTION else (np.nan, np.nan)


def _correlation(a: np.ndarray, b: np.ndarray, resolution: float) -> float:
    """Pearson's correlation; NaN below three points, and where one side is constant."""
    if len(a) < 3 or np.ptp(a) <= resolution or np.ptp(b) <= resolution:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
