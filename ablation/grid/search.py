"""`search:` of a grid file: the settings that every arm is tuned over before its seeds are run.

    search:
      space:
        optim.lr.encoder: {low: 1.0e-6, high: 1.0e-1, log: true}   # or step: 0.1
        head.name: {choices: [linear, cosine, wcdas]}
      trials: 20               # of each arm; or budget: 400, epochs of each arm
      metric: validation/top1  # or {name: ..., goal: minimize}; never one of the test set
      sampler: tpe             # tpe | gp | random | grid
      pruner: {name: hyperband, min_epochs: 10}
      seeds: [100]             # none of the study's own
      settings: {data.validation: 0.2}   # of the search's trials alone

All arms and trained baselines are tuned alike. A setting that an arm's own levels set is not in its
space, and neither is one that its method ignores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeGuard

from ablation.errors import Problem, nearest
from ablation.formatting import leaves
from ablation.grid.idle import Layer, Stack, merged
from ablation.grid.seeds import MAX_SEED, NO_SEED
from ablation.grid.strict_yaml import (
    METRIC_NAME,
    CheckedMapping,
    dotted,
    is_integer,
    overlap,
    show,
)
from ablation.storage.runs import Metric
from ablation.subject.own import OwnCode
from ablation.subject.protocol import FaultLike, LinkLike, Subject

if TYPE_CHECKING:
    from ablation.grid.load import Variant

# the phase of links that come before a trial's own epochs
PRETRAIN = "pretrain"
KEYS = ("space", "trials", "budget", "metric", "sampler", "pruner", "seeds", "settings", "parallel")
SAMPLERS = ("tpe", "gp", "random", "grid")
PRUNERS = ("hyperband", "successive-halving", "median", "none")
# of metrics that are measured on the test set
TEST_PREFIXES = ("test/", "best/", "test_")
MAX_TRIALS = 10_000
MAX_EPOCHS = 10_000_000
# combinations of choices for which it is asked whether a setting is ignored
MAX_COMBINATIONS = 64
# of the layers of a variant, those that all variants share: experiment, grid, -S
N_COMMON = 3

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both ends are."""

    low: float
    high: float
    log: bool = False
    # between neighbours, counted from `low`; None: any number
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers alone."""
        numbers = (self.low, self.high, self.step if self.step is not None else 1)
        return all(isinstance(number, int) for number in numbers)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the range, rounding aside."""
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        if self.is_whole and not float(value).is_integer():
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    @property
    def values(self) -> tuple[float, ...] | None:
        """All of them, where they can be counted; else None."""
        n = self.n_values
        return None if n is None else tuple(map(self._value, range(n)))

    @property
    def n_values(self) -> int | None:
        """How many there are, where they can be counted; else None."""
        step = self._step
        return None if step is None else (_exact(self.high) - _exact(self.low)) // _exact(step) + 1

    @property
    def highest(self) -> float:
        """The highest value that can be reached."""
        n = self.n_values
        return self.high if n is None else self._value(n - 1)

    def _value(self, index: int) -> float:
        """The value after so many steps, as it would be written: 0.3, where 3 * 0.1 is more."""
        exact = _exact(self.low) + index * _exact(self._step or 0)
        return int(exact) if self.is_whole else float(exact)

    @property
    def _step(self) -> float | None:
        return self.step or (1 if self.is_whole and not self.log else None)

    @property
    def ends(self) -> tuple[float, ...]:
        """The values whose soundness is checked before anything runs."""
        if self.is_whole:
            return (self.low, self.high)
        # one that is no whole number, where the ends may be
        between = self._value(1) if self.step else self.low + (self.high - self.low) / math.pi
        return (self.low, between, self.high)


@dataclass(frozen=True)
class Choices:
    """One of some values, in no order."""

    values: tuple[Scalar, ...]

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the choices: 0.0 is 0, and false is not."""
        is_bool = isinstance(value, bool)
        return any(value == one and isinstance(one, bool) == is_bool for one in self.values)

    @property
    def n_values(self) -> int:
        """How many there are."""
        return len(self.values)

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The values whose soundness is checked before anything runs."""
        return self.values


Domain = Range | Choices


def domain_of(told: Mapping[str, Any]) -> Domain:
    """A domain from its fields, as a manifest has them."""
    return Choices(tuple(told["values"])) if "values" in told else Range(**told)


# setting -> where it is looked for
Space = Mapping[str, Domain]


@dataclass(frozen=True)
class Search:
    """How every arm is tuned: on an equal budget, on a metric that is not of the test set."""

    space: dict[str, Domain]
    metric: Metric
    # of each arm; 0: as many as the budget allows
    trials: int
    # epochs of each arm that no earlier trial of it has; 0: no limit
    budget: int
    sampler: str
    pruner: str
    # before the first decision whether a trial goes on
    min_epochs: int
    seeds: tuple[int, ...]
    # trials of an arm at a time: more than one, and what is asked depends on what ends first
    parallel: int
    # of the search's trials alone
    settings: dict[str, Any] = field(default_factory=dict)


def read_search(
    file: CheckedMapping, study_seeds: Sequence[int], study_metric: Metric
) -> Search | None:
    """The search; None if the grid has none. It is sound only if it noted no problems."""
    if file.values.get("search") is None:
        return None
    section = file.section("search")
    section.allow(*KEYS)
    sampler = section.choice("sampler", SAMPLERS, "tpe") or ""
    pruner, min_epochs = _pruner(section)
    trials, budget = _budget(section)
    seeds = _seeds(section, study_seeds)
    if pruner != "none" and len(seeds) > 1:
        remedy = "name one seed, or pruner: none"
        section.note("seeds", f"a pruner decides about a trial by one seed; {remedy}")
    return Search(
        space=_space(section, sampler),
        metric=_metric(section, study_metric),
        trials=trials,
        budget=budget,
        sampler=sampler,
        pruner=pruner,
        min_epochs=min_epochs,
        seeds=seeds,
        parallel=section.whole("parallel", 1, 1, MAX_TRIALS),
        settings=section.settings("settings"),
    )


def space_of(search: Search, subject: Subject, stack: Stack) -> dict[str, Domain]:
    """The space of one arm or baseline: what neither its own layers set nor its method ignores."""
    space = {key: domain for key, domain in search.space.items() if not _sets(stack, key)}
    if not space or not hasattr(subject, "ignored"):
        return space
    settings = merged((*stack, Layer("", "", search.settings)))
    left, is_judged = list(space), False
    for values in _combinations(space):
        tried = settings | values
        if left and not subject.check(tried):
            left, is_judged = list(subject.ignored(tried, left)), True
    # values that are refused tell nothing
    return {key: domain for key, domain in space.items() if not is_judged or key not in left}


def _sets(stack: Stack, key: str) -> bool:
    """Whether an arm or baseline sets this itself, beside what is common to all of them."""
    return any(overlap(key, other) for layer in stack[N_COMMON:] for other in layer.settings)


def _combinations(space: Space) -> Iterator[dict[str, Scalar]]:
    """Values of a space with which a setting may count: each by itself, then choices together."""
    bases = [{key: domain.ends[end] for key, domain in space.items()} for end in (0, -1)]
    for base in bases:
        for key, domain in space.items():
            yield from (base | {key: value} for value in domain.ends)
    choices = {key: domain.values for key, domain in space.items() if isinstance(domain, Choices)}
    for together in itertools.islice(itertools.product(*choices.values()), MAX_COMBINATIONS):
        yield from (base | dict(zip(choices, together, strict=True)) for base in bases)


def n_cells(space: Space) -> int:
    """Of a full grid of a space whose values can be counted."""
    return math.prod(domain.n_values or 0 for domain in space.values())


def own_values(space: Space, config: Mapping[str, Any]) -> dict[str, Scalar] | None:
    """A variant's own values in the search space; None if they lie outside.

    config: resolved, nested.
    """
    flat = dict(leaves(config))
    values = {key: flat.get(key) for key in space}
    is_inside = all(key in flat and space[key].holds(value) for key, value in values.items())
    return values if is_inside else None


def search_problems(
    search: Search, subject: Subject, variants: Sequence[Variant], file: str
) -> Iterator[Problem]:
    """What is wrong with the search of these arms and baselines, all of which are sound.

    file: of the grid, for messages.
    """
    spaces = {variant.name: space_of(search, subject, variant.layers) for variant in variants}
    for key in search.space if variants else ():
        if not any(key in space for space in spaces.values()):
            yield Problem(file, f"search.space.{key}", _why_nowhere(key, subject, search, variants))
    own = Layer(file, "search.settings", search.settings)
    settings = {one.name: merged((*one.layers, own)) for one in variants if spaces[one.name]}
    faults = itertools.chain(
        _misplaced_settings(search, variants),
        *(_faults_of_one(search, subject, name, settings[name], spaces[name]) for name in settings),
        _idle_limits(search, subject, [(settings[name], spaces[name]) for name in settings]),
    )
    # of each place, what the first arm that has a fault there says
    found: dict[str, str] = {}
    for key, message in faults:
        found.setdefault(key, message)
    for key, message in found.items():
        yield Problem(file, f"search.{key}", message)


def _misplaced_settings(search: Search, variants: Sequence[Variant]) -> Iterator[tuple[str, str]]:
    """Settings of the search's trials that are looked for, or that an arm sets itself."""
    for key in search.settings:
        for searched in search.space:
            if overlap(key, searched):
                yield f"settings.{key}", f"is looked for (search.space.{searched})"
        for variant in variants:
            if _sets(variant.layers, key):
                why = f"'{variant.name}' sets it itself: what is tuned would be another arm"
                yield f"settings.{key}", why


def _faults_of_one(
    search: Search, subject: Subject, name: str, settings: Mapping[str, Any], space: Space
) -> Iterator[tuple[str, str]]:
    """What is wrong with the search of one arm or baseline. settings: of its trials."""
    faults = [fault for fault in subject.check(settings) if not fault.absent]
    if faults:
        yield from ((f"settings.{fault.key}", fault.message) for fault in faults)
        return
    own = dict(leaves(subject.resolve(settings)))
    for key, domain in space.items():
        message = _refusal(subject, settings, key, domain)
        message = message or _why_not_whole(domain, own.get(key), name)
        if message:
            yield f"space.{key}", message
    reported = subject.metrics(settings) if hasattr(subject, "metrics") else None
    metric = search.metric["name"]
    if metric and reported is not None and metric not in reported:
        said = f"'{metric}' is not reported by '{name}'; {nearest(metric, reported)}"
        if metric.startswith("validation/"):
            said += "; search.settings: {data.validation: 0.2} holds images out"
        yield "metric", said


def _idle_limits(
    search: Search, subject: Subject, searched: Sequence[tuple[Mapping[str, Any], Space]]
) -> Iterator[tuple[str, str]]:
    """A pruner that could end no trial, and a budget of epochs that are not known.

    searched: settings and space of each arm's trials
    """
    if isinstance(subject, OwnCode):
        if search.budget:
            what = "counts epochs, and how many a function or command has is not known"
            yield "budget", f"{what}; write trials"
        return
    if search.pruner == "none":
        return
    own = [settings for settings, _ in searched]
    ends = (
        {**settings, key: end}
        for settings, space in searched
        for key, domain in space.items()
        for end in domain.ends
    )
    n_most = -1
    for settings in itertools.chain(own, ends):
        if n_most <= search.min_epochs and not subject.check(settings):
            links = subject.chain(settings, search.seeds[0], lambda key: None)
            n_most = max(n_most, len(links) - n_before(links))
    if 0 <= n_most <= search.min_epochs:
        why = f"no trial has more than {n_most} epochs, and min_epochs is {search.min_epochs}"
        yield "pruner", f"'{search.pruner}' would prune nothing: {why}; write pruner: none"


def n_before(links: Sequence[LinkLike]) -> int:
    """Links of pre-training, which do not count as epochs of a search's trial."""
    return sum(link.phase == PRETRAIN for link in links)


def _refusal(subject: Subject, settings: Mapping[str, Any], key: str, domain: Domain) -> str:
    """Why the subject takes a value of the domain for a fault; "" if it takes none."""
    refused: dict[str, FaultLike] = {}
    for value in domain.ends:
        for fault in subject.check({**settings, key: value}):
            if not fault.absent:
                refused.setdefault(show(value), fault)
    if len(refused) == len(domain.ends) and len({fault.message for fault in refused.values()}) == 1:
        # of the setting, and not of its values
        return next(iter(refused.values())).message
    for shown, fault in refused.items():
        about = "" if fault.key == key else f" ({fault.key})"
        return f"{shown} is no value for it{about}: {fault.message}"
    return ""


def _why_not_whole(domain: Domain, own: Any, name: str) -> str:
    """Why a range of whole numbers is not meant as one, by an arm's own value; else ""."""
    if not isinstance(domain, Range) or not domain.is_whole:
        return ""
    if not _is_number(own) or float(own).is_integer():
        return ""
    what = f"looks for whole numbers alone, as both ends are, and '{name}' has {show(own)}"
    return f"{what}; write {float(domain.low)} and {float(domain.high)} for any number"


def _why_nowhere(key: str, subject: Subject, search: Search, variants: Sequence[Variant]) -> str:
    """Why no arm or baseline looks for a setting."""
    domain = search.space[key]
    for variant in variants:
        if _sets(variant.layers, key):
            continue
        settings = merged((*variant.layers, Layer("", "", search.settings)))
        for fault in subject.check(settings | {key: domain.ends[0]}):
            if fault.key == key:
                return fault.message
        return "changes nothing in any arm or baseline that does not set it itself"
    return "is set by every arm and baseline itself: nothing is left to look for"


def _space(section: CheckedMapping, sampler: str) -> dict[str, Domain]:
    values = section.values.get("space")
    if not isinstance(values, dict) or not values:
        form = "it must map settings to {low, high, log or step} or {choices}"
        section.note("space", f"{'is missing' if values is None else 'is empty'}; {form}")
        return {}
    space = section.section("space")
    found: dict[str, Domain] = {}
    for key, told in _settings_of(space.values):
        if not isinstance(told, dict):
            space.note(key, f"{show(told)} is neither {{low, high}} nor {{choices}}")
            continue
        place = dotted(space.key, key)
        domain = _domain(CheckedMapping(space.file, place, told, space.problems))
        if domain is None:
            continue
        if sampler == "grid" and domain.n_values is None:
            space.note(key, "has no countable values, as sampler: grid needs; add a step")
        found[key] = domain
    if sampler == "grid" and n_cells(found) > MAX_TRIALS:
        many = f"has {n_cells(found)} combinations, more than {MAX_TRIALS} of sampler: grid"
        section.note("space", f"{many}; name fewer values, or sampler: random")
    return found


def _settings_of(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key of each setting of a space, and what it says: mappings nest as settings do."""
    for key, value in values.items():
        is_domain = not isinstance(value, dict) or {"low", "high", "choices"} & set(value)
        if is_domain or not value or not all(isinstance(one, dict) for one in value.values()):
            yield prefix + key, value
        else:
            yield from _settings_of(value, f"{prefix}{key}.")


def _domain(section: CheckedMapping) -> Domain | None:
    section.allow("low", "high", "log", "step", "choices")
    if "choices" in section.values:
        others = sorted({"low", "high", "log", "step"} & set(section.values))
        if others:
            section.note(others[0], "does not go with choices")
        return _choices(section)
    low, high = (_number(section, key) for key in ("low", "high"))
    step = _number(section, "step") if section.values.get("step") is not None else None
    log = section.values.get("log", False)
    if not isinstance(log, bool):
        section.note("log", f"{show(log)} is not true or false")
        log = False
    if low is None or high is None:
        return None
    n_problems = len(section.problems)
    if not low < high:
        section.note("high", f"{show(high)} is not above low, {show(low)}")
    elif step is not None and not 0 < step <= high - low:
        section.note("step", f"{show(step)} is not above 0 and at most {show(high - low)}")
    if log and low <= 0:
        section.note("low", f"{show(low)} has no logarithm; with log: true it must be above 0")
    if log and step is not None:
        section.note("step", "does not go with log: true")
    return Range(low, high, log, step) if len(section.problems) == n_problems else None


def _choices(section: CheckedMapping) -> Choices | None:
    def fault(value: Any) -> str:
        is_scalar = value is None or isinstance(value, str | int | float)
        return "" if is_scalar else "is not a single value"

    values = section.items("choices", fault)
    if len(values) < 2:
        section.note("choices", "needs two values or more")
        return None
    return Choices(values)


def _metric(section: CheckedMapping, study: Metric) -> Metric:
    value = section.values.get("metric")
    key = "metric"
    has_goal = isinstance(value, dict) and value.get("goal") is not None
    goal = study["goal"]
    if isinstance(value, dict):
        inner = section.section("metric")
        inner.allow("name", "goal")
        name = inner.text("name", None, *METRIC_NAME) or ""
        goal = inner.choice("goal", ("maximize", "minimize"), goal) or ""
        key = "metric.name"
    else:
        name = section.text("metric", None, *METRIC_NAME) or ""
    if name.startswith(TEST_PREFIXES):
        instead = f"validation/{name.split('/', 1)[-1]}" if "/" in name else "a validation metric"
        section.note(
            key, f"'{name}' is of the test set, on which nothing is chosen; name {instead}"
        )
    elif name and study["name"] and not has_goal and _measure(name) != _measure(study["name"]):
        other = f"'{name}' may have another goal than the study's '{study['name']}', {goal}"
        section.note(key, f"{other}; write metric: {{name: {name}, goal: maximize or minimize}}")
    return {"name": name, "goal": goal}


def _measure(metric: str) -> str:
    """Of a metric's name, what is measured: without the data that it is of."""
    return metric.rsplit("/", 1)[-1]


def _pruner(section: CheckedMapping) -> tuple[str, int]:
    value = section.values.get("pruner")
    if not isinstance(value, dict):
        return section.choice("pruner", PRUNERS, "none") or "none", 1
    inner = section.section("pruner")
    inner.allow("name", "min_epochs")
    name = inner.choice("name", PRUNERS) or "none"
    return name, inner.whole("min_epochs", 1, 1, MAX_EPOCHS)


def _budget(section: CheckedMapping) -> tuple[int, int]:
    has = [key for key in ("trials", "budget") if section.values.get(key) is not None]
    if not has:
        section.note("trials", "is missing; it must be trials of each arm, or budget: epochs")
    if len(has) == 2:
        section.note("budget", "does not go with trials; one of them is the budget of an arm")
    return (
        section.whole("trials", 0, 1, MAX_TRIALS),
        section.whole("budget", 0, 1, MAX_EPOCHS),
    )


def _seeds(section: CheckedMapping, study_seeds: Sequence[int]) -> tuple[int, ...]:
    def fault(seed: Any) -> str:
        if not is_integer(seed, 0, MAX_SEED):
            return NO_SEED
        if seed in study_seeds:
            return f"is a seed of the study; {100 if 100 not in study_seeds else 10_000} is not"
        return ""

    if section.values.get("seeds") is None:
        return (next(seed for seed in itertools.count(100) if seed not in study_seeds),)
    seeds = section.items("seeds", fault)
    if section.values["seeds"] == []:
        section.note("seeds", "is an empty list; one seed is enough")
    return seeds


def _number(section: CheckedMapping, key: str) -> float | None:
    value = section.values.get(key)
    if _is_number(value):
        return value
    what = "is missing; it must be" if value is None else f"{show(value)} is not"
    section.note(key, f"{what} a finite number")
    return None


def _exact(number: float) -> Fraction:
    """The number that is written, of which a float is the nearest: 1/10 of 0.1."""
    return Fraction(str(number))


def _is_number(value: Any) -> TypeGuard[float]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
