"""What a shell completes: the names of grids, experiments, studies and arms at hand."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

# the line that a shell's own file gets
LINES = {
    "bash": ("~/.bashrc", 'eval "$(_ABLATE_COMPLETE=bash_source ablate)"'),
    "zsh": ("~/.zshrc", 'eval "$(_ABLATE_COMPLETE=zsh_source ablate)"'),
    "fish": (
        "~/.config/fish/completions/ablate.fish",
        "_ABLATE_COMPLETE=fish_source ablate | source",
    ),
}


def grid_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Grids by name; files where none begins so."""
    from ablation.grid.choices import grids

    return _or_files(((grid.name, grid.about) for grid in grids()), incomplete)


def experiment_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Experiments by name; files where none begins so."""
    from ablation.grid.choices import experiments

    return _or_files(((one.name, one.about) for one in experiments()), incomplete)


def run_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Studies in runs/, without their searches."""
    from ablation.storage.asked import SUFFIX
    from ablation.storage.runs import studies

    own = [name for name in studies(Path("runs")) if not name.endswith(SUFFIX)]
    return _items(((name, "") for name in own), incomplete)


def report_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Studies that have a report, own ones first."""
    return _items(((name, "") for name in _reported()), incomplete)


def side_names(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Studies; after STUDY: its arms, which shells that split words at a colon see alone."""
    study, colon, _ = incomplete.partition(":")
    if not colon:
        return _items(((name, "") for name in _reported()), incomplete)
    return _items(((f"{study}:{arm}", "") for arm in _arms(study)), incomplete)


def _reported() -> list[str]:
    """Studies with runs or a report: own ones, then committed ones."""
    from ablation.storage.asked import SUFFIX
    from ablation.storage.project import ProjectPaths
    from ablation.storage.runs import studies

    folders = ProjectPaths().report_folders
    found = [
        *studies(Path("runs")),
        *(path.parent.name for folder in folders for path in sorted(folder.glob("*/results.csv"))),
    ]
    return list(dict.fromkeys(name for name in found if not name.endswith(SUFFIX)))


def _arms(study: str) -> list[str]:
    """The arms of a study in runs/, else those that its report's results.csv names."""
    import csv

    from ablation.storage.project import ProjectPaths

    places = ProjectPaths()
    folder = places.runs(study)
    if folder.exists():
        return list(dict.fromkeys(spec.arm for spec in folder.manifest().trials))
    for reports in places.report_folders:
        file = reports / study / "results.csv"
        if file.is_file():
            with file.open(encoding="utf-8", newline="") as rows:
                return list(dict.fromkeys(row["arm"] for row in csv.DictReader(rows)))
    return []


def _items(choices: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(name, help=about or None)
        for name, about in choices
        if name.startswith(incomplete)
    ]


def _or_files(choices: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    is_path = os.sep in incomplete
    found = [] if is_path else _items(choices, incomplete)
    return found or [CompletionItem(incomplete, type="file")]
