"""Means over the combinations of two factors' levels: what an interaction plot shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from ablation.contrasts import interactions
from ablation.results import Results
from ablation.statistics import Estimate, contrast


class Pair(NamedTuple):
    """Two factors whose interaction is among the study's comparisons."""

    factors: tuple[str, str]
    interactions: list[str]  # names of its effects, as in effects.csv
    means: dict[tuple[str, str], Estimate]  # (level of the first, of the second) -> mean of a metric over seeds


def pairs(results: Results, metric: str) -> Iterator[Pair]:
    """Each pair of factors that the design can tell an interaction of, where every combination has finished arms.

    A combination's mean is taken within each seed over the arms that have it, and then over seeds. The other
    factors' levels weigh the same in every combination: an arm counts where its counterparts have finished too.
    """
    factors = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    cells = results.cells(metric)[list(results.arms)]
    finished = set(cells.columns[cells.notna().any()])
    for pair in combinations(factors, 2):
        names = [one.name for one in interactions(results.arms, {factor: factors[factor] for factor in pair})]
        wanted = list(product(*(factors[factor] for factor in pair)))
        blocks = [block for block in _blocks(results, pair, finished) if set(block) == set(wanted)]
        if names and blocks:
            arms = {levels: [block[levels] for block in blocks] for levels in wanted}
            yield Pair(pair, names, {levels: contrast(cells, np.isin(cells.columns, of) / len(of)) for levels, of in arms.items()})


def _blocks(results: Results, pair: tuple[str, str], finished: set[str]) -> list[dict[tuple[str, str], str]]:
    """Levels of the pair -> arm, for each combination of the other factors' levels."""
    blocks: dict[frozenset, dict[tuple[str, str], str]] = {}
    for arm, levels in results.arms.items():
        if arm in finished:
            others = frozenset(item for item in levels.items() if item[0] not in pair)
            blocks.setdefault(others, {})[levels[pair[0]], levels[pair[1]]] = arm
    return list(blocks.values())
