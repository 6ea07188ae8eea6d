"""The grids and experiments of a project by name: where none was given, and for a shell."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError, Problem
from ablation.grid.load import EXPERIMENTS, yaml_path
from ablation.grid.strict_yaml import read_yaml
from ablation.storage.files import warn_once

# of the question or title that is shown beside a name
MAX_LINE = 90
# a line that only grids have, also in a file that is no YAML
STUDY = re.compile(rb"^[\"']?study[\"']?\s*:", re.MULTILINE)


class Choice(NamedTuple):
    """A grid or an experiment."""

    # as it is given to `--grid` and `--experiment`
    name: str
    path: Path
    # its question or title in one line; "" where it has none
    about: str


def grids() -> list[Choice]:
    """The grids of the project, those of `experiments/` first."""
    return [choice for choice, keys in _choices() if "study" in keys]


def experiments() -> list[Choice]:
    """The experiments of the project, those of `experiments/` first."""
    # code of one's own may have no settings
    own = {"settings", "subject"}
    return [choice for choice, keys in _choices() if own & keys and "study" not in keys]


def the_grid(named: Path | None) -> Path:
    """The file of a grid; where none is named, of the only one that can be read.

    Warns of others, which have a line `study:` and cannot be read. Raises InputError if there are
    several, with a line about each, or none, with what is wrong with the files that cannot be read.
    """
    if named is not None:
        return yaml_path(named)
    unread: dict[Path, list[Problem]] = {}
    found = [choice for choice, keys in _choices(unread) if "study" in keys]
    passed_over = [
        f"{problems[0]}; this grid is passed over"
        for path, problems in unread.items()
        if _may_be_grid(path)
    ]
    if len(found) == 1:
        for line in passed_over:
            warn_once(line)
        return found[0].path
    if found:
        width = max(len(choice.name) for choice in found)
        lines = [f"  {choice.name:{width}}  {choice.about}".rstrip() for choice in found]
        message = "\n".join(["name one of these grids:", *lines, *passed_over])
        raise InputError([Problem("", "--grid", message)])
    other = "other grid" if unread else "grid"
    where = f"'{Path.cwd()}' or its {EXPERIMENTS}/"
    message = f"there is no {other} in {where}; `ablate init` writes two"
    broken = [problem for problems in unread.values() for problem in problems]
    raise InputError([*broken, Problem("", "--grid", message)])


def _may_be_grid(path: Path) -> bool:
    try:
        return STUDY.search(path.read_bytes()) is not None
    except OSError:
        return False


def _choices(
    unread: dict[Path, list[Problem]] | None = None,
) -> Iterator[tuple[Choice, set[str]]]:
    """Each YAML file, and its keys. Of those that cannot be read, `unread` gets what is wrong."""
    for folder in (EXPERIMENTS, Path()):
        for path in sorted(folder.glob("*.yaml")):
            try:
                values = read_yaml(path)
            except InputError as error:
                if unread is not None:
                    unread[path] = error.problems
                continue
            about = textwrap.shorten(
                str(values.get("question") or values.get("title") or ""),
                MAX_LINE,
                placeholder=" ...",
            )
            name = path.stem if folder == EXPERIMENTS else path.name
            yield Choice(name, path, about), set(values)
