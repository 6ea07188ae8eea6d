"""Find settings, factors and levels of a grid that could change no result.

These are settings that every arm ignores or overrides, factors that set the same key, and levels
that compute the same.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ablation.errors import Problem
from ablation.grid.design import Arm, Factor, Level
from ablation.grid.strict_yaml import as_text, dotted, overlap, show
from ablation.subject.protocol import Subject

Alternatives = Sequence[Collection[str]]
"""Groups of dotted keys of which setting one unsets the others.

See `ablation.subject.protocol.Subject.alternatives`.
"""


class Layer(NamedTuple):
    """Settings from one place, such as a file or the command line."""

    file: str
    # dotted key of the mapping that holds them
    place: str
    settings: Mapping[str, Any]
    # they serve other grids too, or are a built-in baseline's: they need not change anything
    may_idle: bool = False


# bottom first
Stack = tuple[Layer, ...]


def merged(stack: Stack) -> dict[str, Any]:
    """All layers as one, later ones winning; each key remembers where it was last set."""
    settings: dict[str, Any] = {}
    for layer in stack:
        for key, value in layer.settings.items():
            settings.pop(key, None)
            settings[key] = value
    return settings


def rivals(factors: Sequence[Factor], alternatives: Alternatives) -> Iterator[tuple[str, str]]:
    """Factor and message of each factor that overrides a setting of an earlier one.

    Which of the two wins would depend on their order.
    """
    for first, second in itertools.combinations(factors, 2):
        ours, theirs = _values(first), _values(second)
        for key, other in itertools.product(theirs, ours):
            agreed = key == other and len(ours[key] | theirs[key]) == 1
            # null unsets no alternative
            both_set = {"null"} not in (theirs[key], ours[other])
            if overlap(key, other) and not agreed:
                what = f"'{other}'"
            elif both_set and _are_alternatives(key, other, alternatives):
                what = f"its alternative '{other}'"
            else:
                continue
            message = f"sets '{key}', but factor '{first.name}' sets {what}"
            yield second.name, f"{message}: one would undo the other"


def undone(
    options: Mapping[str, Any], factors: Sequence[Factor], alternatives: Alternatives
) -> Iterator[tuple[str, str]]:
    """Key and message of each setting of the command line that every arm overrides."""
    for key, value in options.items():
        for factor in factors:
            covers = [_covers(level, key) for level in factor.levels]
            replaces = [
                value is not None and _replaces(level, key, alternatives) for level in factor.levels
            ]
            if all(either for either in map(max, covers, replaces)):
                also = "" if all(covers) else ", or an alternative to it"
                message = (
                    f"would be undone in every arm: each level of factor '{factor.name}' sets it"
                )
                yield key, f"{message}{also}"


def ignored_settings(
    subject: Subject, stacks: Sequence[Stack], unsound: Collection[Stack], options: Layer
) -> Iterator[Problem]:
    """Each setting of a layer that changes nothing in any of the stacks that have the layer.

    stacks: of each arm and baseline; a layer of an unsound one is not judged. options: the layer of
    the command line. What is ignored because of it alone is no fault of the grid. A key that a
    later layer sets anew counts where its new value does: to replace a default is no fault.
    """
    if not hasattr(subject, "ignored"):
        return
    unsure = {layer[:2] for stack in unsound for layer in stack}
    judged = {
        layer[:2]: layer
        for stack in stacks
        for layer in stack
        if not layer.may_idle and layer[:2] not in unsure
    }
    left = {place: list(layer.settings) for place, layer in judged.items()}

    def strike(stack: Stack) -> None:
        for layer in stack:
            if keys := left.get(layer[:2]):
                left[layer[:2]] = list(subject.ignored(merged(stack), keys))

    # baselines come last, and settings that all share may be there for one of them alone
    for stack in reversed(stacks):
        strike(stack)
    for stack in reversed(stacks) if options.settings else ():
        without = tuple(layer for layer in stack if layer[:2] != options[:2])
        is_asked = any(left.get(layer[:2]) for layer in without)
        if is_asked and all(fault.absent for fault in subject.check(merged(without))):
            strike(without)
    for place, keys in left.items():
        layer = judged[place]
        first = next(stack for stack in stacks if any(other[:2] == place for other in stack))
        for key in keys:
            found = subject.counts_with(merged(first), key)
            value = found[1] if found and isinstance(found[1], str) else show(found and found[1])
            instead = f"; it would with {found[0]}: {value}" if found else ""
            message = "changes nothing in any arm or baseline that has it"
            said = f"{show(layer.settings[key])} {message}{instead}"
            yield Problem(layer.file, dotted(layer.place, key), said)


def dead_levels(
    subject: Subject,
    factors: Sequence[Factor],
    arms: Collection[Arm],
    settings: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str]]:
    """Key and message of each level that computes the same as one before it in every arm.

    settings: of each arm without fault.
    """
    compute = getattr(subject, "effective", as_text)
    effective = functools.cache(lambda name: compute(settings[name]))
    names = {tuple(arm.levels.values()): arm.name for arm in arms if arm.levels}
    for i, factor in enumerate(factors):
        for first, second in itertools.combinations(factor.levels, 2):
            pairs = [
                (name, names[other])
                for levels, name in names.items()
                if levels[i] == first.name
                and (other := (*levels[:i], second.name, *levels[i + 1 :])) in names
            ]
            # the same settings are refused where they are read
            same_settings = as_text(first.overrides) == as_text(second.overrides)
            are_sound = all(name in settings for pair in pairs for name in pair)
            if not pairs or same_settings or not are_sound:
                continue
            if all(effective(one) == effective(other) for one, other in pairs):
                what = f"in every arm it computes the same as level '{first.name}'"
                yield f"factors.{factor.name}.{second.name}", f"is a dead toggle: {what}"


def _values(factor: Factor) -> dict[str, set[str]]:
    """Each key that the factor sets, and what it sets it to."""
    values: dict[str, set[str]] = {}
    for level in factor.levels:
        for key, value in level.overrides.items():
            values.setdefault(key, set()).add(as_text(value))
    return values


def _covers(level: Level, key: str) -> bool:
    return any(f"{key}.".startswith(f"{other}.") for other in level.overrides)


def _replaces(level: Level, key: str, alternatives: Alternatives) -> bool:
    return any(
        value is not None and _are_alternatives(key, other, alternatives)
        for other, value in level.overrides.items()
    )


def _are_alternatives(key: str, other: str, alternatives: Alternatives) -> bool:
    """Whether setting one of the keys unsets the other."""
    for group in alternatives:
        members = [
            next((member for member in group if f"{name}.".startswith(f"{member}.")), None)
            for name in (key, other)
        ]
        if None not in members and members[0] != members[1]:
            return True
    return False
