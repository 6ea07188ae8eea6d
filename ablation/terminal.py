"""Standard output as the commands print to it: a terminal of any width, a pipe or a file."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # columns


def output() -> Console:
    """Standard output; what is printed is as wide as it need be where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=UNBOUNDED)


def fitting(table: Table, console: Console) -> Table | Text:
    """The table, or on a console that is too narrow for it its rows one below the other, so that nothing is cut away."""
    if (
        console.measure(table, options=console.options.update(width=UNBOUNDED)).maximum
        <= console.width
    ):
        return table
    first, *others = [str(column.header) for column in table.columns]
    lines = [str(table.title)] if table.title else []
    for name, *cells in zip(*(column.cells for column in table.columns)):
        told = ", ".join(f"{heading} {cell}" for heading, cell in zip(others, cells) if cell)
        lines += [f"{first} {name}", f"  {told}"]
    return Text("\n".join(lines), overflow="fold")
