"""Reading `claims:` of a grid file: what the study is expected to show, and by which contrast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ablation.errors import nearest
from ablation.reading import plain, show
from ablation.section import METRIC_NAME, NAME, Section

DIRECTIONS = ("up", "down", "none")


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
    return {
        "id": section.text("id", None, *NAME),
        "says": section.text("says", means="a sentence"),
        "contrast": _contrast(section, factors),
        "expects": _expectations(section),
    }


def _contrast(claim: Section, factors: Mapping[str, Any]) -> dict[str, str | None]:
    section = claim.section("contrast")
    if not section.values:
        claim.note("contrast", "is missing; write {factor, from, to} or {arm, minus}")
        return {}
    if {"arm", "minus"} & set(section.values):
        section.allow("arm", "minus")
        sides = {side: section.text(side, means="an arm or a baseline") for side in ("arm", "minus")}
        named = {}
    else:
        section.allow("factor", "from", "to")
        factor = section.choice("factor", list(factors))
        levels = factors.get(factor) if factor else None
        sides = {side: _level(section, side, levels) for side in ("from", "to")}
        named = {"factor": factor}
    if None not in sides.values() and len(set(sides.values())) == 1:
        section.note("", "compares a thing with itself")
    return {**named, **sides}


def _level(contrast: Section, side: str, levels: Any) -> str | None:
    """The level named, also where its name reads as a number, a boolean or null: `from: 0.1`."""
    if not isinstance(levels, Mapping):  # of an unknown or broken factor, which has been noted
        return None
    value = contrast.values.get(side)
    names = [name for name in levels if name == value or (type(plain(name)) is type(value) and plain(name) == value)]
    if side not in contrast.values or (value is None and not names):
        contrast.note(side, f"is missing; {nearest('', levels)}")
        return None
    if len(names) > 1:
        contrast.note(side, f"{show(value)} may be any of the levels {', '.join(names)}; quote the one that is meant")
        return None
    if not names:
        contrast.note(side, f"{show(value)} is not a level of the factor; {nearest(value, levels)}")
        return None
    return names[0]


def _expectations(claim: Section) -> list[dict[str, Any]]:
    expectations = []
    for section in claim.sections("expects"):
        section.allow("metric", "direction", "within")
        metric = section.text("metric", None, *METRIC_NAME)
        expectations.append({"metric": metric, "direction": section.choice("direction", DIRECTIONS), **_within(section)})
    if not claim.values.get("expects"):
        claim.note("expects", "is missing; it must list {metric, direction} once or more")
    return expectations


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
