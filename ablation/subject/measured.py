"""What a command has measured: read from what it prints, and from the files that it writes.

A line counts as what it holds of metrics:

    {"epoch": 3, "test": {"top1": 71.2}}    a JSON object; what is nested is called test/top1
    epoch=3 test/top1=71.2 loss=0.5         name=value, anywhere in the line
    Epoch 3/10: loss: 0.5, acc: 71.2%       name: value, with a space; a name has no spaces

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
from typing import Any

from ablation.subject.protocol import History

EPOCH = "epoch"
# up to which floats, too, tell one whole number from the next
MAX_EPOCH = 2**53
JSON_LINES, CSV = "metrics.jsonl", "metrics.csv"
MLFLOW_FOLDER = "mlruns"

NUMBER = r"[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
PAIR = re.compile(
    # no part of a longer name, or of a path
    r"(?<![\w./@-])"
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

    def merge(self, other: Measured) -> None:
        """Take over all that the other one has, in place of one's own."""
        for epoch, values in other.history.items():
            self.history.setdefault(epoch, {}).update(values)
        self.last |= other.last


def numbers_in(line: str) -> dict[str, float]:
    """Name -> number of a printed line."""
    text = line.strip()
    if text.startswith("{"):
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        if isinstance(told, dict):
            return dict(_leaves(told))
    found = {match["name"]: float(match["value"]) for match in PAIR.finditer(text)}
    if not any(name.lower() == EPOCH for name in found) and (epoch := EPOCH_ALONE.search(text)):
        found[EPOCH] = float(epoch[1])
    return found


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
