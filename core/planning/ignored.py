"""Which settings change nothing in a trial, found by trying other values. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from core.config.parsing import convert, find, parse, without_none
from core.config.schema import Config
from core.planning.trajectory import all_effective


def ignored(settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Those of the keys that change nothing in a trial with these settings, whatever their values.

    keys: dotted, all of them in `settings`, which are without fault. A key is ignored if other
    values are allowed and the trial's effective settings are the same with each of them; a value
    that would be a fault tells nothing.
    """
    config, _ = parse(settings)
    known = all_effective(config)
    return [key for key in keys if _changes_nothing(settings, key, known)]


def counts_with(settings: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """A setting, and a value of it, with which an ignored key would not be; None if none is found.

    Settings that switch something are tried: those of the key's own section first, the method last.
    """
    config, _ = parse(settings)
    known = all_effective(config)

    def is_far(other: str) -> bool:
        return other.rpartition(".")[0] != key.rpartition(".")[0]

    for other in sorted(setting_keys(), key=lambda name: (name == "method", is_far(name))):
        if other == key:
            continue
        kept = {name: value for name, value in settings.items() if name != other}
        for value in _switched(other, value_of(config, other), is_far(other)):
            changed = {**kept, other: value}
            new, faults = parse(changed)
            if faults or (effective := all_effective(new)) == known:
                # what is ignored itself makes nothing count
                continue
            if not _changes_nothing(changed, key, effective):
                return other, value
    return None


def _changes_nothing(settings: Mapping[str, Any], key: str, known: list[Any]) -> bool:
    """known: `all_effective` of the settings."""
    annotation, limits = find(key)
    value = convert(settings[key], annotation, limits)
    n_allowed = 0
    for other in _others(key, value):
        # where it stands: a later key may undo it
        config, faults = parse({**settings, key: other})
        if faults:
            continue
        n_allowed += 1
        if all_effective(config) != known:
            return False
    return n_allowed > 0


def _others(key: str, value: Any) -> Iterator[Any]:
    """Values of a setting other than this one, near to it and far; some may not be allowed."""
    annotation, limits = find(key)
    for other in _candidates(annotation, limits, value, value_of(Config(), key)):
        if other != value:
            yield other


def _candidates(
    annotation: Any, limits: Mapping[str, float], value: Any, default: Any
) -> Iterator[Any]:
    kind, may_be_none = without_none(annotation)
    options = typing.get_args(kind)
    if may_be_none:
        yield None
    if dataclasses.is_dataclass(kind):
        yield {}
    elif typing.get_origin(kind) is Literal:
        yield from options
    elif typing.get_origin(kind) is tuple:
        for number in _candidates(options[0], limits, value[0] if value else None, None):
            yield [number] * len(value)
            yield [number]
        yield [*value, *value]
    elif kind is bool:
        yield from (True, False)
    elif kind is str:
        yield f"{value or ''}-"
    else:
        near = [] if value is None else [2 * value, value / 2, value + 1, value - 1]
        ends = [limits[name] for name in ("minimum", "maximum") if name in limits]
        numbers = [default, *near, *ends, 0.5, 1, 2, 10]
        yield from dict.fromkeys(kind(number) for number in numbers if number is not None)


def _switched(key: str, value: Any, is_far: bool) -> Iterator[Any]:
    """Other values of a setting that switches something.

    Of a number elsewhere (is_far), only its default, where it is switched off by 0.
    """
    annotation, _ = find(key)
    kind, may_be_none = without_none(annotation)
    if kind in (int, float) and not may_be_none and is_far:
        yield from [value_of(Config(), key) or 1] if value == 0 else []
    elif kind is str and may_be_none:
        yield from [None] if value is not None else []
    elif typing.get_origin(kind) is not tuple:
        yield from _others(key, value)


@functools.cache
def setting_keys() -> tuple[str, ...]:
    """All dotted keys that hold a value, or may hold none."""
    return tuple(_keys(Config))


def _keys(section: Any, prefix: str = "") -> Iterator[str]:
    for name, annotation in typing.get_type_hints(section).items():
        kind, may_be_none = without_none(annotation)
        is_section = dataclasses.is_dataclass(kind)
        if may_be_none or not is_section:
            yield f"{prefix}{name}"
        if is_section:
            yield from _keys(kind, f"{prefix}{name}.")


def value_of(config: Config, key: str) -> Any:
    """None where its section is not set."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value
