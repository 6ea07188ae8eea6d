"""Reading `factors:` of a grid file, and refusing toggles that could not tell anything."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from ablation.columns import COSTS, IDENTITY
from ablation.design import Factor, Level
from ablation.reading import overlap
from ablation.section import NAME, Section

LEVEL_NAME = (
    r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*",
    "a level's name (letters, digits, '_', '-', single dots)",
)

Alternatives = Sequence[Collection[str]]
"""Groups of dotted keys of which setting one unsets the others: `ablation.subject.Subject.alternatives`."""


def read_factors(file: Section, headline: str) -> tuple[Factor, ...]:
    """The factors that have two levels or more; whatever is wrong with them is noted. headline: the grid's metric."""
    section = file.section("factors")
    if not any(file.values.get(key) for key in ("factors", "arms", "baselines")):
        file.note(
            "factors",
            "is missing; it must map each factor to its levels, the reference first (only a grid of baselines or of arms needs none)",
        )
    factors = []
    for name in section.names(*NAME):
        if name in (*IDENTITY, *COSTS, headline):
            what = "the metric of the study, and so " if name == headline else ""
            section.note(
                name, f"'{name}' is {what}a column of results.csv; give the factor another name"
            )
        levels = _levels(section, name)
        if len(levels) >= 2:
            factors.append(Factor(name, levels))
    for first, second in itertools.combinations(factors, 2):
        _note_rivalry(section, first, second)
    return tuple(factors)


def alternative_rivals(
    factors: Sequence[Factor], alternatives: Alternatives
) -> Iterator[tuple[str, str]]:
    """(factor, message) for each factor that sets an alternative to what a factor before it sets."""
    for first, second in itertools.combinations(factors, 2):
        for key, other in itertools.product(_set_keys(second), _set_keys(first)):
            if are_alternatives(key, other, alternatives):
                message = f"sets '{key}', but factor '{first.name}' sets its alternative '{other}': one would undo the other"
                yield second.name, message


def are_alternatives(key: str, other: str, alternatives: Alternatives) -> bool:
    """Whether setting one of the keys unsets the other."""
    for group in alternatives:
        places = [
            next((member for member in group if f"{k}.".startswith(f"{member}.")), None)
            for k in (key, other)
        ]
        if None not in places and places[0] != places[1]:
            return True
    return False


def undoes(level: Level, key: str, alternatives: Alternatives) -> bool:
    """Whether the level takes back what was set under the key."""
    return any(
        f"{key}.".startswith(f"{other}.")
        or (value is not None and are_alternatives(key, other, alternatives))
        for other, value in level.overrides.items()
    )


def _set_keys(factor: Factor) -> list[str]:
    """The keys that a level sets to anything but null, which unsets no alternative."""
    return list(
        {
            key: None
            for level in factor.levels
            for key, value in level.overrides.items()
            if value is not None
        }
    )


def _levels(factors: Section, name: str) -> tuple[Level, ...]:
    n_problems = len(factors.problems)
    section = factors.section(name)
    levels = tuple(Level(level, section.settings(level)) for level in section.names(*LEVEL_NAME))
    if len(factors.problems) > n_problems:
        return levels
    if len(levels) < 2:
        factors.note(name, f"has {len(levels)} of the two or more levels that a factor needs")
    for first, second in itertools.combinations(levels, 2):
        if _text(first.overrides) == _text(second.overrides):
            section.note(second.name, f"is a dead toggle: it sets the same as level '{first.name}'")
    return levels


def _note_rivalry(section: Section, first: Factor, second: Factor) -> None:
    """Two factors must not decide the same setting: which of them wins would depend on their order."""
    ours, theirs = _values(first), _values(second)
    for key, other in itertools.product(theirs, ours):
        agreed = key == other and len(ours[key] | theirs[key]) == 1
        if overlap(key, other) and not agreed:
            section.note(
                second.name,
                f"sets '{key}', but factor '{first.name}' sets '{other}': one would undo the other",
            )


def _values(factor: Factor) -> dict[str, set[str]]:
    """Each key that the factor sets, and what it sets it to."""
    values: dict[str, set[str]] = {}
    for level in factor.levels:
        for key, value in level.overrides.items():
            values.setdefault(key, set()).add(_text(value))
    return values


def _text(value: Any) -> str:
    """Equal for equal values only: Python takes 1, 1.0 and True for the same."""
    return json.dumps(value, sort_keys=True)
