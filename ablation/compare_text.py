"""A comparison as Markdown."""

from __future__ import annotations

import math

import pandas as pd

from ablation.compare import Comparison, Difference, Row
from ablation.formatting import (
    MISSING,
    compared_p,
    correlation,
    effect,
    label,
    p_value,
    points,
    table,
    value,
)
from ablation.statistics import N_RESAMPLES


def comparison_text(found: Comparison) -> str:
    """What the headline says, the table, the settings that differ, and what to beware of."""
    by_arm, metrics = found.rows[0].what.startswith("`"), {row.metric for row in found.rows}
    first = (
        "metric"
        if not by_arm
        else f"{label(found.rows[0].metric)} of"
        if len(metrics) == 1
        else "arm"
    )
    correlated = any(math.isfinite(row.found.correlation) for row in found.rows)
    header = [
        first,
        f"`{found.left}`",
        f"`{found.right}`",
        "difference [95 %]",
        "p",
        "how",
        *["pair correlation"] * correlated,
    ]
    parts = [
        _by_arm(found) if by_arm else _sentence(found),
        table(header, [_cells(row)[: len(header)] for row in found.rows], "lrrrrlr"),
        "Mean ± standard deviation over seeds; the difference is left minus right, its p two-sided and uncorrected; bold where the interval excludes 0.",
    ]
    if any(is_on_run(row.found) for row in found.rows):
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
        parts.append(
            "Settings that differ:\n\n"
            + table(["setting", f"`{found.left}`", f"`{found.right}`"], rows, "lll")
        )
    parts += found.notes
    parts += [f"**Warning:** {text}." for text in found.warnings]
    return "\n\n".join(parts)


def is_separable(found: Difference) -> bool:
    """Whether the interval is defined and excludes 0; never that of one training run, which another seed may turn around."""
    return found.low * found.high > 0 and not is_on_run(found)


def is_on_run(found: Difference) -> bool:
    """Whether the interval is over the test images of one training run."""
    return math.isfinite(found.low) and math.isnan(found.p)


def _sentence(found: Comparison) -> str:
    row = found.rows[0]
    size = f"{effect(*row.found[:3])}{points(row.metric)}"
    if not math.isfinite(row.found.low):
        verdict = f"no interval can be given ({row.found.how})"
    elif is_on_run(row.found):
        verdict = f"{'' if row.found.low * row.found.high > 0 else 'not '}separable from 0 on this one training run ({row.found.how.partition(', ')[0]})"
    elif is_separable(row.found):
        verdict = f"{'higher' if row.found.mean > 0 else 'lower'} (p {compared_p(row.found.p)}, {row.found.how})"
    else:
        verdict = f"not separable from 0 (p {compared_p(row.found.p)}, {row.found.how})"
    return f"`{found.left}` minus `{found.right}`, {row.what}: {size}, {verdict}."


def _by_arm(found: Comparison) -> str:
    return f"`{found.left}` minus `{found.right}`, arm by arm; the intervals are not corrected for the number of rows."


def _cells(row: Row) -> list[str]:
    size = effect(*row.found[:3])
    sides = [_side(values) for values in (row.left, row.right)]
    return [
        row.what,
        *sides,
        f"**{size}**" if is_separable(row.found) else size,
        p_value(row.found.p),
        row.found.how,
        correlation(row.found.correlation),
    ]


def _side(values: pd.Series) -> str:
    """`72.3 ± 0.4 (3 seeds)`; a published number as it was published."""
    if values.index.name != "seed":
        return f"{values.iloc[0]:.2f}"
    return f"{value(values.mean(), values.std())} ({len(values)} seed{'s' * (len(values) > 1)})"
