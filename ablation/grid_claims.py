"""Reading `claims:` of a grid file: what the study is expected to show, and by which contrast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ablation.errors import nearest
from ablation.reading import plain, show
from ablation.section import METRIC_NAME, NAME, Section

DIRECTIONS = {True: ("above", "below"), False: ("up", "down", "none")}
"""Whether a contrast has one side -> what a metric may be expected to do."""
FORMS = "{factor, from, to} or {arm, minus}, or of one side {factor, level} or {arm}"


def read_claims(file: Section) -> tuple[dict[str, Any], ...]:
    """The claims; that the arms they name exist can only be told once the design is known."""
    claims: list[dict[str, Any]] = []
    factors = file.values.get("factors")
    for section in file.sections("claims"):
        claim = _claim(section, factors if isinstance(factors, Mapping) else {})
        if claim["id"] in [other["id"] for other in claims]:
            section.note("id", f"'{claim['id']}' is there twice")
        claims.append(claim)
    return tuple(claims)


def _claim(section: Section, factors: Mapping[str, Any]) -> dict[str, Any]:
    section.allow("id", "says", "contrast", "expects")
    name, says = section.text("id", None, *NAME), section.text("says", means="a sentence")
    contrast = _contrast(section, factors)
    has_one_side = bool(contrast) and not {"minus", "from", "to"} & set(contrast)
    expects = _expectations(section, has_one_side if contrast else None)
    return {"id": name, "says": says, "contrast": contrast, "expects": expects}


def _contrast(claim: Section, factors: Mapping[str, Any]) -> dict[str, str | None]:
    section = claim.section("contrast")
    if not section.values:
        claim.note("contrast", f"is missing; write {FORMS}")
        return {}
    if {"arm", "minus"} & set(section.values):
        section.allow("arm", "minus")
        names = ("arm", "minus") if "minus" in section.values else ("arm",)
        sides = {side: section.text(side, means="an arm or a baseline") for side in names}
        named = {}
    else:
        section.allow("factor", "from", "to", "level")
        factor = section.choice("factor", list(factors))
        levels = factors.get(factor) if factor else None
        both = {"from", "to"} & set(section.values)
        if both and "level" in section.values:
            section.note("level", f"does not go with {' and '.join(sorted(both))}; write {FORMS}")
        names = ("level",) if "level" in section.values and not both else ("from", "to")
        sides = {side: _level(section, side, levels) for side in names}
        named = {"factor": factor}
    if len(sides) == 2 and None not in sides.values() and len(set(sides.values())) == 1:
        section.note("", "compares a thing with itself")
    return {**named, **sides}


def _level(contrast: Section, side: str, levels: Any) -> str | None:
    """The level named, also where its name reads as a number, a boolean or null: `from: 0.1`."""
    if not isinstance(levels, Mapping):  # of an unknown or broken factor, which has been noted
        return None
    value = contrast.values.get(side)
    names = [
        name
        for name in levels
        if name == value or (type(plain(name)) is type(value) and plain(name) == value)
    ]
    if side not in contrast.values or (value is None and not names):
        contrast.note(side, f"is missing; {nearest('', levels)}")
        return None
    if len(names) > 1:
        contrast.note(
            side,
            f"{show(value)} may be any of the levels {', '.join(names)}; quote the one that is meant",
        )
        return None
    if not names:
        contrast.note(side, f"{show(value)} is not a level of the factor; {nearest(value, levels)}")
        return None
    return names[0]


def _expectations(claim: Section, has_one_side: bool | None) -> list[dict[str, Any]]:
    """has_one_side: of the contrast; None where there is none."""
    expectations = []
    for section in claim.sections("expects"):
        section.allow("metric", "direction", "within", "value")
        metric, direction = (
            section.text("metric", None, *METRIC_NAME),
            _direction(section, has_one_side),
        )
        expectations.append(
            {"metric": metric, "direction": direction, **_within(section), **_value(section)}
        )
    if not claim.values.get("expects"):
        claim.note("expects", "is missing; it must list {metric, direction} once or more")
    return expectations


def _direction(section: Section, has_one_side: bool | None) -> str | None:
    if has_one_side is None:
        return section.choice("direction", [*DIRECTIONS[True], *DIRECTIONS[False]])
    value, others = section.values.get("direction"), DIRECTIONS[not has_one_side]
    if value in others:
        sides = (
            "one side, {factor, level} or {arm}"
            if not has_one_side
            else "two sides, {factor, from, to} or {arm, minus}"
        )
        section.note(
            "direction",
            f"'{value}' goes with a contrast of {sides}; {nearest('', DIRECTIONS[has_one_side])}",
        )
        return None
    return section.choice("direction", DIRECTIONS[has_one_side])


def _value(section: Section) -> dict[str, float]:
    """The number that the mean of one side should lie above or below, in the metric's unit."""
    value, direction = section.values.get("value"), section.values.get("direction")
    if value is None:
        if direction in DIRECTIONS[True]:
            section.note("value", "is missing; it must be a number")
        return {}
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        section.note("value", f"{show(value)} is not a finite number")
    elif direction in DIRECTIONS[False]:
        section.note("value", "goes with direction: above or below alone")
    return {"value": value}


def _within(section: Section) -> dict[str, float]:
    """How far a metric may change that should not, in its unit; without, "none" means not by a bit."""
    margin = section.values.get("within")
    if margin is None:
        return {}
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not margin > 0:
        section.note("within", f"{show(margin)} is not a number above 0")
    elif section.values.get("direction") != "none":
        section.note("within", "goes with direction: none alone")
    return {"within": margin}
