"""Read the tables of `reports/<study>/` again, strictly.

A table that was cut off or edited by hand is an error that names its file.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ablation.analysis import claims, effects
from ablation.errors import InputError, Problem
from ablation.storage.columns import COSTS

TRIALS = ("trial", "arm", "seed", "state", "error")
_NUMBERS = ("estimate", "low", "high", "p", "p_holm")


class Reported(NamedTuple):
    """results.csv, and what its columns are."""

    trials: pd.DataFrame
    headline: str
    factors: list[str]
    # the headline first; called as their columns are, see `ablation.storage.columns`
    metrics: list[str]


def read_trials(folder: Path, effects: pd.DataFrame) -> Reported:
    """Read results.csv; raises InputError naming the file if it is no such table.

    effects: from `read_effects`
    """
    path = folder / "results.csv"
    table = read_table(path, TRIALS)
    after = list(table.columns[table.columns.get_loc("state") + 1 :])
    names = [name for name in after if name not in COSTS]
    if not names:
        raise _unusable(path, "it has no metric")
    # effects.csv has the headline first; without effects, it is the first column that cannot be a
    # factor's
    likely = [*effects["metric"][:1], *(name for name in names if "/" in name), names[0]]
    headline = next(name for name in likely if name in names)
    first = names.index(headline)
    costs = [name for name in COSTS if name in after and name != "error"]
    trials = _typed(table, path, [*names[first:], *costs], "seed")
    return Reported(trials, headline, names[:first], names[first:])


def read_effects(folder: Path) -> pd.DataFrame:
    """effects.csv; an empty table where there is none."""
    path = folder / "effects.csv"
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=object) for name in effects.CSV_COLUMNS})
    return _typed(read_table(path, effects.CSV_COLUMNS), path, _NUMBERS, "n_seeds")


def read_claims(folder: Path) -> pd.DataFrame:
    """claims.csv."""
    path = folder / "claims.csv"
    return _typed(read_table(path, claims.CSV_COLUMNS), path, _NUMBERS, "n_seeds")


def known_reports(folders: Sequence[Path]) -> dict[str, Path]:
    """Study -> the folder of its report; of two, that in the first of the folders."""
    found = {
        path.parent.name: path.parent
        for folder in reversed(folders)
        for path in folder.glob("*/results.csv")
    }
    return dict(sorted(found.items()))


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table of text, every cell and every column's name as it is written.

    Raises InputError naming the file if it cannot be read, a row is cut off, one of `columns` is
    missing, or a column is there twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise _unusable(path, " ".join(str(error).split())) from None
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise _unusable(path, f"row {line} has {len(row)} cells, the header {len(header)}")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice:
        raise _unusable(path, f"it has the column '{twice[0]}' twice")
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise _unusable(path, f"it has no column '{lacking[0]}'")
    return pd.DataFrame(rows, columns=header, dtype=object)


def _typed(table: pd.DataFrame, path: Path, numbers: Sequence[str], whole: str) -> pd.DataFrame:
    """The table with the columns `numbers` as floats and the column `whole` as whole numbers.

    Floats are exact to the bit, NaN where a cell is empty. pandas' own reading may be off by the
    last bit, which changes how a number that ends in 5 is rounded.
    """
    try:
        name, kind = whole, "whole number"
        table[name] = table[name].map(int).astype(int)
        for name in numbers:
            kind = "number"
            table[name] = table[name].map(lambda cell: float(cell or "nan")).astype(float)
    except (ValueError, OverflowError):
        raise _unusable(path, f"its column '{name}' holds what is no {kind}") from None
    return table


def _unusable(path: Path, why: str) -> InputError:
    how = f"is no table of a report ({why}); `ablate report` writes it again from runs/"
    return InputError([Problem(str(path), "", how)])
