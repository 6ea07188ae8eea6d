"""Two things beside each other: arms, studies, or what was measured and what was published.

The difference is paired by seed where the same seeds saw the same data; else it is Welch's. A published number is a
constant without spread, and stands against the metric that was obtained as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from ablation.analysis.compare_sources import PUBLISHED, Side, Source, find_sides
from ablation.analysis.image_bootstrap import difference_over_images
from ablation.analysis.statistics import (
    N_RESAMPLES,
    RELATIVE_RESOLUTION,
    contrast,
    paired_difference,
)
from ablation.errors import InputError, Problem
from ablation.formatting import (
    MISSING,
    compared_p,
    correlation,
    effect,
    label,
    listed,
    over_seeds,
    p_value,
    points,
    table,
)
from ablation.storage.project import Places

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

    @property
    def is_on_run(self) -> bool:
        """Whether the interval is over the test images of one training run."""
        return math.isfinite(self.low) and math.isnan(self.p)

    @property
    def is_separable(self) -> bool:
        """Whether the interval is defined and excludes 0; never that of one training run, which another seed may turn around."""
        return self.low * self.high > 0 and not self.is_on_run


class Row(NamedTuple):
    """One line of a comparison."""

    what: str  # an arm, or a metric
    metric: str
    left: pd.Series  # by seed, or a published number, see `Side.values`
    right: pd.Series
    found: Difference


@dataclass(frozen=True)
class Comparison:
    """Left and right, and what to know of them."""

    left: str
    right: str
    rows: list[Row]  # the first is the headline
    # those that differ: dotted key, left, right; None where one has none
    settings: list[tuple[str, Any, Any]]
    warnings: list[str]
    notes: list[str]


def compare(left: str, right: str, study: str | None, places: Places) -> Comparison:
    """Compare `left` with `right`: each a STUDY, STUDY:ARM, published:METHOD, or, with `study`, an ARM of it.

    Raises:
        InputError: a name is of nothing that is there
    """
    sides = find_sides([left, right], study, places)
    studies = [side.study for side in sides if side.study]
    rows = list(_rows(*sides))
    if not rows:
        raise _refused(f"{left} {right}", "have no finished trials of one metric in common")
    warnings = [] if studies[0] is studies[-1] else list(_warnings(*studies))
    return Comparison(
        sides[0].name,
        sides[1].name,
        rows,
        _differing(*sides),
        warnings + [text for side in sides for text in _unfinished(side)],
        [note for side in sides for note in _notes(side)],
    )


def difference(left: pd.Series, right: pd.Series, may_pair: bool) -> Difference:
    """Left minus right, each values by seed, or one published number."""
    left, right = left.dropna(), right.dropna()
    if _is_published(right):
        return difference_to_constant(left, right.iloc[0])
    if _is_published(left):
        return _mirrored(difference(right, left, may_pair))
    shared = left.index.intersection(right.index)
    if may_pair and len(shared) > 1:
        paired = paired_difference(left[shared], right[shared])
        is_defined = math.isfinite(paired.p)
        how = f"paired, {paired.n} seeds" if is_defined else f"{paired.n} seeds that agree exactly"
        return Difference(*paired[:4], how, paired.correlation)
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
    how = f"unpaired (Welch), {len(left)} and {len(right)} seeds"
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), how)


def difference_to_constant(values: pd.Series, constant: float) -> Difference:
    """Values by seed minus a number that has no spread."""
    found = contrast(values.dropna().to_numpy()[:, None] - constant, [1.0])
    how = f"one sample, {found.n} seeds"
    if not math.isfinite(found.p):
        how = "one seed" if found.n == 1 else "seeds that agree exactly"
    return Difference(*found[:4], how)


def _mirrored(found: Difference) -> Difference:
    """Right minus left."""
    return found._replace(mean=-found.mean, low=-found.high, high=-found.low)


def _is_published(values: pd.Series) -> bool:
    return PUBLISHED in values.index


def _agree(values: pd.Series) -> bool:
    """Whether values are equal but for rounding, as those of a baseline that trains nothing are."""
    return bool(np.ptp(values) <= RELATIVE_RESOLUTION * values.abs().max())


def _rows(left: Side, right: Side) -> Iterator[Row]:
    """A row per metric, of two arms; per arm, of studies; per arm and protocol, beside a published number."""
    if left.published or right.published:
        rows = _published_rows(left, right)
    elif left.arm and right.arm:
        rows = ((label(metric), metric, None) for metric in _metrics(left.study, right.study))
    else:
        metric = _metrics(left.study, right.study)[0]
        rows = ((f"`{arm}`", metric, arm) for arm in _arms(left, right))
    for what, metric, arm in rows:
        one, other = left._replace(arm=left.arm or arm), right._replace(arm=right.arm or arm)
        values = one.values(metric), other.values(metric)
        if min(map(len, values)):
            may_pair = _may_pair(left.study, right.study)
            found = difference(*values, may_pair)
            yield Row(
                what,
                metric,
                *values,
                _over_images(found, metric, one, other) if may_pair else found,
            )


def _published_rows(left: Side, right: Side) -> Iterator[tuple[str, str, str]]:
    """Each arm by the published number's protocol, and by its last epoch."""
    measured, number = (right, left) if left.published else (left, right)
    protocol = number.published.get("protocol", "").lower()
    # our metric that is obtained as the published number was, where that is known
    same = "best/test/top1" if "best" in protocol else "test/top1" if "last" in protocol else None
    for arm in [measured.arm] if measured.arm else measured.study.arms:
        for metric in dict.fromkeys([same or "test/top1", "test/top1", "best/test/top1"]):
            what = label(metric) if metric.startswith("best/") else "top-1, last epoch"
            what += ", their protocol" * (metric == same)
            yield what if measured.arm else f"`{arm}`, {what}", metric, arm


def _over_images(found: Difference, metric: str, left: Side, right: Side) -> Difference:
    """Of one trial each, under the same seed: with its interval over test images, where they tell which were right."""
    trials = [side.study.finished(side.arm)["trial"] for side in (left, right)]
    if len(trials[0]) != 1 or list(trials[0].index) != list(trials[1].index):
        return found
    hits = [side.study.hits.get(own.iloc[0], "") for side, own in zip((left, right), trials)]
    low, high = difference_over_images(metric, *hits)
    return found if math.isnan(low) else found._replace(low=low, high=high, how=ON_RUN)


def _metrics(left: Source, right: Source) -> list[str]:
    """What both have, the headline first."""
    headline = left.headline if left.headline in right.columns else right.headline
    wanted = dict.fromkeys([headline, f"best/{headline}", *MORE_METRICS])
    found = [metric for metric in wanted if metric in left.columns and metric in right.columns]
    if not found:
        raise _refused(
            left.headline,
            f"is not measured in {right.study}, and {right.headline} not in {left.study}",
        )
    return found


def _arms(left: Side, right: Side) -> list[str]:
    """Of a study and an arm, the study's others; of two studies, those that both have."""
    if left.arm or right.arm:
        whole, one = (right, left) if left.arm else (left, right)
        return [arm for arm in whole.study.arms if whole.study is not one.study or arm != one.arm]
    found = [arm for arm in left.study.arms if arm in right.study.arms]
    if not found:
        names = f"{left.name} {right.name}"
        raise _refused(names, "have no arm of one name; compare STUDY:ARM with STUDY:ARM")
    return found


def _refused(key: str, message: str) -> InputError:
    return InputError([Problem("", key, message)])


def _may_pair(left: Source | None, right: Source | None) -> bool:
    """Whether a seed means the same in both: the same images, in the same order."""
    if left is None or right is None:
        return False
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
            found = f"{fact} {left.facts[fact][:8]} and {right.facts[fact][:8]}"
            yield f"{both} {other.format(found)}"
        elif differ is None:
            yield f"whether {both} {same} is not known"


def _unfinished(side: Side) -> Iterator[str]:
    if side.study:
        trials = side.study.trials
        arms = [side.arm] if side.arm else side.study.arms
        missing = [
            f"`{arm}` {n} of {planned}"
            for arm in arms
            if (n := len(side.study.finished(arm))) < (planned := (trials["arm"] == arm).sum())
        ]
        if missing:
            yield f"{side.study.study} has trials that are not finished: {listed(missing)}"


def _notes(side: Side) -> Iterator[str]:
    if number := side.published:
        protocol, source = (number.get(key, f"{key} not known") for key in ("protocol", "source"))
        yield f"{side.name}: {number['top1']:.2f}, {protocol}, one number without spread; {source}"


def _differing(left: Side, right: Side) -> list[tuple[str, Any, Any]]:
    """Settings in which two arms differ; of two studies, those in which every arm that both have does so alike."""
    if left.published or right.published or bool(left.arm) != bool(right.arm):
        return []
    pairs = [(left.arm, right.arm)] if left.arm else [(arm, arm) for arm in _arms(left, right)]
    found = []
    for own, other in pairs:
        a, b = left.study.settings(own), right.study.settings(other)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
        found.append({key: (a.get(key), b.get(key)) for key in keys})
    return [
        (key, *values)
        for key, values in found[0].items()
        if all(one.get(key) == values for one in found)
    ]


def comparison_text(found: Comparison) -> str:
    """As Markdown: what the headline says, the table, the settings that differ, and what to beware of."""
    first, metrics = found.rows[0], {row.metric for row in found.rows}
    names = [f"`{found.left}`", f"`{found.right}`"]
    by_arm = first.what.startswith("`")
    what = "metric" if not by_arm else f"{label(first.metric)} of" if len(metrics) == 1 else "arm"
    header = [what, *names, "difference [95 %]", "p", "how"]
    if any(math.isfinite(row.found.correlation) for row in found.rows):
        header.append("pair correlation")
    sides = " minus ".join(names)
    parts = [
        f"{sides}, arm by arm; the intervals are not corrected for the number of rows."
        if by_arm
        else f"{sides}, {first.what}: {_sentence(first)}.",
        table(header, [_cells(row)[: len(header)] for row in found.rows], "lrrrrlr"),
        "Mean ± standard deviation over seeds; the difference is left minus right, its p two-sided and uncorrected; "
        "bold where the interval excludes 0.",
    ]
    if any(row.found.is_on_run for row in found.rows):
        parts.append(
            f"One seed: the interval is a 95 % percentile interval of a paired bootstrap over test images ({N_RESAMPLES:,} resamples, the same images for "
            "both). It is conditional on this one training run: it tells how the difference would change with other test images, not with another seed, for "
            "which it is too narrow. So there is no p-value, and nothing is bold."
        )
    if found.settings:
        rows = [
            [f"`{key}`", *(MISSING if one is None else f"`{one}`" for one in values)]
            for key, *values in found.settings
        ]
        parts.append(f"Settings that differ:\n\n{table(['setting', *names], rows, 'lll')}")
    parts += found.notes
    parts += [f"**Warning:** {text}." for text in found.warnings]
    return "\n\n".join(parts)


def _sentence(row: Row) -> str:
    found = row.found
    size = f"{effect(*found[:3])}{points(row.metric)}"
    if not math.isfinite(found.low):
        return f"{size}, no interval can be given ({found.how})"
    if found.is_on_run:
        is_separable = "" if found.low * found.high > 0 else "not "
        over = found.how.partition(", ")[0]
        return f"{size}, {is_separable}separable from 0 on this one training run ({over})"
    verdict = "higher" if found.mean > 0 else "lower"
    verdict = verdict if found.is_separable else "not separable from 0"
    return f"{size}, {verdict} (p {compared_p(found.p)}, {found.how})"


def _cells(row: Row) -> list[str]:
    found = row.found
    size = effect(*found[:3])
    return [
        row.what,
        _side(row.left),
        _side(row.right),
        f"**{size}**" if found.is_separable else size,
        p_value(found.p),
        found.how,
        correlation(found.correlation),
    ]


def _side(values: pd.Series) -> str:
    """`72.3 ± 0.4 (3 seeds)`; a published number as it was published."""
    if _is_published(values):
        return f"{values.iloc[0]:.2f}"
    return f"{over_seeds(values)} ({len(values)} seed{'s' * (len(values) > 1)})"
