"""Claims of a grid, judged: supported, refuted, or not decided.

Each expectation of a claim is one two-sided test of its contrast on its metric, by the machinery of the effects:
taken within each seed, then estimated across seeds. Of a contrast with one side, an arm or a factor's level, the
mean is tested against the number that it should lie above or below. All expectations of all claims of a study are one family for
Holm's correction. That no effect was found never supports "none": only trials that agree bit by bit do, or, where the
claim says within which margin a metric should stay, a test that it does (`statistics.margin_p`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation import effects as judged
from ablation.contrasts import (
    Contrast,
    difference_name,
    level_effect,
    level_mean,
    seeds_of,
    simple_effects,
)
from ablation.effects import ALPHA
from ablation.formatting import effect, listed, mean_of
from ablation.results import Results
from ablation.statistics import Estimate, contrast, holm, margin_p

ONE_SIDED = ("above", "below")
SUPPORTED, REFUTED, NOT_DECIDED = "supported", "refuted", "not decided"

# `level_by_level` tells a factor's effect at each level of the factors that it interacts with, and the mean of each arm
# of a level where they lie on both sides of the number; else "".
CSV_COLUMNS = [
    "claim", "says", "contrast", "metric", "direction", "estimate", "low", "high", "p", "p_holm", "n_seeds",
    "verdict", "claim_verdict", "level_by_level",
]  # fmt: skip


class _Expectation(NamedTuple):
    """What one claim expects of one metric, and what was found."""

    claim: Mapping[str, Any]
    compared: Contrast
    metric: str
    direction: str  # "up" | "down" | "none"; of one side "above" | "below"
    within: float | None  # how far "none" may be from 0
    value: float  # that a mean should be "above" or "below"; 0 of differences
    found: (
        Estimate  # its interval and p are uncorrected; with `within`, the p is that of `margin_p`
    )
    is_dead: bool  # the trials compared agree bit by bit


def judge_claims(results: Results, effects: pd.DataFrame) -> pd.DataFrame:
    """A row per expectation of each claim, in the grid's order: `CSV_COLUMNS`.

    effects: from `effects.judge`; tells which factors interact.
    """
    expectations = [
        one for claim in results.manifest.claims for one in _expectations(claim, results)
    ]
    corrected = holm([one.found.p for one in expectations])
    verdicts = [_verdict(one, p) for one, p in zip(expectations, corrected)]
    rows = []
    for one, p_holm, verdict in zip(expectations, corrected, verdicts):
        whole = _of_claim(
            [own for other, own in zip(expectations, verdicts) if other.claim is one.claim]
        )
        mean, low, high, p, n_seeds, *_ = one.found
        direction = one.direction
        if one.within is not None:
            direction += f" within {one.within:g}"
        elif direction in ONE_SIDED:
            direction += f" {one.value:.12g}"
        what = (one.claim["id"], one.claim["says"], one.compared.name, one.metric, direction)
        rows.append(
            (
                *what,
                mean,
                low,
                high,
                p,
                p_holm,
                n_seeds,
                verdict,
                whole,
                _level_by_level(one, results, effects),
            )
        )
    return pd.DataFrame(rows, columns=CSV_COLUMNS)


def _expectations(claim: Mapping[str, Any], results: Results) -> list[_Expectation]:
    compared = _contrast(claim["contrast"], results)
    is_dead = compared.kind != "mean" and judged.is_dead(compared, results)
    expectations = []
    for one in claim["expects"]:
        metric, within, value = (
            results.column(one["metric"]),
            one.get("within"),
            one.get("value", 0.0),
        )
        found = _estimate(compared, metric, results, value)
        if is_dead:
            found = judged.nothing(found)
        elif within is not None:
            found = found._replace(p=margin_p(found, within))
        expectations.append(
            _Expectation(claim, compared, metric, one["direction"], within, value, found, is_dead)
        )
    return expectations


def _contrast(sides: Mapping[str, str], results: Results) -> Contrast:
    if "level" in sides:
        return level_mean(results.arms, sides["factor"], sides["level"])
    if "factor" in sides:
        return level_effect(results.arms, sides["factor"], sides["from"], sides["to"])
    if "minus" not in sides:
        return Contrast(sides["arm"], "mean", [(sides["arm"],)])
    pair = (sides["arm"], sides["minus"])
    return Contrast(difference_name(*pair), "difference", [pair])


def _estimate(compared: Contrast, metric: str, results: Results, value: float = 0.0) -> Estimate:
    """Across seeds, tested against `value`; of no seed where the metric was not measured."""
    if metric not in results.metrics:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, np.nan, np.nan)
    cells = results.cells(metric)
    found = contrast(cells - value, compared.weights(seeds_of(cells)))
    return found._replace(mean=found.mean + value, low=found.low + value, high=found.high + value)


def _verdict(one: _Expectation, p_holm: float) -> str:
    """By the corrected p and the estimate's sign, or the side of the margin that it lies on."""
    if one.is_dead and one.found.n:
        return SUPPORTED if one.direction == "none" else REFUTED
    if (
        not p_holm < ALPHA
    ):  # also where it is not defined: one seed, no seed, seeds that agree exactly
        return NOT_DECIDED
    if one.within is not None:
        return SUPPORTED if abs(one.found.mean) < one.within else REFUTED
    found = ("up", "above") if one.found.mean > one.value else ("down", "below")
    return SUPPORTED if one.direction in found else REFUTED


def _of_claim(verdicts: list[str]) -> str:
    if REFUTED in verdicts:
        return REFUTED
    return NOT_DECIDED if NOT_DECIDED in verdicts else SUPPORTED


def _level_by_level(one: _Expectation, results: Results, effects: pd.DataFrame) -> str:
    """The simple effects where the factor interacts with others, so that its mean may describe no arm."""
    sides = one.claim["contrast"]
    if "level" in sides:
        return _arm_by_arm(one, results)
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
                told.append(
                    f"{effect(found.mean, found.low, found.high)} at {simple.name.split(' at ')[1]}"
                )
    return listed(told)


def _arm_by_arm(one: _Expectation, results: Results) -> str:
    """The mean of each arm of a level, where some lie above the number and some below."""
    each = [
        (arm, _estimate(Contrast(arm, "mean", [(arm,)]), one.metric, results))
        for (arm,) in one.compared.replicas
    ]
    each = [(arm, found) for arm, found in each if found.n]
    if len({found.mean > one.value for _, found in each}) < 2:
        return ""
    return listed([f"{mean_of(found.mean, found.low, found.high)} in {arm}" for arm, found in each])
