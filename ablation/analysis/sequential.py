"""p-values and intervals that stay valid while seeds are added until a claim is decided.

A study looks at planned numbers of seeds and stops adding seeds where a claim is decided. Testing
at 5 % at each look would be wrong far more often than in 5 % of the studies. Here the looks share
one error: at a look with n of at most N seeds, a test is rejected where p <= c (n / N)^RHO, and the
repeated p-value is the probability, without an effect, that some look is rejected at the smallest
such c (Jennison & Turnbull, Group Sequential Methods, 2000, chapter 9). To reject at any look where
the repeated p-value is at most a has an error of at most a over all looks, whatever made the
study stop.

Of several claims, Holm's correction of the repeated p-values at each look keeps the family-wise
error (Ye, Li, Liu & Yao, A group sequential Holm procedure with multiple primary endpoints,
Statistics in Medicine 32, 2013; Maurer & Bretz, Multiple testing in group sequential trials using
graphical approaches, Statistics in Biopharmaceutical Research 5, 2013). A claim that is decided
stays decided and keeps the repeated p-value of the look that decided it. Each planned size is one
look: a study that looks twice at one of them, with other seeds, spends more than is planned.

The constants are those of Student's t, by simulation; normal ones are far off at 3 seeds. The
values are assumed normal, as by the t-test. RHO = 0 is Pocock's boundary. Simulated for one claim
at 5 %, looks at 3, 5, 8, 12 and 20 seeds, and d the effect that 20 seeds find with 80 % in one look
(0.66 standard deviations):

     RHO    power at d    seeds at 1.5 d    fewer trials
    0          0.64           12.0             0.33
    0.25       0.67           12.0             0.33
    0.5        0.69           12.1             0.34
    1          0.73           12.4             0.34
    2          0.77           13.3             0.31

"Fewer trials" compares with a single look of equal power: both find some effect with 80 %, and the
mean number of seeds is taken at 1.5 times that effect. Of five claims that share arms, after Holm's
correction, it is 0.28 at RHO = 1: an arm goes on until its last claim is decided.

RHO = 1 keeps most of the power at the last look, costs little at large effects, and asks for the
strongest evidence at 3 seeds, where it is hardest to tell whether values are normal.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

import numpy as np
from scipy import special

from ablation.analysis.statistics import POWER, power_of

RHO = 1.0

# the most that `needed_seeds` tells
MOST_SEEDS = 10_000

# A repeated p-value of 0.05 has a relative standard error of 0.4 %, one of 0.005 of 1.4 %.
N_PATHS = 1_000_000
# paths simulated at a time: 0.8 MB an array
CHUNK = 100_000


def repeated_p(p: float, n: int, sizes: tuple[int, ...], sides: int = 2) -> float:
    """The repeated p-value of a t-test at one look; NaN where `p` is.

    Where some seeds failed, n is no planned size, and the look counts as that at the next planned
    size above, for which it was meant. Each p is uniform without an effect, whatever its n; only
    how p-values of different looks go together depends on the sizes, and that changes the error
    little.

    Args:
        p: of the t-test over the seeds so far
        n: number of these seeds
        sizes: of all planned looks, increasing, see `ablation.grid.seeds`
        sides: 2, or 1 for a one-sided p: that of `statistics.margin_p` inside the margin

    Raises:
        ValueError: n is above the last planned size
    """
    if np.isnan(p):
        return float("nan")
    total = _weights(sizes).sum()
    # the smallest c of the boundary that rejects
    c = p / _weight(n, sizes)
    minima = _null_minima(sizes, sides)
    simulated = (1 + np.searchsorted(minima, c, side="right")) / (1 + len(minima))
    # Exact bounds: it is at least the error of the last look, whose weight is 1, and at most the
    # sum of the errors of all. They tell more than the simulation where there are few paths.
    return float(min(1.0, np.clip(simulated, c, c * total)))


def repeated_confidence(n: int, sizes: tuple[int, ...], confidence: float = 0.95) -> float:
    """The confidence that one look's t-interval needs for all looks to cover together.

    The intervals of all looks then hold the true value at once with probability `confidence`. An
    interval leaves out 0 exactly where `repeated_p` is below 1 - confidence.

    n, sizes: as in `repeated_p`
    """
    return 1 - one_look_level(n, sizes, 1 - confidence)


def one_look_level(n: int, sizes: tuple[int, ...], level: float, sides: int = 2) -> float:
    """The level of one look's t-test with which all looks together have this level.

    n, sizes, sides: as in `repeated_p`
    """
    total, minima = _weights(sizes).sum(), _null_minima(sizes, sides)
    # `repeated_p`, inverted: the fewest paths at or below c with which it is not below the level
    enough = max(0, int(np.ceil(level * (1 + len(minima)))) - 1)
    simulated = minima[enough - 1] if enough else 0.0
    c = np.clip(simulated, level / total, level)
    return float(c * _weight(n, sizes))


def needed_seeds(effect: float, sd: float, alpha: float, least: int = 2) -> int | None:
    """The fewest seeds with which one paired two-sided t-test finds a true difference by `POWER`.

    None where `effect` or `sd` is 0 or NaN, or where more than `MOST_SEEDS` are needed.

    effect, sd (of the paired differences): in the same unit; least: the fewest to be considered
    """
    if not (abs(effect) > 0 and sd > 0):
        return None
    numbers = range(least, MOST_SEEDS + 1)
    found = bisect_left(numbers, True, key=lambda n: power_of(effect / sd, n, alpha) >= POWER)
    return numbers[found] if found < len(numbers) else None


def _weights(sizes: tuple[int, ...]) -> np.ndarray:
    """(n_looks,) float: share of c at each look; 1 at the last."""
    weights: np.ndarray = (np.array(sizes) / sizes[-1]) ** RHO
    return weights


def _weight(n: int, sizes: tuple[int, ...]) -> float:
    look = bisect_left(sizes, n)
    if look == len(sizes):
        raise ValueError(f"{n} seeds are more than the last planned size of {sizes}")
    return float(_weights(sizes)[look])


@cache
def _null_minima(sizes: tuple[int, ...], sides: int) -> np.ndarray:
    """(N_PATHS,) float, sorted: without an effect, the smallest p / weight of those below 1."""
    rng = np.random.default_rng(0)
    weights = _weights(sizes)
    minima = np.full((N_PATHS // CHUNK, CHUNK), np.inf)
    for own in minima:
        # mean and summed squared deviations of a path's values so far
        mean, squares = np.zeros((2, CHUNK))
        for n, added, weight in zip(sizes, np.diff(sizes, prepend=0), weights, strict=True):
            step = rng.standard_normal(CHUNK) / np.sqrt(added) - mean
            mean += step * added / n
            squares += step**2 * (n - added) * added / n
            if added > 1:
                squares += rng.chisquare(added - 1, CHUNK)
            t = mean / np.sqrt(squares / (n - 1) / n)
            t = -np.abs(t) if sides == 2 else t
            # A p above the weight, which most are, never rejects.
            (low,) = np.nonzero(t < special.stdtrit(n - 1, weight / sides))
            p = sides * special.stdtr(n - 1, t[low])
            own[low] = np.minimum(own[low], p / weight)
    return np.sort(minima, axis=None)
