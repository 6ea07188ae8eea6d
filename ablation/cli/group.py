"""A group of commands whose help shows every command's whole summary."""

from __future__ import annotations

import click

# Longer than any first sentence: click cuts summaries at the width of the terminal.
WHOLE = 1000


class CommandGroup(click.Group):
    """As click's own group, with summaries wrapped over lines instead of cut off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command's name beside the first sentence of its help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(WHOLE))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
