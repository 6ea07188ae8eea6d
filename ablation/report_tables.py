"""The tables of `reports/<study>/` read again, strictly: one that was cut off, or edited by hand, is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ablation import claims, effects
from ablation.columns import COSTS
from ablation.errors import InputError, Problem

TRIALS = ("trial", "arm", "seed", "state")
_NUMBERS = ("estimate", "low", "high", "p", "p_holm")


class Reported(NamedTuple):
    """results.csv, and what its columns are."""

    trials: pd.DataFrame
    headline: str
    factors: list[str]
    metrics: list[str]  # the headline first; called as their columns are, see `ablation.columns`


def read_trials(folder: Path, effects: pd.DataFrame) -> Reported:
    """results.csv. effects: from `read_effects`. Raises InputError naming the file if it is no such table."""
    path = folder / "results.csv"
    table = _whole(read_table(path, TRIALS), "seed", path)
    after = [
        name for name in table.columns[table.columns.get_loc("state") + 1 :] if name not in COSTS
    ]
    if not after:
        raise _unusable(path, "it has no metric")
    headline = _headline(after, effects)
    first = after.index(headline)
    costs = [name for name in COSTS if name in table and name != "error"]
    return Reported(
        _numeric(table, [*after[first:], *costs], path), headline, after[:first], after[first:]
    )


def read_effects(folder: Path) -> pd.DataFrame:
    """effects.csv; an empty table where there is none."""
    path = folder / "effects.csv"
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in effects.CSV_COLUMNS})
    return _numeric(read_table(path, effects.CSV_COLUMNS), [*_NUMBERS, "n_seeds"], path)


def read_claims(folder: Path) -> pd.DataFrame:
    """claims.csv."""
    path = folder / "claims.csv"
    return _numeric(_whole(read_table(path, claims.CSV_COLUMNS), "n_seeds", path), _NUMBERS, path)


def _headline(columns: Sequence[str], effects: pd.DataFrame) -> str:
    """The metric that effects.csv has first; without effects, the first column that can be no factor's."""
    if len(effects) and effects["metric"].iloc[0] in columns:
        return effects["metric"].iloc[0]
    return next((name for name in columns if "/" in name), columns[0])


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table of text, every cell and every column's name as it is written.

    Raises InputError naming the file if it cannot be read, a row is cut off, or it lacks one of `columns`, or has one twice.
    """
    try:  # without a header: pandas would give other names to columns without a name
        header, *rows = pd.read_csv(
            path, dtype=str, header=None, keep_default_na=False, encoding="utf-8"
        ).itertuples(index=False, name=None)
        written = pd.DataFrame(rows, columns=list(header), dtype=object)
    except (
        OSError,
        ValueError,
    ) as error:  # ValueError: not UTF-8, empty, or too many cells in a row
        raise _unusable(path, " ".join(str(error).split())) from None
    if written.isna().any(axis=None) or not all(isinstance(name, str) for name in header):
        raise _unusable(path, "it has a row that is cut off")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise _unusable(path, f"it has the column '{twice[0]}' twice")
    lacking = [name for name in columns if name not in written.columns]
    if lacking:
        raise _unusable(path, f"it has no column '{lacking[0]}'")
    return written


def _numeric(table: pd.DataFrame, names: Sequence[str], path: Path) -> pd.DataFrame:
    """The table with these columns as floats, to the bit, NaN where a cell is empty.

    pandas' own reading of floats may be off by the last bit, which turns the rounding of a number that ends in 5 around.
    """
    for name in names:
        try:
            table[name] = table[name].map(lambda cell: float(cell or "nan")).astype(float)
        except ValueError:
            raise _unusable(path, f"its column '{name}' holds what is no number") from None
    return table


def _whole(table: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    try:
        return table.astype({name: int})
    except (ValueError, OverflowError):
        raise _unusable(path, f"its column '{name}' holds what is no whole number") from None


def _unusable(path: Path, why: str) -> InputError:
    return InputError(
        [
            Problem(
                str(path),
                "",
                f"is no table of a report ({why}); `ablate report` writes it again from runs/",
            )
        ]
    )
