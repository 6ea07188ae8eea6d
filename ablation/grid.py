"""From grid file, experiment file and command line to a study that can run, or to all that is wrong with them.

Settings are merged in the order experiment, `settings` of the grid, `-S`, then the levels of an arm or the
settings of a baseline; the last one to set a key wins.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablation.data_sources import how_to_get
from ablation.design import Arm, Factor, Level, arms
from ablation.errors import InputError, Problem, nearest
from ablation.grid_arms import grid_arms
from ablation.grid_factors import Alternatives, alternative_rivals, undoes
from ablation.grid_file import Experiment, Grid, read_experiment, read_grid
from ablation.grid_idle import dead_factors, ignored_settings
from ablation.grid_layers import Layer, Stack, merge, merged
from ablation.grid_metrics import unreported_metrics
from ablation.reading import dotted, flatten, overlap, read_value
from ablation.subject import Fault, Subject
from ablation.subjects import FunctionSubject

EXPERIMENTS = Path("experiments")  # of a project

__all__ = [
    "Arm",
    "Experiment",
    "Factor",
    "Grid",
    "Level",
    "Study",
    "Variant",
    "experiment_path",
    "load_study",
    "merge",
    "yaml_path",
]


@dataclass(frozen=True)
class Variant:
    """What is trained once per seed: an arm of the design, or a baseline."""

    name: str
    kind: str  # "arm" | "baseline"
    levels: dict[str, str]  # factor -> level; {} for extra arms and baselines
    settings: dict[
        str, Any
    ]  # dotted key -> value, in merge order: an overridden key stands where it was last set


@dataclass(frozen=True)
class Study:
    """A study without fault: each variant's settings have passed the subject's check."""

    grid: Grid
    experiment: Experiment
    subject: Subject
    variants: tuple[Variant, ...]  # arms (reference first), extra arms, baselines
    common: dict[str, Any]  # settings of all variants, before any level: experiment, grid, -S
    layers: Mapping[str, Stack] = field(default_factory=dict)  # variant -> where its settings stand
    absent: tuple[
        Problem, ...
    ] = ()  # files that trials read and that are not on this machine: it can be planned, not run

    def located(self, variant: Variant, key: str, message: str) -> Problem:
        """A fault in a variant's settings, where its key was last set."""
        return _located(Fault(key, message), self.layers[variant.name])


def load_study(
    grid_path: Path | str,
    experiment: str | None,
    overrides: Sequence[str],
    seeds: str | None,
    subject_loader: Callable[[str], Subject],
    may_be_absent: bool = False,
) -> Study:
    """Read, check and merge everything; nothing is run.

    `experiment` (a name beside the grid file, or a path), `overrides` (`key=value`, the value in YAML) and
    `seeds` (`5`, or `0,3`) come from the command line. `subject_loader` finds a subject by its name and
    raises InputError if it cannot. Raises InputError with every problem of all these together; files that are not on
    this machine are among them, unless they `may_be_absent`.
    """
    problems: list[Problem] = []
    doubts: list[Problem] = []
    options = Layer("-S", "", _read_overrides(overrides, problems, doubts))
    path = Path(grid_path)
    grid = read_grid(path, problems, experiment, seeds)
    if grid is None:
        raise InputError(problems)
    cells = grid_arms(grid, problems)
    found = (
        read_experiment(experiment_path(path, grid.experiment, experiment), problems)
        if grid.experiment
        else None
    )
    subject = _subject(found, subject_loader, problems) if found else None
    alternatives = subject.alternatives() if hasattr(subject, "alternatives") else ()
    undone = _undone(options, grid, alternatives)
    problems += undone
    if found is None or subject is None:
        raise InputError(problems)
    rivals = alternative_rivals(grid.factors, alternatives)
    problems += [Problem(grid.file, f"factors.{factor}", message) for factor, message in rivals]

    common = (
        Layer(found.file, "settings", found.settings, may_idle=True),
        Layer(grid.file, "settings", grid.settings),
        options,
    )
    variants, stacks = [], []
    for arm in cells:
        stacks.append((*common, *_layers(grid, arm)))
        variants.append(Variant(arm.name, "arm", arm.levels, merged(stacks[-1])))
    for i, name in enumerate(grid.baselines):
        settings = subject.baselines().get(name)
        if settings is None:
            hint = nearest(name, subject.baselines())
            problems.append(
                Problem(grid.file, f"baselines[{i}]", f"unknown baseline '{name}'; {hint}")
            )
            continue
        stacks.append(
            (*common, Layer(grid.file, f"baselines.{name}", dict(settings), may_idle=True))
        )
        variants.append(Variant(name, "baseline", {}, merged(stacks[-1])))
    layers = {variant.name: stack for variant, stack in zip(variants, stacks)}
    # Each level alone, too: the design may have no arm for it, or hide its fault behind another one's.
    stacks += [(*common, *_layers(grid, arm)) for arm in arms(grid.factors, ["one-factor"])]
    absent: list[Problem] = []
    sound = []
    for stack, variant in itertools.zip_longest(stacks, variants):
        faults = subject.check(merged(stack))
        wrong = [fault for fault in faults if not fault.absent]
        problems += [_located(fault, stack) for fault in wrong]
        absent += [_located(fault, stack) for fault in faults if fault.absent]
        if variant is not None and not wrong:
            sound.append(variant)
    if isinstance(
        subject, FunctionSubject
    ):  # which cannot tell where its settings should be no text
        problems += [*found.doubts, *grid.doubts, *doubts]
    names = {variant.name for variant in sound}
    known = {(problem.file, problem.key) for problem in undone}
    problems += [
        problem
        for problem in ignored_settings(subject, layers, names, options)
        if problem[:2] not in known
    ]
    settings = {variant.name: variant.settings for variant in sound if variant.kind == "arm"}
    problems += [
        Problem(grid.file, *found) for found in dead_factors(subject, grid.factors, cells, settings)
    ]
    problems += unreported_metrics(grid, cells, _reported(subject, sound))
    problems += [] if may_be_absent else absent
    if problems:
        raise InputError(dict.fromkeys(problems))
    return Study(
        grid, found, subject, tuple(variants), merged(common), layers, tuple(dict.fromkeys(absent))
    )


def experiment_settings(path: Path, overrides: Sequence[str], subject: Subject) -> dict[str, Any]:
    """An experiment's settings alone, checked, with `overrides` (`key=value`) on top.

    Raises InputError with every problem.
    """
    problems: list[Problem] = []
    doubts: list[Problem] = []
    options = Layer("-S", "", _read_overrides(overrides, problems, doubts))
    experiment = read_experiment(path, problems)
    if experiment is None:
        raise InputError(problems)
    stack = (Layer(experiment.file, "settings", experiment.settings), options)
    problems += [_located(fault, stack) for fault in subject.check(merged(stack))]
    if isinstance(subject, FunctionSubject):
        problems += [*experiment.doubts, *doubts]
    if problems:
        raise InputError(problems)
    return merged(stack)


def _layers(grid: Grid, arm: Arm) -> Stack:
    if not arm.levels:
        return (Layer(grid.file, f"arms.{arm.name}", arm.overrides),)
    chosen = [
        (f.name, level)
        for f in grid.factors
        for level in f.levels
        if arm.levels[f.name] == level.name
    ]
    return tuple(
        Layer(grid.file, f"factors.{name}.{level.name}", level.overrides) for name, level in chosen
    )


def _located(fault: Fault, stack: Stack) -> Problem:
    """The fault where its key was last set, else where a part of it was; in the experiment if nothing sets it."""
    setters = [layer for layer in stack if fault.key in layer.settings]
    related = [layer for layer in stack if any(overlap(fault.key, key) for key in layer.settings)]
    layer = (setters or related or stack[:1])[-1]
    hint = how_to_get(fault.absent) if fault.absent else ""
    return Problem(layer.file, dotted(layer.place, fault.key), f"{fault.message}{hint}")


def _read_overrides(
    texts: Iterable[str], problems: list[Problem], doubts: list[Problem]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    found: list[Problem] = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem("-S", text, "is not key=value"))
        elif key in values:
            problems.append(Problem("-S", key, "is given twice"))
        else:
            try:
                values[key] = read_value(value, "-S", key, found)
            except InputError as error:
                problems.extend(error.problems)
    doubts.extend(
        Problem(
            doubt.file,
            doubt.key,
            f"{doubt.message} (the shell takes quotes away; put the whole option into '...')",
        )
        for doubt in found
    )
    return flatten(values, lambda key, message: problems.append(Problem("-S", key, message)))


def _reported(subject: Subject, sound: Iterable[Variant]) -> dict[str, Collection[str]]:
    """The metrics of each variant whose metrics are known."""
    if not hasattr(subject, "metrics"):
        return {}
    reported = {variant.name: subject.metrics(variant.settings) for variant in sound}
    return {name: metrics for name, metrics in reported.items() if metrics is not None}


def _undone(options: Layer, grid: Grid, alternatives: Alternatives) -> list[Problem]:
    """A setting from the command line that no arm of the design could ever see."""
    return [
        Problem(
            "-S",
            key,
            f"would be undone in every arm: each level of factor '{factor.name}' sets it{_or_alternative(key, factor)}",
        )
        for key, value in options.settings.items()
        for factor in grid.factors
        if all(
            undoes(level, key, alternatives if value is not None else ()) for level in factor.levels
        )
    ]


def _or_alternative(key: str, factor: Factor) -> str:
    return (
        ""
        if all(any(overlap(key, other) for other in level.overrides) for level in factor.levels)
        else ", or an alternative to it"
    )


def yaml_path(name: Path | str) -> Path:
    """The file that a grid or an experiment is named by: a path, or the name of a file in `experiments/`, its ending left out or not.

    Raises InputError if there is none, naming the nearest.
    """
    path = Path(name)
    if os.path.lexists(path) or len(path.parts) > 1:
        return path
    ending = "" if path.suffix in (".yaml", ".yml") else ".yaml"
    found = EXPERIMENTS / f"{path}{ending}"
    if found.is_file():
        return found
    known = sorted(file.name for folder in (Path(), EXPERIMENTS) for file in folder.glob("*.yaml"))
    hint = (
        nearest(f"{path}{ending}", known)
        if known
        else "there is no YAML file in either; `ablate init` writes examples"
    )
    raise InputError(
        [Problem("", str(path), f"no such file in '{Path.cwd()}' or its {EXPERIMENTS}/; {hint}")]
    )


def experiment_path(grid_path: Path, name: str, option: str | None) -> Path:
    """A name stands for a file beside the grid; a path counts from the grid's folder, or, as an option, from here."""
    if "/" not in name and os.sep not in name and not name.endswith((".yaml", ".yml")):
        return grid_path.parent / f"{name}.yaml"
    return Path(name) if option else grid_path.parent / name


def _subject(
    experiment: Experiment, load: Callable[[str], Subject], problems: list[Problem]
) -> Subject | None:
    if not experiment.subject:
        return None
    try:
        return load(experiment.subject)
    except InputError as error:
        problems.extend(
            Problem(experiment.file, "subject", problem.message) for problem in error.problems
        )
        return None
