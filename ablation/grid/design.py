"""Which arms a study compares, and what it claims of them.

The factors of a grid are crossed as its design says (`arms`).

`claims:` of a grid file says what the study is expected to show, and by which contrast. A claim is
{id, says, contrast, expects}. A contrast has two sides, {factor, from, to} or {arm, minus}, or one,
{factor, level} or {arm}. `expects` lists {metric, direction, within?, value?}: `within` is how far
a metric may change that should not (direction `none`), and `value` what the mean of one side should
lie `above` or `below`, both in the metric's unit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablation.errors import nearest
from ablation.grid.strict_yaml import METRIC_NAME, NAME, CheckedMapping, plain, show
from ablation.storage.runs import Claim, Expectation

OF_ONE_SIDE, OF_TWO_SIDES = ("above", "below"), ("up", "down", "none")
"""What a metric may be expected to do by the sides of the contrast."""
FORMS = "{factor, from, to} or {arm, minus}, or of one side {factor, level} or {arm}"
DESIGNS = ("factorial", "leave-one-out", "add-one-in", "one-factor")


@dataclass(frozen=True)
class Level:
    """One value of a factor: a set of overridden settings."""

    name: str
    # dotted key -> value
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Factor:
    """What is varied: at least two levels, the first is the reference."""

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


def read_claims(file: CheckedMapping) -> tuple[Claim, ...]:
    """The claims, with "" for each name that is missing or wrong, which is noted.

    That the arms they name exist can only be told once the design is known.
    """
    claims: list[Claim] = []
    factors = file.values.get("factors")
    for section in file.sections("claims"):
        claim = _claim(section, factors if isinstance(factors, Mapping) else {})
        if claim["id"] and claim["id"] in [other["id"] for other in claims]:
            section.note("id", f"'{claim['id']}' is there twice")
        claims.append(claim)
    return tuple(claims)


def unmet_claims(
    claims: Iterable[Claim], arms: Sequence[Arm], baselines: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Key and message of each claim about an arm that the study does not have."""
    names = [*(arm.name for arm in arms), *baselines]
    for i, claim in enumerate(claims):
        factor = claim["contrast"].get("factor", "")
        for side, value in claim["contrast"].items():
            key = f"claims[{i}].contrast.{side}"
            if not value or side == "factor":
                continue
            if side in ("arm", "minus"):
                if value not in names:
                    yield (
                        key,
                        f"'{value}' is neither an arm nor a baseline; {nearest(value, names)}",
                    )
            elif all(arm.levels.get(factor) != value for arm in arms):
                yield key, f"no arm of the design has {factor} at '{value}'"


def unreported_metrics(
    claims: Iterable[Claim],
    primary: str,
    arms: Sequence[Arm],
    reported: Mapping[str, Collection[str]],
) -> Iterator[tuple[str, str]]:
    """Key and message of each metric that trials do not report where it is needed.

    The primary metric where a trial's last record lacks it, and claims' metrics that cannot be
    compared. reported: arm or baseline -> names of its metrics, of those for which they are known.
    """
    lacking = [name for name, metrics in reported.items() if primary not in metrics]
    if lacking and primary:
        common = set.intersection(*map(set, reported.values()))
        who = "any trial" if len(lacking) == len(reported) else f"'{lacking[0]}'"
        message = f"'{primary}' is not reported by {who} at its end; {nearest(primary, common)}"
        yield "metric.name", message
    for i, claim in enumerate(claims):
        sides = [
            [reported[name] for name in names if name in reported]
            for names in _sides(claim["contrast"], arms)
        ]
        if not sides or not all(sides):
            continue
        comparable = set.intersection(*(set().union(*side) for side in sides))
        comparable.add(f"best/{primary}")
        for j, expectation in enumerate(claim["expects"]):
            metric = expectation["metric"]
            if metric and metric not in comparable:
                why = "is not reported at the end of what is compared"
                key = f"claims[{i}].expects[{j}].metric"
                yield key, f"'{metric}' {why}; {nearest(metric, comparable)}"


def _sides(contrast: Mapping[str, str], arms: Sequence[Arm]) -> list[list[str]]:
    """The arms and baselines on each side of a contrast; none where the contrast is broken."""
    if not all(contrast.values()):
        return []
    sides = {side: value for side, value in contrast.items() if side != "factor"}
    if "factor" not in contrast:
        return [[name] for name in sides.values()]
    factor = contrast["factor"]
    return [
        [arm.name for arm in arms if arm.levels.get(factor) == level] for level in sides.values()
    ]


def _claim(section: CheckedMapping, factors: Mapping[str, Any]) -> Claim:
    section.allow("id", "says", "contrast", "expects")
    name = section.text("id", None, *NAME) or ""
    says = section.text("says", means="a sentence") or ""
    contrast = _contrast(section, factors)
    expects = [_expectation(expected, contrast) for expected in section.sections("expects")]
    if not section.values.get("expects"):
        section.note("expects", "is missing; it must list {metric, direction} once or more")
    return {"id": name, "says": says, "contrast": contrast, "expects": expects}


def _contrast(claim: CheckedMapping, factors: Mapping[str, Any]) -> dict[str, str]:
    section = claim.section("contrast")
    if not section.values:
        claim.note("contrast", f"is missing; write {FORMS}")
        return {}
    named: dict[str, str] = {}
    if {"arm", "minus"} & set(section.values):
        section.allow("arm", "minus")
        names = ("arm", "minus") if "minus" in section.values else ("arm",)
        sides = {side: section.text(side, means="an arm or a baseline") or "" for side in names}
    else:
        section.allow("factor", "from", "to", "level")
        factor = section.choice("factor", list(factors)) or ""
        named = {"factor": factor}
        both = {"from", "to"} & set(section.values)
        if both and "level" in section.values:
            section.note("level", f"does not go with {' and '.join(sorted(both))}; write {FORMS}")
        names = ("level",) if "level" in section.values and not both else ("from", "to")
        levels = factors.get(factor)
        sides = {side: _level(section, side, levels) for side in names}
    if len(sides) == 2 and all(sides.values()) and len(set(sides.values())) == 1:
        section.note("", "compares a thing with itself")
    return {**named, **sides}


def _level(contrast: CheckedMapping, side: str, levels: Any) -> str:
    """The level named, also where its name reads as a number, a boolean or null: `from: 0.1`."""
    if not isinstance(levels, Mapping):
        # of an unknown or broken factor, which has been noted
        return ""
    value = contrast.values.get(side)
    read = {str(name): plain(name) for name in levels}
    names = [
        name
        for name, meant in read.items()
        if name == value or (type(meant) is type(value) and meant == value)
    ]
    if len(names) == 1 and side in contrast.values:
        return names[0]
    if side not in contrast.values or (value is None and not names):
        contrast.note(side, f"is missing; {nearest('', levels)}")
    elif names:
        remedy = "quote the one that is meant"
        contrast.note(side, f"{show(value)} may be any of the levels {', '.join(names)}; {remedy}")
    else:
        contrast.note(side, f"{show(value)} is not a level of the factor; {nearest(value, levels)}")
    return ""


def _expectation(section: CheckedMapping, contrast: Mapping[str, str]) -> Expectation:
    section.allow("metric", "direction", "within", "value")
    metric = section.text("metric", None, *METRIC_NAME) or ""
    expected: Expectation = {"metric": metric, "direction": _direction(section, contrast)}
    _add_number(expected, section, "within", ("none",), "a number above 0", above=0)
    _add_number(expected, section, "value", OF_ONE_SIDE, "a finite number")
    if section.values.get("value") is None and section.values.get("direction") in OF_ONE_SIDE:
        section.note("value", "is missing; it must be a number")
    return expected


def _direction(section: CheckedMapping, contrast: Mapping[str, str]) -> str:
    if not contrast:
        return section.choice("direction", (*OF_ONE_SIDE, *OF_TWO_SIDES)) or ""
    has_two_sides = {"minus", "from", "to"} & set(contrast)
    allowed, others = (OF_TWO_SIDES, OF_ONE_SIDE) if has_two_sides else (OF_ONE_SIDE, OF_TWO_SIDES)
    value = section.values.get("direction")
    if value not in others:
        return section.choice("direction", allowed) or ""
    needs = (
        "one side, {factor, level} or {arm}"
        if has_two_sides
        else "two sides, {factor, from, to} or {arm, minus}"
    )
    message = f"'{value}' goes with a contrast of {needs}; {nearest('', allowed)}"
    section.note("direction", message)
    return ""


def _add_number(
    expected: Expectation,
    section: CheckedMapping,
    key: Literal["within", "value"],
    directions: Sequence[str],
    means: str,
    above: float = -math.inf,
) -> None:
    """Add the number that goes with some directions alone, where there is one."""
    value, direction = section.values.get(key), section.values.get("direction")
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not above < value < math.inf:
        section.note(key, f"{show(value)} is not {means}")
        return
    if direction not in directions and direction in (*OF_ONE_SIDE, *OF_TWO_SIDES):
        section.note(key, f"goes with direction: {' or '.join(directions)} alone")
    expected[key] = value
