"""Judged claims in words. Everything is told from the columns of claims.csv, in the report and outside of it alike."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from ablation.claims import NOT_DECIDED, ONE_SIDED, REFUTED, SUPPORTED
from ablation.formatting import compared_p, effect, is_percent, label, mean_of, points, table

_EXPECTED = {"up": "should rise", "down": "should fall", "none": "should not change"}


class ClaimText(NamedTuple):
    """One claim as the report tells it."""

    id: str
    says: str
    verdict: str
    contrast: str
    expectations: list[str]


def claim_texts(claims: pd.DataFrame) -> list[ClaimText]:
    """The claims in order. claims: from `claims.judge_claims`, or claims.csv."""
    told = []
    for name, rows in claims.groupby("claim", sort=False):
        first = rows.iloc[0]
        lines = [
            f"{label(row.metric)} {_expected(row)}: {row.verdict}, {_found(row)}"
            for row in rows.itertuples()
        ]
        told.append(
            ClaimText(name, first["says"].strip(), first["claim_verdict"], first["contrast"], lines)
        )
    return told


def claims_counted(claims: pd.DataFrame) -> str:
    """How the claims fared, in one sentence; "" where there are none.

    A claim that is decided by a mean over unlike levels is said to be so on average.
    """
    each = claims.drop_duplicates("claim")
    is_mean = (claims["level_by_level"] != "").groupby(claims["claim"]).any()
    counted = []
    for verdict in (SUPPORTED, REFUTED, NOT_DECIDED):
        names = each.loc[each["claim_verdict"] == verdict, "claim"]
        listing = ", ".join(f"`{name}`{' on average' * bool(is_mean[name])}" for name in names)
        if len(names):
            counted.append(
                f"{len(names)} {verdict}" + (f" ({listing})" if verdict != NOT_DECIDED else "")
            )
    return f"Of {len(each)} claim{'s' * (len(each) > 1)}: {', '.join(counted)}." if counted else ""


def claims_table(claims: pd.DataFrame) -> str:
    """A row per claim: what it says, its verdict, the numbers. Bold where it is decided."""
    rows = []
    for _, own in claims.groupby("claim", sort=False):
        first = own.iloc[0]
        numbers = "; ".join(f"{label(row.metric)} {_found(row)}" for row in own.itertuples())
        verdict = first["claim_verdict"]
        shown = verdict if verdict == NOT_DECIDED else f"**{verdict}**"
        rows.append([first["says"].strip(), shown, f"`{first['contrast']}`: {numbers}"])
    what = "difference or mean" if any(map(is_of_one_side, claims["direction"])) else "difference"
    return table(["claim", "verdict", f"{what} [95 %]"], rows, "lll")


def is_of_one_side(direction: str) -> bool:
    """Whether a direction, as claims.csv has it, is that of a mean and not of a difference."""
    return direction.partition(" ")[0] in ONE_SIDED


def _expected(row: tuple) -> str:
    if is_of_one_side(row.direction):
        return f"should be {row.direction}{_unit(row)}"
    direction, _, margin = row.direction.partition(" within ")
    return f"{_EXPECTED[direction]}{f' by {margin}{points(row.metric)} or more' if margin else ''}"


def _unit(row: tuple) -> str:
    """Of the numbers, as a suffix."""
    if is_of_one_side(row.direction):
        return " %" if is_percent(row.metric) else ""
    return points(row.metric)


def _found(row: tuple) -> str:
    """The numbers of one expectation, or why there are none."""
    if row.n_seeds == 0:
        return "not measured"
    if row.p != row.p and row.verdict != NOT_DECIDED:  # nothing else decides without a p
        return "no effect by construction (the same bits)"
    shown = mean_of if is_of_one_side(row.direction) else effect
    size = f"{shown(row.estimate, row.low, row.high)}{_unit(row)}"
    if row.p != row.p:
        return f"{size} ({'one seed' if row.n_seeds == 1 else 'seeds agree exactly'}: no interval over seeds)"
    told = f"{size} (p {compared_p(row.p_holm)} after Holm's correction, {row.n_seeds} seeds)"
    each = "arm by arm" if is_of_one_side(row.direction) else "level by level"
    return (
        f"{told}, a mean that describes no arm; {each}: {row.level_by_level}"
        if row.level_by_level
        else told
    )
