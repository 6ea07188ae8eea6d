"""Strict YAML: values are read as they are written, and every mistake has a line number.

Plain scalars follow the core schema of YAML 1.2: `True` is a boolean, `Null` is null, `1e-3`,
`0x1F`, `0o17` and `017` (17) are numbers, and `on`, `off`, `yes` and `no` are text. What is in
quotes is always text. Keys are always text, so that a level may be called `on`, `5` or `0.1`.
Tags, anchors and aliases are not allowed, and numbers are finite.

Plain text that other readers take for something else is *doubtful*: what YAML 1.1 has for a
boolean, number or date (`yes`, `1_000`, `1:30`, `2024-01-01`), what Python has for a number or
nothing (`None`, `inf`, `0B101`), and slips (`1e`, `0,5`, `tRUE`). A subject that checks its
settings tells where text is wrong; of one that cannot, doubtful text is refused
(`ablation.grid.load`), until it is written unambiguously, or quoted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from ablation.errors import InputError, Problem, nearest
from ablation.formatting import leaves

MAX_BYTES = 1_000_000
# of nested mappings and lists; deeper ones would exhaust Python's stack
MAX_DEPTH = 20
# of an integer, so that it fits into 64 bits
MAX_DIGITS = 18

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")

BASES = {"0x": 16, "0o": 8}
CONSTANTS = {
    word: value
    for plain, value in (("null", None), ("true", True), ("false", False))
    for word in (plain, plain.capitalize(), plain.upper())
}

# 1e
BROKEN_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?")
# in numbers that are copied from a text
SPELLINGS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", ",": ""})

Scalar = str | int | float | bool | None

Note = Callable[[str, str], None]
"""Called with the key and the message of each mistake found."""


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping that the file holds.

    Raises InputError naming file, line and cause if it cannot be read, is not UTF-8, is larger than
    MAX_BYTES, is not YAML, or holds anything but one mapping; duplicate keys are reported together.
    """
    path = Path(path)
    node = _composed(path)
    if node is None:
        raise InputError([Problem(path.name, "", "the file is empty")])
    if not isinstance(node, yaml.MappingNode):
        message = "must hold a mapping (`key: value` lines) at the top"
        raise InputError([Problem(path.name, "", message)])
    values: dict[str, Any] = _built(node, path.name, "")
    return values


def read_value(text: str, file: str, key: str = "") -> Any:
    """The value that a command-line option gives in YAML; `file` and `key` are where it stands."""
    node = _compose(text, file, key)
    if node is None:
        raise InputError([Problem(file, key, "has no value; write null if nothing is meant")])
    return _built(node, file, key)


def doubts_in_file(path: Path) -> Iterator[Problem]:
    """What is doubtful in a YAML file; nothing if it cannot be read."""
    with suppress(InputError):
        yield from _doubts(_composed(path), path.name, "")


def doubts_in_value(text: str, file: str, key: str = "") -> Iterator[Problem]:
    """What is doubtful in a command-line option, see `read_value`; nothing if it cannot be read."""
    with suppress(InputError):
        yield from _doubts(_compose(text, file, key), file, key)


def plain(text: str) -> Scalar:
    """What an unquoted scalar stands for; a number too large for 64 bits is infinite."""
    if text in ("", "~"):
        return None
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        number = int(text, BASES.get(text[:2], 10)) if len(text) <= 2 * MAX_DIGITS else math.inf
        return number if abs(number) < 10**MAX_DIGITS else math.inf
    if NOT_FINITE.fullmatch(text):
        return math.inf
    return float(text) if FLOAT.fullmatch(text) else text


def flatten(mapping: Mapping[str, Any], note: Note) -> dict[str, Any]:
    """Nested mappings as dotted keys: `{optim: {lr.encoder: 1}}` -> `{"optim.lr.encoder": 1}`.

    A key that is set twice, or is both a value and a mapping, is noted; the first one is kept.
    """
    flat: dict[str, Any] = {}
    # each proper prefix of a key -> that key
    inner: dict[str, str] = {}
    for key, value in leaves(mapping):
        parts = key.split(".")
        prefixes = list(accumulate(parts, "{}.{}".format))[:-1]
        clash = next((prefix for prefix in prefixes if prefix in flat), inner.get(key))
        if not all(parts):
            note(key, f"'{key}' is no dotted key: a part of it is empty")
        elif key in flat:
            note(key, f"is set twice, to {show(flat[key])} and to {show(value)}")
        elif clash:
            note(key, f"clashes with '{clash}': one is a value where the other is a mapping")
        else:
            flat[key] = value
            inner.update(dict.fromkeys(prefixes, key))
    return flat


def overlap(key: str, other: str) -> bool:
    """Whether two dotted keys are the same or one holds the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def dotted(*parts: str) -> str:
    """The parts that are not empty, joined by dots."""
    return ".".join(part for part in parts if part)


def as_text(value: Any) -> str:
    """A value as text, equal for equal values only: Python takes 1, 1.0 and True for the same."""
    return json.dumps(value, sort_keys=True, default=str)


def is_integer(value: Any, low: int, high: int) -> TypeGuard[int]:
    """Whether a value of a file is a whole number from `low` to `high`; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def show(value: Any) -> str:
    """A value for messages: short, and spelled as in YAML."""
    if isinstance(value, dict | list):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...'"


def _composed(path: Path) -> yaml.Node | None:
    file = path.name or str(path)
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            # opening a pipe would wait for a writer
            raise OSError("is no file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError([Problem(file, "", f"is larger than {MAX_BYTES} bytes")])
        return _compose(data.decode("utf-8"), file)
    except FileNotFoundError:
        cause = _missing(path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cause = f"line {line}: is not UTF-8"
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path
        cause = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise InputError([Problem(file, "", cause)])


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no such file: the folder '{path.parent}' does not exist"
    present = [other.name for other in path.parent.glob("*.y*ml")]
    hint = nearest(path.name, present) if present else "it holds no YAML file"
    return f"no such file in '{path.parent}'; {hint}"


# PyYAML has no types
class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Composes nodes only: values are built below, so no YAML 1.1 type is ever constructed."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        refused = ""
        # an alias has an anchor, too
        if event.anchor is not None:
            refused = "anchors (&) and aliases (*) are not allowed"
        elif event.tag is not None:
            refused = f"the tag '{event.tag}' is not allowed; only plain YAML is"
        elif self.depth > MAX_DEPTH:
            refused = f"nested deeper than {MAX_DEPTH} levels"
        elif isinstance(event, yaml.ScalarEvent) and HALF_CHARACTER.search(event.value):
            # from an escape such as "\\ud800"; no file can store it
            refused = "holds half of a surrogate pair, which is no character"
        if refused:
            raise yaml.MarkedYAMLError(problem=refused, problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _compose(text: str, file: str, key: str = "") -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        cause = f"the character U+{error.character:04X} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1
        cause = ", ".join(part for part in (error.context, error.problem) if part)
        if mark.buffer is not None and mark.buffer[mark.pointer] == "\t":
            cause = "a tab; indent with spaces"
    except (ValueError, OverflowError) as error:
        # e.g. the escape "\UFFFFFFFF", which PyYAML hands to chr()
        line = loader.line + 1 if loader else 1
        cause = f"is not YAML: {error}"
    raise InputError([Problem(file, key, f"line {line}: {cause}")])


def _built(node: yaml.Node, file: str, key: str) -> Any:
    problems: list[Problem] = []
    value = _value(node, key, lambda *note: problems.append(Problem(file, *note)))
    if problems:
        raise InputError(problems)
    return value


def _value(node: yaml.Node, key: str, note: Note) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, key, note)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{key}[{i}]", note) for i, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            note(key, f"line {line}: a key must be text, not a list or a mapping")
            continue
        name, where = key_node.value, dotted(key, key_node.value)
        if name in lines:
            first = f"first in line {lines[name]}"
            note(where, f"line {line}: the key '{name}' is there twice, {first}")
        lines.setdefault(name, line)
        mapping[name] = _value(value_node, where, note)
    return mapping


def _scalar(node: yaml.ScalarNode, key: str, note: Note) -> Scalar:
    text = str(node.value)
    if node.style is not None:
        return text
    value = plain(text)
    if isinstance(value, float) and not math.isfinite(value):
        allowed = f"finite, and {MAX_DIGITS} digits if whole"
        line = node.start_mark.line + 1
        note(key, f"line {line}: {text} is no number to compute with: {allowed}")
    return value


def _doubts(node: yaml.Node | None, file: str, key: str) -> Iterator[Problem]:
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield from _doubts(item, file, f"{key}[{i}]")
    elif isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            yield from _doubts(value_node, file, dotted(key, str(key_node.value)))
    elif isinstance(node, yaml.ScalarNode) and node.style is None and _is_doubtful(node):
        text, line = node.value, node.start_mark.line + 1
        others = "true, false, null, a number as 1000, -0.5 or 1e-3, or a list as [1, 2]"
        remedy = f'write "{text}" in quotes if text is meant, else {others}'
        yield Problem(file, key, f"line {line}: {text} is read as text; {remedy}")


def _is_doubtful(node: yaml.ScalarNode) -> bool:
    text = node.value
    if not isinstance(plain(text), str):
        return False
    # of YAML 1.1
    kind = node.tag.rpartition(":")[2]
    return (
        kind in ("bool", "timestamp", "int", "float")
        or text == "None"
        or text.lower() in CONSTANTS
        or BROKEN_NUMBER.fullmatch(text) is not None
        or _is_number_in_python(text.translate(SPELLINGS))
    )


def _is_number_in_python(text: str) -> bool:
    for read in (float, lambda text: int(text, 0)):
        with suppress(ValueError):
            read(text)
            return True
    return False


# patterns of names, and what they mean in words
NAME = (r"[A-Za-z0-9_][A-Za-z0-9_-]*", "a name (letters, digits, '_', '-')")
# also the key of a setting, whose values are the levels
FACTOR_NAME = (
    rf"{NAME[0]}(\.[A-Za-z0-9_-]+)*",
    "a name (letters, digits, '_', '-', single dots)",
)
LEVEL_NAME = (
    r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    "a level's name (letters, digits, '_', '-', single dots)",
)
METRIC_NAME = (
    r"[A-Za-z0-9_./@-]+",
    "a metric's name, such as test/top1 (letters, digits, '_', '.', '/', '@', '-')",
)
FILE_NAME = (
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}",
    "a name (letters, digits, '.', '_', '-'; at most 100)",
)
SUBJECT_NAME = (r"core|[A-Za-z_][\w.]*:[A-Za-z_]\w*", "'core' or 'package.module:function'")


class CheckedMapping:
    """A mapping inside a file, and the problems found in it.

    Each method reads one key. A key that is absent or null takes the default, or is noted as
    missing if there is none; what cannot be used is noted and comes back as None or empty.
    """

    def __init__(self, file: str, key: str, values: Mapping[str, Any], problems: list[Problem]):
        self.file, self.key, self.values, self.problems = file, key, values, problems

    def note(self, key: str, message: str) -> None:
        """Note a mistake at a key of the mapping."""
        self.problems.append(Problem(self.file, dotted(self.key, key), message))

    def allow(self, *keys: str, other: Collection[str] = (), where: str = "") -> None:
        """Note every key that is not one of `keys`; of those of another file, `where` that is."""
        for key in self.values:
            if key not in keys:
                remedy = f"it belongs into {where}" if key in other else nearest(key, keys)
                self.note(key, f"unknown key '{key}'; {remedy}")

    def text(
        self,
        key: str,
        default: str | None = None,
        pattern: str = r"(?s).*\S.*",
        means: str = "text",
    ) -> str | None:
        """Text that matches `pattern`, which `means` puts into words."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                self.note(key, f"is missing; it must be {means}")
            return default
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        self.note(key, f"{show(value)} is not {means}")
        return None

    def choice(self, key: str, choices: Collection[str], default: str | None = None) -> str | None:
        """One of the choices."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, str) and value in choices:
            return value
        if value is None:
            self.note(key, f"is missing; {nearest('', choices)}")
        else:
            self.note(key, f"{show(value)} is not allowed; {nearest(value, choices)}")
        return None

    def whole(self, key: str, default: int, low: int, high: int, means: str = "") -> int:
        """A whole number from `low` to `high`, which `means` puts into words."""
        value = self.values.get(key)
        if is_integer(value, low, high):
            return value
        if value is not None:
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            hint = f"; the nearest is {low if value < low else high}" if is_whole else ""
            means = means or f"a whole number from {low} to {high}"
            self.note(key, f"{show(value)} is not {means}{hint}")
        return default

    def names(self, pattern: str, means: str) -> list[str]:
        """The keys, where they are names that the user chose."""
        for key in self.values:
            if not re.fullmatch(pattern, key):
                self.note(key, f"{show(key)} is not {means}")
        return [key for key in self.values if re.fullmatch(pattern, key)]

    def section(self, key: str, text_as: str = "") -> CheckedMapping:
        """The mapping under a key; empty if there is none. text_as: of text alone, its key."""
        value = self.values.get(key)
        return self._section(key, {text_as: value} if text_as and isinstance(value, str) else value)

    def sections(self, key: str) -> Iterator[CheckedMapping]:
        """The mappings in the list under a key."""
        for i, value in enumerate(self.listing(key)):
            yield self._section(f"{key}[{i}]", value)

    def listing(self, key: str) -> list[Any]:
        """The list under a key; empty if there is none."""
        value = self.values.get(key)
        if value is None or isinstance(value, list):
            return value or []
        self.note(key, f"{show(value)} is not a list")
        return []

    def items(self, key: str, fault: Callable[[Any], str]) -> tuple[Any, ...]:
        """What the list under a key holds, each once. fault: what is wrong with an item, or ""."""
        found: list[Any] = []
        for i, item in enumerate(self.listing(key)):
            message = fault(item) or ("is there twice" if item in found else "")
            if message:
                self.note(f"{key}[{i}]", f"{show(item)} {message}")
            else:
                found.append(item)
        return tuple(found)

    def settings(self, key: str) -> dict[str, Any]:
        """The mapping under a key with nested keys dotted."""
        inner = self.section(key)
        return flatten(inner.values, inner.note)

    def _section(self, key: str, value: Any) -> CheckedMapping:
        if value is not None and not isinstance(value, dict):
            self.note(key, f"{show(value)} is not a mapping")
            value = None
        return CheckedMapping(self.file, dotted(self.key, key), value or {}, self.problems)
