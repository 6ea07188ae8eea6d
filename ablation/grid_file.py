"""The two kinds of files under `experiments/`: grids and the experiments they vary (DESIGN.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.design import DESIGNS, Arm, Factor
from ablation.errors import InputError, Problem, nearest
from ablation.grid_claims import read_claims
from ablation.grid_factors import read_factors
from ablation.reading import read_value, read_yaml, show
from ablation.section import METRIC_NAME, NAME, Section

GRID_KEYS = (
    "study", "question", "experiment", "metric", "design", "seeds", "factors",
    "arms", "baselines", "reference", "claims", "settings",
)  # fmt: skip
EXPERIMENT_KEYS = ("title", "dataset", "subject", "settings")

FILE_NAME = (
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}",
    "a name (letters, digits, '.', '_', '-'; at most 100)",
)
SUBJECT_NAME = (r"core|[A-Za-z_][\w.]*:[A-Za-z_]\w*", "'core' or 'package.module:function'")

MAX_SEEDS = 1000
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Grid:
    """A grid file: what is varied, and what is asked."""

    file: str  # the file's name, for messages
    study: str
    question: str
    experiment: str  # a name beside the grid file, or a path
    metric: dict[str, str]  # {name, goal: maximize | minimize}
    design: tuple[str, ...]
    seeds: tuple[int, ...]
    factors: tuple[Factor, ...]
    arms: tuple[Arm, ...]  # beside those of the design
    baselines: tuple[str, ...]
    reference: str | None  # the baseline that differences are taken to
    claims: tuple[
        dict[str, Any], ...
    ]  # {id, says, contrast: {factor, from, to} | {arm, minus} | {factor, level} | {arm}, expects: [{metric, direction, within?, value?}]}
    settings: dict[str, Any]  # for all arms and baselines, dotted key -> value
    doubts: tuple[
        Problem, ...
    ] = ()  # text in settings, of levels and arms too, that may not be meant as text, see `ablation.reading`


@dataclass(frozen=True)
class Experiment:
    """An experiment file: data and training, before anything is varied."""

    file: str  # the file's name, for messages
    name: str
    title: str
    dataset: str  # its key in experiments/published.yaml
    subject: str
    settings: dict[str, Any]  # dotted key -> value
    doubts: tuple[Problem, ...] = ()  # text in settings that may not be meant as text


def read_grid(
    path: Path, problems: list[Problem], experiment: str | None = None, seeds: str | None = None
) -> Grid | None:
    """The grid, with `experiment` and `seeds` from the command line in place of the file's.

    None if there is nothing to go on. A grid is sound only if it added no problems.
    """
    doubts: list[Problem] = []
    values = _mapping(path, problems, doubts)
    if values is None:
        return None
    file = Section(path.name, "", values, problems)
    if values and not {"study", "factors"} & set(values) and set(values) <= set(EXPERIMENT_KEYS):
        file.note(
            "",
            f"is an experiment, not a grid; name a grid file and give this one as --experiment {path.stem}",
        )
        return None
    file.allow(*GRID_KEYS)
    metric = file.section("metric")
    metric.allow("name", "goal")
    headline = metric.text("name", "test/top1", *METRIC_NAME) or ""
    baselines = _baselines(file)
    return Grid(
        file=path.name,
        study=file.text("study", None, *FILE_NAME) or "",
        question=file.text("question", "") or "",
        experiment=experiment
        or file.text("experiment", means="an experiment's name or path")
        or "",
        metric={
            "name": headline,
            "goal": metric.choice("goal", ("maximize", "minimize"), "maximize") or "",
        },
        design=_designs(file),
        seeds=_seeds(file, "seeds") if seeds is None else _seeds_option(seeds, problems),
        factors=read_factors(file, headline),
        arms=_arms(file.section("arms")),
        baselines=baselines,
        reference=_reference(file, baselines),
        claims=read_claims(file),
        settings=file.settings("settings"),
        doubts=_of_settings(doubts),
    )


def read_experiment(path: Path, problems: list[Problem]) -> Experiment | None:
    """The experiment; None if there is nothing to go on, and sound only if it added no problems."""
    doubts: list[Problem] = []
    values = _mapping(path, problems, doubts)
    if values is None:
        return None
    file = Section(path.name, "", values, problems)
    if {"study", "factors"} & set(values):
        file.note(
            "",
            "is a grid, not an experiment; name the experiment that the grid varies, e.g. --experiment digits-lt",
        )
        return None
    file.allow(*EXPERIMENT_KEYS)
    return Experiment(
        file=path.name,
        name=path.stem,
        title=file.text("title", path.stem) or "",
        dataset=file.text("dataset", path.stem, *FILE_NAME) or "",
        subject=file.text("subject", "core", *SUBJECT_NAME) or "",
        settings=file.settings("settings"),
        doubts=_of_settings(doubts),
    )


def _designs(file: Section) -> tuple[str, ...]:
    value = file.values.get("design")
    if not isinstance(value, list):
        return (file.choice("design", DESIGNS, "factorial") or "",)
    if not value:
        file.note("design", f"is an empty list; {nearest('', DESIGNS)}")
    for i, design in enumerate(value):
        if design not in DESIGNS:
            file.note(f"design[{i}]", f"{show(design)} is not allowed; {nearest(design, DESIGNS)}")
        elif design in value[:i]:
            file.note(f"design[{i}]", f"'{design}' is there twice")
    return tuple(value)


def _arms(section: Section) -> tuple[Arm, ...]:
    return tuple(Arm(name, {}, section.settings(name)) for name in section.names(*NAME))


def _baselines(file: Section) -> tuple[str, ...]:
    names: list[str] = []
    for i, name in enumerate(file.listing("baselines")):
        if not isinstance(name, str):
            file.note(f"baselines[{i}]", f"{show(name)} is not a baseline's name")
        elif name in names:
            file.note(f"baselines[{i}]", f"'{name}' is there twice")
        else:
            names.append(name)
    return tuple(names)


def _reference(file: Section, baselines: tuple[str, ...]) -> str | None:
    if file.values.get("reference") is not None:
        return file.choice("reference", baselines)
    return "ldmlr" if "ldmlr" in baselines else next(iter(baselines), None)


def _seeds(section: Section, key: str) -> tuple[int, ...]:
    """n -> 0 to n - 1; a list as it is."""
    value = section.values.get(key)
    if value is None:
        section.note(key, "is missing; it must be a number of seeds, or a list of seeds")
    elif _is_integer(value):
        if 1 <= value <= MAX_SEEDS:
            return tuple(range(value))
        section.note(key, f"{value} is not a number of seeds between 1 and {MAX_SEEDS}")
    elif not isinstance(value, list) or not 1 <= len(value) <= MAX_SEEDS:
        section.note(
            key, f"{show(value)} is not a number of seeds, or a list of 1 to {MAX_SEEDS} seeds"
        )
    else:
        for i, seed in enumerate(value):
            if not _is_integer(seed) or not 0 <= seed <= MAX_SEED:
                section.note(
                    f"{key}[{i}]", f"{show(seed)} is not a seed: an integer from 0 to {MAX_SEED}"
                )
            elif seed in value[:i]:
                section.note(f"{key}[{i}]", f"{seed} is there twice")
        return tuple(value)
    return ()


def _seeds_option(text: str, problems: list[Problem]) -> tuple[int, ...]:
    """`5`, `0,3` or `[0, 3]`."""
    try:
        value = read_value(f"[{text}]" if "," in text and "[" not in text else text, "--seeds")
    except InputError as error:
        problems.extend(error.problems)
        return ()
    return _seeds(Section("--seeds", "", {"": value}, problems), "")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _of_settings(doubts: list[Problem]) -> tuple[Problem, ...]:
    """Those in a part of the file that holds settings."""
    return tuple(
        doubt for doubt in doubts if doubt.key.partition(".")[0] in ("settings", "factors", "arms")
    )


def _mapping(path: Path, problems: list[Problem], doubts: list[Problem]) -> dict[str, Any] | None:
    try:
        return read_yaml(path, doubts)
    except InputError as error:
        problems.extend(error.problems)
        return None
