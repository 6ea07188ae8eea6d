"""The smallest difference that a study of n seeds can detect, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ablation.analysis.contrasts import interactions, main_effects
from ablation.analysis.sequential import needed_seeds
from ablation.analysis.statistics import smallest_detectable, smallest_permutation_p
from ablation.formatting import is_percent, points, two_digits
from ablation.grid.load import Study
from ablation.storage.runs import SEARCH, UNTUNED, RunFolder, studies

ALPHA = 0.05


class Spread(NamedTuple):
    """How far paired differences of two arms vary over seeds."""

    # in the metric's unit
    sd: float
    # the study in which it was measured; "" for a guess
    study: str = ""
    # the arm or baseline that the differences were taken to
    reference: str = ""
    # degrees of freedom: for each difference, its seeds less one
    n: int = 0


GUESS = Spread(1.0)


def power_lines(study: Study, runs: Path) -> list[str]:
    """The lines about a study's power that `ablate plan` prints. runs: with a folder per study."""
    name = study.grid.metric["name"]
    spread = measured_spread(runs, study.experiment.name, name) or GUESS
    n_tests, n_pairs = family(study)
    lines = told(len(study.grid.seeds), n_tests, n_pairs, spread, name, study.experiment.name)
    if study.grid.looks:
        is_last = len(study.grid.seeds) == study.grid.looks[-1]
        others = "fewer on the way" if is_last else "more later"
        lines[0] += f"; looking at {others} costs some of that"
    return lines


def told(
    n_seeds: int, n_tests: int, n_pairs: int, spread: Spread, metric: str, experiment: str
) -> list[str]:
    """The lines of `power_lines`, from numbers alone.

    n_tests: of Holm's family; n_pairs: pairs of arms that a main effect is the mean of
    """
    unit = points(metric)
    target = _seeds_for_a_point(spread.sd) if is_percent(metric) else ""
    if n_seeds < 2:
        lines = [
            "power: one seed gives no interval over seeds, and no p-value; at least two are needed"
            f"{', and ' if target else ''}{target}",
            "what it gives is an interval over test images, conditional on that one training run, "
            "where trials record which were right",
        ]
        return [*lines, _spread(spread, unit, experiment)]
    found = smallest_detectable(spread.sd, n_seeds, ALPHA)
    line = (
        f"power: {n_seeds} seeds find a difference of {two_digits(found)}{unit} between two arms "
        f"with 80 % probability by a paired t-test at {ALPHA}"
    )
    if n_tests > 1:
        first = smallest_detectable(spread.sd, n_seeds, ALPHA / n_tests)
        line += (
            f", and of {two_digits(first)}{unit} at the first step of Holm's correction over "
            f"{n_tests} tests"
        )
    lines = [line, _spread(spread, unit, experiment)]
    if n_pairs > 1:
        share = (
            f"{two_digits(n_pairs**-0.5)} times as much is enough for it if the arms' noise is "
            "independent"
        )
        lines.append(f"a main effect is the mean of {n_pairs} such differences: {share}")
    if target and found > 1:
        lines.append(target)
    floor = smallest_permutation_p(n_seeds)
    never = f": it is never below {ALPHA}" if floor >= ALPHA else ""
    return [
        *lines,
        f"the smallest p that a sign-flip permutation test of {n_seeds} seeds can reach is "
        f"{two_digits(floor)}{never}",
    ]


def family(study: Study) -> tuple[int, int]:
    """The number of effects that a study tests, and of pairs of arms that a main effect averages.

    The effects are main effects and interactions; the number of pairs is the largest.
    """
    arms: Mapping[str, Mapping[str, str]] = {
        variant.name: variant.levels for variant in study.variants if variant.kind == "arm"
    }
    factors = {
        factor.name: [level.name for level in factor.levels] for factor in study.grid.factors
    }
    mains = list(main_effects(arms, factors))
    return len(mains) + len(list(interactions(arms, factors))), max(
        (len(one.replicas) for one in mains), default=0
    )


def measured_spread(runs: Path, experiment: str, metric: str) -> Spread | None:
    """The spread as measured by an earlier study in `runs` of the same experiment and metric.

    Of several, that with the most degrees of freedom; None where there is none.
    """
    known = []
    for study in studies(runs):
        try:
            known.append(_spread_of(RunFolder(runs / study), experiment, metric))
        except (OSError, ValueError, TypeError, KeyError):
            # the study was written by another version; a guess is used instead
            continue
    return max(
        (spread for spread in known if spread is not None),
        key=lambda spread: spread.n,
        default=None,
    )


def _spread_of(folder: RunFolder, experiment: str, metric: str) -> Spread | None:
    """The spread of one study, pooled over the differences of its arms and baselines.

    They are taken to its reference baseline or, where that has no result, to its first arm.
    """
    manifest = folder.manifest()
    if (manifest.experiment, manifest.metric["name"]) != (experiment, metric):
        return None
    values: dict[str, dict[int, float]] = {}
    for spec in manifest.trials:
        if spec.kind in (SEARCH, UNTUNED):
            continue
        outcome = folder.ending(spec)
        if outcome is not None and metric in outcome.metrics:
            values.setdefault(spec.arm, {})[spec.seed] = outcome.metrics[metric]
    if not values:
        return None
    reference = manifest.reference
    if reference is None or reference not in values:
        reference = next(iter(values))
    differences = [
        _differences(own, values[reference]) for arm, own in values.items() if arm != reference
    ]
    # arms that agree to the bit are one arm
    differences = [row for row in differences if len(row) > 1 and np.ptp(row) > 0]
    if not differences:
        return None
    freedom = [len(row) - 1 for row in differences]
    variance = np.average([np.var(row, ddof=1) for row in differences], weights=freedom)
    return Spread(float(np.sqrt(variance)), manifest.study, reference, sum(freedom))


def _differences(a: Mapping[int, float], b: Mapping[int, float]) -> list[float]:
    """seed -> value each; over the seeds that both have."""
    return [a[seed] - b[seed] for seed in a if seed in b]


def _seeds_for_a_point(sd: float) -> str:
    n = needed_seeds(1.0, sd, ALPHA)
    return f"{n} seeds would find 1 point" if n else ""


def _spread(spread: Spread, unit: str, experiment: str) -> str:
    if spread.study:
        return (
            f"this takes {two_digits(spread.sd)}{unit} for the standard deviation of paired "
            f"differences over seeds, as measured in study {spread.study} "
            f"(differences to {spread.reference}, {spread.n} degrees of freedom)"
        )
    guess = "1 point" if unit else "1, in the metric's unit,"
    why = f"for lack of a finished study of {experiment}; sizes scale linearly with it"
    return f"this takes a guess of {guess} for the standard deviation of paired differences, {why}"
