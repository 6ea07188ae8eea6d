"""Claims of a grid, judged: supported, refuted, or not decided.

Each expectation of a claim is one two-sided test of its contrast on its metric, by the machinery of the effects:
taken within each seed, then estimated across seeds. All expectations of all claims of a study are one family for
Holm's correction. That no effect was found never supports "none": only trials that agree bit by bit do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation import effects as judged
from ablation.contrasts import Contrast, difference_name, level_effect, seeds_of, simple_effects
from ablation.effects import ALPHA
from ablation.formatting import effect, listed
from ablation.results import Results
from ablation.statistics import Estimate, contrast, holm

SUPPORTED, REFUTED, NOT_DECIDED = "supported", "refuted", "not decided"

# `level_by_level` tells a factor's effect at each level of the factors that it interacts with, "" where there are none.
CSV_COLUMNS = [
    "claim", "says", "contrast", "metric", "direction", "estimate", "low", "high", "p", "p_holm", "n_seeds",
    "verdict", "claim_verdict", "level_by_level",
]  # fmt: skip


class _Expectation(NamedTuple):
    """What one claim expects of one metric, and what was found."""

    claim: Mapping[str, Any]
    compared: Contrast
    metric: str
    direction: str  # "up" | "down" | "none"
    found: Estimate  # its interval and p are uncorrected
    is_dead: bool  # the trials compared agree bit by bit


def judge_claims(results: Results, effects: pd.DataFrame) -> pd.DataFrame:
    """A row per expectation of each claim, in the grid's order: `CSV_COLUMNS`.

    effects: from `effects.judge`; tells which factors interact.
    """
    expectations = [one for claim in results.manifest.claims for one in _expectations(claim, results)]
    corrected = holm([one.found.p for one in expectations])
    verdicts = [_verdict(one.direction, one.found, p, one.is_dead) for one, p in zip(expectations, corrected)]
    rows = []
    for one, p_holm, verdict in zip(expectations, corrected, verdicts):
        whole = _of_claim([own for other, own in zip(expectations, verdicts) if other.claim is one.claim])
        mean, low, high, p, n_seeds, *_ = one.found
        what = (one.claim["id"], one.claim["says"], one.compared.name, one.metric, one.direction)
        rows.append((*what, mean, low, high, p, p_holm, n_seeds, verdict, whole, _level_by_level(one, results, effects)))
    return pd.DataFrame(rows, columns=CSV_COLUMNS)


def _expectations(claim: Mapping[str, Any], results: Results) -> list[_Expectation]:
    compared = _contrast(claim["contrast"], results)
    is_dead = judged.is_dead(compared, results)
    found = [_estimate(compared, one["metric"], results) for one in claim["expects"]]
    return [
        _Expectation(claim, compared, one["metric"], one["direction"], judged.nothing(estimate) if is_dead else estimate, is_dead)
        for one, estimate in zip(claim["expects"], found)
    ]


def _contrast(sides: Mapping[str, str], results: Results) -> Contrast:
    if "factor" in sides:
        return level_effect(results.arms, sides["factor"], sides["from"], sides["to"])
    pair = (sides["arm"], sides["minus"])
    return Contrast(difference_name(*pair), "difference", [pair])


def _estimate(compared: Contrast, metric: str, results: Results) -> Estimate:
    """Across seeds; of no seed where the metric was not measured."""
    if metric not in results.metrics:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, np.nan, np.nan)
    cells = results.cells(metric)
    return contrast(cells, compared.weights(seeds_of(cells)))


def _verdict(direction: str, found: Estimate, p_holm: float, is_dead: bool) -> str:
    """By the corrected p and the sign of the estimate."""
    if is_dead and found.n:
        return SUPPORTED if direction == "none" else REFUTED
    if not p_holm < ALPHA:  # also where it is not defined: one seed, no seed, seeds that agree exactly
        return NOT_DECIDED
    return SUPPORTED if direction == ("up" if found.mean > 0 else "down") else REFUTED


def _of_claim(verdicts: list[str]) -> str:
    if REFUTED in verdicts:
        return REFUTED
    return NOT_DECIDED if NOT_DECIDED in verdicts else SUPPORTED


def _level_by_level(one: _Expectation, results: Results, effects: pd.DataFrame) -> str:
    """The simple effects where the factor interacts with others, so that its mean may describe no arm."""
    sides = one.claim["contrast"]
    if "factor" not in sides:
        return ""
    factor, ends = sides["factor"], [sides["from"], sides["to"]]
    pairs = judged.interacting_pairs(results, effects[effects["metric"] == one.metric])
    told = []
    for (other,) in [set(pair) - {factor} for pair in pairs if factor in pair]:
        levels = {factor: ends, other: list(results.manifest.factors[other])}
        for simple in simple_effects(results.arms, levels):
            if simple.name.startswith(f"{one.compared.name} at "):
                found = _estimate(simple, one.metric, results)
                told.append(f"{effect(found.mean, found.low, found.high)} at {simple.name.split(' at ')[1]}")
    return listed(told)
