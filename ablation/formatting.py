"""Numbers, names and tables as text, readable raw and rendered.

Numbers are rounded to what their uncertainty allows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

MISSING = "\N{EN DASH}"

_LABELS = {
    "test/top1": "top-1",
    "test/many": "many",
    "test/medium": "medium",
    "test/few": "few",
    "test/top1_compensated": "compensated",
    "test/balanced_accuracy": "balanced accuracy",
    "test/ece": "calibration error",
    "best/test/top1": "best on test",
}
_PERCENT = {
    "top1",
    "many",
    "medium",
    "few",
    "top1_compensated",
    "balanced_accuracy",
    "ece",
    "per_class",
}


def label(metric: str) -> str:
    """A metric's name for readers."""
    if "validation/" in metric:
        known = _LABELS.get(metric.replace("validation/", "test/"))
        return f"{known.removesuffix(' on test')} on validation" if known else metric
    return _LABELS.get(metric, metric)


def is_percent(metric: str) -> bool:
    """Whether a metric is in percent, its differences therefore in points."""
    return metric.rsplit("/", 1)[-1].removesuffix("_ema") in _PERCENT


def points(metric: str) -> str:
    """The unit of a metric's differences, as a suffix."""
    return " points" if is_percent(metric) else ""


def decimals(uncertainty: float) -> int:
    """Decimals that an uncertainty allows, 0 to 6; 1 where there is none.

    The rule of the Particle Data Group: two significant digits of the uncertainty where they are
    10 to 35, else one.

    >>> decimals(12.3), decimals(3.4), decimals(0.6), decimals(0.012)
    (0, 1, 1, 3)
    """
    if not (math.isfinite(uncertainty) and uncertainty > 0):
        return 1
    exponent = math.floor(math.log10(uncertainty))
    return min(max((uncertainty < 3.55 * 10.0**exponent) - exponent, 0), 6)


def value(mean: float, sd: float, show_sd: bool = True) -> str:
    """`72.35 ± 0.35`; not `show_sd`, `72.35`; without spread, `72.3`, and `0.0123` below 1."""
    if not math.isfinite(mean):
        return MISSING
    shape = ".3g" if not sd > 0 and 0 < abs(mean) < 1 else f".{decimals(sd)}f"
    if not (show_sd and math.isfinite(sd)):
        return f"{mean:{shape}}"
    return f"{mean:{shape}} ± {sd:{shape}}"


def over_seeds(values: Iterable[float], show_sd: bool = True) -> str:
    """`72.3 ± 0.4`, mean and standard deviation; of one value, `72.3`; of none but NaN, nothing."""
    known = [one for one in values if one == one]
    has_sd = len(known) > 1 and all(map(math.isfinite, known))
    sd = statistics.stdev(known) if has_sd else math.nan
    return value(statistics.fmean(known), sd, show_sd) if known else ""


def effect(mean: float, low: float, high: float) -> str:
    """`+3.2 [1.1, 5.3]`; `+3.2` where there is no interval.

    More decimals are given where a bound would otherwise round to the 0 that the interval excludes.
    """
    if not math.isfinite(mean):
        return MISSING
    if not math.isfinite(low):
        return f"{mean:+.1f}" if abs(mean) >= 0.05 or mean == 0 else f"{mean:+.2g}"
    places = decimals((high - low) / 2)
    while low * high > 0 and 0 in (round(low, places), round(high, places)) and places < 12:
        places += 1
    # z: no negative zeros
    return f"{mean:+z.{places}f} [{low:z.{places}f}, {high:z.{places}f}]"


def mean_of(mean: float, low: float, high: float) -> str:
    """`3.2 [1.1, 5.3]`: an effect that is no difference, so without its plus sign."""
    return effect(mean, low, high).removeprefix("+")


def p_value(p: float) -> str:
    """Two significant digits; `< 0.001` below that."""
    if not math.isfinite(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def correlation(r: float) -> str:
    """Two decimals; without a sign where they are 0."""
    return f"{r:z.2f}" if math.isfinite(r) else MISSING


def compared_p(p: float) -> str:
    """`= 0.03`, `< 0.001`: what stands after a p in a sentence."""
    return text if (text := p_value(p)).startswith("<") else f"= {text}"


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3.4 min`, `5.1 h`."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def span(numbers: Iterable[int]) -> str:
    """`3`, `2 to 5`: the smallest and the largest number; of none, nothing."""
    known = sorted(set(numbers))
    return " to ".join(map(str, [known[0], known[-1]] if len(known) > 1 else known))


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each leaf of a nested mapping, in its order.

    An empty mapping is a leaf.
    """
    for key, leaf in tree.items():
        if isinstance(leaf, Mapping) and leaf:
            yield from leaves(leaf, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", leaf


def table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A Markdown table with padded columns; "" without rows.

    align: a letter per column, l or r; of columns that the table leaves out, too.
    """
    if not rows:
        return ""
    cells = [
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        for row in [header, *rows]
    ]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    columns = list(zip(widths, align, strict=False))
    rules = [f"{'-' * (w - 1)}:" if a == "r" else "-" * w for w, a in columns]
    lines = [
        [
            cell.rjust(w) if a == "r" else cell.ljust(w)
            for cell, (w, a) in zip(row, columns, strict=True)
        ]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [lines[0], rules, *lines[1:]])
