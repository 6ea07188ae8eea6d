"""Tables inside a text file, kept up with the reports they are from.

    <!-- ablate table fixes claims -->
    (generated: what `ablate table fixes claims` prints)
    <!-- /ablate table -->

A marker stands alone on its line, at its beginning; the rest of the file is kept byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError, Problem
from ablation.files import replace
from ablation.headline import headline_tables, known_reports, mistake

_OPEN = re.compile(r"<!-- ablate table\b(.*)-->\s*")
_CLOSE = re.compile(r"<!-- /ablate table -->\s*")


class Refreshed(NamedTuple):
    """A text with all its blocks up to date."""

    text: str
    n_blocks: int
    stale: list[int]  # lines, from 1, of the markers whose block has changed


class _Block(NamedTuple):
    study: str | None
    parts: list[str]
    start: int  # index of the line with the opening marker
    end: int  # of that with the closing one


def refresh_file(path: Path, folders: Sequence[Path], check: bool = False) -> Refreshed:
    """Renew every block of a file, whole or not at all; with `check` only see which are stale. folders: that hold reports.

    Raises:
        InputError: the file cannot be used, or a block is unclosed or names no study; nothing has been written
    """
    try:
        before = path.read_bytes().decode()
        after = refresh(before, str(path), folders)
        if after.text != before and not check:
            replace(path.resolve(), after.text.encode())
    except OSError as error:
        raise InputError(
            [Problem("", str(path), f"cannot be read or written: {error.strerror or error}")]
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            [Problem("", str(path), f"is not UTF-8 text (byte {error.start})")]
        ) from error
    return after


def refresh(text: str, file: str, folders: Sequence[Path]) -> Refreshed:
    """A text with every block generated anew. `file` is its name, for messages.

    Raises:
        InputError: naming each line that is wrong
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    blocks, problems = _blocks(lines, file)
    known = known_reports(folders)
    for block in blocks:
        wrong = mistake(known, block.study, block.parts)
        if wrong:
            problems.append(
                Problem(
                    file,
                    f"line {block.start + 1}",
                    f"{block.study}: {wrong}" if block.study else wrong,
                )
            )
    if problems:
        raise InputError(
            sorted(problems, key=lambda problem: int(problem.key.removeprefix("line ")))
        )
    stale = []
    for block in reversed(blocks):  # from the end, so that the lines before stay where they are
        body = _body(lines[block.start], headline_tables(folders, block.study, block.parts))
        if "".join(lines[block.start + 1 : block.end]) != body:
            stale.insert(0, block.start + 1)
        lines[block.start + 1 : block.end] = [body]
    return Refreshed("".join(lines), len(blocks), stale)


def _blocks(lines: list[str], file: str) -> tuple[list[_Block], list[Problem]]:
    blocks, problems = [], []
    start: int | None = None

    def unclosed() -> Problem:
        return Problem(
            file, f"line {start + 1}", "the block is not closed; end it with <!-- /ablate table -->"
        )

    for index, line in enumerate(lines):
        if _OPEN.fullmatch(line):
            problems += [unclosed()] if start is not None else []
            start = index
        elif _CLOSE.fullmatch(line) and start is None:
            problems.append(
                Problem(file, f"line {index + 1}", "closes a block that was not opened")
            )
        elif _CLOSE.fullmatch(line):
            study, *parts = _OPEN.fullmatch(lines[start])[1].split() or [None]
            blocks.append(_Block(study, parts, start, index))
            start = None
    problems += [unclosed()] if start is not None else []
    return blocks, problems


def _body(marker: str, tables: str) -> str:
    """The lines between the markers, blank ones around the tables, ending as the marker's line does."""
    body = f"\n{tables}\n\n"
    return body.replace("\n", "\r\n") if marker.endswith("\r\n") else body
