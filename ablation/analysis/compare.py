"""Compare two arms, two studies, or measured results with published ones.

The difference is paired by seed where the same seeds saw the same data; else it is Welch's. A
published number is a constant without spread, and stands against the metric that was obtained as it
was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats

from ablation.analysis.compare_sources import (
    PUBLISHED,
    Measured,
    PublishedNumber,
    Side,
    Source,
    StudyArm,
    WholeStudy,
    find_sides,
)
from ablation.analysis.effects import difference_over_images
from ablation.analysis.statistics import (
    N_RESAMPLES,
    agree,
    contrast,
    paired_difference,
)
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import (
    MISSING,
    compared_p,
    correlation,
    effect,
    effects_decimals,
    label,
    listed,
    means_decimals,
    over_seeds,
    p_cell,
    points,
    table,
)
from ablation.storage.project import ProjectPaths

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
    # low and high: 95 % interval
    low: float
    high: float
    # two-sided; NaN beside an interval: that is of one training run
    p: float
    # e.g. "paired, 3 seeds"
    how: str
    # between the two of a pair, over seeds
    correlation: float = math.nan

    @property
    def is_on_run(self) -> bool:
        """Whether the interval is over the test images of one training run."""
        return math.isfinite(self.low) and math.isnan(self.p)

    @property
    def is_separable(self) -> bool:
        """Whether the interval is defined and excludes 0.

        Never that of one training run: another seed may reverse the difference.
        """
        return self.low * self.high > 0 and not self.is_on_run


class Row(NamedTuple):
    """One line of a comparison."""

    # an arm, or a metric
    what: str
    metric: str
    # left and right: values by seed, or one published number under `PUBLISHED`
    left: pd.Series
    right: pd.Series
    found: Difference


@dataclass(frozen=True)
class Comparison:
    """What is compared, its differences, and warnings."""

    left: str
    right: str
    # the first row is of the primary metric
    rows: list[Row]
    # those that differ: dotted key, left, right; None where one has none
    settings: list[tuple[str, Any, Any]]
    warnings: list[str]
    notes: list[str]


def compare(
    left: str,
    right: str,
    study: str | None,
    places: ProjectPaths,
    metrics: Sequence[str] = (),
) -> Comparison:
    """Compare `left` with `right`.

    Each is a STUDY, STUDY:ARM, published:METHOD or, with `study`, an ARM of that study.

    metrics: to compare by, one where arms are compared one by one; default: the primary metric, and
    of two arms the built-in method's others

    Raises:
        InputError: a name is of nothing that is there
    """
    sides = first, second = find_sides([left, right], study, places)
    studies = [side.study for side in sides if not isinstance(side, PublishedNumber)]
    rows = list(_rows(first, second, metrics))
    if not rows:
        raise _refused(f"{left} {right}", "have no finished trials of one metric in common")
    warnings = [] if studies[0] is studies[-1] else list(_warnings(*studies))
    return Comparison(
        first.name,
        second.name,
        rows,
        _differing(first, second),
        [*warnings, *(text for side in sides for text in _unfinished(side)), *_of_plans(studies)],
        [note for side in sides for note in _notes(side)],
    )


def difference(left: pd.Series, right: pd.Series, may_pair: bool) -> Difference:
    """Left minus right, each values by seed, or one published number."""
    left, right = left.dropna(), right.dropna()
    if _is_published(right):
        return difference_to_constant(left, right.iloc[0])
    if _is_published(left):
        return _mirrored(difference(right, left, may_pair))
    if may_pair:
        left, right = _within_shared_seeds(left, right)
        if len(left) > 1 and left.index.equals(right.index):
            paired = paired_difference(left, right)
            seeds = f"{paired.n} seeds"
            how = f"paired, {seeds}" if math.isfinite(paired.p) else f"{seeds} that agree exactly"
            return Difference(*paired[:4], how, paired.correlation)
    if min(len(left), len(right)) < 2:
        mean = float(left.mean() - right.mean())
        return Difference(mean, math.nan, math.nan, math.nan, "one seed")
    if agree(right):
        found = difference_to_constant(left, right.iloc[0])
        return found._replace(how=f"{found.how}; the other side's agree exactly")
    if agree(left):
        return _mirrored(difference(right, left, may_pair))
    test = stats.ttest_ind(left, right, equal_var=False)
    interval = test.confidence_interval(0.95)
    mean = float(left.mean() - right.mean())
    how = f"unpaired (Welch), {len(left)} and {len(right)} seeds"
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), how)


def _within_shared_seeds(left: pd.Series, right: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Both within the seeds that they share, if those are two or all that one side has.

    Else both as they are.
    """
    known = left.dropna().index, right.dropna().index
    shared = known[0].intersection(known[1])
    if len(shared) > 1 or 0 < len(shared) == min(map(len, known)):
        return left[shared], right[shared]
    return left, right


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


def _rows(left: Side, right: Side, metrics: Sequence[str]) -> Iterator[Row]:
    """The rows of a comparison.

    Those of which one side has no values, or neither has a finite mean, are left out.
    """
    for what, metric, one, other in _pairs(left, right, metrics):
        values = one.values(metric), other.values(metric)
        if not min(map(len, values)):
            continue
        if (
            isinstance(one, StudyArm)
            and isinstance(other, StudyArm)
            and _may_pair(one.study, other.study)
        ):
            found = _over_images(difference(*values, may_pair=True), metric, one, other)
            # a row shows what its difference is of
            values = _within_shared_seeds(*values)
        else:
            found = difference(*values, may_pair=False)
        is_known = any(map(math.isfinite, (values[0].mean(), values[1].mean(), found.mean)))
        if is_known:
            yield Row(what, metric, *values, found)


# what a row is about, its metric, left and right
Pair = tuple[str, str, StudyArm | PublishedNumber, StudyArm | PublishedNumber]


def _pairs(left: Side, right: Side, metrics: Sequence[str]) -> Iterator[Pair]:
    """What to compare in each row.

    Of two arms, a row per metric; of studies, one per arm; beside a published number, one per arm
    and protocol.
    """
    if metrics and (isinstance(left, PublishedNumber) or isinstance(right, PublishedNumber)):
        raise _refused("--metric", "a published number is of top-1 alone")
    if isinstance(left, PublishedNumber):
        for what, metric, arm in _by_protocol(right, left):
            yield what, metric, left, arm
    elif isinstance(right, PublishedNumber):
        for what, metric, arm in _by_protocol(left, right):
            yield what, metric, arm, right
    elif isinstance(left, StudyArm) and isinstance(right, StudyArm):
        for metric in _metrics(left.study, right.study, metrics):
            yield label(metric), metric, left, right
    elif len(metrics) > 1:
        raise _refused("--metric", "is one where arms are compared one by one")
    else:
        metric = _metrics(left.study, right.study, metrics)[0]
        for name in _arms(left, right):
            yield f"`{name}`", metric, _at(left, name), _at(right, name)


def _at(side: Measured, arm: str) -> StudyArm:
    """The side itself if it is an arm, else that arm of it."""
    return side if isinstance(side, StudyArm) else StudyArm(f"{side.name}:{arm}", side.study, arm)


def _by_protocol(side: Side, number: PublishedNumber) -> Iterator[tuple[str, str, StudyArm]]:
    """Each measured arm by the published number's protocol, and by its last epoch."""
    if isinstance(side, PublishedNumber):
        return
    protocol = number.entry.get("protocol", "").lower()
    # our metric that is obtained as the published number was, where that is known
    same = "best/test/top1" if "best" in protocol else "test/top1" if "last" in protocol else None
    for arm in [side.arm] if isinstance(side, StudyArm) else side.study.design_arms:
        for metric in dict.fromkeys([same or "test/top1", "test/top1", "best/test/top1"]):
            what = label(metric) if metric.startswith("best/") else "top-1, last epoch"
            what += ", their protocol" * (metric == same)
            whole = what if isinstance(side, StudyArm) else f"`{arm}`, {what}"
            yield whole, metric, _at(side, arm)


def _over_images(found: Difference, metric: str, left: StudyArm, right: StudyArm) -> Difference:
    """Compare one trial each under the same seed, with an interval over the test images.

    As found where the trials do not tell which images were right.
    """
    trials = [side.study.finished(side.arm)["trial"] for side in (left, right)]
    if len(trials[0]) != 1 or list(trials[0].index) != list(trials[1].index):
        return found
    hits = [
        side.study.hits.get(own.iloc[0], "")
        for side, own in zip((left, right), trials, strict=True)
    ]
    low, high = difference_over_images(metric, *hits)
    return found if math.isnan(low) else found._replace(low=low, high=high, how=ON_RUN)


def _metrics(left: Source, right: Source, asked: Sequence[str]) -> list[str]:
    """Those asked for; by default what both have, the primary metric first."""
    shared = left.columns.keys() & right.columns.keys()
    for metric in asked:
        if metric not in shared:
            raise _refused("--metric", f"'{metric}' is not measured; {nearest(metric, shared)}")
    if asked:
        return list(asked)
    primary = left.primary if left.primary in right.columns else right.primary
    wanted = dict.fromkeys([primary, f"best/{primary}", *MORE_METRICS])
    found = [metric for metric in wanted if metric in shared]
    if not found:
        raise _refused(
            left.primary,
            f"is not measured in {right.study}, and {right.primary} not in {left.study}",
        )
    return found


def _arms(left: Measured, right: Measured) -> list[str]:
    """The arms to compare: a study's others with an arm, or those that two studies both have."""
    if isinstance(left, StudyArm):
        return _others(right.study, left)
    if isinstance(right, StudyArm):
        return _others(left.study, right)
    found = [arm for arm in left.study.design_arms if arm in right.study.design_arms]
    if not found:
        names = f"{left.name} {right.name}"
        raise _refused(names, "have no arm of one name; compare STUDY:ARM with STUDY:ARM")
    return found


def _others(study: Source, one: StudyArm) -> list[str]:
    """The arms of a study that are not `one`."""
    return [arm for arm in study.design_arms if study is not one.study or arm != one.arm]


def _refused(key: str, message: str) -> InputError:
    return InputError([Problem("", key, message)])


def _may_pair(left: Source, right: Source) -> bool:
    """Whether a seed means the same in both: the same images, in the same order.

    Where data are not known, as of own code, it does by the same code: no more is known within one
    study. A paired test of what has nothing in common is valid, and finds less.
    """
    other_data = _differ(left, right, "data_fingerprint")
    if other_data is None:
        return left is right or _differ(left, right, "source_fingerprint") is False
    return left is right or not other_data


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
    if not isinstance(side, PublishedNumber):
        trials = side.study.trials
        arms = [side.arm] if isinstance(side, StudyArm) else side.study.design_arms
        missing = [
            f"`{arm}` {n} of {planned}"
            for arm in arms
            if (n := len(side.study.finished(arm))) < (planned := (trials["arm"] == arm).sum())
        ]
        if missing:
            yield f"{side.study.study} has trials that are not finished: {listed(missing)}"


def _of_plans(studies: Iterable[Source]) -> Iterator[str]:
    """What p-values here do not know of: looks, and plans that were changed."""
    for study in {study.study: study for study in studies}.values():
        if study.has_looks:
            what = "p-values and intervals here are as of a fixed number of them"
            looked = f"{study.study} added seeds until its claims were decided"
            yield f"{looked}: {what}; its report's are not"
        yield from (f"{study.study}: {warning}" for warning in study.warnings)


def _notes(side: Side) -> Iterator[str]:
    if isinstance(side, PublishedNumber):
        number = side.entry
        protocol, source = (number.get(key, f"{key} not known") for key in ("protocol", "source"))
        yield f"{side.name}: {number['top1']:.2f}, {protocol}, one number without spread; {source}"


def _differing(left: Side, right: Side) -> list[tuple[str, Any, Any]]:
    """The settings in which two arms differ.

    Of two studies, those in which every arm that both have differs alike. None are told where a
    study is known by its report alone and the other is not.
    """
    if isinstance(left, StudyArm) and isinstance(right, StudyArm):
        pairs = [(left, right)]
    elif isinstance(left, WholeStudy) and isinstance(right, WholeStudy):
        pairs = [(_at(left, arm), _at(right, arm)) for arm in _arms(left, right)]
    else:
        return []
    if left.study.knows_settings != right.study.knows_settings:
        return []
    found = []
    for own, other in pairs:
        a, b = own.study.settings(own.arm), other.study.settings(other.arm)
        keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
        found.append({key: (a.get(key), b.get(key)) for key in keys})
    return [
        (key, *values)
        for key, values in found[0].items()
        if all(one.get(key) == values for one in found)
    ]


def comparison_text(found: Comparison) -> str:
    """The comparison as Markdown: title, table, settings that differ, warnings."""
    header, rows = comparison_rows(found)
    parts = [comparison_head(found), table(header, rows, ALIGNED), *explanations(found)]
    if found.settings:
        differ = table(*settings_rows(found), "lll")
        parts.append(f"Settings that differ:\n\n{differ}")
    parts += found.notes
    parts += [f"**Warning:** {text}." for text in found.warnings]
    return "\n\n".join(parts)


# the column that says how a difference was estimated
HOW = "how"
CORRELATION = "pair correlation"
# how the columns of `comparison_rows` are aligned
ALIGNED = "lrrrrlr"


def comparison_head(found: Comparison) -> str:
    """What the comparison comes to, in a sentence of Markdown."""
    first = found.rows[0]
    sides = f"`{found.left}` minus `{found.right}`"
    if _is_by_arm(found):
        return f"{sides}, arm by arm; the intervals are not corrected for the number of rows."
    return f"{sides}, {first.what}: {_sentence(first)}."


def comparison_rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of differences, cells as Markdown."""
    first, metrics = found.rows[0], {row.metric for row in found.rows}
    what = "metric"
    if _is_by_arm(found):
        what = f"{label(first.metric)} of" if len(metrics) == 1 else "arm"
    header = [what, f"`{found.left}`", f"`{found.right}`", "difference [95 %]", "p", HOW]
    if any(math.isfinite(row.found.correlation) for row in found.rows):
        header.append(CORRELATION)
    columns = [[""] * len(found.rows) for _ in ALIGNED]
    # numbers of one unit have the same decimals
    for unit in {points(row.metric) for row in found.rows}:
        own = [k for k, row in enumerate(found.rows) if points(row.metric) == unit]
        for column, cells in zip(columns, _columns([found.rows[k] for k in own]), strict=True):
            for k, cell in zip(own, cells, strict=True):
                column[k] = cell
    return header, [list(row) for row in zip(*columns[: len(header)], strict=True)]


def settings_rows(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of settings that differ, cells as Markdown."""
    rows = [
        [f"`{key}`", *(MISSING if one is None else f"`{one}`" for one in values)]
        for key, *values in found.settings
    ]
    return ["setting", f"`{found.left}`", f"`{found.right}`"], rows


def explanations(found: Comparison) -> list[str]:
    """How to read the table of differences."""
    texts = [
        "Mean ± standard deviation over seeds; the difference is left minus right, its p two-sided "
        "and uncorrected; bold where the interval excludes 0."
    ]
    if any(row.found.is_on_run for row in found.rows):
        texts.append(
            "One seed: the interval is a 95 % percentile interval of a paired bootstrap over test "
            f"images ({N_RESAMPLES:,} resamples, the same images for both). It is conditional on "
            "this one training run: it tells how the difference would change with other test "
            "images, not with another seed, for which it is too narrow. So there is no p-value, "
            "and nothing is bold."
        )
    return texts


def _is_by_arm(found: Comparison) -> bool:
    return found.rows[0].what.startswith("`")


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


def _columns(rows: Sequence[Row]) -> list[list[str]]:
    """The columns of rows of one unit."""
    found = [row.found for row in rows]
    places = effects_decimals(one[:3] for one in found)
    sizes = [effect(*one[:3], places) for one in found]
    return [
        [row.what for row in rows],
        _sides([row.left for row in rows]),
        _sides([row.right for row in rows]),
        [f"**{size}**" * one.is_separable or size for one, size in zip(found, sizes, strict=True)],
        [p_cell(one.p) for one in found],
        [one.how for one in found],
        [correlation(one.correlation) for one in found],
    ]


def _sides(columns: Sequence[pd.Series]) -> list[str]:
    """Each as `72.3 ± 0.4 (3 seeds)`; a published number as it was published."""
    places = means_decimals([own for own in columns if not _is_published(own)])
    return [
        f"{own.iloc[0]:.2f}"
        if _is_published(own)
        else f"{over_seeds(own, places=places)} ({len(own)} seed{'s' * (len(own) > 1)})"
        for own in columns
    ]
