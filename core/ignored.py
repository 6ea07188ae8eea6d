"""Which settings change nothing in a trial, found by trying other values. Imports no torch."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from core.config import Config
from core.parsing import convert, find, is_union, parse, section_type
from core.trajectory import all_effective


def ignored(settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Those of the keys that change nothing in a trial with these settings, whatever they are set to.

    keys: dotted, all of them in `settings`, which are without fault. A key is ignored if other values are allowed and the
    trial's effective settings are the same with each of them; a value that would be a fault tells nothing.
    """
    config, _ = parse(settings)
    known = all_effective(config)
    return [key for key in keys if _changes_nothing(settings, key, known)]


def counts_with(settings: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """A setting, and the value of it, with which a key that is ignored would not be; None if no single one is found.

    Settings that switch something are tried: those of the key's own section first, the method last.
    """
    section, now = key.rpartition(".")[0], parse(settings)[0]
    known = all_effective(now)
    for other in sorted(
        setting_keys(), key=lambda name: (name == "method", name.rpartition(".")[0] != section)
    ):
        if other == key:
            continue
        for value in _switched(
            other, value_of(now, other), is_near=other.rpartition(".")[0] == section
        ):
            changed = {
                **{name: kept for name, kept in settings.items() if name != other},
                other: value,
            }
            config, faults = parse(changed)
            # what is ignored itself makes nothing count
            if (
                not faults
                and (effective := all_effective(config)) != known
                and not _changes_nothing(changed, key, effective)
            ):
                return other, value
    return None


def _changes_nothing(settings: Mapping[str, Any], key: str, known: list[Any]) -> bool:
    """known: `all_effective` of the settings."""
    n_allowed = 0
    for value in _others(key, settings[key]):
        config, faults = parse({**settings, key: value})  # where it stands: a later key may undo it
        if faults:
            continue
        n_allowed += 1
        if all_effective(config) != known:
            return False
    return n_allowed > 0


def _others(key: str, value: Any) -> Iterator[Any]:
    """Values of a setting other than this one, near to it and far; some may not be allowed."""
    annotation, limits, _ = find(key)
    value, _ = convert(value, annotation, limits)
    default = value_of(Config(), key)
    seen = [value]
    for other in _candidates(annotation, limits, value, default):
        if other not in seen:
            seen.append(other)
            yield other


def _candidates(
    annotation: Any, limits: Mapping[str, Any], value: Any, default: Any
) -> Iterator[Any]:
    if is_union(annotation):
        yield None
        if section_type(annotation):
            yield {}
            return
        annotation = next(option for option in get_args(annotation) if option is not type(None))
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) is tuple:
        item = get_args(annotation)[0]
        for number in _candidates(item, limits, value[0] if value else None, None):
            yield [number] * len(value)
            yield [number]
        yield [*value, *value]
    elif annotation is bool:
        yield from (True, False)
    elif annotation is str:
        yield f"{value or ''}-"
    else:
        near = [] if value is None else [2 * value, value / 2, value + 1, value - 1]
        ends = [limits[name] for name in ("minimum", "maximum") if name in limits]
        for number in [default, *near, *ends, 0.5, 1, 2, 10]:
            if number is not None:
                yield int(number) if annotation is int else float(number)


def _switched(key: str, value: Any, is_near: bool) -> Iterator[Any]:
    """Other values of a setting that switches something; of numbers, only those that 0 switches off, unless `is_near`."""
    annotation, limits, _ = find(key)
    default = value_of(Config(), key)
    if annotation in (int, float) and not is_near:
        yield from [default or 1] if value == 0 else []
    elif annotation == (str | None):
        yield from [None] if value is not None else []
    elif get_origin(annotation) is not tuple:
        yield from (
            other for other in _candidates(annotation, limits, value, default) if other != value
        )


@functools.cache
def setting_keys() -> tuple[str, ...]:
    """All dotted keys that hold a value, or may hold none."""
    return tuple(_keys(Config))


def _keys(cls: type, prefix: str = "") -> Iterator[str]:
    for name, annotation in typing.get_type_hints(cls).items():
        nested = section_type(annotation)
        if nested is None or is_union(annotation):
            yield f"{prefix}{name}"
        if nested is not None:
            yield from _keys(nested, f"{prefix}{name}.")


def value_of(config: Config, key: str) -> Any:
    """None where its section is not set."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part, None)
    return value
