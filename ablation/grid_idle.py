"""Refusing what changes nothing: settings that every arm ignores, and factors whose levels compute the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

from ablation.design import Arm, Factor
from ablation.errors import Problem
from ablation.grid_layers import Layer, Stack, merged
from ablation.reading import dotted, show
from ablation.subject import Subject

_Place = tuple[str, str]  # file and dotted key of a layer
_Settings = Mapping[str, Any]


def ignored_settings(
    subject: Subject, stacks: Mapping[str, Stack], sound: Collection[str], options: Layer
) -> Iterator[Problem]:
    """Each setting of a layer that changes nothing in any of the arms and baselines that have the layer.

    stacks: of each arm and baseline. sound: the names of those without fault; a layer that another one has is not judged.
    options: the layer of the command line. What is ignored because of it alone is no fault of the grid.
    """
    if not hasattr(subject, "ignored"):
        return
    unsure = {
        _place(layer) for name, stack in stacks.items() if name not in sound for layer in stack
    }
    layers = {
        _place(layer): layer
        for stack in stacks.values()
        for layer in stack
        if not layer.may_idle and _place(layer) not in unsure
    }
    idle = _idle(
        subject, stacks.values(), {place: list(layer.settings) for place, layer in layers.items()}
    )
    if options.settings:
        without = [
            tuple(layer for layer in stack if layer is not options) for stack in stacks.values()
        ]
        of_grid = {place: keys for place, keys in idle.items() if keys and place != _place(options)}
        idle |= _idle(
            subject,
            [stack for stack in without if not of_grid or _is_sound(subject, stack)],
            of_grid,
        )
    for place, keys in idle.items():
        having = [
            stack for stack in stacks.values() if any(_place(layer) == place for layer in stack)
        ]
        for key in keys:
            yield Problem(
                layers[place].file,
                dotted(layers[place].place, key),
                _message(subject, having, key, layers[place].settings[key]),
            )


def dead_factors(
    subject: Subject,
    factors: Collection[Factor],
    arms: Collection[Arm],
    settings: Mapping[str, _Settings],
) -> Iterator[tuple[str, str]]:
    """(place, message) of each level that computes the same as one before it, whatever the levels of the other factors.

    settings: of each arm without fault.
    """
    of = _Effective(subject, settings)
    for factor in factors:
        around: dict[
            tuple[str, ...], dict[str, str]
        ] = {}  # levels of the other factors -> level -> arm
        for arm in arms:
            if arm.levels:
                others = tuple(level for name, level in arm.levels.items() if name != factor.name)
                around.setdefault(others, {})[arm.levels[factor.name]] = arm.name
        for first, second in itertools.combinations(factor.levels, 2):
            pairs = [
                (names[first.name], names[second.name])
                for names in around.values()
                if first.name in names and second.name in names
            ]
            if (
                not pairs
                or not all(name in settings for pair in pairs for name in pair)
                or _text(first.overrides) == _text(second.overrides)
            ):
                continue
            if all(of(one) == of(other) for one, other in pairs):
                message = (
                    f"is a dead toggle: in every arm it computes the same as level '{first.name}'"
                )
                yield f"factors.{factor.name}.{second.name}", message


class _Effective:
    """What can change an arm, looked up when it is first asked for."""

    def __init__(self, subject: Subject, settings: Mapping[str, _Settings]):
        self.of: Callable[[_Settings], Hashable] = getattr(subject, "effective", _text)
        self.settings, self.known = settings, dict[str, Hashable]()

    def __call__(self, name: str) -> Hashable:
        if name not in self.known:
            self.known[name] = self.of(self.settings[name])
        return self.known[name]


def _idle(
    subject: Subject, stacks: Collection[Stack], asked: Mapping[_Place, list[str]]
) -> dict[_Place, list[str]]:
    """Of the keys asked for, by layer, those that change nothing in any of the stacks. Most are found to count in the first.

    A key that a later layer sets anew counts where its new value does: to replace a default is no fault.
    """
    left = {place: list(keys) for place, keys in asked.items()}
    for stack in reversed(
        list(stacks)
    ):  # settings that all share may be there for a baseline alone, and baselines come last
        for layer in stack:
            keys = left.get(_place(layer), [])
            if keys:
                left[_place(layer)] = list(subject.ignored(merged(stack), keys))
    return left


def _message(subject: Subject, having: list[Stack], key: str, value: Any) -> str:
    """having: the stacks with the layer that sets the key."""
    found = subject.counts_with(merged(having[0]), key)
    instead = (
        f"; it would with {found[0]}: {found[1] if isinstance(found[1], str) else show(found[1])}"
        if found
        else ""
    )
    return f"{show(value)} changes nothing in any arm or baseline that has it{instead}"


def _is_sound(subject: Subject, stack: Stack) -> bool:
    return all(fault.absent for fault in subject.check(merged(stack)))


def _place(layer: Layer) -> _Place:
    return layer.file, layer.place


def _text(value: Any) -> str:
    """Equal for equal values only: Python takes 1, 1.0 and True for the same."""
    return json.dumps(value, sort_keys=True, default=str)
