"""What the report says of its figures: how much they show, and which ranges they enlarge.

Without Matplotlib, which takes a second to load and is needed only where figures are drawn.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd

from ablation.analysis.results import Results

# the most arms that figures with a panel per arm show
MAX_ARMS = 12
# the most arms that have a line with its own colour, as many as there are colours
MAX_LINES = 8
# the most classes whose accuracies a line joins one by one
MAX_JOINED = 20
# how many times larger effects are that squeeze the others
SQUEEZING = 6.0


def classes_averaged(results: Results) -> int:
    """Over how many classes of like size lines of class accuracies are means; 1: over none."""
    n_classes = results.per_class.dropna(subset=["n_train"])["class"].nunique()
    return n_classes // 10 if n_classes > MAX_JOINED else 1


def zoom(results: Results) -> tuple[float, float] | None:
    """The range of the primary metric in which most rows lie, where a few others squeeze them.

    That is where the widest gap between means leaves at least half of the rows on one side, within
    two fifths of the whole range. None elsewhere.
    """
    cells = results.cells(results.primary).dropna(axis="columns", how="all")
    means = sorted([*cells.mean(), *(entry["top1"] for entry in published_of(results))])
    gaps = [above - below for below, above in pairwise(means)]
    if not gaps or max(gaps) == 0:
        return None
    cut = gaps.index(max(gaps)) + 1
    low, high = (means[cut], means[-1]) if 2 * cut <= len(means) else (means[0], means[cut - 1])
    inside = cells.loc[:, cells.mean().between(low, high)]
    low, high = min(low, inside.min(axis=None)), max(high, inside.max(axis=None))
    whole = max(means[-1], cells.max(axis=None)) - min(means[0], cells.min(axis=None))
    if not 0 < high - low < 0.4 * whole:
        return None
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def published_of(results: Results) -> list[dict[str, Any]]:
    """The published numbers that are of the primary metric."""
    return results.manifest.published if results.primary == "test/top1" else []


def effects_zoom(rows: pd.DataFrame) -> tuple[float, float] | None:
    """The range about 0 of the smaller effects, where others are many times larger; else None.

    rows: of `effects_figure`
    """
    ends = rows[["low", "high"]].fillna({"low": rows["estimate"], "high": rows["estimate"]})
    farthest = ends.abs().max(axis=1).sort_values()
    farthest = farthest[farthest > 0]
    ratios = farthest / farthest.shift()
    if not ratios.max() >= SQUEEZING:
        return None
    small = ends.loc[farthest.index[: farthest.index.get_loc(ratios.idxmax())]]
    low, high = min(0.0, small["low"].min()), max(0.0, small["high"].max())
    margin = 0.1 * (high - low)
    return low - margin, high + margin
