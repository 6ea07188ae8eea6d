"""`ablate cache`: show the cache of epochs, trim it, clear it."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.formatting import duration
from ablation.limits import parse_size
from ablation.storage.cache import (
    describe_cache,
    describe_clearing,
    describe_entries,
    require_idle,
)


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show the cache of epochs; trim or clear it."""
    from ablation.storage.project import Places

    if context.invoked_subcommand is None:
        print(describe_cache(Places().store))


@cache.command()
@click.option("--size", required=True, help="What to leave at most, e.g. 1GB.")
def trim(size: str) -> None:
    """Evict what saves the least time per byte. Records of finished epochs stay."""
    from ablation.storage.project import Places

    gone = Places().store.trim(parse_size(size, "--size"))
    seconds = duration(sum(entry.seconds for entry in gone))
    print(f"evicted {describe_entries(gone)}, which took {seconds} to compute")


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool) -> None:
    """Remove everything, records of finished epochs too.

    Finished trials keep their results in runs/.
    """
    from ablation.storage.project import Places

    store, runs = Places().store, Path("runs")
    require_idle(store, runs)
    if not yes:
        click.confirm(f"{describe_clearing(store, runs)}. Remove?", abort=True)
        # a study may have been started while the user was asked
        require_idle(store, runs)
    print(f"removed {describe_entries(store.clear())}")
