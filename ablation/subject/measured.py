"""What a command has measured: read from what it prints, and from the files that it writes.

A line counts as what it holds of metrics:

    {"epoch": 3, "test": {"top1": 71.2}}    a JSON object; what is nested is called test/top1
    epoch=3 test/top1=71.2 loss=0.5         name=value, anywhere in the line
    Epoch 3/10: loss: 0.5, acc: 71.2%       name: value, with a space; a name has no spaces
    test acc: 62.4%  train acc: 99.0%       a word of DATA before a name: test/acc, train/acc
    Best val acc: 80.0                      of several epochs: best/val/acc
    class 0 acc: 71.2                       acc, until a line holds the acc of another class

A number with a comma, as 71,2 or 1,234.5, is not read: its comma may mean either. Nor is one within
a call, as tensor(0.5). Colours of a terminal are passed over.

Those of a line that names a whole epoch are of that epoch; so are those that follow a line which
holds an epoch alone. All others have a last value only.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ablation.subject.protocol import History

# In the keys of trials whose output is read: to be raised whenever the same output gives other
# names or numbers. Records keep what an earlier version has read.
READER = 4
EPOCH = "epoch"
# up to which floats, too, tell one whole number from the next
MAX_EPOCH = 2**53
JSON_LINES, CSV = "metrics.jsonl", "metrics.csv"
MLFLOW_FOLDER = "mlruns"

NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
# of one epoch of several
BEST = r"(?P<best>(?:best|highest|lowest)\s+)?"
# words that say of which data a metric is
DATA = "train|training|val|valid|validation|dev|eval|evaluation|test|testing"
NAME = (
    # no part of a longer name, or of a path
    r"(?<![\w./@-])"
    rf"{BEST}(?:(?P<data>{DATA})\s+)?"
    r"(?P<quote>[\"']?)(?P<name>[A-Za-z_][\w./@-]*)(?P=quote)"
    r"\s*(?:=\s*|:\s+)"
)
PAIR = re.compile(
    # no part of 12:30, 12.5s, 3/10 or 71,2
    rf"{NAME}(?P<value>{NUMBER})(?![%.]?,\d)(?=[%.]?(?:[\s,;|)\]}}]|$))",
    re.IGNORECASE,
)
# how a number may stand that is not read, and what to do about it
REMEDIES = {
    re.compile(rf"{NAME}{printed}", re.IGNORECASE): remedy
    for printed, remedy in {
        r"[-+]?\d[\d.]*(?:,\d+)+(?:\.\d+)?": "write a decimal point and no comma",
        r"[A-Za-z_][\w.]*\([-+]?[\d.][^)]{0,80}\)": "write the number alone, as float(x) does",
    }.items()
}
# characters of a line, in messages
MAX_QUOTED = 120
# what a terminal takes for colours, or for where to write
ESCAPED = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Epoch 3/10, Epoch: [3][20/100]
EPOCH_ALONE = re.compile(
    rf"(?<![\w./@-]){BEST}epoch\s*[:=#]?\s*\[?\s*(?P<epoch>\d+)(?![\w.]*\w|,\d)", re.IGNORECASE
)
# a word or number that may stand before a name; none that ends in punctuation
WORD = re.compile(r"[#\w](?:[\w./:%+-]*[\w%+])?")
CLOCK = re.compile(r"\S*\d:\d\d\S*")
# words whose number says how far a script is, or how it runs, and not of what a metric is: step 100
PROGRESS = re.compile(
    r"(?:epoch|ep|(?:global_?|time)?step|iter|iteration|it|(?:mini-?)?batch|update|sample|token"
    r"|frame|episode|round|after|at|time|elapsed|eta|remaining|took|lr|seed|size|patience)s?"
)
# words that log lines begin with
LOG_WORDS = {"debug", "info", "warning", "warn", "error", "critical", "am", "pm"}


@dataclass
class Measured:
    """Metrics by epoch, and the last value of each."""

    history: History = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    # by which printed lines are read first; the names of their groups are of no other lines
    patterns: Sequence[re.Pattern[str]] = ()
    # of a line that held nothing else
    _current: int | None = None
    # as printed without a word of DATA -> the names that it may stand for: acc -> test/acc
    _meanings: dict[str, set[str]] = field(default_factory=dict)
    # name -> the words that stood before it: "class 0"
    _prefixes: dict[str, set[str]] = field(default_factory=dict)
    # names that stood twice in some line with different values, or after different words: they are
    # no metric any more
    _unclear: set[str] = field(default_factory=set)
    # name -> the first text in which a number that is not read followed it, and what to do about
    # it: "'acc: 71,2': write a decimal point and no comma"
    _not_read: dict[str, str] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> int | None:
        """Take the values of a line; returns the epoch that they are of, if any."""
        values = dict(values)
        name = next((name for name in values if name.lower() == EPOCH), EPOCH)
        value = values.pop(name, None)
        is_whole = value is not None and 0 <= value <= MAX_EPOCH and value.is_integer()
        epoch = int(value) if value is not None and is_whole else None
        if value is None and values:
            epoch = self._current
        elif epoch is not None:
            self._current = None if values else epoch
        self.last |= values
        if epoch is not None and values:
            self.history.setdefault(epoch, {}).update(values)
        return epoch if values else None

    def add_line(self, line: str) -> int | None:
        """Take the numbers of a printed line; returns the epoch that they are of, if any."""
        line = ESCAPED.sub("", line)
        told = numbers_in(line)
        for pattern, remedy in REMEDIES.items():
            for match in pattern.finditer(line):
                data = f"{match['data'].lower()}/" if match["data"] else ""
                for name in (f"{data}{match['name']}", match["name"]):
                    self._not_read.setdefault(name, f"'{match[0]}': {remedy}")
        chosen = self._by_patterns(line)
        own = {name for pattern in self.patterns for name in pattern.groupindex}
        unclear = set(told.unclear)
        for name, prefixes in told.prefixes.items():
            known = self._prefixes.setdefault(name, set())
            known |= prefixes
            if len(known) > 1:
                unclear.add(name)
        unclear -= own
        self._unclear |= unclear
        for values in (self.last, *self.history.values()) if unclear else ():
            for name in unclear:
                values.pop(name, None)
        left_out = self._unclear | (own - {EPOCH})
        if EPOCH in chosen:
            left_out |= {name for name in told.numbers if name.lower() == EPOCH}
        read = {name: value for name, value in told.numbers.items() if name not in left_out}
        epoch = self.add(read | chosen)
        for name in told.numbers:
            short = told.short.get(name, name)
            if short not in own:
                self._meanings.setdefault(short, set()).add(name)
        return epoch

    def _by_patterns(self, line: str) -> dict[str, float]:
        """The numbers of a printed line in groups of the patterns."""
        found: dict[str, float] = {}
        for pattern in self.patterns:
            match = pattern.search(line)
            for name, text in match.groupdict().items() if match else ():
                try:
                    found[name] = float(text)
                except (TypeError, ValueError):
                    if text is not None:
                        why = f"'{text}', of which the pattern's group takes more than the number"
                        self._not_read.setdefault(name, why)
        return found

    @property
    def withdrawn(self) -> set[str]:
        """Names that may have stood for something, and turned out to be ambiguous."""
        ambiguous = {
            short
            for short, names in self._meanings.items()
            if len(names) > 1 or names & self._unclear
        }
        return self._unclear | {name for name in ambiguous if name not in self.last}

    @property
    def unread(self) -> dict[str, str]:
        """Name -> how it was printed, of those that are no metric by it."""
        found = dict(self._not_read)
        for name in self._unclear:
            words = sorted(self._prefixes.get(name, ()))
            if len(words) > 1:
                printed = " and ".join(f"'{word} {name}'" for word in words[:2])
                found[name] = f"{printed}: give each a name of its own, without spaces"
        return {name: text for name, text in found.items() if name not in self.last}

    def with_short_names(self, values: Mapping[str, float]) -> dict[str, float]:
        """These values, those of test/acc as `acc` too, unless that may stand for another one."""
        short = {
            short: values[name]
            for short, names in self._meanings.items()
            for name in names
            if len(names) == 1 and name in values and short not in self._unclear
        }
        return {**short, **values}

    def merge(self, other: Measured) -> None:
        """Take over all that the other one has, in place of one's own."""
        for epoch, values in other.history.items():
            self.history.setdefault(epoch, {}).update(other.with_short_names(values))
        self.last |= other.with_short_names(other.last)
        self._not_read |= other._not_read
        self._prefixes |= other._prefixes
        self._unclear |= other._unclear


class Line(NamedTuple):
    """The numbers of a printed line."""

    # name -> number
    numbers: dict[str, float]
    # test/acc -> acc: names that are longer than printed
    short: dict[str, str]
    # names that stand there twice with different values: only acc.1 and acc.2 are numbers
    unclear: set[str]
    # name -> the words before it, where there are any: {"acc": {"class 0"}}
    prefixes: dict[str, set[str]]


def numbers_in(line: str) -> Line:
    """The numbers of a printed line, and their names."""
    text = line.strip()
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return Line(dict(_leaves(told)), {}, set(), {})
    found: dict[str, list[float]] = {}
    numbers: dict[str, float] = {}
    short: dict[str, str] = {}
    unclear: set[str] = set()
    prefixes: dict[str, set[str]] = {}
    end = 0
    for match in PAIR.finditer(text):
        name = printed = match["name"]
        if match["data"] and name.lower() != EPOCH:
            name = f"{match['data'].lower()}/{printed}"
            short[name] = printed
        if match["best"]:
            # of an earlier epoch, perhaps: not the last value of the name
            name = f"best/{name}"
        prefix = _prefix(text[end : match.start()])
        if prefix and name.lower() != EPOCH:
            prefixes.setdefault(name, set()).add(prefix)
        end = match.end()
        found.setdefault(name, []).append(float(match["value"]))
    for name, values in found.items():
        if len(values) == 1 or name.lower() == EPOCH:
            numbers[name] = values[-1]
            continue
        # also where they agree: in other lines they may not
        numbered = {f"{name}.{i}": value for i, value in enumerate(values, 1)}
        numbers |= numbered
        # as text, in which NaN equals NaN
        if len(set(map(str, values))) == 1:
            numbers[name] = values[-1]
        else:
            unclear.add(name)
            short |= dict.fromkeys(numbered, short.get(name, name))
    alone = [match["epoch"] for match in EPOCH_ALONE.finditer(text) if not match["best"]]
    if alone and not any(name.lower() == EPOCH for name in numbers):
        numbers[EPOCH] = float(alone[0])
    return Line(numbers, short, unclear, prefixes)


def _prefix(before: str) -> str:
    """The words directly before a name that may be part of it: "top-5", "class 0"; else "".

    before: the line from the number before on.
    """
    tokens = before.lower().split() if before[-1:].isspace() else []
    words: list[str] = []
    for i, token in enumerate(tokens):
        follows = bool(words) and words[-1] == tokens[i - 1]
        if not WORD.fullmatch(token) or CLOCK.fullmatch(token):
            words = []
        elif follows and token[0] in "#0123456789" and PROGRESS.fullmatch(words[-1]):
            words.pop()
        elif token[0].isalpha() or (follows and token.isdecimal()):
            words += [token] if token not in LOG_WORDS else []
    # the seconds in `took 12 s` are no name's, the number in `class 0` is
    return " ".join([word for word in words[:-1] if not word.isdecimal()] + words[-1:])


def line_naming(name: str, text: str) -> str:
    """The last line in which a number follows a metric's name without its `test/`; else "".

    Upper or lower case is the same.
    """
    last = re.escape(name.rpartition("/")[2])
    pattern = re.compile(rf"(?<![^\W_]){last}(?!\w)\D{{0,40}}\d", re.IGNORECASE)
    lines = (ESCAPED.sub("", line).strip() for line in reversed(text.splitlines()))
    return next((line[:MAX_QUOTED] for line in lines if pattern.search(line)), "")


def read_json_lines(text: str, into: Measured) -> None:
    """Take the metrics of JSON objects, one a line. Raises ValueError for a line that is none."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            what = f"line {number} is no JSON object: {line.strip()[:60]!r}"
            raise ValueError(f"{JSON_LINES}, {what}")
        into.add(dict(_leaves(told)))


def read_csv(text: str, into: Measured) -> None:
    """Take the metrics of a table whose first row has their names; cells without a number are left
    out.

    Columns end with what the first row has most of: comma, semicolon or tab.
    """
    header, *_ = text.splitlines() or [""]
    delimiter = max(",;\t", key=header.count)
    for row in csv.DictReader(text.splitlines(), delimiter=delimiter):
        into.add(dict(_numbers(row.items())))


def read_mlflow(folder: Path) -> Measured:
    """The metrics of the runs in MLflow's files, a line `time value step` for each; steps count as
    epochs. Of several runs the one that logged last wins."""
    points: list[tuple[int, int, str, float]] = []
    for path in sorted(folder.glob("*/*/metrics")):
        for file in sorted(found for found in path.rglob("*") if found.is_file()):
            for line in file.read_text(encoding="utf-8").splitlines():
                moment, number, at = line.split()[:3]
                name = file.relative_to(path).as_posix()
                points.append((int(moment), int(at), name, float(number)))
    measured = Measured()
    has_steps = any(step for _, step, _, _ in points)
    for _, step, name, value in sorted(points, key=lambda point: point[:2]):
        measured.add({name: value} | ({EPOCH: float(step)} if has_steps else {}))
    return measured


def _leaves(told: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in told.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            # a whole number may be larger than any float
            with suppress(OverflowError):
                yield f"{above}{name}", float(value)


def _numbers(cells: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, float]]:
    for name, text in cells:
        try:
            yield str(name).strip(), float(text)
        except (TypeError, ValueError):
            # of another kind, or empty
            continue
