"""A study's arms and claims as Markdown tables, for READMEs.

They are made of the files of its report alone, since runs/ is not at hand there.

A file holds such tables between markers, and is kept up with the reports they are from:

    <!-- ablate table fixes claims -->
    (generated: what `ablate table fixes claims` prints)
    <!-- /ablate table -->

A marker stands alone on its line, at its beginning; the rest of the file is kept byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ablation.analysis.claims import claims_table
from ablation.analysis.csv_tables import known_reports, read_claims, read_effects, read_trials
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import table
from ablation.reporting.tables import arms_rows
from ablation.storage.columns import column_of, metric_of
from ablation.storage.files import replace

PARTS = ("arms", "claims")
_OPEN = re.compile(r"<!-- ablate table\b(.*)-->\s*")
_CLOSE = re.compile(r"<!-- /ablate table -->\s*")
UNCLOSED = "the block is not closed; end it with <!-- /ablate table -->"


def headline_tables(folders: Sequence[Path], study: str | None, parts: Sequence[str] = ()) -> str:
    """The table of arms, and that of claims where there are any. `parts` picks among `PARTS`.

    Args:
        folders: that hold reports, a folder a study; of two reports of one study, that in the
            first folder is taken
        study: may be None where there is only one

    Raises:
        InputError: no such study or part, or a table that cannot be read
    """
    known = known_reports(folders)
    if study is None:
        study = next(iter(known)) if len(known) == 1 else ""
    wrong = _mistake(known, study, parts)
    if wrong:
        raise InputError([Problem(" and ".join(map(str, folders)), study, wrong)])
    folder, texts = known[study], []
    if not parts or "arms" in parts:
        texts.append(_arms_table(folder))
    if (folder / "claims.csv").is_file() and (not parts or "claims" in parts):
        texts.append(claims_table(read_claims(folder)))
    return "\n\n".join(texts)


def _mistake(known: Mapping[str, Path], study: str, parts: Sequence[str]) -> str:
    """What is wrong with the names of a study and its parts; "" if nothing. study: "" for none."""
    if study not in known:
        hint = nearest(study, known) if known else "there is none yet"
        return f"{'no such report' if study else 'name a study'}; {hint}"
    for part in parts:
        if part not in PARTS:
            return f"no part of a report is called '{part}'; {nearest(part, PARTS)}"
    if "claims" in parts and not (known[study] / "claims.csv").is_file():
        return "the study has no claims"
    return ""


def _arms_table(folder: Path) -> str:
    """A row per arm and baseline.

    Seeds, headline, difference to the reference, compensated and best where they were measured.
    """
    effects = read_effects(folder)
    trials, headline, factors, metrics = read_trials(folder, effects)
    best = column_of(f"best/{metric_of(headline, factors)}", factors)
    of_headline = effects.loc[effects["metric"] == headline, "effect"]
    references = (name.partition(" - ")[2] for name in of_headline if " - " in name)
    header, rows = arms_rows(
        trials,
        list(dict.fromkeys(trials["arm"])),
        headline,
        next(references, None),
        [name for name in ["test/top1_compensated", best] if name in metrics],
        effects,
    )
    return table(header, rows, "l" + "r" * (len(header) - 1))


class _Block(NamedTuple):
    """A block of a text that has been opened and not yet closed."""

    # of the marker, from 1
    line: int
    # that the marker names; "" where it names none
    study: str
    parts: list[str]
    # how many pieces of the text stand before the block's content
    position: int


class Refreshed(NamedTuple):
    """A text with all its tables up to date."""

    text: str
    n_blocks: int
    # lines, from 1, of the markers whose table has changed
    stale: list[int]


def refresh_file(path: Path, folders: Sequence[Path], check: bool = False) -> Refreshed:
    """Renew every table of a file; either all of them or none.

    Args:
        folders: that hold reports
        check: only find which tables are stale

    Raises:
        InputError: the file cannot be used, or a block is unclosed or names no study; nothing has
            been written
    """
    try:
        before = path.read_bytes().decode()
        after = refresh(before, str(path), folders)
        if after.text != before and not check:
            replace(path.resolve(), after.text.encode())
    except OSError as error:
        why = f"cannot be read or written: {error.strerror or error}"
        raise InputError([Problem("", str(path), why)]) from error
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text (byte {error.start})"
        raise InputError([Problem("", str(path), why)]) from error
    return after


def refresh(text: str, file: str, folders: Sequence[Path]) -> Refreshed:
    """A text with every table generated anew. `file` is its name, for messages.

    Raises:
        InputError: naming each line that is wrong
    """
    known, problems = known_reports(folders), []
    done: list[str] = []
    n_blocks, stale = 0, []
    opened: _Block | None = None

    def wrong(line: int, message: str) -> None:
        problems.append(Problem(file, f"line {line}", message))

    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        opens, closes = _OPEN.fullmatch(line), _CLOSE.fullmatch(line)
        if opens and opened:
            wrong(opened.line, UNCLOSED)
        elif closes and opened:
            start, study, parts, position = opened
            n_blocks += 1
            mistake = _mistake(known, study, parts)
            if mistake:
                wrong(start, f"{study}: {mistake}" if study else mistake)
            elif not problems:
                body = f"\n{headline_tables(folders, study, parts)}\n\n"
                if done[position - 1].endswith("\r\n"):
                    body = body.replace("\n", "\r\n")
                if "".join(done[position:]) != body:
                    stale.append(start)
                done[position:] = [body]
            opened = None
        elif closes:
            wrong(number, "closes a block that was not opened")
        done.append(line)
        if opens:
            study, *parts = opens[1].split() or [""]
            opened = _Block(number, study, parts, len(done))
    if opened:
        wrong(opened.line, UNCLOSED)
    if problems:
        raise InputError(problems)
    return Refreshed("".join(done), n_blocks, stale)
