"""Claims of a grid, judged: supported, refuted, or not decided.

Each expectation of a claim is one two-sided test of its contrast on its metric, by the machinery of the effects:
taken within each seed, then estimated across seeds. All expectations of all claims of a study are one family for
Holm's correction. That no effect was found never supports "none": only trials that agree bit by bit do, or, where the
claim says within which margin a metric should stay, a test that it does (`statistics.margin_p`).
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
from ablation.statistics import Estimate, contrast, holm, margin_p

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
    within: float | None  # how far "none" may be from 0
    found: Estimate  # its interval and p are uncorrected; with `within`, the p is that of `margin_p`
    is_dead: bool  # the trials compared agree bit by bit


def judge_claims(results: Results, effects: pd.DataFrame) -> pd.DataFrame:
    """A row per expectation of each claim, in the grid's order: `CSV_COLUMNS`.

    effects: from `effects.judge`; tells which factors interact.
    """
    expectations = [one for claim in results.manifest.claims for one in _expectations(claim, results)]
    corrected = holm([one.found.p for one in expectations])
    verdicts = [_verdict(one, p) for one, p in zip(expectations, corrected)]
    rows = []
    for one, p_holm, verdict in zip(expectations, corrected, verdicts):
        whole = _of_claim([own for other, own in zip(expectations, verdicts) if other.claim is one.claim])
        mean, low, high, p, n_seeds, *_ = one.found
        direction = one.direction if one.within is None else f"{one.direction} within {one.within:g}"
        what = (one.claim["id"], one.claim["says"], one.compared.name, one.metric, direction)
        rows.append((*what, mean, low, high, p, p_holm, n_seeds, verdict, whole, _level_by_level(one, results, effects)))
    return pd.DataFrame(rows, columns=CSV_COLUMNS)


def _expectations(claim: Mapping[str, Any], results: Results) -> list[_Expectation]:
    compared = _contrast(claim["contrast"], results)
    is_dead = judged.is_dead(compared, results)
    expectations = []
    for one in claim["expects"]:
        metric, within = results.column(one["metric"]), one.get("within")
        found = _estimate(compared, metric, results)
        if is_dead:
            found = judged.nothing(found)
        elif within is not None:
            found = found._replace(p=margin_p(found, within))
        expectations.append(_Expectation(claim, compared, metric, one["direction"], within, found, is_dead))
    return expectations


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


def _verdict(one: _Expectation, p_holm: float) -> str:
    """By the corrected p and the estimate's sign, or the side of the margin that it lies on."""
    if one.is_dead and one.found.n:
        return SUPPORTED if one.direction == "none" else REFUTED
    if not p_holm < ALPHA:  # also where it is not defined: one seed, no seed, seeds that agree exactly
        return NOT_DECIDED
    if one.within is not None:
        return SUPPORTED if abs(one.found.mean) < one.within else REFUTED
    return SUPPORTED if one.direction == ("up" if one.found.mean > 0 else "down") else REFUTED


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
