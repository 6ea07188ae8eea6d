"""The comparisons that a study supports, and what is said of each.

One definition serves every design. The effect of a factor's level is its mean difference to the reference
level over all pairs of arms that differ in nothing else: in a full factorial that is the main effect, in a
leave-one-out design the difference to the full arm, in an add-one-in design that to the reference arm. An
interaction is the mean difference of differences over all quadruples of arms that differ in two factors
only, so 0 means that two fixes add up; designs without quadruples have none. Where two fixes interact, the
mean over the other's levels may describe no arm at all: the simple effects, at each level of the other, do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations, product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.results import Results
from ablation.statistics import Estimate, contrast, holm, paired_difference

ALPHA = 0.05

HIGHER, LOWER = "higher", "lower"
NOT_SEPARABLE = "not separable from 0"
BY_CONSTRUCTION = "no effect by construction"
ONE_SEED = "one seed: no interval"
NO_SPREAD = "seeds agree exactly: no interval"
NO_SEED = "no seed has all its arms"

CSV_COLUMNS = ["effect", "metric", "estimate", "low", "high", "p", "p_holm", "n_seeds", "verdict"]

_SIGNS = {2: (1, -1), 4: (1, -1, -1, 1)}


class Contrast(NamedTuple):
    """One comparison, as the mean over its replicas in the design."""

    name: str  # e.g. "lr_split: off -> on", "lr_split x warmup", "lr_split+warmup - ldmlr"
    kind: str  # "main" | "interaction" | "simple" | "difference"
    replicas: list[tuple[str, ...]]  # arms: (treated, control), or (both, second only, first only, neither)

    def weights(self, cells: Sequence[str], finished: set[str]) -> np.ndarray:
        """(n_cells,) float: the mean over the replicas whose arms all have a finished trial."""
        replicas = [replica for replica in self.replicas if finished.issuperset(replica)]
        total = dict.fromkeys(cells, 0.0)
        for replica in replicas:
            for arm, sign in zip(replica, _SIGNS[len(replica)]):
                total[arm] += sign / len(replicas)
        return np.array([total[cell] for cell in cells])


def main_effects(arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]]) -> Iterator[Contrast]:
    """Each non-reference level of each factor against the reference, its first level.

    Args:
        arms: arm -> factor -> level
        factors: factor -> levels
    """
    for factor, (reference, *others) in factors.items():
        for level in others:
            yield level_effect(arms, factor, reference, level)


def level_effect(arms: Mapping[str, Mapping[str, str]], factor: str, start: str, end: str) -> Contrast:
    """One level of a factor against another, over all pairs of arms that differ in nothing else."""
    return Contrast(f"{factor}: {start} -> {end}", "main", _replicas(arms, [{factor: end}, {factor: start}]))


def interactions(arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]]) -> Iterator[Contrast]:
    """Each pair of non-reference levels of two factors, where the design has the arms for it."""
    for first, second in combinations(factors, 2):
        for a, b in product(factors[first][1:], factors[second][1:]):
            corners = product([b, factors[second][0]], [a, factors[first][0]])
            replicas = _replicas(arms, [{first: x, second: y} for y, x in corners])
            if replicas:
                yield Contrast(f"{_name(first, a)} x {_name(second, b)}", "interaction", replicas)


def simple_effects(arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]]) -> Iterator[Contrast]:
    """Each non-reference level of each factor against the reference, at each level of each other factor that it
    could interact with."""
    interacting = {frozenset(pair) for pair in combinations(factors, 2) if _can_interact(arms, factors, *pair)}
    for factor, other in permutations(factors, 2):
        if frozenset((factor, other)) in interacting:
            reference, *levels = factors[factor]
            for level, at in product(levels, factors[other]):
                replicas = _replicas(arms, [{factor: level, other: at}, {factor: reference, other: at}])
                yield Contrast(simple_name(factor, reference, level, other, at), "simple", replicas)


def simple_name(factor: str, reference: str, level: str, other: str, at: str) -> str:
    """How effects.csv calls the effect of a level where another factor is held at one of its levels."""
    return f"{factor}: {reference} -> {level} at {other}={at}"


def _can_interact(arms: Mapping[str, Mapping[str, str]], factors: Mapping[str, Sequence[str]], *pair: str) -> bool:
    return any(interactions(arms, {factor: factors[factor] for factor in pair}))


def differences(cells: Sequence[str], reference: str | None) -> Iterator[Contrast]:
    """Each arm or baseline minus the reference baseline, where the study has one."""
    if reference in cells:
        for cell in cells:
            if cell != reference:
                yield Contrast(difference_name(cell, reference), "difference", [(cell, reference)])


def difference_name(cell: str, reference: str) -> str:
    """How effects.csv calls an arm's or baseline's difference to the reference."""
    return f"{cell} - {reference}"


def judge(results: Results) -> pd.DataFrame:
    """Estimate every comparison on every metric and say what it shows.

    The family of tests for Holm's correction is the main effects and interactions of the headline metric;
    only these have a `p_holm`, and their verdict goes by it. The other rows are descriptive: their verdict
    goes by their own, uncorrected interval, and they stand only where the metric was measured.

    Returns:
        a row per comparison and metric, the headline metric first: `CSV_COLUMNS`, and `kind` (of Contrast),
        `sd` and `correlation` (of Estimate)
    """
    factors = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    names = [*results.arms, *results.baselines]
    family = [*main_effects(results.arms, factors), *interactions(results.arms, factors)]
    contrasts = [*family, *simple_effects(results.arms, factors), *differences(names, results.manifest.reference)]
    dead = {one.name for one in contrasts if is_dead(one, results)}
    rows = []
    for metric in results.metrics:
        cells = results.cells(metric)[names]
        finished = set(cells.columns[cells.notna().any()])
        estimates = [contrast(cells, one.weights(names, finished)) for one in contrasts]
        p_holm = np.full(len(contrasts), np.nan)
        if metric == results.headline:
            p_holm[: len(family)] = holm([estimate.p for estimate in estimates[: len(family)]])
        for one, estimate, adjusted in zip(contrasts, estimates, p_holm):
            if estimate.n == 0 and metric != results.headline:
                continue
            p = estimate.p if np.isnan(adjusted) else adjusted
            verdict = BY_CONSTRUCTION if one.name in dead else _verdict(estimate, p)
            mean, low, high, own_p, n, sd, correlation = estimate
            row = (one.name, metric, mean, low, high, own_p, adjusted, n, verdict, one.kind, sd, correlation)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*CSV_COLUMNS, "kind", "sd", "correlation"])


def is_dead(one: Contrast, results: Results) -> bool:
    """Whether the finished trials show, bit by bit, that what is compared makes no difference to anything.

    An interaction is dead where one of its two factors is, at both levels of the other.
    """
    digests = {(row.arm, row.seed): results.digests.get(row.trial) for row in results.trials.itertuples()}

    def same(pairs: list[tuple[str, str]]) -> bool:
        found = [(digests.get((a, seed)), digests.get((b, seed))) for a, b in pairs for seed in results.manifest.seeds]
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
        names = {one.name for one in interactions(results.arms, {factor: factors[factor] for factor in pair})}
        if names & separable:
            found.append(pair)
    return found


class Ranking(NamedTuple):
    """Which of some arms has the best mean, and which are not separable from it."""

    best: str
    rivals: list[str]  # arms whose difference to `best` is not separable from 0, best mean first


def rank(results: Results, arms: Sequence[str]) -> Ranking | None:
    """Rank arms (or baselines) by the headline metric; None where fewer than two of them have finished.

    Each other arm is compared with it at ALPHA / (number of others). That the best was picked after looking
    is paid for: to miss the truly best arm, that very arm would have to fall behind some other, and those
    are as many comparisons (Hsu, "Constrained simultaneous confidence intervals for multiple comparisons
    with the best", Annals of Statistics 1984; with Bonferroni in place of Dunnett).
    """
    cells = results.cells(results.headline)[arms].dropna(axis="columns", how="all")
    if cells.shape[1] < 2:
        return None
    order = cells.mean().sort_values(ascending=results.manifest.metric["goal"] == "minimize", kind="stable").index
    best, *others = order
    p_values = {arm: paired_difference(cells[best], cells[arm]).p for arm in others}
    return Ranking(best, [arm for arm in others if not p_values[arm] < ALPHA / len(others)])


def _replicas(arms: Mapping[str, Mapping[str, str]], corners: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """For each arm at the first corner, the arms that differ from it as the other corners say and in nothing else."""
    by_levels = {frozenset(levels.items()): arm for arm, levels in arms.items()}
    replicas = []
    for levels in arms.values():
        if corners[0].items() <= levels.items():
            found = [by_levels.get(frozenset({**levels, **corner}.items())) for corner in corners]
            if None not in found:
                replicas.append(tuple(found))
    return replicas


def _name(factor: str, level: str) -> str:
    return factor if level == "on" else f"{factor}={level}"


def _verdict(estimate: Estimate, p: float) -> str:
    if estimate.n == 0:
        return NO_SEED
    if estimate.n == 1:
        return ONE_SEED
    if np.isnan(p):
        return NO_SPREAD
    if p >= ALPHA:
        return NOT_SEPARABLE
    return HIGHER if estimate.mean > 0 else LOWER
