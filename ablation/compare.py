"""Two things beside each other: arms, studies, or what was measured and what was published.

The difference is paired by seed where the same seeds saw the same data; else it is Welch's. A published number is a
constant without spread, and stands against the metric that was obtained as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ablation.compare_sources import Side, Source, find_sides
from ablation.errors import InputError, Problem
from ablation.formatting import label, listed
from ablation.one_run import difference_over_images
from ablation.places import Places
from ablation.statistics import RELATIVE_RESOLUTION, contrast, paired_difference

ON_RUN = "one seed: over test images, on this one training run"
MORE_METRICS = [
    "test/top1_compensated",
    "test/balanced_accuracy",
    "test/many",
    "test/medium",
    "test/few",
]


class Difference(NamedTuple):
    """Left minus right. NaN says "not defined", never 0."""

    mean: float
    low: float  # 95 % interval
    high: float
    p: float  # two-sided; NaN beside an interval: that is of one training run
    how: str  # e.g. "paired, 3 seeds"
    correlation: float = math.nan  # of pairs, over seeds


class Row(NamedTuple):
    """One line of a comparison."""

    what: str  # an arm, or a metric
    metric: str
    left: pd.Series  # by seed; of one value, without a seed, where it was published
    right: pd.Series
    found: Difference


@dataclass(frozen=True)
class Comparison:
    """Left and right, and what to know of them."""

    left: str
    right: str
    rows: list[Row]  # the first is the headline
    settings: list[
        tuple[str, Any, Any]
    ]  # those that differ: dotted key, left, right; None where one has none
    warnings: list[str]
    notes: list[str]


def compare(left: str, right: str, study: str | None, places: Places) -> Comparison:
    """Compare `left` with `right`: each a STUDY, STUDY:ARM, published:METHOD, or, with `study`, an ARM of it.

    Raises:
        InputError: a name is of nothing that is there
    """
    sides = find_sides(left, right, study, places)
    studies = [side.study for side in sides if side.study]
    rows = list(_rows(*sides))
    if not rows:
        raise InputError(
            [Problem("", f"{left} {right}", "have no finished trials of one metric in common")]
        )
    warnings = [*_warnings(*studies)] if len(studies) == 2 and studies[0] is not studies[1] else []
    return Comparison(
        sides[0].name, sides[1].name, rows, _differing(*sides),
        warnings + [text for side in sides for text in _unfinished(side)], [note for side in sides for note in _notes(side)],
    )  # fmt: skip


def difference(left: pd.Series, right: pd.Series, may_pair: bool) -> Difference:
    """Left minus right, each values by seed."""
    left, right = left.dropna(), right.dropna()
    shared = left.index.intersection(right.index)
    if may_pair and len(shared) > 1:
        found = paired_difference(left[shared], right[shared])
        how = (
            f"paired, {found.n} seeds"
            if math.isfinite(found.p)
            else f"{found.n} seeds that agree exactly"
        )
        return Difference(*found[:4], how, found.correlation)
    mean = float(left.mean() - right.mean())
    if min(len(left), len(right)) < 2:
        return Difference(mean, math.nan, math.nan, math.nan, "one seed")
    if _agree(right):
        found = difference_to_constant(left, right.iloc[0])
        return found._replace(how=f"{found.how}; the other side's agree exactly")
    if _agree(left):
        return _mirrored(difference(right, left, may_pair))
    test = stats.ttest_ind(left, right, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(
        mean,
        float(interval.low),
        float(interval.high),
        float(test.pvalue),
        f"unpaired (Welch), {len(left)} and {len(right)} seeds",
    )


def difference_to_constant(values: pd.Series, constant: float) -> Difference:
    """Values by seed minus a number that has no spread."""
    found = contrast(values.dropna().to_numpy()[:, None] - constant, [1.0])
    how = (
        "one seed"
        if found.n == 1
        else f"one sample, {found.n} seeds"
        if math.isfinite(found.p)
        else "seeds that agree exactly"
    )
    return Difference(*found[:4], how)


def _mirrored(found: Difference) -> Difference:
    """Right minus left."""
    return found._replace(mean=-found.mean, low=-found.high, high=-found.low)


def _agree(values: pd.Series) -> bool:
    """Whether values are equal but for rounding, as those of a baseline that trains nothing are."""
    return bool(np.ptp(values) <= RELATIVE_RESOLUTION * values.abs().max())


def _rows(left: Side, right: Side) -> Iterator[Row]:
    if left.published or right.published:
        yield from _published_rows(left, right)
    elif left.arm and right.arm:
        for metric in _metrics(left.study, right.study):
            yield from _row(label(metric), metric, left, right)
    else:
        metric = _metrics(left.study, right.study)[0]
        for arm in _arms(left, right):
            yield from _row(
                f"`{arm}`",
                metric,
                left._replace(arm=left.arm or arm),
                right._replace(arm=right.arm or arm),
            )


def _row(what: str, metric: str, left: Side, right: Side) -> Iterator[Row]:
    """Where both have finished trials with the metric."""
    values = [side.study.metric(side.arm, metric) for side in (left, right)]
    if min(map(len, values)):
        may_pair = _may_pair(left.study, right.study)
        found = difference(*values, may_pair)
        yield Row(
            what, metric, *values, _over_images(found, metric, left, right) if may_pair else found
        )


def _over_images(found: Difference, metric: str, left: Side, right: Side) -> Difference:
    """Of one trial each, under the same seed: with its interval over test images, where they tell which were right."""
    trials = [side.study.values(side.arm) for side in (left, right)]
    if [len(own) for own in trials] != [1, 1] or trials[0].index[0] != trials[1].index[0]:
        return found
    low, high = difference_over_images(
        metric,
        *(
            side.study.hits.get(own["trial"].iloc[0], "")
            for side, own in zip((left, right), trials)
        ),
    )
    return found if math.isnan(low) else found._replace(low=low, high=high, how=ON_RUN)


def _published_rows(left: Side, right: Side) -> Iterator[Row]:
    """Each arm by the published number's protocol, and by its last epoch."""
    measured, number = (right, left) if left.published else (left, right)
    same = _same_protocol(number.published)
    for arm in [measured.arm] if measured.arm else measured.study.arms:
        for metric in dict.fromkeys([same or "test/top1", "test/top1", "best/test/top1"]):
            values = measured.study.metric(arm, metric)
            if len(values):
                found = difference_to_constant(values, number.published["top1"])
                what = f"{label(metric) if metric.startswith('best/') else 'top-1, last epoch'}{', their protocol' * (metric == same)}"
                sides = values, pd.Series([float(number.published["top1"])])
                if number is left:
                    sides, found = sides[::-1], _mirrored(found)
                yield Row(what if measured.arm else f"`{arm}`, {what}", metric, *sides, found)


def _same_protocol(published: dict[str, Any]) -> str | None:
    """Our metric that is obtained as the published number was; None where that is not known."""
    protocol = published.get("protocol", "").lower()
    return "best/test/top1" if "best" in protocol else "test/top1" if "last" in protocol else None


def _metrics(left: Source, right: Source) -> list[str]:
    """What both have, the headline first."""
    headline = left.headline if left.headline in right.columns else right.headline
    found = [
        metric
        for metric in dict.fromkeys([headline, f"best/{headline}", *MORE_METRICS])
        if metric in left.columns and metric in right.columns
    ]
    if not found:
        raise InputError(
            [
                Problem(
                    "",
                    left.headline,
                    f"is not measured in {right.study}, and {right.headline} not in {left.study}",
                )
            ]
        )
    return found


def _arms(left: Side, right: Side) -> list[str]:
    """Of a study and an arm, the study's others; of two studies, those that both have."""
    if left.arm or right.arm:
        whole, one = (right, left) if left.arm else (left, right)
        return [arm for arm in whole.study.arms if whole.study is not one.study or arm != one.arm]
    found = [arm for arm in left.study.arms if arm in right.study.arms]
    if not found:
        raise InputError(
            [
                Problem(
                    "",
                    f"{left.name} {right.name}",
                    "have no arm of one name; compare STUDY:ARM with STUDY:ARM",
                )
            ]
        )
    return found


def _may_pair(left: Source, right: Source) -> bool:
    """Whether a seed means the same in both: the same images, in the same order."""
    return left is right or _differ(left, right, "data_fingerprint") is False


def _differ(left: Source, right: Source, fact: str) -> bool | None:
    """None where it is not known."""
    a, b = str(left.facts.get(fact, "")), str(right.facts.get(fact, ""))
    return a != b if a and b else None


def _warnings(left: Source, right: Source) -> Iterator[str]:
    both = f"{left.study} and {right.study} were trained"
    for fact, same, other in [
        ("data_fingerprint", "on the same data", "on other data ({}), so seeds are not paired"),
        ("source_fingerprint", "by the same code", "by other code ({})"),
    ]:
        differ = _differ(left, right, fact)
        if differ:
            yield f"{both} {other.format(f'{fact} {left.facts[fact][:8]} and {right.facts[fact][:8]}')}"
        elif differ is None:
            yield f"whether {both} {same} is not known"


def _unfinished(side: Side) -> Iterator[str]:
    arms = [side.arm] if side.arm else side.study.arms if side.study else []
    counts = {arm: (len(side.study.values(arm)), side.study.n_planned(arm)) for arm in arms}
    missing = [f"`{arm}` {n} of {planned}" for arm, (n, planned) in counts.items() if n < planned]
    if missing:
        yield f"{side.study.study} has trials that are not finished: {listed(missing)}"


def _notes(side: Side) -> Iterator[str]:
    if side.published:
        protocol, source = (
            side.published.get(key, f"{key} not known") for key in ("protocol", "source")
        )
        yield f"{side.name}: {side.published['top1']:.2f}, {protocol}, one number without spread; {source}"


def _differing(left: Side, right: Side) -> list[tuple[str, Any, Any]]:
    """Settings in which two arms differ; of two studies, those in which every arm that both have does so alike."""
    if left.published or right.published or bool(left.arm) != bool(right.arm):
        return []
    pairs = [(left.arm, right.arm)] if left.arm else [(arm, arm) for arm in _arms(left, right)]
    found = [_changes(left.study.settings(a), right.study.settings(b)) for a, b in pairs]
    return [
        (key, *values)
        for key, values in found[0].items()
        if all(one.get(key) == values for one in found)
    ]


def _changes(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (left.get(key), right.get(key))
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key)
    }
