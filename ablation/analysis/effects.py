"""Estimate and judge every comparison that a study supports, see `ablation.analysis.contrasts`.

A study with one seed has intervals of a paired bootstrap over test images, not over seeds
(`over_images`). The images are resampled, the same ones for all arms, so that what they find hard
alike cancels. Such an interval tells how the numbers would change with other test images of this
kind and the same trained weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis.contrasts import (
    Arms,
    Contrast,
    Factors,
    differences,
    enough,
    interactions,
    main_effects,
    replicas_of,
    seeds_of,
    simple_effects,
    single_effects,
)
from ablation.analysis.looks import ALPHA, Replay, repeated, replay
from ablation.analysis.results import EFFECT_COLUMNS, OVER, Results, identities
from ablation.analysis.sequential import one_look_level
from ablation.analysis.statistics import (
    Estimate,
    adjusted_means,
    contrast,
    holm,
    image_bootstrap,
    smallest_detectable,
)
from ablation.formatting import listed

HIGHER, LOWER = "higher", "lower"
NOT_SEPARABLE = "not separable from 0"
BY_CONSTRUCTION = "no effect by construction"
# An accuracy of 1.0 in each seed is one number.
FEWEST_NUMBERS = 10
# of arms that an effect does without
MAX_NAMED = 4
ONE_SEED = "one seed: no interval"
# one seed: the interval is over test images
SEPARABLE_ON_RUN = "separable on this one training run"
NOT_SEPARABLE_ON_RUN = "not separable on this one training run"
NO_SPREAD = "seeds agree exactly: no interval"
NO_SEED = "no seed has all its arms"
# of which trials record hits: means over images, and over classes of images
IMAGE_METRICS = tuple(
    f"{part}/{name}" for part in ("test", "validation") for name in ("top1", "balanced_accuracy")
)


def judge(results: Results) -> pd.DataFrame:
    """Estimate every comparison on every metric, with its verdict.

    The family of tests for Holm's correction is the main effects and interactions of the primary
    metric; only these have a `p_holm`, and their verdict goes by it. The other rows are
    descriptive: their verdict goes by their own, uncorrected interval, and they stand only where
    the metric was measured. With exactly one seed the intervals are over test images
    (`ablation.analysis.statistics`), and so is the verdict; those of the family hold together with
    95 %, by Bonferroni.

    Returns:
        a row per comparison and metric, the primary metric first: `EFFECT_COLUMNS`, `OVER` and
        `kind` (of Contrast), `sd` and `correlation` (of Estimate)
    """
    names = [*results.arms, *results.baselines]
    design = results.arms, results.factors
    family = [*main_effects(*design), *interactions(*design)]
    contrasts = [
        *family,
        *simple_effects(*design),
        *single_effects(*design),
        *differences(names, results.manifest.reference),
    ]
    dead = [is_dead(one, results) for one in contrasts]
    rows = []
    for metric in results.metrics:
        cells = results.cells(metric)
        n_seeds = seeds_of(cells)
        n = len(family) if metric == results.primary else 0
        # over seeds, p is corrected
        confidence = 1 - ALPHA / max(n, 1) if len(results.manifest.seeds) == 1 else 0.95
        estimates = [
            *estimated(results, metric, contrasts[:n], dead[:n], confidence),
            *estimated(results, metric, contrasts[n:], dead[n:]),
        ]
        p_holm = np.full(len(contrasts), np.nan)
        if metric == results.primary:
            p_holm[: len(family)] = holm([estimate.p for estimate in estimates[: len(family)]])
            if results.manifest.decides_effects:
                questions = effects_replay(results).questions
                estimates[: len(family)] = [question.tested.found for question in questions]
                p_holm[: len(family)] = [question.p_holm for question in questions]
        told = zip(contrasts, estimates, p_holm, dead, strict=True)
        for one, estimate, adjusted, is_same in told:
            if estimate.n == 0 and metric != results.primary:
                continue
            p = estimate.p if np.isnan(adjusted) else adjusted
            verdict = BY_CONSTRUCTION if is_same else _verdict(estimate, p)
            *interval, n, sd, correlation = estimate
            limits = missing_arms(one, results, n_seeds), survived(one, results, cells)
            over = "; ".join(filter(None, limits))
            found = [*interval, adjusted, n, verdict, over, one.kind, sd, correlation]
            rows.append([one.name, metric, *found])
    return pd.DataFrame(rows, columns=[*EFFECT_COLUMNS, OVER, "kind", "sd", "correlation"])


def estimated(
    results: Results,
    metric: str,
    contrasts: Sequence[Contrast],
    dead: Sequence[bool],
    confidence: float = 0.95,
) -> list[Estimate]:
    """Each contrast on a metric, by what all looks share. dead: whether each `is_dead`"""
    cells = results.cells(metric)
    n_seeds, values = seeds_of(cells), cells.to_numpy()
    weights = [one.weights(n_seeds) for one in contrasts]
    found = [
        repeated(contrast(values, row, confidence), results.looks, confidence) for row in weights
    ]
    found = over_images(results, metric, list(cells), weights, found, confidence)
    return [without_effect(one) if same else one for one, same in zip(found, dead, strict=True)]


class _Effect(NamedTuple):
    """A main effect or an interaction, on the primary metric."""

    found: Estimate
    is_dead: bool

    @property
    def n_measured(self) -> int:
        return self.found.n


def effects_replay(results: Results) -> Replay[_Effect]:
    """The main effects and interactions, look by look; main effects alone ask for more seeds."""
    design = results.arms, results.factors
    mains, family = list(main_effects(*design)), [*main_effects(*design), *interactions(*design)]

    def test(some: Results) -> list[_Effect]:
        dead = [is_dead(one, some) for one in family]
        return list(map(_Effect, estimated(some, some.primary, family, dead), dead))

    return replay(
        results,
        groups=[one.name for one in family],
        cells={one.name: one.cells for one in mains},
        test=test,
        is_settled=lambda questions: all(one.decided_at for one in questions),
    )


def missing_arms(one: Contrast, results: Results, n_seeds: Mapping[str, int]) -> str:
    """Which of the arms that it compares a contrast does without, see `Contrast.weights`.

    `over 1 of 2 pairs of arms: without `a+b` (1 of 5 seeds)`; "" of none.

    n_seeds: see `contrasts.seeds_of`
    """
    kept = enough(one.replicas, n_seeds)
    if len(kept) in (0, len(one.replicas)):
        return ""
    # as `enough` asks for: the others have their pair left out with them
    least = min(2, *(n_seeds[arm] for group in kept for arm in group))
    planned = results.trials["arm"].value_counts()
    arms = [
        f"`{arm}` ({n} of {planned[arm]} seeds)"
        for arm, n in n_seeds.items()
        if arm in one.cells and n < least
    ]
    if len(arms) > MAX_NAMED:
        arms = [f"{len(arms)} arms"]
    what = {1: "arms", 2: "pairs of arms"}.get(len(one.replicas[0]), "groups of four arms")
    return f"over {len(kept)} of {len(one.replicas)} {what}: without {listed(arms)}"


def survived(one: Contrast, results: Results, cells: pd.DataFrame) -> str:
    """In how many of its seeds no trial failed that a contrast compares; "" if in all.

    `in 4 of 10 seeds: where `a` did not fail`. What differs there may differ by which trials fail.
    """
    if not results.failed:
        return ""
    used = [arm for group in enough(one.replicas, seeds_of(cells)) for arm in group]
    arms = [f"`{arm}`" for arm in dict.fromkeys(used) if arm in results.failed]
    if not arms:
        return ""
    own = results.trials[results.trials["arm"].isin(used)]
    n_planned = int((own.groupby("seed")["arm"].nunique() == len(set(used))).sum())
    n = int(cells[used].notna().all(axis=1).sum())
    if len(arms) > MAX_NAMED:
        arms = [f"{len(arms)} arms"]
    return f"in {n} of {n_planned} seeds: where {listed(arms)} did not fail"


def without_effect(estimate: Estimate) -> Estimate:
    """The estimate of a contrast that `is_dead`: exactly 0, without a rounding error."""
    mean = 0.0 if estimate.n else estimate.mean
    return estimate._replace(mean=mean, low=np.nan, high=np.nan, p=np.nan)


def is_dead(one: Contrast, results: Results) -> bool:
    """Whether the finished trials show, bit by bit, that what is compared changes nothing.

    An interaction is dead where one of its two factors is, at both levels of the other. Of own
    code less than `FEWEST_NUMBERS` show nothing: they may be equal though the arms differ.
    """

    def same(pairs: Sequence[tuple[str, ...]]) -> bool:
        is_compared = False
        for a, b in pairs:
            for seed in results.manifest.seeds:
                first, second = results.digest(a, seed), results.digest(b, seed)
                if first is None or second is None:
                    continue
                # the others need not be known, and may not have been read
                if first != second:
                    return False
                is_compared = True
        arms = {arm for pair in pairs for arm in pair}
        is_shown = not results.is_of_own_code or results.n_numbers(arms) >= FEWEST_NUMBERS
        return is_compared and is_shown

    if one.kind != "interaction":
        return same(one.replicas)
    pairs_of_first, pairs_of_second = [], []
    for both, only_second, only_first, neither in one.replicas:
        pairs_of_first += [(both, only_second), (only_first, neither)]
        pairs_of_second += [(both, only_first), (only_second, neither)]
    return same(pairs_of_first) or same(pairs_of_second)


def interacting_pairs(
    results: Results,
    rows: pd.DataFrame,
    verdicts: Sequence[str] = (HIGHER, LOWER),
    factors: Factors | None = None,
) -> list[tuple[str, str]]:
    """The pairs of factors that have an interaction with one of these verdicts.

    rows: those of one metric, from `judge`; factors: with the levels that count, default all
    """
    separable = set(rows.loc[rows["verdict"].isin(verdicts), "effect"])
    factors = results.factors if factors is None else factors
    return [
        pair
        for pair in combinations(factors, 2)
        if separable & set(_interactions(results.arms, factors, pair))
    ]


def level_by_level(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The simple effects of each pair of factors whose interaction is separable from 0.

    rows: those of one metric, from `judge`.
    """
    found = [rows.iloc[:0]]
    for pair in interacting_pairs(results, rows):
        levels = {factor: results.factors[factor] for factor in pair}
        names = [one.name for one in simple_effects(results.arms, levels)]
        found.append(rows[rows["effect"].isin(names)])
    return pd.concat(found)


class FactorPair(NamedTuple):
    """Two factors whose interaction is among the study's comparisons."""

    factors: tuple[str, str]
    # names of its effects, as in effects.csv
    interactions: list[str]
    # (level of the first, of the second) -> mean of a metric over seeds
    means: dict[tuple[str, str], Estimate]


def factor_pairs(results: Results, metric: str) -> Iterator[FactorPair]:
    """Each pair of factors with interactions, if all combinations of levels have finished arms.

    A combination's mean is taken within each seed over the arms that have it, and then over seeds.
    Arms and seeds are those of the interaction, the same in every combination: what is not parallel
    is then the interaction, and no trial that one combination lacks.
    """
    cells = results.cells(metric)[list(results.arms)]
    n_seeds = seeds_of(cells)
    for pair in combinations(results.factors, 2):
        first, second = pair
        levels = list(product(results.factors[first], results.factors[second]))
        corners = [{first: a, second: b} for a, b in levels]
        groups = enough(replicas_of(results.arms, corners), n_seeds)
        seeds = cells.dropna(subset=[arm for group in groups for arm in group])
        names = _interactions(results.arms, results.factors, pair)
        if names and groups and len(seeds):
            means = {
                one: repeated(contrast(seeds, seeds.columns.isin(arms) / len(arms)), results.looks)
                for one, arms in zip(levels, zip(*groups, strict=True), strict=True)
            }
            yield FactorPair(pair, names, means)


def _interactions(arms: Arms, factors: Factors, pair: tuple[str, str]) -> list[str]:
    """Names of the interactions of two factors."""
    return [one.name for one in interactions(arms, {factor: factors[factor] for factor in pair})]


def is_conditional(rows: pd.DataFrame) -> bool:
    """Whether intervals are over test images of one training run, not over seeds.

    rows: from `judge`
    """
    return bool((rows["low"].notna() & (rows["n_seeds"] == 1)).any())


class Detectable(NamedTuple):
    """The smallest true difference that a study finds with 80 % probability.

    Before any correction, except for `corrected`.
    """

    # the fewest among the rows that have a spread; 0 where none has, and the rest is NaN
    n_seeds: int
    # by the standard deviation pooled over the rows: what to expect of rows that vary alike
    pooled: float
    # by the standard deviation of the row that varies least
    least: float
    # by that of the row that varies most
    most: float
    # as `pooled`, at the first step of Holm's correction
    corrected: float


def detectable(rows: pd.DataFrame, n_tests: int = 1, looks: tuple[int, ...] = ()) -> Detectable:
    """The smallest detectable differences.

    rows: of one metric, from `judge`; n_tests: of Holm's family; looks: planned numbers of seeds,
    of which the test is that at the rows' own
    """
    sds = rows.loc[rows["sd"] > 0, "sd"]
    if sds.empty:
        return Detectable(0, np.nan, np.nan, np.nan, np.nan)
    n_seeds, pooled = int(rows.loc[sds.index, "n_seeds"].min()), float(np.sqrt((sds**2).mean()))
    alpha, corrected = ALPHA, ALPHA / n_tests
    if looks:
        alpha, corrected = (one_look_level(n_seeds, looks, one) for one in (alpha, corrected))
    return Detectable(
        n_seeds,
        pooled=smallest_detectable(pooled, n_seeds, alpha=alpha),
        least=smallest_detectable(sds.min(), n_seeds, alpha=alpha),
        most=smallest_detectable(sds.max(), n_seeds, alpha=alpha),
        corrected=smallest_detectable(pooled, n_seeds, alpha=corrected),
    )


class Ranking(NamedTuple):
    """Which of some arms has the best mean, and which are not separable from it."""

    best: str
    # arms that `best` is not separable from, best mean first
    rivals: list[str]
    # whether arms lack seeds, so that means are `statistics.adjusted_means`
    is_adjusted: bool


def rank(results: Results, arms: Sequence[str]) -> Ranking | None:
    """Rank arms or baselines by the primary metric; None where fewer than two have finished.

    Each other arm is compared with it at ALPHA / (number of others, finished or not); the best has
    to be the better one. That the best was picked after looking is paid for: to miss the truly best
    arm, that very arm would have to fall behind some other, and those are as many comparisons (Hsu,
    "Constrained simultaneous confidence intervals for multiple comparisons with the best", Annals
    of Statistics 1984; with Bonferroni in place of Dunnett). Of one seed, that is so for its test
    images alone.
    """
    cells = results.cells(results.primary)[arms].dropna(axis="columns", how="all")
    if cells.shape[1] < 2:
        return None
    sign = -1 if results.manifest.metric["goal"] == "minimize" else 1
    means = pd.Series(sign * adjusted_means(cells), cells.columns)
    best, *others = means.sort_values(ascending=False, kind="stable").index
    found = minus_others(results, best, others, confidence=1 - ALPHA / (len(arms) - 1))
    rivals = [
        arm
        for arm, one in zip(others, found, strict=True)
        if not (one.low > 0 or one.high < 0) or sign * one.mean < 0
    ]
    return Ranking(best, rivals, bool(cells.isna().any(axis=None)))


def minus_others(
    results: Results, arm: str, others: Sequence[str], confidence: float = 0.95
) -> list[Estimate]:
    """`arm` minus each of the others on the primary metric, paired by seed.

    With one seed, over test images where they are known.
    """
    metric, names = results.primary, [arm, *others]
    cells, signs = results.cells(metric)[names], np.eye(len(names))
    weights = [signs[0] - other for other in signs[1:]]
    found = [
        repeated(contrast(cells, row, confidence), results.looks, confidence) for row in weights
    ]
    return over_images(results, metric, names, weights, found, confidence)


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
    is_judged = len(results.manifest.seeds) == 1 and metric in IMAGE_METRICS
    hits = _hits(results, names) if is_judged else {}
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
    if metric not in IMAGE_METRICS or len(both) < 2 or len(sizes) > 1:
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
