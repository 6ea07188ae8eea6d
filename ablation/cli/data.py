"""`ablate data` and `ablate cache`: what trials read, and what they have computed.

Download data sets, describe and verify their images, unpack an archive of them; show the cache of
epochs, trim it, clear it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ablation.cli.completion import experiment_names
from ablation.errors import InputError, Problem
from ablation.formatting import duration, parse_size
from ablation.storage.cache import (
    describe_cache,
    describe_clearing,
    describe_entries,
    require_idle,
)

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


experiment_argument = click.argument(
    "experiment", type=click.Path(path_type=Path), shell_complete=experiment_names
)


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
    from ablation.grid import sources
    from core.data.location import data_root

    if name is None:
        click.echo(sources.described(data_root()))
    else:
        sources.get(name, data_root(), click.echo)


@data.command()
@experiment_argument
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def describe(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Print class counts, image shape, channel order and fingerprint of an experiment's data."""
    from core.trial import inspection

    config, dataset = _load(experiment, overrides)
    found = inspection.describe(config, dataset)
    width = max(len(name) for name in found.class_names)
    path = f", {config.data.path}" if config.data.path else ""
    sizes = f"{sum(found.train_counts)} / {sum(found.test_counts)}"
    lines = [
        f"source         {config.data.source}{path}",
        f"fingerprint    {found.fingerprint}",
        f"images         {' x '.join(map(str, found.shape))}, channels as {found.channels}",
        f"train / test   {sizes}, imbalance factor {found.imbalance_factor:.4g}",
        *(f"note           {note}" for note in found.notes),
        "",
        f"{'class':{width}}  train   test",
    ]
    for row in zip(found.class_names, found.train_counts, found.test_counts, strict=True):
        lines.append(f"{row[0]:{width}} {row[1]:6} {row[2]:6}")
    print("\n".join(lines))


@data.command()
@experiment_argument
@click.option("-S", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
def verify(experiment: Path, overrides: tuple[str, ...]) -> None:
    """Load every image; report leaks into the test set, empty classes and uneven test classes."""
    from core.trial import inspection

    config, dataset = _load(experiment, overrides)
    findings = inspection.verify(config, dataset)
    for finding in findings:
        print(f"{'FAULT' if finding.is_fault else 'note '}  {finding.text}")
    print(f"{len(dataset.train.labels) + len(dataset.test.labels)} images read")
    sys.exit(1 if any(finding.is_fault for finding in findings) else 0)


@data.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz of train/<class>/* and test/<class>/* images into a folder."""
    print(unpack_data(archive, folder))


def unpack_data(archive: Path, folder: Path) -> str:
    """Unpack train/<class>/* and test/<class>/* of a tar archive into `folder`, and nothing else.

    Files that are no images by name are unpacked with the others; hidden ones are not. Raises
    InputError for an archive that cannot be read, or whose images no study could use; then nothing
    has been unpacked.
    """
    from core.data.layout import class_names, left_out_by_ending
    from core.data.listing import DAMAGED, listed, shown, unpacked

    path = shown(archive)
    if not archive.is_file():
        raise InputError([Problem("", path, "is not a file")])
    try:
        listing = listed(archive)
        class_names(listing)
        for place, content in unpacked(listing, {**listing.images, **listing.left_out}):
            _write(folder, place, content)
    except DAMAGED as error:
        raise InputError([Problem("", path, f"cannot be read ({_line(error)})")]) from None
    except ValueError as error:
        raise InputError([Problem("", "", _line(error))]) from None
    done = f"{len(listing.images)} images in {folder}"
    if not listing.left_out:
        return done
    return f"{done}, and files that are read as no images: {left_out_by_ending(listing.left_out)}"


def _write(folder: Path, parts: Sequence[str], content: bytes) -> None:
    from core.data.listing import shown

    target = folder.joinpath(*parts)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except OSError as error:
        problem = f"cannot be written: {error.strerror} ({shown(error.filename)})"
        raise InputError([Problem("", str(folder), problem)]) from None


def _load(experiment: Path, overrides: Sequence[str]) -> tuple[Any, Any]:
    """The experiment's configuration and its images."""
    from ablation.grid.load import experiment_settings, yaml_path
    from ablation.subject.loading import load_subject
    from core.config.parsing import parse
    from core.data.listing import DAMAGED
    from core.data.sources import load

    settings = experiment_settings(yaml_path(experiment), overrides, load_subject("core"))
    config, _ = parse(settings)
    try:
        # as seed 0 draws them
        return config, load(config.data)
    except ValueError as error:
        message = _line(error)
    except (RuntimeError, *DAMAGED) as error:
        # RuntimeError is torchvision's of what is not CIFAR.
        message = f"'{config.data.path}' cannot be read: {_line(error)}"
    raise InputError([Problem(experiment.name, "settings.data.path", message)])


def _line(error: Exception) -> str:
    """What it says, on one line."""
    return " ".join(str(error).split())


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
