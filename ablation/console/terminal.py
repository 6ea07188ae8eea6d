"""Standard output as the commands print to it: a terminal of any width, a pipe or a file."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # columns


def output() -> Console:
    """Standard output; what is printed is as wide as it need be where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=UNBOUNDED)


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is, on one line; nothing if there is none."""
    if text:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A table without lines: columns of names, then of numbers. Long cells are folded, not cut."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def fitting(table: Table, console: Console) -> Table | Text:
    """The table; on a console that is too narrow, its rows as text, so that nothing is cut."""
    unbounded = console.options.update(width=UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        return table
    first, *others = [str(column.header) for column in table.columns]
    lines = [str(table.title)] if table.title else []
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(others, cells, strict=True)
        told = ", ".join(f"{heading} {cell}" for heading, cell in pairs if cell)
        lines += [f"{first} {name}", f"  {told}"]
    return Text("\n".join(lines), overflow="fold")
