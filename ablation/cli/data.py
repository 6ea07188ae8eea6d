"""`ablate data`: commands on data sets, before a study is run on them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ablation.cli.group import CommandGroup


@click.group(cls=CommandGroup)
def data() -> None:
    """Download data sets; describe, verify and unpack images."""


@data.command()
@click.argument("name", required=False)
def get(name: str | None) -> None:
    """Download a data set of experiments/sources.yaml with its encoder; without NAME, list all.

    Files come from their authors' repository. They go below ABLATE_DATA or, where that is not set,
    below this folder: images into data/, encoders into pretrained/.
    """
    from ablation.cli.dataset import get_data, list_data

    if name is None:
        click.echo(list_data())
    else:
        get_data(name, click.echo)


@data.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def describe(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Print class counts, image shape, channel order and fingerprint of an experiment's data."""
    from ablation.cli.dataset import describe_data

    print(describe_data(experiment, overrides))


@data.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def verify(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Load every image; report leaks into the test set, empty classes and uneven test classes."""
    from ablation.cli.dataset import verify_data

    text, is_sound = verify_data(experiment, overrides)
    print(text)
    sys.exit(0 if is_sound else 1)


@data.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz of train/<class>/* and test/<class>/* images into a folder."""
    from ablation.cli.dataset import unpack_data

    print(unpack_data(archive, folder))
