"""The columns of results.csv and history.csv, and which of them a metric has.

A metric has the column of its name, `test/top1`, unless the tables have that name for something
else, as `error`, or as a factor of the study, or `best/acc` beside the headline `acc`: then it has
the column `metric/error`. So no two things share a column, and what tells trials apart stays what
it is. A name with characters that no table keeps, such as a NUL, is written with escapes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

# the first of results.csv; factors and metrics follow
IDENTITY = ("trial", "arm", "kind", "seed", "state")
# the last of results.csv
COSTS = ("epochs_trained", "epochs_shared", "wall_seconds", "error")
# the first of history.csv
POSITION = ("trial", "arm", "seed", "phase", "epoch")
# the last of history.csv, where any epoch has them, see `ablation.subject.protocol.Record`
MARKS: tuple[Literal["accumulation", "encoding_batch"], ...] = ("accumulation", "encoding_batch")

PREFIX = "metric/"
NOT_KEPT = re.compile("[\0\r\ud800-\udfff]")
_OWN = frozenset((*IDENTITY, *COSTS, *POSITION, *MARKS))


def column_of(metric: str, taken: Collection[str] = ()) -> str:
    """The column of a metric; two metrics never have the same one.

    `metric/error` and `metric/metric/error` have two columns, too.
    taken: the study's factors, and other columns that the metric must not have.
    """
    is_taken = (bare := _bare(metric)) in _OWN or bare in taken
    return f"{PREFIX}{metric}" if is_taken else escaped(metric)


def metric_of(column: str, taken: Collection[str] = ()) -> str:
    """The metric that has a column, its name escaped: `column_of` turned around."""
    is_renamed = column != (bare := _bare(column)) and (bare in _OWN or bare in taken)
    return column.removeprefix(PREFIX) if is_renamed else column


def escaped(name: str) -> str:
    """A name that reads back from a CSV file as it was written.

    Carriage returns, NULs and halves of characters do not.
    """
    return name.encode("unicode_escape").decode() if NOT_KEPT.search(name) else name


def _bare(name: str) -> str:
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX)
    return name
