"""Judge the claims of a grid: supported, refuted, or not decided; and put the verdicts in words.

Each expectation of a claim is one two-sided test of its contrast on its metric, by the machinery of
the effects: taken within each seed, then estimated across seeds. Of a contrast with one side, an
arm or a factor's level, the mean is tested against the number that it should lie above or below.
All expectations of all claims of a study are one family for Holm's correction. That no effect was
found never supports "none": only trials that agree bit by bit do, or, where the claim says within
which margin a metric should stay, a test that it does (`statistics.margin_p`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis import effects as judged
from ablation.analysis.contrasts import Contrast, claimed, seeds_of, simple_effects
from ablation.analysis.first_plan import post_hoc_claims
from ablation.analysis.looks import (
    ALPHA,
    Question,
    Replay,
    deciding_seeds,
    repeated,
    replay,
    t_limit,
    tested_level,
)
from ablation.analysis.results import CLAIM_COLUMNS, OVER, POST_HOC, Results
from ablation.analysis.statistics import Estimate, contrast, margin_p
from ablation.formatting import (
    compared_p,
    effect,
    is_percent,
    label,
    listed,
    mean_of,
    points,
    span,
    table,
)
from ablation.grid.seeds import FEWEST
from ablation.storage.runs import Claim

ONE_SIDED = ("above", "below")
SUPPORTED, REFUTED, NOT_DECIDED = "supported", "refuted", "not decided"
_EXPECTED = {"up": "should rise", "down": "should fall", "none": "should not change"}


class _Expectation(NamedTuple):
    """What one claim expects of one metric, and what was found."""

    claim: Claim
    compared: Contrast
    metric: str
    # "up" | "down" | "none"; for a mean "above" | "below"
    direction: str
    # how far "none" may be from 0
    within: float | None
    # the number that a mean should be "above" or "below"; 0 for differences
    value: float
    # interval and p are uncorrected; with `within`, the p is that of `margin_p`
    # of a study with looks, those that all looks share
    found: Estimate
    # whether the trials compared agree bit by bit
    is_dead: bool
    # the arms that it does without, see `effects.missing_arms`: then it is not tested
    without: str = ""
    # see `effects.survived`
    survived: str = ""
    # whether no seed has measured one of those arms
    is_broken: bool = False

    @property
    def n_measured(self) -> int:
        """How many seeds have measured it; 0 where an arm that it compares breaks in all."""
        return 0 if self.is_broken else self.found.n

    @property
    def expected(self) -> str:
        """The direction with its number: `none within 0.5`, `above 60`."""
        if self.within is not None:
            return f"{self.direction} within {self.within:g}"
        return (
            f"{self.direction} {self.value:.12g}" if self.direction in ONE_SIDED else self.direction
        )


def judge_claims(results: Results, effects: pd.DataFrame) -> pd.DataFrame:
    """A row per expectation of each claim, in the grid's order: `CLAIM_COLUMNS`.

    Of a study with looks, the numbers of an expectation are those of the look that decided it, else
    of the last one, and `LOOK_COLUMNS` are added. Where claims were changed after results were
    seen, so is `POST_HOC`, and so is `OVER` where trials failed that a claim compares.

    effects: from `effects.judge`; tells which factors interact.
    """
    replayed = claims_replay(results)
    questions = replayed.questions
    verdicts = [_verdict_of(question, results) for question in questions]
    of_claims: dict[str, list[str]] = {}
    for question, verdict in zip(questions, verdicts, strict=True):
        of_claims.setdefault(question.tested.claim["id"], []).append(verdict)
    rows = []
    for question, verdict in zip(questions, verdicts, strict=True):
        one, p_holm = question.tested, question.p_holm
        claim = one.claim
        worst = next(v for v in (REFUTED, NOT_DECIDED, SUPPORTED) if v in of_claims[claim["id"]])
        what = [claim["id"], claim["says"], one.compared.name, one.metric, one.expected]
        found = [*one.found[:4], p_holm, one.found.n, verdict, worst]
        rows.append([*what, *found, _level_by_level(one, results, effects)])
    table_ = pd.DataFrame(rows, columns=CLAIM_COLUMNS)
    over = ["; ".join(filter(None, (one.tested.without, one.tested.survived))) for one in questions]
    if any(over):
        table_[OVER] = over
    if results.looks:
        table_ = _with_looks(table_, replayed, results, effects)
    if post_hoc := post_hoc_claims(results.manifest) | results.early_claims:
        table_[POST_HOC] = ["yes" if name in post_hoc else "no" for name in table_["claim"]]
    return table_


def judged_intervals(claims: pd.DataFrame, looks: tuple[int, ...] = ()) -> pd.DataFrame:
    """`low_holm` and `high_holm`: the intervals that the verdicts go by.

    Such an interval, at `looks.tested_level`, leaves out the number that a claim names (0 for
    differences) exactly where the expectation is decided; that of a change which should stay within
    a margin lies in it exactly where that is supported. NaN where there is none, and where a look
    is not complete.

    claims: from `judge_claims`, or claims.csv; looks: of the study, if they are known
    """
    columns = ["low_holm", "high_holm"]
    if "low_holm" in claims:
        return claims[columns]
    if "decided_at" in claims and not looks:
        # claims.csv of an earlier version: its limits are not known
        return pd.DataFrame(np.nan, claims.index, columns)
    is_rejected = claims["p_holm"] < ALPHA
    is_known = claims["low"].notna() & ~(is_rejected & (claims["verdict"] == NOT_DECIDED))
    half = pd.Series(np.nan, claims.index)
    for row in claims[is_known].itertuples():
        n, margin = int(row.n_seeds), row.direction.partition(" within ")[2]
        sides = 1 if margin and abs(row.estimate) < float(margin) else 2
        level = tested_level(row.p, row.p_holm, int((~is_rejected).sum()))
        wider = t_limit(level, n, looks, sides) / t_limit(ALPHA, n, looks)
        half[row.Index] = wider * (row.high - row.low) / 2
    center = (claims["low"] + claims["high"]) / 2
    return pd.DataFrame({"low_holm": center - half, "high_holm": center + half})


def claims_replay(results: Results) -> Replay[_Expectation]:
    """The claims, look by look; of a study without looks, its expectations as they stand."""
    claims = results.manifest.claims
    return replay(
        results,
        groups=[claim["id"] for claim in claims for _ in claim["expects"]],
        cells={claim["id"]: claimed(results.arms, claim["contrast"]).cells for claim in claims},
        test=lambda some: [one for claim in claims for one in _expectations(claim, some)],
        is_settled=_is_settled,
    )


def _is_settled(questions: Sequence[Question[_Expectation]]) -> bool:
    """Whether a claim is decided: refuted by one expectation, or supported by all."""
    verdicts = [_verdict(one.tested, one.p_holm) for one in questions if one.decided_at]
    return REFUTED in verdicts or len(verdicts) == len(questions)


def _verdict_of(question: Question[_Expectation], results: Results) -> str:
    if results.looks and not question.decided_at:
        return NOT_DECIDED
    return _verdict(question.tested, question.p_holm)


def _with_looks(
    claims: pd.DataFrame,
    replayed: Replay[_Expectation],
    results: Results,
    effects: pd.DataFrame,
) -> pd.DataFrame:
    """The claims with the look that decided each, and what else LOOK_COLUMNS hold."""
    at = pd.Series([one.decided_at or np.nan for one in replayed.questions], claims.index)
    is_refuted = claims["verdict"] == REFUTED
    by = claims["claim"]
    # by the first expectation that is refuted, else by the last that is supported
    refuted_at = at.where(is_refuted).groupby(by).transform("min")
    decided_at = refuted_at.fillna(at.groupby(by).transform("max"))
    fixed = judge_claims(results.without_looks(), effects)
    n_looked = max((look.n_seeds for look in replayed.looks), default=0)
    needed = [
        np.nan
        if one.decided_at or one.tested.without
        else _needed(one.tested, ALPHA / replayed.n_tests, results.looks, n_looked)
        for one in replayed.questions
    ]
    added = {
        "decided_at": at,
        "claim_decided_at": decided_at.where(claims["claim_verdict"] != NOT_DECIDED),
        "seeds_needed": pd.Series(needed, claims.index),
    }
    whole = {name: column.astype("Int64") for name, column in added.items()}
    intervals = judged_intervals(claims.assign(**whole), results.looks)
    return claims.assign(
        **whole,
        p_holm_fixed=fixed["p_holm"],
        claim_verdict_fixed=fixed["claim_verdict"],
        **intervals,
    )


def _needed(one: _Expectation, level: float, looks: tuple[int, ...], n_looked: int) -> float:
    """How many seeds would decide it with 80 % probability, were the truth what was estimated.

    NaN where that is not known, or where no number of seeds decides it.

    level: of all looks together; n_looked: seeds of the last look
    """
    distance, sides = one.found.mean - one.value, 2
    if one.within is not None:
        distance = abs(distance) - one.within
        # inside of the margin, the test is one-sided
        sides = 1 if distance < 0 else 2
    elif one.direction == "none":
        return np.nan
    n = max(n_looked, one.found.n)
    return deciding_seeds(distance, one.found.sd, level, looks, n, sides) or np.nan


def _expectations(claim: Claim, results: Results) -> Iterator[_Expectation]:
    compared = claimed(results.arms, claim["contrast"])
    are_same = compared.kind != "mean" and judged.is_dead(compared, results)
    for one in claim["expects"]:
        metric = results.column(one["metric"])
        within, value = one.get("within"), one.get("value", 0.0)
        found = _estimate(compared, metric, results, value)
        without, survived, is_broken = "", "", False
        if metric in results.metrics:
            cells = results.cells(metric)
            n_seeds = seeds_of(cells)
            without = judged.missing_arms(compared, results, n_seeds)
            is_broken = not all(n_seeds[arm] for arm in compared.cells)
            survived = judged.survived(compared, results, cells)
        is_dead = are_same and not without
        if without:
            # the mean over fewer arms is another question, chosen by how trials ended
            found = found._replace(p=np.nan)
        elif is_dead:
            found = judged.without_effect(found)
        elif within is not None:
            found = found._replace(p=margin_p(found, within))
        # inside of the margin, a one-sided test
        sides = 1 if within is not None and abs(found.mean) < within else 2
        found = repeated(found, results.looks, sides=sides)
        asked = claim, compared, metric, one["direction"], within, value
        yield _Expectation(*asked, found, is_dead, without, survived, is_broken)


def _estimate(compared: Contrast, metric: str, results: Results, value: float = 0.0) -> Estimate:
    """Across seeds, tested against `value`; of no seed where the metric was not measured."""
    if metric not in results.metrics:
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, np.nan, np.nan)
    cells = results.cells(metric)
    return contrast(cells, compared.weights(seeds_of(cells)), null=value)


def _verdict(one: _Expectation, p_holm: float) -> str:
    """By the corrected p and the estimate's sign, or the side of the margin that it lies on."""
    if one.is_dead and one.found.n >= FEWEST:
        return SUPPORTED if one.direction == "none" else REFUTED
    # also where p is not defined: one seed, no seed, seeds that agree exactly, arms left out
    if not p_holm < ALPHA:
        return NOT_DECIDED
    if one.within is not None:
        return SUPPORTED if abs(one.found.mean) < one.within else REFUTED
    found = ("up", "above") if one.found.mean > one.value else ("down", "below")
    return SUPPORTED if one.direction in found else REFUTED


def _level_by_level(one: _Expectation, results: Results, effects: pd.DataFrame) -> str:
    """The simple effects of a factor that interacts with others, whose mean may describe no arm.

    Of one level, the mean of each of its arms, where some lie above the number and some below.
    """
    sides = one.claim["contrast"]
    if "level" in sides:
        each = [
            (
                arm,
                repeated(
                    _estimate(Contrast(arm, "mean", [(arm,)]), one.metric, results), results.looks
                ),
            )
            for (arm,) in one.compared.replicas
        ]
        each = [(arm, found) for arm, found in each if found.n]
        is_split = len({found.mean > one.value for _, found in each}) > 1
        return listed([f"{mean_of(*found[:3])} in {arm}" for arm, found in each] * is_split)
    if sides.get("factor") not in results.factors:
        return ""
    factor, ends = sides["factor"], [sides["from"], sides["to"]]
    rows = effects[effects["metric"] == one.metric]
    # interactions are judged from the reference; other levels may have some that these do not
    own = {**results.factors, factor: list(dict.fromkeys([results.factors[factor][0], *ends]))}
    pairs = judged.interacting_pairs(results, rows, factors=own)
    told = []
    for (other,) in [set(pair) - {factor} for pair in pairs if factor in pair]:
        levels = {factor: ends, other: results.factors[other]}
        for simple in simple_effects(results.arms, levels):
            name, _, at = simple.name.partition(" at ")
            if name == one.compared.name:
                found = repeated(_estimate(simple, one.metric, results), results.looks)
                told.append(f"{effect(*found[:3])} at {at}")
    return listed(told)


class ClaimText(NamedTuple):
    """One claim as the report tells it."""

    id: str
    says: str
    verdict: str
    contrast: str
    expectations: list[str]
    # of a study that looks at its seeds: at which look it was decided, and what else is known
    looks: str = ""
    is_post_hoc: bool = False


def claim_texts(claims: pd.DataFrame) -> list[ClaimText]:
    """The claims in order, in words. claims: from `judge_claims`, or claims.csv."""
    told = []
    for name, rows in claims.assign(**judged_intervals(claims)).groupby("claim", sort=False):
        first = rows.iloc[0]
        lines = [
            f"{label(row.metric)} {_expected(row)}: {row.verdict}, {numbers_told(row)}"
            for row in rows.itertuples()
        ]
        told.append(
            ClaimText(
                name,
                first["says"].strip(),
                first["claim_verdict"],
                first["contrast"],
                lines,
                _told_of_looks(rows) if "decided_at" in rows else "",
                _is_post_hoc(first),
            )
        )
    return told


def claims_counted(claims: pd.DataFrame) -> str:
    """How many claims are supported, refuted or not decided, in a sentence; "" of no claims.

    A claim that is decided by a mean over unlike levels is said to be so on average, one whose
    verdict is post hoc to be that, and one of seeds in which no trial failed to be of those.
    """
    counted = []
    is_mean = (claims["level_by_level"] != "").groupby(claims["claim"]).transform("any")
    each = claims.assign(is_mean=is_mean).drop_duplicates("claim")
    for verdict in (SUPPORTED, REFUTED, NOT_DECIDED):
        own = each[each["claim_verdict"] == verdict]
        names = [
            f"`{row['claim']}`{' on average' * row['is_mean']}{' post hoc' * _is_post_hoc(row)}"
            + " where trials did not fail" * bool(row.get(OVER))
            for _, row in own.iterrows()
        ]
        listing = f" ({', '.join(names)})" if verdict != NOT_DECIDED else ""
        counted += [f"{len(own)} {verdict}{listing}"] if len(own) else []
    return f"Of {len(each)} claim{'s' * (len(each) > 1)}: {', '.join(counted)}." if counted else ""


def undecided(claims: pd.DataFrame, most: int) -> str:
    """How many seeds would decide each claim that is not decided, in a sentence.

    With 80 % probability, and if the estimate and the spread that were seen are true.
    "" where all are decided, and of a study of a fixed number of seeds.

    claims: from `judge_claims`, or claims.csv; most: seeds that are planned
    """
    left = claims[claims["claim_verdict"] == NOT_DECIDED]
    if left.empty or "decided_at" not in left:
        return ""
    told = [
        f"{'not known' if (n := _seeds_needed(own)) is None else f'about {n} seeds'} for `{name}`"
        for name, own in left.groupby("claim", sort=False)
    ]
    so_far = span(left.groupby("claim")["n_seeds"].max())
    by_plan = "" if left["n_seeds"].max() < most else " by a new plan"
    return f"To decide the rest{by_plan}: {listed(told)} ({so_far} so far)."


def _told_of_looks(rows: pd.DataFrame) -> str:
    """When a claim was decided, or what that would take, and what a fixed design would say."""
    first = rows.iloc[0]
    verdict = first["claim_verdict_fixed"]
    fixed = f"As a study of a fixed number of seeds, the same results say: {verdict}"
    if first["claim_verdict"] != NOT_DECIDED:
        return f"Decided after {int(first['claim_decided_at'])} seeds. {fixed}."
    n = int(rows["n_seeds"].max())
    needed = _seeds_needed(rows)
    told = "how many would decide it cannot be told"
    if needed is not None:
        told = (
            f"if the estimate and the spread that were seen are true, {needed} seeds would decide "
            "it with 80 % probability"
        )
    return f"Not decided after {n} seeds: {told}. {fixed}."


def _seeds_needed(rows: pd.DataFrame) -> int | None:
    """How many seeds would decide a claim that is not decided; None: not known.

    rows: its expectations
    """
    needed = rows.loc[rows["decided_at"].isna(), "seeds_needed"]
    return None if needed.isna().any() else int(needed.max())


def claims_table(claims: pd.DataFrame) -> str:
    """A row per claim: what it says, its verdict, the numbers. Bold where it is decided."""
    rows = []
    for _, own in claims.assign(**judged_intervals(claims)).groupby("claim", sort=False):
        first = own.iloc[0]
        numbers = "; ".join(f"{label(row.metric)} {numbers_told(row)}" for row in own.itertuples())
        verdict = first["claim_verdict"]
        shown = verdict if verdict == NOT_DECIDED else f"**{verdict}**"
        shown += ", post hoc" * _is_post_hoc(first)
        rows.append([first["says"].strip(), shown, f"`{first['contrast']}`: {numbers}"])
    what = "difference or mean" if any(map(is_of_one_side, claims["direction"])) else "difference"
    return table(["claim", "verdict", f"{what} [interval]"], rows, "lll")


def _is_post_hoc(row: pd.Series) -> bool:
    """Whether a row of `judge_claims` or claims.csv is of a claim whose verdict is post hoc."""
    return bool(row.get(POST_HOC) == "yes")


def is_of_one_side(direction: str) -> bool:
    """Whether a direction (as in claims.csv) is about one side's mean, not about a difference."""
    return direction.startswith(ONE_SIDED)


def _expected(row: Any) -> str:
    if is_of_one_side(row.direction):
        return f"should be {row.direction}{_unit(row)}"
    direction, _, margin = row.direction.partition(" within ")
    by_how_much = f" by {margin}{points(row.metric, margin)} or more" if margin else ""
    return _EXPECTED[direction] + by_how_much


def _numbers(direction: str) -> list[float]:
    """The numbers that an expectation's interval is judged by: 0, or what it names."""
    *_, last = direction.split(" ")
    if last == direction:
        return [0.0]
    return [float(last)] if is_of_one_side(direction) else [-float(last), float(last)]


def _unit(row: Any) -> str:
    """The unit of the numbers, as a suffix."""
    if is_of_one_side(row.direction):
        return " %" if is_percent(row.metric) else ""
    return points(row.metric)


# says of which kind an interval is that stands beside a p
_TESTED = "interval and p"


def numbers_told(row: Any) -> str:
    """The numbers of one expectation, or why there are none.

    row: of `judge_claims` or claims.csv, with `judged_intervals`
    """
    has_p = row.p_holm == row.p_holm
    if row.n_seeds == 0:
        return "not measured"
    # nothing else decides without a p
    if not has_p and row.verdict != NOT_DECIDED:
        return "no effect by construction (the same bits)"
    is_mean = is_of_one_side(row.direction)
    shown = mean_of if is_mean else effect
    size = shown(row.estimate, row.low_holm, row.high_holm, numbers=_numbers(row.direction))
    size += _unit(row)
    over = getattr(row, OVER, "")
    if not has_p and row.low == row.low:
        return f"{size} ({over}; not tested)"
    if not has_p:
        why = "one seed" if row.n_seeds == 1 else "seeds agree exactly"
        return f"{size} ({why}: no interval over seeds)"
    what = f"repeated {_TESTED}" if hasattr(row, "decided_at") else _TESTED
    if row.low_holm != row.low_holm:
        # a look that is not complete, or claims.csv of an earlier version
        what = what.removesuffix(_TESTED) + "p"
    seeds = over or f"{row.n_seeds} seeds"
    told = f"{size} ({what} {compared_p(row.p_holm)} after Holm's correction, {seeds})"
    if not row.level_by_level:
        return told
    each = f"{'arm by arm' if is_mean else 'level by level'}, not corrected"
    return f"{told}, a mean that describes no arm; {each}: {row.level_by_level}"
