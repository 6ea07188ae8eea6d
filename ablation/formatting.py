"""Numbers, names and tables as text, readable raw and rendered; sizes and times read from text.

Numbers are rounded to what their uncertainty allows. Credentials are removed from what reaches
consoles, logs, reports and databases (`redacted`).
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ablation.errors import InputError, Problem

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


def column_decimals(uncertainties: Iterable[float]) -> int | None:
    """Decimals of all numbers of a column: those that the median of its uncertainties allows.

    None without any uncertainty.

    >>> column_decimals([1.2, 0.34, 0.9, float("nan")])
    1
    """
    known = [one for one in uncertainties if math.isfinite(one) and one > 0]
    return decimals(statistics.median(known)) if known else None


def means_decimals(columns: Sequence[Iterable[float]]) -> int | None:
    """Decimals of a column of means: those of `column_decimals`, by their standard deviations.

    Without any, 1 where a number is 1 or more, else None.

    columns: the values of each mean
    """
    places = column_decimals(map(spread, columns))
    return places if places is not None else _without_spread(one for own in columns for one in own)


def _without_spread(numbers: Iterable[float]) -> int | None:
    return 1 if any(abs(one) >= 1 for one in numbers) else None


def two_digits(number: float, sign: str = "") -> str:
    """Two significant digits, without an exponent. sign: "+" to show that of a positive number.

    >>> two_digits(233.4), two_digits(3.04), two_digits(0.000012)
    ('230', '3', '0.000012')
    """
    return f"{Decimal(f'{number:.2g}'):{sign}f}"


def value(mean: float, sd: float, show_sd: bool = True, places: int | None = None) -> str:
    """`72.35 ± 0.35`; not `show_sd`, `72.35`; without spread, `72.3`, and `0.0123` below 1.

    places: decimals; default, those that the spread allows
    """
    if not math.isfinite(mean):
        return MISSING
    shape = ".3g" if not sd > 0 and 0 < abs(mean) < 1 else f".{decimals(sd)}f"
    if places is not None:
        shape = f".{places}f"
    if not (show_sd and math.isfinite(sd)):
        return f"{mean:{shape}}"
    return f"{mean:{shape}} ± {sd:{shape}}"


def spread(values: Iterable[float]) -> float:
    """The standard deviation; NaN of fewer than two values, which may be NaN themselves."""
    known = [one for one in values if one == one]
    has_sd = len(known) > 1 and all(map(math.isfinite, known))
    return statistics.stdev(known) if has_sd else math.nan


def over_seeds(values: Iterable[float], show_sd: bool = True, places: int | None = None) -> str:
    """`72.3 ± 0.4`, mean and standard deviation; of one value, `72.3`; of none but NaN, nothing.

    places: as of `value`
    """
    known = [one for one in values if one == one]
    return value(statistics.fmean(known), spread(known), show_sd, places) if known else ""


def effect(mean: float, low: float, high: float, places: int | None = None, unit: str = "") -> str:
    """`+3.2 [1.1, 5.3]`; `+3.2` where there is no interval; `+3.2 points [1.1, 5.3]` with a unit.

    More decimals are given where a bound would otherwise round to the 0 that the interval excludes.

    places: decimals; default, those that the interval allows
    """
    if not math.isfinite(mean):
        return MISSING
    if not math.isfinite(low):
        if places is not None:
            return f"{mean:+z.{places}f}{unit}"
        is_small = 0 < abs(mean) < 1
        return f"{two_digits(mean, '+') if is_small else f'{mean:+.1f}'}{unit}"
    places = effect_decimals(low, high, places)
    # z: no negative zeros
    return f"{mean:+z.{places}f}{unit} [{low:z.{places}f}, {high:z.{places}f}]"


def effect_decimals(low: float, high: float, places: int | None = None) -> int:
    """Decimals with which no bound of an interval rounds to the 0 that it excludes.

    At least `places`; default, those that the interval allows.
    """
    places = decimals((high - low) / 2) if places is None else places
    while low * high > 0 and 0 in (round(low, places), round(high, places)) and places < 12:
        places += 1
    return places


# by how many decimals a column may exceed those of its median, for the sake of one interval
MOST_ADDED = 2


def effects_decimals(effects: Iterable[tuple[float, float, float]]) -> int | None:
    """Decimals of a column of effects: as `means_decimals`, by their intervals.

    Up to `MOST_ADDED` more are given where a bound needs them.

    effects: mean, low and high of each row
    """
    rows = list(effects)
    known = [(low, high) for _, low, high in rows if math.isfinite(low)]
    places = column_decimals((high - low) / 2 for low, high in known)
    if places is None:
        return _without_spread(mean for mean, *_ in rows)
    return min(places + MOST_ADDED, max(effect_decimals(low, high, places) for low, high in known))


def mean_of(mean: float, low: float, high: float) -> str:
    """`3.2 [1.1, 5.3]`: an effect that is no difference, so without its plus sign."""
    return effect(mean, low, high).removeprefix("+")


def p_value(p: float) -> str:
    """Two significant digits, and more where it would read 0.05 but is below; `< 0.001`."""
    if not math.isfinite(p):
        return MISSING
    if p < 0.001:
        return "< 0.001"
    digits = next(n for n in itertools.count(2) if not p < 0.05 <= float(f"{p:.{n}g}"))
    return f"{Decimal(f'{p:.{digits}g}'):f}"


def p_cell(p: float) -> str:
    """A p-value in a table: three decimals, and more where it would read 0.050 but is below."""
    if not math.isfinite(p):
        return MISSING
    if p < 0.001:
        return "< 0.001"
    places = next(n for n in itertools.count(3) if not p < 0.05 <= round(p, n))
    return f"{p:.{places}f}"


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


def durations(seconds: Sequence[float]) -> list[str]:
    """A column of times, all in one unit: that of the longest, with one decimal."""
    known = [one for one in seconds if math.isfinite(one)]
    longest = max(known, default=0.0)
    unit, size = ("s", 1) if longest < 60 else ("min", 60) if longest < 3600 else ("h", 3600)
    places = 0 if unit == "s" and min(known, default=0.0) >= 10 else 1
    return [f"{one / size:.{places}f} {unit}" if math.isfinite(one) else MISSING for one in seconds]


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


HIDDEN = "***"
# Greedy: a password may hold an @ or a slash that is not encoded.
USER = re.compile(r"(://)(\S*)@")
FIELD = re.compile(
    r"([?&;][\w.-]*(?:passw|pwd|secret|token|key|credential)[\w.-]*=)([^&;\s'\"]+)", re.IGNORECASE
)
# of what is looked for outside its URL: shorter ones would be found in any text
MIN_CHARACTERS = 4


def redacted(text: str, *urls: str) -> str:
    """The text without credentials: of the URLs in it, and of `urls` where they stand alone."""
    for secret in sorted(
        {secret for url in urls for secret in _secrets(url)}, key=len, reverse=True
    ):
        text = text.replace(secret, HIDDEN)
    return FIELD.sub(rf"\1{HIDDEN}", USER.sub(rf"\1{HIDDEN}@", text))


def _secrets(url: str) -> set[str]:
    """Passwords, and the pieces that a badly encoded one may be read as, as written and decoded."""
    found = [match[2] for match in FIELD.finditer(url)]
    for match in USER.finditer(url):
        found += re.split(r"[@/?#]", match[2].partition(":")[2])
        found.append(match[2].partition(":")[2])
    return {
        form
        for secret in found
        for form in (secret, unquote(secret))
        if len(form) >= MIN_CHARACTERS
    }


SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_duration(text: str, option: str) -> float:
    """`90`, `90s`, `45min`, `1.5h` or `2d` in seconds. Raises InputError naming the option."""
    seconds = _amount(text, SECONDS)
    if not seconds:
        raise InputError([Problem(option, text, "is not a time, such as 90s, 45min or 1.5h")])
    return seconds


def parse_size(text: str, option: str) -> int:
    """`500MB` or `20 GiB` in bytes. Raises InputError naming the option."""
    n_bytes = _amount(text.upper(), BYTES)
    if n_bytes is None:
        raise InputError([Problem(option, text, "is not a size, such as 500MB or 20GB")])
    return int(n_bytes)


def show_size(n_bytes: float) -> str:
    """Bytes in decimal units: 1.5 GB."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB"):
        n_bytes /= 1000
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:.1f} GB"


def _amount(text: str, units: Mapping[str, float]) -> float | None:
    """A number times its unit; None if the text is none."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]*)\s*", text, re.ASCII)
    return float(match[1]) * units[match[2]] if match and match[2] in units else None
