"""Reading a mapping of an input file key by key: mistakes are noted, and the reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ablation.errors import Problem, nearest
from ablation.grid.strict_yaml import dotted, flatten, show

# patterns of names, and what they mean in words
NAME = (r"[A-Za-z0-9_][A-Za-z0-9_-]*", "a name (letters, digits, '_', '-')")
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


class Section:
    """A mapping inside a file, and the problems found in it.

    Each method reads one key. A key that is absent or null takes the default, or is noted as
    missing if there is none; what cannot be used is noted and comes back as None or empty.
    """

    def __init__(self, file: str, key: str, values: Mapping[str, Any], problems: list[Problem]):
        self.file, self.key, self.values, self.problems = file, key, values, problems

    def note(self, key: str, message: str) -> None:
        """Note a mistake at a key of the mapping."""
        self.problems.append(Problem(self.file, dotted(self.key, key), message))

    def allow(self, *keys: str) -> None:
        """Note every key that is not one of `keys`."""
        for key in self.values:
            if key not in keys:
                self.note(key, f"unknown key '{key}'; {nearest(key, keys)}")

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
        value = self.values.get(key, default)
        if isinstance(value, str) and value in choices:
            return value
        if value is None:
            self.note(key, f"is missing; {nearest('', choices)}")
        else:
            self.note(key, f"{show(value)} is not allowed; {nearest(value, choices)}")
        return None

    def names(self, pattern: str, means: str) -> list[str]:
        """The keys, where they are names that the user chose."""
        for key in self.values:
            if not re.fullmatch(pattern, key):
                self.note(key, f"{show(key)} is not {means}")
        return [key for key in self.values if re.fullmatch(pattern, key)]

    def section(self, key: str) -> Section:
        """The mapping under a key; empty if there is none."""
        return self._section(key, self.values.get(key))

    def sections(self, key: str) -> Iterator[Section]:
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

    def _section(self, key: str, value: Any) -> Section:
        if value is not None and not isinstance(value, dict):
            self.note(key, f"{show(value)} is not a mapping")
            value = None
        return Section(self.file, dotted(self.key, key), value or {}, self.problems)
