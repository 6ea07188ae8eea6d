"""What each factor does, and the intervals by which that was judged.

A main effect is the mean over the settings of all other factors. Where a factor interacts with
others, that mean may describe no arm, and its effect is told at each setting of those others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis import effects as judged
from ablation.analysis.contrasts import Contrast, level_effect, replicas_of, seeds_of
from ablation.analysis.looks import ALPHA, t_limit, tested_level
from ablation.analysis.results import Results
from ablation.analysis.statistics import Estimate


class Setting(NamedTuple):
    """A level's effect at one setting of the factors that it interacts with."""

    # factor -> level
    of: dict[str, str]
    # its interval is corrected for the number of settings that the effect is told at
    found: Estimate


class LevelEffect(NamedTuple):
    """What a level of a factor changes, compared with the factor's reference level."""

    factor: str
    reference: str
    level: str
    # over all settings of the other factors; the interval is that of `judged_intervals`
    mean: float
    low: float
    high: float
    # see `ablation.analysis.effects`
    verdict: str
    # where the factor interacts with others, else empty
    settings: list[Setting]
    # see `effects.missing_arms`
    over: str = ""


def level_effects(results: Results, rows: pd.DataFrame) -> list[LevelEffect]:
    """Each level of each factor that the design has arms for, in the grid's order.

    rows: of the primary metric, from `effects.judge`
    """
    named = judged_intervals(results, rows).set_index("effect")
    n_seeds = seeds_of(results.cells(results.primary))
    separable = (judged.HIGHER, judged.LOWER, judged.SEPARABLE_ON_RUN)
    found = []
    for factor, (reference, *levels) in results.factors.items():
        for level in levels:
            # the other levels of the factor may interact with factors that this one does not
            own = {**results.factors, factor: [reference, level]}
            pairs = judged.interacting_pairs(results, rows, separable, own)
            others = [name for pair in pairs if factor in pair for name in pair if name != factor]
            compared = level_effect(results.arms, factor, reference, level)
            if compared.name not in named.index:
                continue
            row = named.loc[compared.name]
            interval = float(row["estimate"]), float(row["low"]), float(row["high"])
            settings = list(_settings(results, factor, reference, level, others)) if others else []
            over = judged.missing_arms(compared, results, n_seeds)
            ends = factor, reference, level
            found.append(LevelEffect(*ends, *interval, row["verdict"], settings, over))
    return found


def _settings(
    results: Results, factor: str, reference: str, level: str, others: Sequence[str]
) -> list[Setting]:
    """A level's effect at each combination of the others' levels that has finished arms.

    Their intervals hold together with 95 %, by Bonferroni: what is said of an effect, such as that
    it is above 0 "only with" a level of another factor, is read off all of them.
    """
    combinations = [
        dict(zip(others, levels, strict=True))
        for levels in product(*(results.factors[other] for other in others))
    ]
    replicas = [
        replicas_of(results.arms, [{**of, factor: end} for end in (level, reference)])
        for of in combinations
    ]
    contrasts = [Contrast("", "simple", own) for own in replicas]
    dead = [judged.is_dead(one, results) for one in contrasts]
    confidence = 1 - ALPHA / max(1, sum(map(bool, replicas)))
    estimates = judged.estimated(results, results.primary, contrasts, dead, confidence)
    return [
        Setting(of, found) for of, found in zip(combinations, estimates, strict=True) if found.n
    ]


def judged_intervals(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, where those of Holm's family have the interval that their verdict goes by.

    Such an interval, at `looks.tested_level`, holds 0 exactly where the verdict is "not separable
    from 0".

    rows: of the primary metric, from `effects.judge`
    """
    is_tested = rows["p_holm"].notna() & (rows["p"] > 0) & (rows["sd"] > 0)
    is_retained = rows["kind"].isin(["main", "interaction"]) & ~(rows["p_holm"] < ALPHA)
    half = pd.Series(np.nan, rows.index)
    for row in rows[is_tested].itertuples():
        level = tested_level(row.p, row.p_holm, int(is_retained.sum()))
        half[row.Index] = t_limit(level, row.n_seeds, results.looks) * row.sd / np.sqrt(row.n_seeds)
    return rows.assign(
        low=(rows["estimate"] - half).where(is_tested, rows["low"]),
        high=(rows["estimate"] + half).where(is_tested, rows["high"]),
    )
