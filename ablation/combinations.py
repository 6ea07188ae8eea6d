"""Means over the combinations of two factors' levels: what an interaction plot shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

from ablation.contrasts import enough, interactions, seeds_of
from ablation.results import Results
from ablation.statistics import Estimate, contrast


class Pair(NamedTuple):
    """Two factors whose interaction is among the study's comparisons."""

    factors: tuple[str, str]
    interactions: list[str]  # names of its effects, as in effects.csv
    means: dict[
        tuple[str, str], Estimate
    ]  # (level of the first, of the second) -> mean of a metric over seeds


def pairs(results: Results, metric: str) -> Iterator[Pair]:
    """Each pair of factors that the design can tell an interaction of, where every combination has finished arms.

    A combination's mean is taken within each seed over the arms that have it, and then over seeds. Arms and seeds are
    those of the interaction, the same in every combination: what is not parallel is then the interaction, and no trial
    that one combination lacks.
    """
    factors = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    cells = results.cells(metric)[list(results.arms)]
    n_seeds = seeds_of(cells)
    for pair in combinations(factors, 2):
        names = [
            one.name
            for one in interactions(results.arms, {factor: factors[factor] for factor in pair})
        ]
        wanted = list(product(*(factors[factor] for factor in pair)))
        whole = [
            [block[levels] for levels in wanted]
            for block in _blocks(results, pair)
            if set(block) == set(wanted)
        ]
        counted = enough(whole, n_seeds)
        seeds = cells.dropna(subset=[arm for block in counted for arm in block])
        if names and counted and len(seeds):
            arms = dict(zip(wanted, zip(*counted)))
            yield Pair(
                pair,
                names,
                {
                    levels: contrast(seeds, seeds.columns.isin(of) / len(of))
                    for levels, of in arms.items()
                },
            )


def _blocks(results: Results, pair: tuple[str, str]) -> list[dict[tuple[str, str], str]]:
    """Levels of the pair -> arm, for each combination of the other factors' levels. Arms beside the design have no levels."""
    blocks: dict[frozenset, dict[tuple[str, str], str]] = {}
    for arm, levels in results.arms.items():
        if not set(pair) <= set(levels):
            continue
        others = frozenset(item for item in levels.items() if item[0] not in pair)
        blocks.setdefault(others, {})[levels[pair[0]], levels[pair[1]]] = arm
    return list(blocks.values())
