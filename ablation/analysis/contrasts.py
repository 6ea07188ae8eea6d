"""The comparisons that a design supports, each as a mean over replicas: tuples of arms.

One definition serves every design. The effect of a factor's level is its mean difference to the
reference level over all pairs of arms that differ in nothing else: in a full factorial that is the
main effect, in a leave-one-out design the difference to the full arm, in an add-one-in design that
to the reference arm. An interaction is the mean difference of differences over all quadruples of
arms that differ in two factors only, so 0 means that two fixes add up; designs without quadruples
have none. Where two fixes interact, the mean over the other's levels may describe no arm at all:
the simple effects, at each level of the other, do. So do what a level adds alone, to the reference
arm, and what it adds last, to all the other fixes together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ablation.grid.design import Factor, Level

if TYPE_CHECKING:
    # not at run time: a plan's power does without pandas
    import pandas as pd

# arm -> factor -> level
Arms = Mapping[str, Mapping[str, str]]
# factor -> levels, the reference first
Factors = Mapping[str, Sequence[str]]

_SIGNS = {1: (1,), 2: (1, -1), 4: (1, -1, -1, 1)}


class Contrast(NamedTuple):
    """One comparison, as the mean over its replicas in the design."""

    # e.g. "lr_split: off -> on", "lr_split x warmup", "lr_split+warmup - ldmlr"
    name: str
    # "main" | "interaction" | "simple" | "add-one-in" | "leave-one-out" | "difference" | "mean"
    kind: str
    # arms: (treated, control), (both, second only, first only, neither), or (one,)
    replicas: list[tuple[str, ...]]

    @property
    def cells(self) -> set[str]:
        """The arms and baselines that are compared."""
        return {cell for replica in self.replicas for cell in replica}

    def weights(self, n_seeds: Mapping[str, int]) -> np.ndarray:
        """(n_cells,) float: the weights of the mean over replicas.

        A replica counts if all its arms have finished under two seeds; where there is no such
        replica, under one. A seed counts for a contrast where it has all its arms. So that an arm
        that finished once does not leave every mean that it belongs to with that one seed, and
        without an interval, those means do without the arm.

        Args:
            n_seeds: arm or baseline -> seeds under which it has finished, see `seeds_of`
        """
        replicas = enough(self.replicas, n_seeds)
        total = dict.fromkeys(n_seeds, 0.0)
        for replica in replicas:
            for arm, sign in zip(replica, _SIGNS[len(replica)], strict=True):
                total[arm] += sign / len(replicas)
        return np.array(list(total.values()))


def seeds_of(cells: pd.DataFrame) -> dict[str, int]:
    """Arm or baseline -> under how many seeds it has a value.

    cells: (seeds, arms and baselines), NaN where there is no value
    """
    counts: dict[str, int] = cells.notna().sum().to_dict()
    return counts


def enough(groups: Sequence[Sequence[str]], n_seeds: Mapping[str, int]) -> list[Sequence[str]]:
    """The groups whose arms all have finished under two seeds; if there is none, under one."""
    counts = [min(n_seeds[arm] for arm in group) for group in groups]
    least = min(2, max(counts, default=0))
    return [group for group, n in zip(groups, counts, strict=True) if n >= least > 0]


def main_effects(arms: Arms, factors: Factors) -> Iterator[Contrast]:
    """Each non-reference level of each factor against the reference, where the design has arms."""
    for factor, (reference, *others) in factors.items():
        for level in others:
            if (one := level_effect(arms, factor, reference, level)).replicas:
                yield one


def level_effect(arms: Arms, factor: str, start: str, end: str) -> Contrast:
    """One level of a factor against another, over all pairs of arms that differ in nothing else."""
    return Contrast(
        f"{factor}: {start} -> {end}", "main", replicas_of(arms, [{factor: end}, {factor: start}])
    )


def claimed(arms: Arms, sides: Mapping[str, str]) -> Contrast:
    """What a claim compares. sides: its `contrast`, see `ablation.grid.design`."""
    if "level" in sides:
        of = {sides["factor"]: sides["level"]}
        return Contrast("{factor}: {level}".format(**sides), "mean", replicas_of(arms, [of]))
    if "factor" in sides:
        return level_effect(arms, sides["factor"], sides["from"], sides["to"])
    if "minus" not in sides:
        return Contrast(sides["arm"], "mean", [(sides["arm"],)])
    pair = (sides["arm"], sides["minus"])
    return Contrast(difference_name(*pair), "difference", [pair])


def interactions(arms: Arms, factors: Factors) -> Iterator[Contrast]:
    """Each pair of non-reference levels of two factors, where the design has the arms for it."""
    for first, second in combinations(factors, 2):
        for a, b in product(factors[first][1:], factors[second][1:]):
            corners = product([b, factors[second][0]], [a, factors[first][0]])
            replicas = replicas_of(arms, [{first: x, second: y} for y, x in corners])
            if replicas:
                yield Contrast(f"{_name(first, a)} x {_name(second, b)}", "interaction", replicas)


def simple_effects(arms: Arms, factors: Factors) -> Iterator[Contrast]:
    """Each non-reference level of each factor against the reference, at each level of another.

    The others are those that the factor could interact with; only where the design has the arms.
    """
    for factor, other in permutations(factors, 2):
        if not any(interactions(arms, {name: factors[name] for name in (factor, other)})):
            continue
        reference, *levels = factors[factor]
        for level, at in product(levels, factors[other]):
            replicas = replicas_of(
                arms, [{factor: level, other: at}, {factor: reference, other: at}]
            )
            if replicas:
                name = f"{factor}: {reference} -> {level} at {other}={at}"
                yield Contrast(name, "simple", replicas)


def single_effects(arms: Arms, factors: Factors) -> Iterator[Contrast]:
    """What each non-reference level adds alone, and what it adds last.

    Only where the design has the two arms.

    Alone: all other factors at their reference. Last: all others full, so that for a full level it
    is the full arm minus the arm that leaves the factor out. What is a main effect of the design
    already is not repeated.
    """
    alone = {factor: reference for factor, (reference, *_) in factors.items()}
    full = {
        factor: Factor("", tuple(Level(name, {}) for name in levels)).full.name
        for factor, levels in factors.items()
    }
    for factor, (reference, *levels) in factors.items():
        for level, (kind, others, when) in product(
            levels, [("add-one-in", alone, "alone"), ("leave-one-out", full, "added last")]
        ):
            replicas = replicas_of(arms, [{**others, factor: level}, {**others, factor: reference}])
            if replicas and replicas != level_effect(arms, factor, reference, level).replicas:
                yield Contrast(f"{factor}: {reference} -> {level} ({when})", kind, replicas)


def differences(cells: Sequence[str], reference: str | None) -> Iterator[Contrast]:
    """Each arm or baseline minus the reference baseline, where the study has one."""
    if reference is not None and reference in cells:
        for cell in cells:
            if cell != reference:
                yield Contrast(difference_name(cell, reference), "difference", [(cell, reference)])


def difference_name(cell: str, reference: str) -> str:
    """The name in effects.csv of an arm's or baseline's difference to the reference."""
    return f"{cell} - {reference}"


def replicas_of(arms: Arms, corners: Sequence[Mapping[str, str]]) -> list[tuple[str, ...]]:
    """For each arm at the first corner, the arms that differ from it in the corners' levels alone.

    An arm that lacks one of these is left out.
    """
    by_levels = {frozenset(levels.items()): arm for arm, levels in arms.items()}
    replicas = []
    for levels in arms.values():
        if corners[0].items() <= levels.items():
            wanted = [frozenset({**levels, **corner}.items()) for corner in corners]
            if all(one in by_levels for one in wanted):
                replicas.append(tuple(by_levels[one] for one in wanted))
    return replicas


def _name(factor: str, level: str) -> str:
    return factor if level == "on" else f"{factor}={level}"
