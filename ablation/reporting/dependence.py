"""In words: how what a factor does depends on the factors that it interacts with.

"`warmup` raises top-1 without `lr_split`, no effect is found with `lr_split`": where an effect is
above 0, where below, and where neither was found, put by one level of one other factor where that
tells it all. "Only" and "unless" are said where there is exactly none elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from ablation.analysis.factors import LevelEffect, Setting
from ablation.analysis.statistics import Estimate
from ablation.formatting import effect, listed

# stands for the metric's name in a clause: no name can hold it
METRIC = "\0"
# how many factors a sentence tells, one by one, to depend on others
MAX_DEPENDENT = 3
# how many names, or settings of other factors, a line lists one by one
MAX_LISTED = 4

NUMBERS = [
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
]
_VERBS = {1: "raises", -1: "lowers"}


def dependent_clauses(found: Sequence[LevelEffect]) -> list[tuple[int, str]]:
    """A clause on each effect that depends on other factors, and its sign, 0 where both occur.

    Of two factors that interact, one that does nothing by itself but undo or complete what the
    other does has no clause.
    """
    told: list[tuple[int, str]] = []
    alone = {one.factor for one in found if _side(one.settings[0])}
    completed: set[frozenset[str]] = set()
    for one in found:
        others = list(one.settings[0].of)
        pair = frozenset((one.factor, *others))
        is_known = all(map(_is_known, one.settings))
        sides = [_side(setting) for setting in one.settings]
        if len(sides) == 2 and is_known and not sides[0] and sides[1]:
            if others[0] in alone or pair in completed:
                continue
            completed.add(pair)
        told.append(_clause(one))
    if len(told) > MAX_DEPENDENT:
        return [(0, f"what {effect_names(found)} do to {METRIC} depends on the others")]
    return told


def _clause(one: LevelEffect) -> tuple[int, str]:
    of: dict[int, list[Setting]] = {}
    for setting in one.settings:
        of.setdefault(_side(setting), []).append(setting)
    others = listed([f"`{other}`" for other in one.settings[0].of])
    if not all(map(_is_known, one.settings)):
        return 0, f"what {effect_name(one)} does to {METRIC} depends on {others}"
    sides = [side for side in of if side]
    places = {side: _where(of[side], one.settings) for side in sides}
    if len(of) == 1 and sides:
        most = _most(one.settings)
        return sides[0], f"{effect_name(one)} {_VERBS[sides[0]]} {METRIC}, most {with_levels(most)}"
    if len(sides) == 1 and places[sides[0]]:
        (side,) = sides
        if not all(map(_is_none, of[0])):
            where = with_levels(places[side])
            return side, f"{effect_name(one)} {_VERBS[side]} {METRIC} {where} ({_not_found(of[0])})"
        where = f"only {with_levels(places[side])}"
        if len(places[side]) == 1:
            ((other, level),) = places[side].items()
            levels = {setting.of[other] for setting in one.settings}
            where = (
                f"unless `{other}` is on" if level == "off" and levels == {"on", "off"} else where
            )
        return side, f"{effect_name(one)} {_VERBS[side]} {METRIC} {where}"
    if len(sides) == 2 and all(places.values()):
        parts = [f"{_VERBS[side]} {METRIC} {with_levels(places[side])}" for side in sides]
        return 0, f"{effect_name(one)} {' and '.join(parts)}"
    return 0, f"what {effect_name(one)} does to {METRIC} depends on {others}"


def effect_numbers(one: LevelEffect, unit: str) -> str:
    """The effect at each setting of the others, or its range where these are many.

    It says how many settings its intervals are corrected for.
    """
    told = _at_settings(one.settings, unit)
    # a range has no intervals
    corrected = f", corrected for {number(len(one.settings))} settings" if "[" in told else ""
    return told + corrected


def _at_settings(settings: Sequence[Setting], unit: str) -> str:
    """As `effect_numbers`, without what their intervals are corrected for."""
    split = _most(settings)
    if len(settings) > 2 and len(split) == 1:
        ((other, level),) = split.items()
        rest = list(dict.fromkeys(setting.of[other] for setting in settings))
        order = [level, *(each for each in rest if each != level)]
        return ", ".join(
            _range([s for s in settings if s.of[other] == each], unit if k == 0 else "")
            + f" {with_levels({other: each})}"
            for k, each in enumerate(order)
        )
    if len(settings) > MAX_LISTED:
        ends = sorted(settings, key=lambda setting: setting.found.mean)
        told = _each([ends[0], ends[-1]], unit, " to ")
        return f"in {number(len(settings))} settings of the others, {told}"
    return _each(settings, unit, "; " if len(settings[0].of) > 1 else ", ")


def _each(settings: Sequence[Setting], unit: str, between: str) -> str:
    return between.join(
        f"{effect_size(setting.found, unit if k == 0 else '')} {with_levels(setting.of)}"
        for k, setting in enumerate(settings)
    )


def _range(settings: Sequence[Setting], unit: str) -> str:
    """`+8.8 to +9.8 points`; with the interval of a single setting."""
    low, *_, high = sorted(settings, key=lambda setting: setting.found.mean) * 2
    if len(settings) == 1:
        return effect_size(low.found, unit)
    ends = [effect_size(setting.found).split(" ")[0] for setting in (low, high)]
    return f"{' to '.join(ends)}{unit}"


def _where(some: Sequence[Setting], settings: Sequence[Setting]) -> dict[str, str]:
    """The levels of other factors that tell some settings from all others; {} if none do."""
    if len(some) == 1:
        return some[0].of
    for other, level in some[0].of.items():
        if [setting for setting in settings if setting.of[other] == level] == list(some):
            return {other: level}
    return {}


def _most(settings: Sequence[Setting]) -> dict[str, str]:
    """Where an effect is largest: one level of one other factor if that tells it, else all."""
    largest = max(settings, key=lambda setting: abs(setting.found.mean))
    for other, level in largest.of.items():
        inside = [abs(s.found.mean) for s in settings if s.of[other] == level]
        outside = [abs(s.found.mean) for s in settings if s.of[other] != level]
        if outside and min(inside) > max(outside):
            return {other: level}
    return largest.of


def _side(setting: Setting) -> int:
    """1 where the effect there is above 0, -1 where below, 0 where its interval holds 0."""
    low, high = setting.found.low, setting.found.high
    return int(low > 0) - int(high < 0)


def _is_none(setting: Setting) -> bool:
    """Whether the effect there is exactly 0: an interval that holds 0 shows no absence."""
    return setting.found.low != setting.found.low and setting.found.mean == 0


def _not_found(settings: Sequence[Setting]) -> str:
    """`no effect found without `b`: +1.0 [-0.5, 2.5]`; without numbers where these are many."""
    if len(settings) > 1:
        return "no effect found elsewhere"
    (one,) = settings
    return f"no effect found {with_levels(one.of)}: {effect_size(one.found)}"


def _is_known(setting: Setting) -> bool:
    """Whether the effect there is judged, or exactly 0.

    It is not where it has no interval: by one seed, or by seeds that agree exactly.
    """
    return setting.found.low == setting.found.low or setting.found.mean == 0


# Words


def number(n: int) -> str:
    """`three`; `13` above twelve."""
    return NUMBERS[n] if n < len(NUMBERS) else str(n)


def effect_name(one: LevelEffect) -> str:
    """`lr_split`, or `warmup=quarter` where the level is not simply "on".

    With the arms that its effect does without, if any.
    """
    name = f"`{one.factor}`" if one.level == "on" else f"`{one.factor}={one.level}`"
    return f"{name} ({one.over})" if one.over else name


def effect_names(found: Sequence[LevelEffect], with_size: bool = False) -> str:
    """Their names; of too many, how many there are and of which factors."""
    if with_size:
        return listed([f"{effect_name(one)} ({effect_size(one)})" for one in found])
    factors = list(dict.fromkeys(one.factor for one in found))
    if len(found) <= MAX_LISTED:
        return listed([effect_name(one) for one in found])
    if len(factors) == 1:
        return f"{number(len(found))} levels of `{factors[0]}`"
    return f"{number(len(found))} levels of {number(len(factors))} factors"


def with_levels(of: dict[str, str]) -> str:
    """`with a`, `without a or b`, `at a=quarter`, `with a, without b`."""
    on = [f"`{factor}`" for factor, level in of.items() if level == "on"]
    off = [f"`{factor}`" for factor, level in of.items() if level == "off"]
    named = [f"`{f}={level}`" for f, level in of.items() if level not in ("on", "off")]
    without = f"without {' or '.join(off)}" if off else ""
    told = [f"with {listed(on)}" * bool(on), without, f"at {listed(named)}" * bool(named)]
    return ", ".join(text for text in told if text)


def effect_size(found: LevelEffect | Estimate, unit: str = "") -> str:
    """`+3.2 points [1.1, 5.3]`."""
    return effect(found.mean, found.low, found.high, unit=unit)
