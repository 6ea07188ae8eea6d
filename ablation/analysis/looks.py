"""Judge a study that adds seeds until its questions are decided, look by look.

A question is a claim's expectation, or a main effect. At each planned number of seeds, those that
are open are tested on the first seeds alone, by p-values and intervals that all looks share
(`ablation.analysis.sequential`) and by Holm's correction over the whole family. One that is decided
keeps the verdict and the numbers of that look. If it was rejected by its p, it leaves the family,
as in Holm's step-down. So the verdicts follow from the results alone, whatever was run after them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from scipy import special

from ablation.analysis.results import Results
from ablation.analysis.sequential import (
    needed_seeds,
    one_look_level,
    repeated_confidence,
    repeated_p,
)
from ablation.analysis.statistics import POWER, Estimate, holm, power_of
from ablation.grid.seeds import FEWEST, Look

ALPHA = 0.05


def repeated(
    found: Estimate, looks: tuple[int, ...], confidence: float = 0.95, sides: int = 2
) -> Estimate:
    """The estimate with the p-value and the interval that all looks share.

    It is returned as it is where there are no looks, or where it has no interval.

    looks: all planned numbers of seeds; sides: of the p-value, see `repeated_p`
    """
    if not looks or not found.low < found.high:
        return found
    share = repeated_confidence(found.n, looks, confidence)
    half = -float(special.stdtrit(found.n - 1, (1 - share) / 2)) * found.sd / np.sqrt(found.n)
    center = (found.low + found.high) / 2
    return found._replace(
        low=center - half, high=center + half, p=repeated_p(found.p, found.n, looks, sides)
    )


def t_limit(level: float, n: int, looks: tuple[int, ...] = (), sides: int = 2) -> float:
    """How many standard errors a mean over n seeds must be away to be significant at a level.

    looks: all planned numbers of seeds, if the level is that of all looks together
    """
    if looks:
        level = one_look_level(n, looks, level, sides)
    return -float(special.stdtrit(n - 1, level / sides))


def deciding_seeds(
    difference: float, sd: float, level: float, looks: Sequence[int], n_seeds: int, sides: int = 2
) -> int | None:
    """How many seeds would find a true difference with 80 % probability: those of a later look.

    Each look's test has the limits of that look. Where none that is left finds it, the fewest seeds
    beyond the plan with which a single test does. None where no number is known, see
    `needed_seeds`.

    difference, sd (of the paired differences): in the same unit; level: of all looks together;
    n_seeds: those that are there; sides: of the p-value, see `repeated_p`
    """
    sizes = tuple(looks)
    if not (abs(difference) > 0 and sd > 0):
        return None
    for n in sizes:
        if n > n_seeds:
            alpha = 2 / sides * one_look_level(n, sizes, level, sides)
            if power_of(difference / sd, n, alpha) >= POWER:
                return n
    beyond = max(n_seeds, sizes[-1]) + 1
    return needed_seeds(difference, sd, 2 / sides * level, beyond)


def tested_level(p: float, p_holm: float, n_open: int) -> float:
    """The level at which Holm's correction judged a test: p is below it where p_holm is below 0.05.

    Tests that are not rejected share the level at which the correction stopped, so that their
    intervals hold all true values at once with 95 % probability.

    n_open: how many tests of the family are not rejected
    """
    level = ALPHA * p / p_holm if p_holm > 0 else ALPHA
    return level if p_holm < ALPHA else min(level, ALPHA / n_open)


class Tested(Protocol):
    """A question as it was tested on some seeds."""

    @property
    def found(self) -> Estimate:
        """The estimate, with the repeated p-value."""

    @property
    def is_dead(self) -> bool:
        """Whether trials agree bit by bit, which decides without a test."""

    @property
    def n_measured(self) -> int:
        """How many seeds have measured it; 0 where more of them would not decide it."""


T = TypeVar("T", bound=Tested)


@dataclass(frozen=True)
class Question(Generic[T]):
    """A claim's expectation or a main effect, as it was answered at some look."""

    # at the look that decided it, else at the last one; on all results before the first look
    tested: T
    # corrected over the family
    p_holm: float
    # after how many seeds; 0 while it is not decided
    decided_at: int = 0


@dataclass(frozen=True)
class Replay(Generic[T]):
    """A study's looks so far."""

    questions: list[Question[T]]
    # those whose trials have ended
    looks: list[Look]
    # arm or baseline -> how many seeds it is to have; of those that are due more than at the start
    due: Mapping[str, int] = field(default_factory=dict)
    # tests that are left in the family
    n_tests: int = 1


def replay(
    results: Results,
    groups: Sequence[str],
    cells: Mapping[str, Collection[str]],
    test: Callable[[Results], Sequence[T]],
    is_settled: Callable[[Sequence[Question[T]]], bool],
) -> Replay[T]:
    """Repeat the looks of a study from the first to the last that is complete.

    A look is complete when all trials that are due at it have ended, also by failing.

    Args:
        groups: of each question, what it belongs to: a claim, or a main effect itself
        cells: group -> the arms and baselines that it compares; {} of one that asks for no seeds
        test: the questions on some of the seeds
        is_settled: whether a group is decided, from its questions
    """
    tested = test(results)
    questions = [Question(one, p) for one, p in zip(tested, _corrected(tested), strict=True)]
    done: list[Look] = []
    due: dict[str, int] = {}
    asking = {group for group, own in cells.items() if own}
    going_on = asking
    for n in results.looks:
        arms = frozenset(arm for group in going_on for arm in cells[group])
        if done:
            due |= dict.fromkeys(arms, n)
        if not arms or not _have_ended(results, arms, n):
            break
        tested = test(results.first(n))
        left = [k for k, one in enumerate(questions) if not _is_rejected(one)]
        is_open = [
            not questions[k].decided_at and (groups[k] in going_on or groups[k] not in asking)
            for k in left
        ]
        corrected = _corrected([tested[k] for k in left], is_open)
        for k, p, is_tested in zip(left, corrected, is_open, strict=True):
            if is_tested:
                one = tested[k]
                is_decided = p < ALPHA or (one.is_dead and one.found.n >= FEWEST)
                questions[k] = Question(one, p, n if is_decided else 0)
        members = {
            group: [one for one, of in zip(questions, groups, strict=True) if of == group]
            for group in asking
        }
        settled = {group for group, own in members.items() if is_settled(own)}
        # what no seed has measured is not measured by more of them
        going_on = {
            group
            for group in going_on - settled
            if any(not one.decided_at and one.tested.n_measured for one in members[group])
        }
        going_arms = frozenset(arm for group in going_on for arm in cells[group])
        done.append(Look(n, len(settled), len(asking), going_arms))
    n_tests = sum(not _is_rejected(one) for one in questions)
    return Replay(questions, done, due, max(1, n_tests))


def _corrected(tested: Sequence[Tested], is_open: Sequence[bool] | None = None) -> list[float]:
    """Each p after Holm's correction; a question that is not open keeps its place in the family."""
    p = np.array([one.found.p for one in tested])
    if is_open is not None:
        p[~np.array(is_open, dtype=bool)] = np.nan
    corrected: list[float] = holm(p).tolist()
    return corrected


def _is_rejected(one: Question[T]) -> bool:
    return one.decided_at > 0 and one.p_holm < ALPHA


def _have_ended(results: Results, cells: Collection[str], n_seeds: int) -> bool:
    """Whether all trials of these arms and baselines under the first seeds have ended."""
    trials, seeds = results.trials, results.manifest.seeds[:n_seeds]
    ended = trials[
        trials["arm"].isin(cells)
        & trials["seed"].isin(seeds)
        & trials["state"].isin(["COMPLETE", "FAILED"])
    ]
    return len(ended) == len(cells) * n_seeds
