"""`ablate cache`: show the cache of epochs, trim it, clear it."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.group import CommandGroup
from ablation.formatting import duration
from ablation.limits import parse_size
from ablation.storage.cache import (
    describe_cache,
    describe_clearing,
    describe_entries,
    require_idle,
)


@click.group(cls=CommandGroup, invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show the size of the cache of epochs; trim or clear it."""
    from ablation.storage.project import ProjectPaths

    if context.invoked_subcommand is None:
        print(describe_cache(ProjectPaths().store))


@cache.command()
@click.option("--size", required=True, help="Largest size to keep, e.g. 1GB.")
def trim(size: str) -> None:
    """Remove the entries that save the least time per byte. Records of epochs are kept."""
    from ablation.storage.project import ProjectPaths

    gone = ProjectPaths().store.trim(parse_size(size, "--size"))
    seconds = duration(sum(entry.seconds for entry in gone))
    print(f"evicted {describe_entries(gone)}, which took {seconds} to compute")


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool) -> None:
    """Remove all entries, records of finished epochs included.

    Finished trials keep their results in runs/.
    """
    from ablation.storage.project import ProjectPaths

    store, runs = ProjectPaths().store, Path("runs")
    require_idle(store, runs)
    if not yes:
        click.confirm(f"{describe_clearing(store, runs)}. Remove?", abort=True)
        # a study may have been started while the user was asked
        require_idle(store, runs)
    print(f"removed {describe_entries(store.clear())}")
