"""Which arms a study compares: the factors of a grid crossed as its design says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

DESIGNS = ("factorial", "leave-one-out", "add-one-in", "one-factor")


@dataclass(frozen=True)
class Level:
    """One position of a factor."""

    name: str
    # dotted key -> value
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Factor:
    """What is toggled; at least two levels, the first is the reference."""

    name: str
    levels: tuple[Level, ...]

    @property
    def reference(self) -> Level:
        """The first level: the original, without the fix."""
        return self.levels[0]

    @property
    def full(self) -> Level:
        """The level that counts as the fix applied: `on` if there is one beside the reference."""
        return next((level for level in self.levels[1:] if level.name == "on"), self.levels[1])


@dataclass(frozen=True)
class Arm:
    """One cell of the design."""

    # e.g. "lr_split+warmup=plateau"
    name: str
    # factor -> level; {} for an extra arm
    levels: dict[str, str]
    # of all its levels, in the order of the factors
    overrides: dict[str, Any]


def arms(factors: Sequence[Factor], designs: Iterable[str], extra: Iterable[Arm] = ()) -> list[Arm]:
    """The arms of all `designs` together, each once, then the `extra` ones.

    Without factors, the extra ones alone.

    factorial      every combination of levels
    leave-one-out  every factor full, and with each factor in turn back at its reference
    add-one-in     every factor at its reference, and each factor in turn full
    one-factor     every factor at its reference, and each other level in turn alone

    Sorted by how many factors have left their reference: the reference first, full arms last.
    """
    cells = dict.fromkeys(cell for design in designs if factors for cell in _cells(factors, design))
    return [_arm(factors, cell) for cell in sorted(cells, key=_n_moved)] + list(extra)


def n_cells(factors: Sequence[Factor], design: str) -> int:
    """How many arms a design has, without making them."""
    if design == "factorial":
        return math.prod(len(factor.levels) for factor in factors)
    if design == "one-factor":
        return 1 + sum(len(factor.levels) - 1 for factor in factors)
    return 1 + len(factors)


# for each factor, the index of its level: 0 is the reference
_Cell = tuple[int, ...]


def _cells(factors: Sequence[Factor], design: str) -> Iterable[_Cell]:
    reference = (0,) * len(factors)
    full = tuple(factor.levels.index(factor.full) for factor in factors)
    n_levels = [len(factor.levels) for factor in factors]
    if design == "factorial":
        # the first factor turns fastest, so that it is the first to stand alone
        return (cell[::-1] for cell in itertools.product(*map(range, reversed(n_levels))))
    if design == "leave-one-out":
        return [full, *(_with(full, i, 0) for i in range(len(factors)))]
    if design == "add-one-in":
        return [reference, *(_with(reference, i, full[i]) for i in range(len(factors)))]
    if design == "one-factor":
        others = [(i, level) for i, n in enumerate(n_levels) for level in range(1, n)]
        return [reference, *(_with(reference, i, level) for i, level in others)]
    raise ValueError(f"unknown design {design!r}")


def _with(cell: _Cell, position: int, level: int) -> _Cell:
    return (*cell[:position], level, *cell[position + 1 :])


def _n_moved(cell: _Cell) -> int:
    return sum(level > 0 for level in cell)


def _arm(factors: Sequence[Factor], cell: _Cell) -> Arm:
    chosen = [(factor, factor.levels[i]) for factor, i in zip(factors, cell, strict=True)]
    moved = [(factor.name, level.name) for factor, level in chosen if level is not factor.reference]
    name = "+".join(factor if level == "on" else f"{factor}={level}" for factor, level in moved)
    overrides = {key: value for _, level in chosen for key, value in level.overrides.items()}
    return Arm(
        name or "reference", {factor.name: level.name for factor, level in chosen}, overrides
    )
