"""What is said of each comparison that a study supports; which these are, see `ablation.contrasts`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.contrasts import (
    Contrast,
    differences,
    interactions,
    main_effects,
    seeds_of,
    simple_effects,
    single_effects,
)
from ablation.one_run import over_images
from ablation.results import Results
from ablation.statistics import Estimate, adjusted_means, contrast, holm

ALPHA = 0.05

HIGHER, LOWER = "higher", "lower"
NOT_SEPARABLE = "not separable from 0"
BY_CONSTRUCTION = "no effect by construction"
ONE_SEED = "one seed: no interval"
SEPARABLE_ON_RUN = (
    "separable on this one training run"  # one seed: the interval is over test images
)
NOT_SEPARABLE_ON_RUN = "not separable on this one training run"
NO_SPREAD = "seeds agree exactly: no interval"
NO_SEED = "no seed has all its arms"

CSV_COLUMNS = ["effect", "metric", "estimate", "low", "high", "p", "p_holm", "n_seeds", "verdict"]


def judge(results: Results) -> pd.DataFrame:
    """Estimate every comparison on every metric and say what it shows.

    The family of tests for Holm's correction is the main effects and interactions of the headline metric;
    only these have a `p_holm`, and their verdict goes by it. The other rows are descriptive: their verdict
    goes by their own, uncorrected interval, and they stand only where the metric was measured. With exactly
    one seed the intervals are over test images (`ablation.one_run`), and so is the verdict.

    Returns:
        a row per comparison and metric, the headline metric first: `CSV_COLUMNS`, and `kind` (of Contrast),
        `sd` and `correlation` (of Estimate)
    """
    factors = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    names = [*results.arms, *results.baselines]
    family = [*main_effects(results.arms, factors), *interactions(results.arms, factors)]
    contrasts = [
        *family,
        *simple_effects(results.arms, factors),
        *single_effects(results.arms, factors),
    ]
    contrasts += differences(names, results.manifest.reference)
    dead = {one.name for one in contrasts if is_dead(one, results)}
    rows = []
    for metric in results.metrics:
        estimates = _estimates(contrasts, results, metric, names)
        estimates = [
            nothing(estimate) if one.name in dead else estimate
            for one, estimate in zip(contrasts, estimates)
        ]
        p_holm = np.full(len(contrasts), np.nan)
        if metric == results.headline:
            p_holm[: len(family)] = holm([estimate.p for estimate in estimates[: len(family)]])
        for one, estimate, adjusted in zip(contrasts, estimates, p_holm):
            if estimate.n == 0 and metric != results.headline:
                continue
            p = estimate.p if np.isnan(adjusted) else adjusted
            verdict = BY_CONSTRUCTION if one.name in dead else _verdict(estimate, p)
            mean, low, high, own_p, n, sd, correlation = estimate
            row = (
                one.name,
                metric,
                mean,
                low,
                high,
                own_p,
                adjusted,
                n,
                verdict,
                one.kind,
                sd,
                correlation,
            )
            rows.append(row)
    return pd.DataFrame(rows, columns=[*CSV_COLUMNS, "kind", "sd", "correlation"])


def _estimates(
    contrasts: Sequence[Contrast], results: Results, metric: str, names: Sequence[str]
) -> list[Estimate]:
    cells = results.cells(metric)[names]
    n_seeds = seeds_of(cells)
    weights = [one.weights(n_seeds) for one in contrasts]
    return over_images(results, metric, names, weights, [contrast(cells, row) for row in weights])


def nothing(estimate: Estimate) -> Estimate:
    """That of a contrast which `is_dead`: exactly 0, where means of equal numbers may leave a rounding error."""
    return estimate._replace(
        mean=0.0 if estimate.n else estimate.mean, low=np.nan, high=np.nan, p=np.nan
    )


def is_dead(one: Contrast, results: Results) -> bool:
    """Whether the finished trials show, bit by bit, that what is compared makes no difference to anything.

    An interaction is dead where one of its two factors is, at both levels of the other.
    """
    digests = results.digests_by_cell

    def same(pairs: list[tuple[str, str]]) -> bool:
        found = [
            (digests.get((a, seed)), digests.get((b, seed)))
            for a, b in pairs
            for seed in results.manifest.seeds
        ]
        compared = [pair for pair in found if None not in pair]
        return bool(compared) and all(a == b for a, b in compared)

    if one.kind != "interaction":
        return same(one.replicas)
    pairs_of_first, pairs_of_second = [], []
    for both, only_second, only_first, neither in one.replicas:
        pairs_of_first += [(both, only_second), (only_first, neither)]
        pairs_of_second += [(both, only_first), (only_second, neither)]
    return same(pairs_of_first) or same(pairs_of_second)


def interacting_pairs(results: Results, rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The pairs of factors that have an interaction separable from 0.

    rows: those of one metric, from `judge`.
    """
    separable = set(rows.loc[rows["verdict"].isin([HIGHER, LOWER]), "effect"])
    factors = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    found = []
    for pair in combinations(factors, 2):
        names = {
            one.name
            for one in interactions(results.arms, {factor: factors[factor] for factor in pair})
        }
        if names & separable:
            found.append(pair)
    return found


class Ranking(NamedTuple):
    """Which of some arms has the best mean, and which are not separable from it."""

    best: str
    rivals: list[str]  # arms that `best` is not separable from, best mean first
    is_adjusted: bool  # whether arms lack seeds, so that means are `statistics.adjusted_means`


def rank(results: Results, arms: Sequence[str]) -> Ranking | None:
    """Rank arms (or baselines) by the headline metric; None where fewer than two of them have finished.

    Each other arm is compared with it at ALPHA / (number of others); the best has to be the better one. That the best was
    picked after looking is paid for: to miss the truly best arm, that very arm would have to fall behind some other, and
    those are as many comparisons (Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the
    best", Annals of Statistics 1984; with Bonferroni in place of Dunnett). Of one seed, that is so for its test images alone.
    """
    cells = results.cells(results.headline)[arms].dropna(axis="columns", how="all")
    if cells.shape[1] < 2:
        return None
    sign = -1 if results.manifest.metric["goal"] == "minimize" else 1
    means = pd.Series(sign * adjusted_means(cells), cells.columns)
    best, *others = means.sort_values(ascending=False, kind="stable").index
    found = minus_others(results, best, others, confidence=1 - ALPHA / len(others))
    rivals = [
        arm
        for arm, one in zip(others, found)
        if not (one.low > 0 or one.high < 0) or sign * one.mean < 0
    ]
    return Ranking(best, rivals, bool(cells.isna().any(axis=None)))


def minus_others(
    results: Results, arm: str, others: Sequence[str], confidence: float = 0.95
) -> list[Estimate]:
    """`arm` minus each of the others on the headline metric, paired by seed; of one seed, over test images where they are known."""
    cells = results.cells(results.headline)[[arm, *others]]
    weights = [
        np.eye(len(cells.columns))[0] - np.eye(len(cells.columns))[i]
        for i in range(1, len(cells.columns))
    ]
    return over_images(
        results,
        results.headline,
        list(cells),
        weights,
        [contrast(cells, row, confidence) for row in weights],
        confidence,
    )


def _verdict(estimate: Estimate, p: float) -> str:
    if estimate.n == 0:
        return NO_SEED
    if estimate.n == 1:
        if np.isnan(estimate.low):
            return ONE_SEED
        return NOT_SEPARABLE_ON_RUN if estimate.low <= 0 <= estimate.high else SEPARABLE_ON_RUN
    if np.isnan(p):
        return NO_SPREAD
    if p >= ALPHA:
        return NOT_SEPARABLE
    return HIGHER if estimate.mean > 0 else LOWER
