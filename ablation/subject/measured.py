"""What a command has measured: read from what it prints, and from the files that it writes.

A line counts as what it holds of metrics:

    {"epoch": 3, "test": {"top1": 71.2}}    a JSON object; what is nested is called test/top1
    epoch=3 test/top1=71.2 loss=0.5         name=value, anywhere in the line
    Epoch 3/10: loss: 0.5, acc: 71.2%       name: value, with a space; a name has no spaces
    test acc: 62.4%  train acc: 99.0%       a word of DATA before a name: test/acc, train/acc
    Best val acc: 80.0                      of several epochs: best/val/acc

Those of a line that names a whole epoch are of that epoch; so are those that follow a line which
holds an epoch alone. All others have a last value only.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ablation.subject.protocol import History

# In the keys of trials whose output is read: to be raised whenever the same output gives other
# names or numbers. Records keep what an earlier version has read.
READER = 2
EPOCH = "epoch"
# up to which floats, too, tell one whole number from the next
MAX_EPOCH = 2**53
JSON_LINES, CSV = "metrics.jsonl", "metrics.csv"
MLFLOW_FOLDER = "mlruns"

NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
# words that say of which data a metric is
DATA = "train|training|val|valid|validation|dev|eval|evaluation|test|testing"
PAIR = re.compile(
    # no part of a longer name, or of a path
    r"(?<![\w./@-])"
    rf"(?P<best>(?:best|highest|lowest)\s+)?(?:(?P<data>{DATA})\s+)?"
    r"(?P<quote>[\"']?)(?P<name>[A-Za-z_][\w./@-]*)(?P=quote)"
    rf"\s*(?:=\s*|:\s+)(?P<value>{NUMBER})"
    # no part of 12:30, 12.5s or 3/10
    r"(?=[%.]?(?:[\s,;|)\]}]|$))",
    re.IGNORECASE,
)
# Epoch 3/10, Epoch: [3][20/100]
EPOCH_ALONE = re.compile(r"(?<![\w./@-])epoch\s*[:=#]?\s*\[?\s*(\d+)(?![\w.]*\w)", re.IGNORECASE)


@dataclass
class Measured:
    """Metrics by epoch, and the last value of each."""

    history: History = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    # of a line that held nothing else
    _current: int | None = None
    # as printed without a word of DATA -> the names that it may stand for: acc -> test/acc
    _meanings: dict[str, set[str]] = field(default_factory=dict)
    # names that stood twice in some line with different values: they are no metric any more
    _unclear: set[str] = field(default_factory=set)

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
        told = numbers_in(line)
        self._unclear |= told.unclear
        for values in (self.last, *self.history.values()) if told.unclear else ():
            for name in told.unclear:
                values.pop(name, None)
        epoch = self.add({n: v for n, v in told.numbers.items() if n not in self._unclear})
        for name in told.numbers:
            short = told.short.get(name, name)
            self._meanings.setdefault(short, set()).add(name)
        return epoch

    @property
    def withdrawn(self) -> set[str]:
        """Names that may have stood for something, and turned out to be ambiguous."""
        ambiguous = {short for short, names in self._meanings.items() if len(names) > 1}
        return self._unclear | {name for name in ambiguous if name not in self.last}

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


class Line(NamedTuple):
    """The numbers of a printed line."""

    # name -> number
    numbers: dict[str, float]
    # test/acc -> acc: names that are longer than printed
    short: dict[str, str]
    # names that stand there twice with different values: only acc.1 and acc.2 are numbers
    unclear: set[str]


def numbers_in(line: str) -> Line:
    """The numbers of a printed line, and their names."""
    text = line.strip()
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return Line(dict(_leaves(told)), {}, set())
    found: dict[str, list[float]] = {}
    numbers: dict[str, float] = {}
    short: dict[str, str] = {}
    unclear: set[str] = set()
    for match in PAIR.finditer(text):
        name = printed = match["name"]
        if match["data"] and name.lower() != EPOCH:
            name = f"{match['data'].lower()}/{printed}"
            short[name] = printed
        if match["best"] and name.lower() != EPOCH:
            # of an earlier epoch, perhaps: not the last value of the name
            name = f"best/{name}"
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
    if not any(name.lower() == EPOCH for name in numbers) and (epoch := EPOCH_ALONE.search(text)):
        numbers[EPOCH] = float(epoch[1])
    return Line(numbers, short, unclear)


def read_json_lines(text: str) -> Measured:
    """The metrics of JSON objects, one a line. Raises ValueError for a line that is none."""
    measured = Measured()
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
        measured.add(dict(_leaves(told)))
    return measured


def read_csv(text: str) -> Measured:
    """The metrics of a table whose first row has their names; cells without a number are left
    out."""
    measured = Measured()
    for row in csv.DictReader(text.splitlines()):
        measured.add(dict(_numbers(row.items())))
    return measured


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
