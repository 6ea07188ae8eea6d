"""Show a comparison of arms or studies on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from ablation.analysis.compare import (
    ALIGNED,
    CORRELATION,
    HOW,
    Comparison,
    comparison_head,
    comparison_rows,
    explanations,
    settings_rows,
)
from ablation.formatting import MISSING
from ablation.study.live import excess, fitting, tell


def show_comparison(found: Comparison, console: Console) -> None:
    """Print what `comparison_text` says, with tables for the eye in place of Markdown."""
    tell(console, _plain(comparison_head(found)))
    header, rows = comparison_rows(found)
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    alike = {name: cells[0] for name, cells in columns.items() if len({*cells}) == 1 < len(rows)}
    texts = [f"Every row: {how}." if (how := alike.get(HOW, "")) else "", *explanations(found)]
    # a column of dashes, and one that one line can tell
    left_out = [name for name, cell in alike.items() if name == HOW or cell == MISSING]
    if HOW in left_out:
        # which tells the number of seeds, too
        rows = [[_SEEDS.sub("", cell) for cell in row] for row in rows]
    table = _without(left_out, header, rows)
    # What is less wanted makes room for the rest.
    for name in (CORRELATION, HOW):
        if name in header and name not in left_out and excess(table, console) > 0:
            left_out.append(name)
            table = _without(left_out, header, rows)
            if name == HOW:
                texts = [*_each_how(header, rows), *texts]
    if excess(table, console) > 0:
        table = _without(left_out, header, [[_SEEDS.sub("", cell) for cell in row] for row in rows])
        # the names fold, if that is enough
        longest = max(len(_plain(row[0])) for row in rows)
        table.columns[0].max_width = max(NARROWEST, longest - excess(table, console))
    console.print("", fitting(table, console), "", sep="\n")
    for text in filter(None, texts):
        console.print(Text(text), style="dim")
    if found.settings:
        console.print("", "settings that differ:", sep="\n")
        console.print(fitting(_table(*settings_rows(found), "lll"), console))
    for note in found.notes:
        console.print(Text(_plain(note)))
    for warning in found.warnings:
        console.print(Text(f"warning: {_plain(warning)}"))


# of the first column of a table that is folded to fit
NARROWEST = 12
_SEEDS = re.compile(r" \((\d+) seeds?\)$")


def _without(
    left_out: Sequence[str], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> Table:
    """The table of some columns; `72.3 ± 0.4 (3 seeds)` becomes `72.3 ± 0.4 (3)`."""
    kept = [i for i, name in enumerate(header) if name not in left_out]
    told = [[_SEEDS.sub(r" (\1)", row[i]) for i in kept] for row in rows]
    names = [
        f"{header[i]} (seeds)" if any(_SEEDS.search(row[i]) for row in rows) else header[i]
        for i in kept
    ]
    return _table(names, told, [ALIGNED[i] for i in kept])


def _each_how(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A line per way in which differences were estimated, with the rows that were."""
    column = header.index(HOW)
    hows = dict.fromkeys(row[column] for row in rows)
    return [
        f"{how}: {', '.join(_plain(row[0]) for row in rows if row[column] == how)}." for how in hows
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[str]) -> Table:
    """A table of cells that are Markdown: what is bold there is bold here."""
    table = Table(box=None, pad_edge=False)
    for heading, one in zip(header, align, strict=False):
        justify: JustifyMethod = "right" if one == "r" else "left"
        table.add_column(_plain(heading), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(cell), style="bold" * cell.startswith("**")) for cell in row))
    return table


def _plain(markdown: str) -> str:
    return markdown.replace("`", "").replace("**", "")
