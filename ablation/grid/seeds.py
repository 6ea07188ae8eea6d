"""`seeds:` of a grid file: a number, a list, or `{start, max}`.

With `{start, max}` a study looks at its results after planned numbers of seeds, the looks, and adds
seeds to the arms of those claims alone that are not decided yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ablation.errors import InputError, Problem
from ablation.grid.strict_yaml import CheckedMapping, is_integer, read_value, show

MAX_SEEDS = 1000
MAX_SEED = 2**32 - 1
# fewer give no p-value
FEWEST = 2
# default numbers of seeds to look at
SIZES = (3, 5, 8, 12, 20)
START, MOST = SIZES[0], SIZES[-1]
KEYS = ("start", "max", "looks", "effects")
NO_SEED = f"is not a seed: an integer from 0 to {MAX_SEED}"
_ALLOWED = f"a number of seeds between {FEWEST} and {MAX_SEEDS}"


class Seeds(NamedTuple):
    """The seeds of a study, in the order in which they are taken."""

    numbers: tuple[int, ...] = ()
    # how many of them the study looks at, increasing, the last one all; () for a fixed number
    looks: tuple[int, ...] = ()
    # whether every main effect is to be decided, too, and not the claims alone
    effects: bool = False


class Look(NamedTuple):
    """What is open once a look's trials have ended."""

    n_seeds: int
    # of the claims, or main effects
    n_decided: int
    n_asked: int
    # arms and baselines that get more seeds
    going_on: frozenset[str]


def read_seeds(section: CheckedMapping, key: str) -> Seeds:
    """n -> 0 to n - 1; a list as it is; {start, max, looks?, effects?} -> 0 to max - 1."""
    value = section.values.get(key)
    if is_integer(value, 1, MAX_SEEDS):
        return Seeds(tuple(range(value)))
    if isinstance(value, list) and 1 <= len(value) <= MAX_SEEDS:
        numbers = section.items(key, lambda seed: "" if is_integer(seed, 0, MAX_SEED) else NO_SEED)
        return Seeds(numbers)
    if isinstance(value, dict):
        return _until_decided(section.section(key))
    allowed = (
        f"a number of seeds between 1 and {MAX_SEEDS}, a list of 1 to {MAX_SEEDS} seeds, "
        "or {start, max}"
    )
    if value is None:
        section.note(key, f"is missing; it must be {allowed}")
    else:
        section.note(key, f"{show(value)} is not {allowed}")
    return Seeds()


def chosen_seeds(
    file: CheckedMapping, option: str | None, is_until_decided: bool, problems: list[Problem]
) -> tuple[Seeds, tuple[int, ...]]:
    """The seeds to run, and those that are planned: the file's own, where they hold the former.

    The first seeds of a plan, up to one of its looks, are run as its looks so far.

    option: `--seeds`, in place of the file's; is_until_decided: see `until_decided`
    """
    if option is None:
        own = chosen = read_seeds(file, "seeds")
    else:
        # what is wrong with those that are replaced does not matter
        own = read_seeds(CheckedMapping(file.file, "", file.values, []), "seeds")
        chosen = seeds_option(option, problems)
        n = len(chosen.numbers)
        if n in own.looks and chosen == Seeds(own.numbers[:n]):
            chosen = own._replace(numbers=own.numbers[:n])
    if is_until_decided:
        chosen = until_decided(chosen)
    is_part = set(chosen.numbers) <= set(own.numbers) and chosen[1:] == own[1:]
    return chosen, own.numbers if is_part else chosen.numbers


def seeds_option(text: str, problems: list[Problem]) -> Seeds:
    """`5`, `0,3`, `[0, 3]` or `{start: 3, max: 20}`."""
    is_list = "," in text and not {"[", "{"} & set(text)
    try:
        value = read_value(f"[{text}]" if is_list else text, "--seeds")
    except InputError as error:
        problems.extend(error.problems)
        return Seeds()
    return read_seeds(CheckedMapping("--seeds", "", {"": value}, problems), "")


def until_decided(seeds: Seeds) -> Seeds:
    """Seeds that were fixed, as the start of ones that are added until claims are decided."""
    if seeds.looks or not seeds.numbers:
        return seeds
    start = max(FEWEST, len(seeds.numbers))
    most = max(MOST, start)
    others = (number for number in range(most) if number not in seeds.numbers)
    numbers = (*seeds.numbers, *others)[:most]
    return Seeds(numbers, looks(start, most))


def looks(start: int, most: int, sizes: Sequence[int] | None = None) -> tuple[int, ...]:
    """The planned numbers of seeds, increasing: `start`, those of `sizes` between, and `most`.

    sizes: `SIZES` where not given

    Raises:
        ValueError: fewer than 2 seeds, which give no p-value, or `most` below `start`
    """
    if not FEWEST <= start <= most:
        raise ValueError(f"looks from {start} to {most} seeds: 2 <= start <= most is needed")
    between = {n for n in (SIZES if sizes is None else sizes) if start < n < most}
    return tuple(sorted({start, *between, most}))


def _until_decided(section: CheckedMapping) -> Seeds:
    section.allow(*KEYS)
    n_problems = len(section.problems)
    sizes = _sizes(section)
    bounds = (FEWEST, MAX_SEEDS, _ALLOWED)
    start = section.whole("start", sizes[0] if sizes else START, *bounds)
    most = section.whole("max", sizes[-1] if sizes else max(MOST, start), *bounds)
    effects = section.values.get("effects")
    effects = False if effects is None else effects
    if not isinstance(effects, bool):
        section.note("effects", f"{show(effects)} is not true or false")
    if len(section.problems) > n_problems:
        return Seeds()
    if most < start:
        section.note("max", f"{most} is below start, {start}; it must be at least {start}")
        return Seeds()
    if sizes and (sizes[0], sizes[-1]) != (start, most):
        meant = list(looks(start, most, sizes))
        said = f"{list(sizes)} must begin with start, {start}, and end with max, {most}"
        section.note("looks", f"{said}; did you mean {meant}?")
        return Seeds()
    return Seeds(tuple(range(most)), sizes or looks(start, most), effects)


def _sizes(section: CheckedMapping) -> tuple[int, ...]:
    """`looks`, where they are given and sound; () else."""
    if section.values.get("looks") is None:
        return ()
    sizes = section.listing("looks")
    if not sizes and isinstance(section.values["looks"], list):
        section.note("looks", f"is an empty list; the default is {list(SIZES)}")
    wrong = [i for i, size in enumerate(sizes) if not is_integer(size, FEWEST, MAX_SEEDS)]
    for i in wrong:
        section.note(f"looks[{i}]", f"{show(sizes[i])} is not {_ALLOWED}")
    if wrong:
        return ()
    if any(after <= before for before, after in pairwise(sizes)):
        section.note("looks", f"{sizes} must increase; did you mean {sorted(set(sizes))}?")
        return ()
    return tuple(sizes)
