"""`ablate cache`: show the cache of epochs, trim it, clear it."""

from __future__ import annotations

import click

from ablation.limits import parse_size


@click.group(invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """Show the cache of epochs; trim or clear it."""
    from ablation.caching import describe_cache
    from ablation.places import Places

    if context.invoked_subcommand is None:
        print(describe_cache(Places().store))


@cache.command()
@click.option("--size", required=True, help="What to leave at most, e.g. 1GB.")
def trim(size: str) -> None:
    """Evict what saves the least time per byte. Records of finished epochs stay."""
    from ablation.caching import trim_cache
    from ablation.places import Places

    print(trim_cache(Places().store, parse_size(size, "--size")))


@cache.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def clear(yes: bool) -> None:
    """Remove everything, records of finished epochs too. Finished trials keep their results in runs/."""
    from ablation.caching import clear_cache, describe_clearing
    from ablation.places import Places

    places, runs = Places(), Places().root / "runs"
    what = describe_clearing(places.store, runs)
    if not yes:
        click.confirm(f"{what}. Remove?", abort=True)
    print(clear_cache(places.store, runs))
