"""The layers that a variant's settings are merged from, each with where it stands, so that a fault is traced to its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Layer(NamedTuple):
    """Settings and where they stand."""

    file: str
    place: str  # dotted key of the mapping that holds them
    settings: Mapping[str, Any]
    may_idle: bool = False  # the settings serve other grids too, or are a built-in baseline's: they need not change anything


Stack = tuple[Layer, ...]  # bottom first


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers in one, later ones winning; an overridden key moves to the end, so that the order tells."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            merged.pop(key, None)
            merged[key] = value
    return merged


def merged(stack: Stack) -> dict[str, Any]:
    return merge(*(layer.settings for layer in stack))
