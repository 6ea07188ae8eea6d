"""The files under `experiments/`: grids, the experiments that they vary, and published results."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.errors import InputError, Problem, nearest
from ablation.grid.design import DESIGNS, Arm, Factor, Level, read_claims
from ablation.grid.search import Search, read_search
from ablation.grid.seeds import chosen_seeds
from ablation.grid.strict_yaml import (
    FACTOR_NAME,
    FILE_NAME,
    LEVEL_NAME,
    METRIC_NAME,
    NAME,
    SUBJECT_NAME,
    CheckedMapping,
    as_text,
    read_yaml,
    show,
)
from ablation.storage.runs import COSTS, IDENTITY, Claim, Manifest, Metric
from ablation.subject.command import PRINTED, SOURCES, Command, compiled, pieces

GRID_KEYS = (
    "study",
    "question",
    "experiment",
    "metric",
    "design",
    "seeds",
    "factors",
    "arms",
    "baselines",
    "reference",
    "claims",
    "settings",
    "search",
)
EXPERIMENT_KEYS = ("title", "dataset", "subject", "settings")
PUBLISHED = "published.yaml"
PUBLISHED_KEYS = ("method", "top1", "protocol", "source")

# words in a metric's name by which less of it may be better, so that its goal is not guessed
MAY_BE_MINIMIZED = re.compile(
    "(?<![a-z])(loss(es)?|err(ors?)?|perplexity|r?mse|mae|nll|ece|brier|fid|[wc]er|regret|time"
    "|seconds|latency|memory)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Grid:
    """A grid file: what is varied, and what is asked.

    Settings are dotted key -> value.
    """

    # the file's name, for messages
    file: str
    study: str
    question: str
    # a name beside the grid file, or a path
    experiment: str
    metric: Metric
    design: tuple[str, ...]
    seeds: tuple[int, ...]
    # those of the file, if `seeds` are a part of them; else these
    planned_seeds: tuple[int, ...]
    factors: tuple[Factor, ...]
    # beside those of the design
    arms: tuple[Arm, ...]
    baselines: tuple[str, ...]
    # the baseline that differences are taken to
    reference: str | None
    claims: tuple[Claim, ...]
    # for all arms and baselines
    settings: dict[str, Any]
    # how each of them is tuned before its seeds are run
    search: Search | None = None
    # how many of the seeds the study looks at, increasing; () for a fixed number
    looks: tuple[int, ...] = ()
    # whether looks are to decide every main effect, too, and not the claims alone
    decides_effects: bool = False
    # whether the metric is the file's choice, and not the default of the built-in code
    names_metric: bool = True


@dataclass(frozen=True)
class Experiment:
    """An experiment file: data and training, before anything is varied."""

    # the file's name, for messages
    file: str
    name: str
    title: str
    # its key in experiments/published.yaml
    dataset: str
    # as `load_subject` takes it
    subject: str
    # dotted key -> value
    settings: dict[str, Any]


def read_grid(
    path: Path,
    problems: list[Problem],
    experiment: str | None = None,
    seeds: str | None = None,
    is_until_decided: bool = False,
) -> Grid | None:
    """The grid, with `experiment` and `seeds` from the command line in place of the file's.

    is_until_decided: whether seeds are added until the claims are decided, where their number is
    fixed. None if there is nothing to go on. A grid is sound only if it added no problems.
    """
    file = _file(path, problems)
    if file is None:
        return None
    keys = set(file.values)
    if keys and not keys & {"study", "factors"} and keys <= set(EXPERIMENT_KEYS):
        remedy = f"name a grid file and give this one as --experiment {path.stem}"
        file.note("", f"is an experiment, not a grid; {remedy}")
        return None
    file.allow(
        *GRID_KEYS, other=EXPERIMENT_KEYS, where="the experiment's file, which `experiment` names"
    )
    file = _with_named_levels(file)
    metric = file.section("metric", text_as="name")
    metric.allow("name", "goal")
    primary = metric.text("name", "test/top1", *METRIC_NAME) or ""
    default = None if MAY_BE_MINIMIZED.search(primary) else "maximize"
    goal = metric.choice("goal", ("maximize", "minimize"), default) or ""
    arms = file.section("arms")
    baselines = file.items(
        "baselines", lambda name: "" if isinstance(name, str) else "is not a baseline's name"
    )
    named = experiment or file.text("experiment", means="an experiment's name or path")
    chosen, planned_seeds = chosen_seeds(file, seeds, is_until_decided, problems)
    has_factors = bool(file.values.get("factors"))
    if chosen.looks and not (file.values.get("claims") or (chosen.effects and has_factors)):
        remedy = "add claims" + (", or seeds.effects: true to decide main effects" * has_factors)
        file.note("seeds", f"there is nothing to decide: the grid has no claims; {remedy}")
    return Grid(
        file=path.name,
        study=file.text("study", None, *FILE_NAME) or "",
        question=file.text("question", "") or "",
        experiment=named or "",
        metric={"name": primary, "goal": goal},
        design=_designs(file),
        seeds=chosen.numbers,
        planned_seeds=planned_seeds,
        factors=_factors(file, primary),
        arms=tuple(Arm(name, {}, arms.settings(name)) for name in arms.names(*NAME)),
        baselines=baselines,
        reference=_reference(file, baselines),
        claims=read_claims(file),
        settings=file.settings("settings"),
        looks=chosen.looks,
        decides_effects=chosen.effects,
        names_metric=metric.values.get("name") is not None,
        search=read_search(file, planned_seeds, {"name": primary, "goal": goal}),
    )


def read_experiment(path: Path, problems: list[Problem]) -> Experiment | None:
    """The experiment; None if there is nothing to go on, and sound only if it added no problems."""
    file = _file(path, problems)
    if file is None:
        return None
    if {"study", "factors"} & set(file.values):
        remedy = "name the experiment that the grid varies, e.g. --experiment digits-lt"
        file.note("", f"is a grid, not an experiment; {remedy}")
        return None
    file.allow(*EXPERIMENT_KEYS, other=GRID_KEYS, where="the grid, which names this experiment")
    return Experiment(
        file=path.name,
        name=path.stem,
        title=file.text("title", path.stem) or "",
        dataset=file.text("dataset", path.stem, *FILE_NAME) or "",
        subject=_subject(file),
        settings=file.settings("settings"),
    )


def _subject(file: CheckedMapping) -> str:
    """The name of what is ablated, also of a command; "" if it is none."""
    if not isinstance(file.values.get("subject"), dict):
        return file.text("subject", "core", *SUBJECT_NAME) or ""
    n_problems = len(file.problems)
    section = file.section("subject")
    section.allow("command", "env", "metrics", "pattern", "keep")
    means = "a command line, such as python train.py --lr {lr} --seed {seed}"
    line = section.text("command", None, means=means) or ""
    metrics = section.choice("metrics", SOURCES) if section.values.get("metrics") else None
    variables = section.section("env")
    names = variables.names(r"[A-Za-z_]\w*", "a variable's name (letters, digits, '_')")
    for name in names:
        if isinstance(variables.values[name], dict | list | None):
            variables.note(name, f"{show(variables.values[name])} is not text or a number")
    env = {name: str(variables.values[name]) for name in names}
    for name, value in env.items():
        try:
            pieces(value)
        except ValueError as error:
            variables.note(name, str(error))
    pattern = _patterns(section, metrics or "")
    command = Command(line, env, metrics or "", pattern, section.items("keep", _keep_fault))
    if len(file.problems) == n_problems:
        for fault in command.faults():
            section.note("command", fault)
    return "" if len(file.problems) > n_problems else command.name


def _patterns(subject: CheckedMapping, metrics: str) -> Sequence[str]:
    """The regular expressions of what a command prints: one, or a list."""
    value = subject.values.get("pattern")
    if value is None:
        return ()
    found = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in found):
        subject.note("pattern", f"{show(value)} is not text, or a list of texts")
    elif metrics not in PRINTED:
        subject.note("pattern", f"is of what is printed, and metrics: {metrics} reads none of it")
    else:
        try:
            compiled(found)
        except ValueError as error:
            subject.note("pattern", str(error))
    return found


def _keep_fault(pattern: Any) -> str:
    parts = Path(pattern).parts if isinstance(pattern, str) else ()
    is_inside = parts and parts[0] != "/" and ".." not in parts and parts[-1] != "**"
    are_whole = all(part == "**" or "**" not in part for part in parts)
    return "" if is_inside and are_whole else "is no pattern of files in {folder}, such as '*.pt'"


def _file(path: Path, problems: list[Problem]) -> CheckedMapping | None:
    try:
        return CheckedMapping(path.name, "", read_yaml(path), problems)
    except InputError as error:
        problems.extend(error.problems)
        return None


def _designs(file: CheckedMapping) -> tuple[str, ...]:
    value = file.values.get("design")
    if not isinstance(value, list):
        return (file.choice("design", DESIGNS, "factorial") or "",)
    if not value:
        file.note("design", f"is an empty list; {nearest('', DESIGNS)}")

    def fault(design: Any) -> str:
        return "" if design in DESIGNS else f"is not allowed; {nearest(design, DESIGNS)}"

    return file.items("design", fault)


def _with_named_levels(file: CheckedMapping) -> CheckedMapping:
    """The file with `lr: [0.1, 0.01]` of its factors as `lr: {0.1: {lr: 0.1}, 0.01: {lr: 0.01}}`.

    A list of what gives no names, or not each its own, is left as it is.
    """
    factors = file.values.get("factors")
    if not isinstance(factors, dict):
        return file
    named = dict(factors)
    for setting, values in factors.items():
        if isinstance(values, list):
            names = [value if isinstance(value, str) else show(value) for value in values]
            are_names = all(re.fullmatch(LEVEL_NAME[0], name) for name in names)
            if are_names and len(set(names)) == len(names):
                levels = zip(names, values, strict=True)
                named[setting] = {name: {setting: value} for name, value in levels}
    return CheckedMapping(file.file, file.key, {**file.values, "factors": named}, file.problems)


def _factors(file: CheckedMapping, primary: str) -> tuple[Factor, ...]:
    """The factors that have two levels or more. primary: the grid's metric."""
    section = file.section("factors")
    if not any(file.values.get(key) for key in ("factors", "arms", "baselines")):
        form = "it must map each factor to its levels, the reference first"
        exception = "only a grid of baselines or of arms needs none"
        file.note("factors", f"is missing; {form} ({exception})")
    factors = []
    for name in section.names(*FACTOR_NAME):
        if name in (*IDENTITY, *COSTS, primary):
            what = "the metric of the study, and so " if name == primary else ""
            remedy = "give the factor another name"
            section.note(name, f"'{name}' is {what}a column of results.csv; {remedy}")
        levels = _levels(section, name)
        if len(levels) >= 2:
            factors.append(Factor(name, levels))
    return tuple(factors)


def _levels(factors: CheckedMapping, name: str) -> tuple[Level, ...]:
    n_problems = len(factors.problems)
    if isinstance(factors.values[name], list):
        what = "is a list, and its values must be numbers or plain names, each once"
        remedy = f"else name the levels: {name}: {{a: {{SETTING: VALUE}}, b: {{...}}}}"
        factors.note(name, f"{what}; {remedy}")
        return ()
    section = factors.section(name)
    levels = tuple(Level(level, section.settings(level)) for level in section.names(*LEVEL_NAME))
    if len(factors.problems) > n_problems:
        return levels
    if len(levels) < 2:
        factors.note(name, f"has {len(levels)} of the two or more levels that a factor needs")
    for first, second in itertools.combinations(levels, 2):
        if as_text(first.overrides) == as_text(second.overrides):
            section.note(second.name, f"is a dead toggle: it sets the same as level '{first.name}'")
    return levels


def _reference(file: CheckedMapping, baselines: tuple[str, ...]) -> str | None:
    if file.values.get("reference") is not None:
        return file.choice("reference", baselines)
    return "ldmlr" if "ldmlr" in baselines else next(iter(baselines), None)


def published(path: Path | str, dataset: str) -> list[dict[str, Any]]:
    """The published results in `path` (experiments/published.yaml) on a data set.

    Each a {method, top1 (percent), protocol, source}. Raises InputError if anything in the file is
    wrong, about other data sets too.
    """
    problems: list[Problem] = []
    file = CheckedMapping(Path(path).name, "", read_yaml(path), problems)
    results = {name: [_result(section) for section in file.sections(name)] for name in file.values}
    if problems:
        raise InputError(problems)
    return results.get(dataset, [])


def published_now(manifest: Manifest) -> list[dict[str, Any]]:
    """The published results on a study's data set, from the file beside its grid.

    Now, or where it is not there, when the study was run.
    """
    path = Path(manifest.asked["grid"]).parent / PUBLISHED if manifest.asked else None
    return published(path, manifest.dataset) if path and path.is_file() else manifest.published


def _result(section: CheckedMapping) -> dict[str, Any]:
    section.allow(*PUBLISHED_KEYS)
    top1 = section.values.get("top1")
    if isinstance(top1, bool) or not isinstance(top1, int | float) or not 0 <= top1 <= 100:
        section.note("top1", f"{show(top1)} is not an accuracy in percent")
    return {key: top1 if key == "top1" else section.text(key) for key in PUBLISHED_KEYS}
