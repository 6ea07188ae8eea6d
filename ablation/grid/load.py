"""Read grid, experiment and command line into a `Study`, or report all that is wrong.

Settings are merged in the order experiment, `settings` of the grid, `-S`, then the levels of an arm
or the settings of a baseline; the last one to set a key wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.errors import InputError, Problem, nearest
from ablation.grid.design import DESIGNS, Arm, arms, n_cells, unmet_claims, unreported_metrics
from ablation.grid.file import Experiment, Grid, read_experiment, read_grid
from ablation.grid.idle import Layer, Stack, dead_levels, ignored_settings, merged, rivals, undone
from ablation.grid.search import search_problems
from ablation.grid.sources import how_to_get
from ablation.grid.strict_yaml import (
    dotted,
    doubts_in_file,
    doubts_in_value,
    flatten,
    overlap,
    read_value,
)
from ablation.subject.command import Command, CommandSubject
from ablation.subject.loading import BUILT_IN, FunctionSubject
from ablation.subject.measured import numbers_in
from ablation.subject.protocol import Fault, FaultLike, Subject

# of a project
EXPERIMENTS = Path("experiments")
MAX_ARMS = 1000
# characters; with the seed it becomes a folder's name, of which most systems allow 255
MAX_ARM_NAME = 200


@dataclass(frozen=True)
class Variant:
    """What is trained once per seed: an arm of the design, or a baseline."""

    name: str
    # "arm" | "baseline"
    kind: str
    # factor -> level; {} for extra arms and baselines
    levels: dict[str, str]
    # dotted key -> value, in merge order: an overridden key stands where it was last set
    settings: dict[str, Any]
    # where they stand
    layers: Stack


@dataclass(frozen=True)
class Study:
    """A study without fault: each variant's settings have passed the subject's check."""

    grid: Grid
    experiment: Experiment
    subject: Subject
    # arms (reference first), extra arms, baselines
    variants: tuple[Variant, ...]
    # settings of all variants, before any level: experiment, grid, -S
    common: dict[str, Any]
    # files that trials read and that are not on this machine: it can be planned, not run
    absent: tuple[Problem, ...] = ()

    def located(self, variant: Variant, key: str, message: str) -> Problem:
        """A fault in a variant's settings, where its key was last set."""
        return _located(Fault(key, message), variant.layers)


def load_study(
    grid_path: Path | str,
    experiment: str | None,
    overrides: Sequence[str],
    seeds: str | None,
    subject_loader: Callable[[str], Subject],
    may_be_absent: bool = False,
    until_decided: bool = False,
) -> Study:
    """Read, check and merge everything; nothing is run.

    `experiment` (a name beside the grid file, or a path), `overrides` (`key=value`, the value in
    YAML), `seeds` (`5`, or `0,3`) and `until_decided` (add seeds to a fixed number) come from the
    command line. `subject_loader` finds a subject by its name and raises InputError if it cannot.
    Raises InputError with every problem of all these together; files that are not on this machine
    are among them, unless they `may_be_absent`.
    """
    problems: list[Problem] = []
    options = Layer("-S", "", _read_overrides(overrides, problems))
    path = Path(grid_path)
    grid = read_grid(path, problems, experiment, seeds, until_decided)
    if grid is None:
        raise InputError(problems)
    cells = _arms(grid, problems)
    experiment_file = experiment_path(path, grid.experiment, experiment)
    found = read_experiment(experiment_file, problems) if grid.experiment else None
    subject = _subject(found, subject_loader, problems) if found else None
    if found and Command.is_one(found.subject):
        problems = [_with_name_as_read(problem) for problem in problems]
    alternatives = subject.alternatives() if subject and hasattr(subject, "alternatives") else ()
    unseen = list(undone(options.settings, grid.factors, alternatives))
    problems += [Problem(options.file, *option) for option in unseen]
    problems += [
        Problem(grid.file, f"factors.{factor}", message)
        for factor, message in rivals(grid.factors, alternatives)
    ]
    if found and found.subject not in {"", *BUILT_IN} and not grid.names_metric:
        remedy = "write metric: {name: acc, goal: maximize}, with a name that your code reports"
        problems.append(Problem(grid.file, "metric", f"is missing; {remedy}"))
    if found is None or subject is None:
        raise InputError(problems)

    common = (
        Layer(found.file, "settings", found.settings, may_idle=True),
        Layer(grid.file, "settings", grid.settings),
        options,
    )
    variants = [_variant(arm.name, arm, (*common, *_layers(grid, arm))) for arm in cells]
    for i, name in enumerate(grid.baselines):
        settings = subject.baselines().get(name)
        if settings is None:
            message = f"unknown baseline '{name}'; {nearest(name, subject.baselines())}"
            problems.append(Problem(grid.file, f"baselines[{i}]", message))
            continue
        layer = Layer(grid.file, f"baselines.{name}", dict(settings), may_idle=True)
        variants.append(_variant(name, None, (*common, layer)))

    absent: list[Problem] = []

    def is_sound(stack: Stack) -> bool:
        faults = subject.check(merged(stack))
        for fault in faults:
            (absent if fault.absent else problems).append(_located(fault, stack))
        return all(fault.absent for fault in faults)

    sound = [variant for variant in variants if is_sound(variant.layers)]
    names = {variant.name for variant in sound}
    unsound = [variant.layers for variant in variants if variant.name not in names]
    # each level alone, too: the design may have no arm for it, or hide its fault behind another's
    for arm in arms(grid.factors, ["one-factor"]):
        is_sound((*common, *_layers(grid, arm)))
    if isinstance(subject, FunctionSubject):
        # it cannot tell which settings it has, nor where they should be no text
        problems += _unknown_settings(found, grid, options)
        problems += _doubts((experiment_file, path), overrides)
    stacks = [variant.layers for variant in variants]
    if isinstance(subject, CommandSubject):
        problems += _empty_flags(subject, stacks)
    problems += [
        problem
        for problem in ignored_settings(subject, stacks, unsound, options)
        if (problem.file, problem.key) not in {(options.file, key) for key, _ in unseen}
    ]
    of_arms = {variant.name: variant.settings for variant in sound if variant.kind == "arm"}
    told = [
        *dead_levels(subject, grid.factors, cells, of_arms),
        *unreported_metrics(grid.claims, grid.metric["name"], cells, _reported(subject, sound)),
    ]
    problems += [Problem(grid.file, key, message) for key, message in told]
    if grid.search and not any(one.key.startswith("search") for one in problems):
        problems += search_problems(grid.search, subject, sound, grid.file)
    problems += [] if may_be_absent else absent
    if problems:
        raise InputError(dict.fromkeys(problems))
    shown = tuple(dict.fromkeys(absent))
    return Study(grid, found, subject, tuple(variants), merged(common), shown)


def study_name(study: Study, home: str) -> str:
    """The grid's name, and the experiment's where that is not the grid's own (`home`)."""
    name = study.experiment.name
    return study.grid.study if name == home else f"{study.grid.study}-{name}"


def experiment_settings(path: Path, overrides: Sequence[str], subject: Subject) -> dict[str, Any]:
    """An experiment's settings alone, checked, with `overrides` (`key=value`) on top.

    Raises InputError with every problem.
    """
    problems: list[Problem] = []
    options = Layer("-S", "", _read_overrides(overrides, problems))
    experiment = read_experiment(path, problems)
    if experiment is None:
        raise InputError(problems)
    stack = (Layer(experiment.file, "settings", experiment.settings), options)
    problems += [_located(fault, stack) for fault in subject.check(merged(stack))]
    if isinstance(subject, FunctionSubject):
        problems += _doubts([path], overrides)
    if problems:
        raise InputError(problems)
    return merged(stack)


def yaml_path(name: Path | str) -> Path:
    """The file of a grid or an experiment: a path, or a name in `experiments/` or else here.

    The name's ending may be left out.

    Raises InputError if there is none, naming the nearest.
    """
    path = Path(name)
    file = str(path) if path.suffix in (".yaml", ".yml") else f"{path}.yaml"
    is_there = os.path.lexists(path) and not path.is_dir()
    if is_there or len(path.parts) > 1:
        return path
    for folder in (EXPERIMENTS, Path()):
        if (folder / file).is_file():
            return folder / file
    if path.is_dir():
        return path
    known = [found for folder in (Path(), EXPERIMENTS) for found in folder.glob("*.yaml")]
    if of_study := [found for found in known if _names_study(found, str(name))]:
        hint = f"the study '{name}' is in {of_study[0]}"
    elif known:
        hint = nearest(file, [found.name for found in known])
    else:
        hint = "there is no YAML file in either; `ablate init` writes examples"
    message = f"no such file in '{Path.cwd()}' or its {EXPERIMENTS}/; {hint}"
    raise InputError([Problem("", str(path), message)])


def _names_study(path: Path, name: str) -> bool:
    """Whether a file looks like the grid of the study of that name."""
    # to read a pipe would wait for a writer
    if not path.is_file():
        return False
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return False
    return re.search(rf"""^study: *["']?{re.escape(name)}["']? *(#.*)?$""", text, re.M) is not None


def experiment_path(grid_path: Path, name: str, option: str | None) -> Path:
    """The file of an experiment.

    A name stands for a file beside the grid; a path counts from the grid's folder, or, as an
    option, from here.
    """
    if "/" not in name and os.sep not in name and not name.endswith((".yaml", ".yml")):
        return grid_path.parent / f"{name}.yaml"
    return Path(name) if option else grid_path.parent / name


def _arms(grid: Grid, problems: list[Problem]) -> list[Arm]:
    """The arms of the design and the extra ones. Claims are judged only where these are sure."""
    is_sure = not any(problem.key.startswith(("factors", "arms", "design")) for problem in problems)
    designs = [design for design in grid.design if design in DESIGNS]
    n_arms = sum(n_cells(grid.factors, design) for design in designs)
    if n_arms > MAX_ARMS:
        allowed = f"{MAX_ARMS} are allowed; try leave-one-out or add-one-in"
        problems.append(Problem(grid.file, "design", f"makes {n_arms} arms, and {allowed}"))
        return list(grid.arms)
    found = arms(grid.factors, designs, grid.arms)
    problems.extend(_unfit_names(grid, found))
    if is_sure:
        claims = unmet_claims(grid.claims, found, grid.baselines)
        problems.extend(Problem(grid.file, *claim) for claim in claims)
    return found


def _unfit_names(grid: Grid, found: Sequence[Arm]) -> Iterator[Problem]:
    """Names become folders: they are short, and differ where a file system ignores the case."""
    taken = {name.casefold(): f"baseline '{name}'" for name in grid.baselines}
    for arm in found:
        place = "factors" if arm.levels else f"arms.{arm.name}"
        name = arm.name.casefold()
        if name in taken:
            yield Problem(grid.file, place, f"the arm '{arm.name}' has the name of {taken[name]}")
        taken.setdefault(name, f"arm '{arm.name}'")
        if len(name) > MAX_ARM_NAME:
            length = f"{len(name)} characters, and {MAX_ARM_NAME} are allowed"
            yield Problem(grid.file, place, f"the arm '{arm.name[:40]}...' has a name of {length}")


def _variant(name: str, arm: Arm | None, layers: Stack) -> Variant:
    kind, levels = ("arm", arm.levels) if arm else ("baseline", {})
    return Variant(name, kind, levels, merged(layers), layers)


def _layers(grid: Grid, arm: Arm) -> Stack:
    """What the arm has on top of the common layers."""
    if not arm.levels:
        return (Layer(grid.file, f"arms.{arm.name}", arm.overrides),)
    return tuple(
        Layer(grid.file, f"factors.{factor.name}.{level.name}", level.overrides)
        for factor in grid.factors
        for level in factor.levels
        if arm.levels[factor.name] == level.name
    )


def _located(fault: FaultLike, stack: Stack) -> Problem:
    """The fault where its key was last set, else where a part of it was, else in the experiment."""
    setters = [layer for layer in stack if fault.key in layer.settings]
    related = [layer for layer in stack if any(overlap(fault.key, key) for key in layer.settings)]
    layer = (setters or related or stack[:1])[-1]
    hint = how_to_get(fault.absent) if fault.absent else ""
    return Problem(layer.file, dotted(layer.place, fault.key), f"{fault.message}{hint}")


def _read_overrides(texts: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(Problem("-S", text, "is not key=value"))
        elif key in values:
            problems.append(Problem("-S", key, "is given twice"))
        else:
            try:
                values[key] = read_value(value, "-S", key)
            except InputError as error:
                problems.extend(error.problems)
    return flatten(values, lambda key, message: problems.append(Problem("-S", key, message)))


def _unknown_settings(experiment: Experiment, grid: Grid, options: Layer) -> Iterator[Problem]:
    """Keys of levels, arms, options and search that are no settings of experiment or grid.

    Where the experiment has no settings at all, nothing is known of the names.
    """
    known = {**experiment.settings, **grid.settings}
    with_every_level = [*grid.arms, *arms(grid.factors, ["one-factor"])]
    layers = [options, *(layer for arm in with_every_level for layer in _layers(grid, arm))]
    if grid.search:
        layers.append(Layer(grid.file, "search.space", dict(grid.search.space)))
        layers.append(Layer(grid.file, "search.settings", grid.search.settings))
    for layer in layers if experiment.settings else ():
        for key in layer.settings:
            if not any(overlap(key, other) for other in known):
                what = f"{experiment.file} has no setting '{key}'; {nearest(key, known)}"
                remedy = "one that the function takes stands in its `settings`, with its default"
                yield Problem(layer.file, dotted(layer.place, key), f"{what} ({remedy})")


def _empty_flags(subject: CommandSubject, stacks: Sequence[Stack]) -> Iterator[Problem]:
    """Empty texts of settings that are on/off flags elsewhere in the study."""
    layers = list({layer[:2]: layer for stack in stacks for layer in stack}.values())
    for layer in layers:
        for key in [key for key, value in layer.settings.items() if value == ""]:
            values = [other.settings[key] for other in layers if key in other.settings]
            if message := subject.empty_flag(key, values):
                yield Problem(layer.file, dotted(layer.place, key), message)


def _doubts(files: Iterable[Path], overrides: Sequence[str]) -> Iterator[Problem]:
    """Text in settings that may not be meant as text, see `ablation.grid.strict_yaml`."""
    for path in files:
        for doubt in doubts_in_file(path):
            if re.match(r"(settings|factors|arms|search\.(space|settings))\.", doubt.key):
                yield doubt
    for text in overrides:
        key, _, value = text.partition("=")
        for doubt in doubts_in_value(value, "-S", key):
            remedy = "the shell takes quotes away; put the whole option into '...'"
            yield doubt._replace(message=f"{doubt.message} ({remedy})")


def _reported(subject: Subject, sound: Iterable[Variant]) -> dict[str, Collection[str]]:
    """The metrics of each variant whose metrics are known."""
    if not hasattr(subject, "metrics"):
        return {}
    reported = {variant.name: subject.metrics(variant.settings) for variant in sound}
    return {name: metrics for name, metrics in reported.items() if metrics is not None}


def _with_name_as_read(problem: Problem) -> Problem:
    """For a metric as a script prints it, which is no metric's name: the name that it is read as.

    Other problems are left as they are.
    """
    told = re.match(r"'(.+)' is not a metric's name", problem.message)
    read = [*numbers_in(f"{told[1]}: 95").numbers] if told else []
    if told is None or not read:
        return problem
    hint = f"""a script's "{told[1]}: 95" is read as {read[0]}"""
    return problem._replace(message=f"{problem.message}; {hint}")


def _subject(
    experiment: Experiment, load: Callable[[str], Subject], problems: list[Problem]
) -> Subject | None:
    if not experiment.subject:
        return None
    try:
        return load(experiment.subject)
    except InputError as error:
        problems += [Problem(experiment.file, "subject", found.message) for found in error.problems]
        return None
