"""Reading YAML strictly: what stands in the file is what comes out, and every mistake has a line number.

Plain scalars follow the core schema of YAML 1.2: `True` is a boolean, `Null` is null, `1e-3`, `0x1F`, `0o17` and
`017` (17) are numbers, and `on`, `off`, `yes` and `no` are text. What is in quotes is always text. Keys are always
text, so that a level may be called `on`, `5` or `0.1`. Tags, anchors and aliases are not allowed, and numbers are
finite.

Plain text that other readers take for something else is *doubtful*: what YAML 1.1 has for a boolean, number or date
(`yes`, `1_000`, `1:30`, `2024-01-01`), what Python has for a number or nothing (`None`, `inf`, `0B101`), and slips
(`1e`, `0,5`, `tRUE`). A subject that checks its settings tells where text is wrong; of one that cannot, doubtful text
is refused (`ablation.grid`), until it is written so that nobody can take it for anything else, or quoted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from ablation.errors import InputError, Problem, nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 20  # of nested mappings and lists; deeper ones would exhaust Python's stack
MAX_DIGITS = 18  # of an integer, so that it fits into 64 bits

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

BASES = {"0x": 16, "0o": 8}
CONSTANTS = {
    word: value
    for plain, value in (("null", None), ("true", True), ("false", False))
    for word in (plain, plain.capitalize(), plain.upper())
}

BROKEN_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?")  # 1e
SPELLINGS = str.maketrans(
    {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", ",": ""}
)  # in numbers that are copied from a text

TORN = "holds half of a surrogate pair, which is no character"

Scalar = str | int | float | bool | None

Note = Callable[[str, str], None]
"""Called with the key and the message of each mistake found."""


def read_yaml(path: Path | str, doubts: list[Problem] | None = None) -> dict[str, Any]:
    """The mapping that the file holds; what is doubtful in it is appended to `doubts`.

    Raises InputError naming file, line and cause if it cannot be read, is not UTF-8, is larger than
    MAX_BYTES, is not YAML, or holds anything but one mapping; duplicate keys are reported all together.
    """
    path = Path(path)
    file = path.name or str(path)
    node = _compose(_text(path, file), file)
    if node is None:
        raise InputError([Problem(file, "", "the file is empty")])
    if not isinstance(node, yaml.MappingNode):
        raise InputError([Problem(file, "", "must hold a mapping (`key: value` lines) at the top")])
    return _built(node, file, "", doubts)


def read_value(text: str, file: str, key: str = "", doubts: list[Problem] | None = None) -> Any:
    """The value that a command-line option gives in YAML; `file` and `key` say where mistakes belong, `doubts` as above."""
    node = _compose(text, file, key)
    if node is None:
        raise InputError([Problem(file, key, "has no value; write null if nothing is meant")])
    return _built(node, file, key, doubts)


def plain(text: str) -> Scalar:
    """What an unquoted scalar stands for; a number that is too large for 64 bits is infinite."""
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
    inner: dict[str, str] = {}  # each proper prefix of a key -> that key
    for key, value in _leaves(mapping):
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
    return ".".join(part for part in parts if part)


def show(value: Any) -> str:
    """A value as a message quotes it: short, and spelled as in YAML."""
    if isinstance(value, dict | list):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...'"


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if (
            isinstance(value, Mapping) and value
        ):  # an empty one is a value: it may stand for defaults
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(path: Path, file: str) -> str:
    try:
        if not path.is_file() and path.exists() and not path.is_dir():
            raise OSError("is no file")  # to open a pipe would wait for somebody to write to it
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError([Problem(file, "", f"is larger than {MAX_BYTES} bytes")])
        return data.decode("utf-8")
    except FileNotFoundError:
        cause = _missing(path)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cause = f"line {line}: is not UTF-8"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        cause = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    raise InputError([Problem(file, "", cause)])


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no such file: the folder '{path.parent}' does not exist"
    present = [other.name for other in path.parent.glob("*.y*ml")]
    hint = nearest(path.name, present) if present else "it holds no YAML file"
    return f"no such file in '{path.parent}'; {hint}"


class _Loader(yaml.SafeLoader):
    """Composes nodes only; values are built from them below, so no YAML 1.1 type is ever constructed."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if event.anchor is not None:  # of an alias, too
            self._refuse("anchors (&) and aliases (*) are not allowed", event)
        if event.tag is not None:
            self._refuse(f"the tag '{event.tag}' is not allowed; only plain YAML is", event)
        if self.depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH} levels", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    @staticmethod
    def _refuse(message: str, event: yaml.Event) -> None:
        raise yaml.MarkedYAMLError(problem=message, problem_mark=event.start_mark)


def _compose(text: str, file: str, key: str = "") -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            [
                Problem(
                    file, key, f"line {line}: the character U+{error.character:04X} is not allowed"
                )
            ]
        )
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        cause = ", ".join(part for part in (error.context, error.problem) if part)
        if mark.buffer is not None and mark.buffer[mark.pointer] == "\t":
            cause = "a tab; indent with spaces"
        line = mark.line + 1
    except (
        ValueError,
        OverflowError,
    ) as error:  # e.g. the escape "\UFFFFFFFF", which PyYAML hands to chr()
        line, cause = loader.line + 1, f"is not YAML: {error}"
    raise InputError([Problem(file, key, f"line {line}: {cause}")])


def _built(node: yaml.Node, file: str, key: str, doubts: list[Problem] | None) -> Any:
    problems: list[Problem] = []
    notes = [
        lambda where, message, found=found: found.append(Problem(file, where, message))
        for found in (problems, [] if doubts is None else doubts)
    ]
    value = _value(node, key, *notes)
    if problems:
        raise InputError(problems)
    return value


def _value(node: yaml.Node, key: str, note: Note, doubt: Note) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, key, note, doubt)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{key}[{i}]", note, doubt) for i, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            note(key, f"line {line}: a key must be text, not a list or a mapping")
            continue
        name, where = key_node.value, dotted(key, key_node.value)
        if _torn(name):
            note(key, f"line {line}: {TORN}")
            continue
        if name in lines:
            note(
                where, f"line {line}: the key '{name}' is there twice, first in line {lines[name]}"
            )
        lines.setdefault(name, line)
        mapping[name] = _value(value_node, where, note, doubt)
    return mapping


def _scalar(node: yaml.ScalarNode, key: str, note: Note, doubt: Note) -> Scalar:
    text, line = node.value, node.start_mark.line + 1
    if _torn(text):
        note(key, f"line {line}: {TORN}")
    value = plain(text) if node.style is None else text  # quoted, or a block of text
    if isinstance(value, float) and not math.isfinite(value):
        note(
            key,
            f"line {line}: {text} is no number to compute with: finite, and {MAX_DIGITS} digits if whole",
        )
    instead = _instead(node) if isinstance(value, str) and node.style is None else None
    if instead is not None:
        doubt(
            key,
            f'line {line}: {text} is read as text; write {instead and f"{instead}, or "}"{text}" in quotes if text is meant',
        )
    return value


def _instead(node: yaml.ScalarNode) -> str | None:
    """How to write what others take plain text for, "" if there is no way; None if it is not doubtful. `node.tag` is that of YAML 1.1."""
    text, word = node.value, node.value.lower()
    kind = node.tag.rpartition(":")[2]
    if kind == "bool":
        return "true" if word in ("yes", "on") else "false"
    if kind == "timestamp":
        return ""
    if text == "None" or word in CONSTANTS:
        return "null" if text == "None" else word
    if (
        kind in ("int", "float")
        or BROKEN_NUMBER.fullmatch(text)
        or _is_number_in_python(text.translate(SPELLINGS))
    ):
        return "a number as 1000, -0.5 or 1e-3, a list as [1, 2]"
    return None


def _is_number_in_python(text: str) -> bool:
    for read in (float, lambda text: int(text, 0)):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False


def _torn(text: str) -> bool:
    """Whether an escape such as "\\ud800" left half a character, which no file can store."""
    return any("\ud800" <= character <= "\udfff" for character in text)
