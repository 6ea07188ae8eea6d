"""The tables of `reports/<study>/` read again, strictly: one that was cut off, or edited by hand, is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ablation import claims, effects
from ablation.errors import InputError, Problem

TRIALS = ("trial", "arm", "seed", "state")
_NAMES = ("arm", "state", "effect", "metric", "claim", "says", "contrast", "direction", "verdict", "claim_verdict", "level_by_level")
_NUMBERS = ("estimate", "low", "high", "p", "p_holm")


def read_trials(folder: Path) -> pd.DataFrame:
    """results.csv. Raises InputError naming the file if it is no such table."""
    path = folder / "results.csv"
    table = _whole(read_table(path, TRIALS), "seed", path)
    if table.columns[-1] == "state":
        raise _unusable(path, "it has no metric")
    return _numeric(table, [name for name in table.columns if "/" in name], path)  # as no factor's name has


def read_effects(folder: Path) -> pd.DataFrame:
    """effects.csv; an empty table where there is none."""
    path = folder / "effects.csv"
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in effects.CSV_COLUMNS})
    return _numeric(read_table(path, effects.CSV_COLUMNS), _NUMBERS, path)


def read_claims(folder: Path) -> pd.DataFrame:
    """claims.csv."""
    path = folder / "claims.csv"
    return _numeric(_whole(read_table(path, claims.CSV_COLUMNS), "n_seeds", path), _NUMBERS, path)


def headline_of(trials: pd.DataFrame, judged: pd.DataFrame) -> str:
    """The metric that effects.csv has first; without effects, the first column that can be no factor's."""
    after = list(trials.columns[trials.columns.get_loc("state") + 1 :])
    if len(judged) and judged["metric"].iloc[0] in after:
        return judged["metric"].iloc[0]
    return next((name for name in after if "/" in name), after[0])


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table with its floats to the bit, and names that read as numbers, or as nothing, left as they are.

    pandas' own reading of floats may be off by the last bit, which turns the rounding of a number that ends in 5 around.
    Raises InputError naming the file if it cannot be read, or lacks one of `columns`.
    """
    try:
        written = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, empty, or not as many cells in each row
        raise _unusable(path, " ".join(str(error).split())) from None
    lacking = [name for name in columns if name not in written.columns]
    if lacking:
        raise _unusable(path, f"it has no column '{lacking[0]}'")
    return written.apply(lambda column: column if column.name in _NAMES else _numbers(column))


def _numbers(column: pd.Series) -> pd.Series:
    """Floats, NaN where a cell is empty; the column as it is where one is no number."""
    try:
        return column.map(lambda cell: float(cell or "nan")).astype(float)
    except ValueError:
        return column


def _numeric(table: pd.DataFrame, names: Sequence[str], path: Path) -> pd.DataFrame:
    """The table, if all these columns hold numbers."""
    for name in names:
        if len(table) and not pd.api.types.is_float_dtype(table[name]):
            raise _unusable(path, f"its column '{name}' holds what is no number")
    return table


def _whole(table: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    try:
        return table.astype({name: int})
    except (ValueError, OverflowError):
        raise _unusable(path, f"its column '{name}' holds what is no whole number") from None


def _unusable(path: Path, why: str) -> InputError:
    return InputError([Problem(str(path), "", f"is no table of a report ({why}); `ablate report` writes it again from runs/")])
