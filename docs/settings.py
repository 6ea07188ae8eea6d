"""Write docs/settings.md, the reference of all settings, from `core/config/schema.py`.

    python docs/settings.py

A setting's meaning is the comment above its field, its limits are the field's metadata.
`tests/unit/test_documents.py` checks that the page is up to date.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.config import schema
from core.config.parsing import without_none

PAGE = Path(__file__).parent / "settings.md"
NUMBERS = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
LIMITS = {"minimum": "at least", "above": "more than", "maximum": "at most", "below": "less than"}
INTRODUCTION = """\
# Settings

Every setting of the built-in training code, by section, with its type, default and limits.
An experiment file sets them under `settings`, a grid in its levels ([grids.md](grids.md)), and
`-S key=value` on the command line in all arms:

```yaml
settings:
  epochs: 60
  optim: {lr.encoder: 1.0e-5}     # the same as optim.lr.encoder: 1.0e-5
```

Unknown keys, wrong values and settings that contradict each other are errors, found before anything
runs; so is a setting that changes nothing in any arm. `none` unsets a setting whose default is
`none`.

This page is written by `python docs/settings.py` from [schema.py](../core/config/schema.py).
"""
BASELINES = """\
## Baselines

What a grid may name under `baselines`, and what each of them sets over the experiment's settings.
`ldmlr` is repaired, `ldmlr-original` is what the code of Han et al. 2024 does, and `ldmlr-gaussian`
draws its latents from normal distributions, without a diffusion model ([method.md](method.md)).

| baseline | settings |
|---|---|
"""


class Setting(typing.NamedTuple):
    """A row of the reference."""

    key: str
    kind: str
    default: str
    limits: str
    meaning: str


def page() -> str:
    """The page's text."""
    parts = [INTRODUCTION]
    for prefix, section in sections(schema.Config, ""):
        rows = list(settings(section, prefix))
        if not rows:
            continue
        summary = (section.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        title = f"`{prefix}`" if prefix else "Of the trial"
        lines = [f"## {title}", "", summary, "", "| key | value | default | limits | meaning |"]
        lines += ["|---|---|---|---|---|"]
        lines += [f"| {' | '.join([f'`{row.key}`', *row[1:]])} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    parts.append(baselines())
    return "\n".join(parts)


def sections(section: type, prefix: str) -> Iterator[tuple[str, type]]:
    """Each section of the configuration with its dotted prefix, the outer ones first."""
    yield prefix, section
    for name, annotation in typing.get_type_hints(section).items():
        kind = without_none(annotation)[0]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            yield from sections(kind, f"{prefix}.{name}" if prefix else name)


def settings(section: type, prefix: str) -> Iterator[Setting]:
    """The settings that stand in the section itself; a section that may be left out is one, too."""
    comments, hints = comments_of(section), typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind, may_be_none = without_none(hints[field.name])
        if dataclasses.is_dataclass(kind) and not may_be_none:
            continue
        yield Setting(
            f"{prefix}.{field.name}" if prefix else field.name,
            described(kind),
            f"`{shown(field.default)}`",
            limits(field.metadata),
            escaped(comments[field.name]),
        )


def described(kind: Any) -> str:
    """A type in words; the choices of a literal."""
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return f"one or a list of {described(typing.get_args(kind)[0])}s"
    return "section" if dataclasses.is_dataclass(kind) else NUMBERS[kind]


def shown(value: Any) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value)


def limits(metadata: Mapping[str, float]) -> str:
    """Limits in words."""
    return ", ".join(f"{LIMITS[name]} {limit:g}" for name, limit in metadata.items())


def escaped(text: str) -> str:
    """The text with what Markdown would take for a tag, an emphasis or a column."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")


def comments_of(section: type) -> dict[str, str]:
    """Field -> the comment lines above it, as one line."""
    source = Path(schema.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    (definition,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == section.__name__
    )
    comments = {}
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno - 1
            while lines[first - 1].strip().startswith("#"):
                first -= 1
            above = [line.strip().removeprefix("#").strip() for line in lines[first : node.lineno]]
            comments[node.target.id] = " ".join(above[:-1])
    return comments


def baselines() -> str:
    """The baselines that a grid may name, with what each sets over the experiment's settings."""
    rows = []
    for name, values in schema.BASELINES.items():
        told = ", ".join(f"`{key}: {shown(value)}`" for key, value in values.items())
        rows.append(f"| `{name}` | {told} |\n")
    return BASELINES + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
