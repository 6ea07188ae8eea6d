"""The answer of a study: one sentence, then at most six lines with the numbers behind it.

It says what the study shows and no more. No arm is called best that is not separable, no effect is
said to be absent that was not found, and no mean over unlike settings is given as an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis import effects as judged
from ablation.analysis.claims import claims_counted, undecided
from ablation.analysis.contrasts import difference_name, level_effect
from ablation.analysis.effects import Detectable, detectable, is_conditional
from ablation.analysis.factors import LevelEffect, level_effects
from ablation.analysis.looks import ALPHA
from ablation.analysis.results import CLASS_GROUPS, Results, diverged
from ablation.analysis.statistics import Estimate, holm
from ablation.formatting import (
    column_decimals,
    compared_p,
    effect,
    label,
    listed,
    over_seeds,
    points,
    two_digits,
)
from ablation.reporting.dependence import (
    MAX_LISTED,
    METRIC,
    dependent_clauses,
    effect_name,
    effect_names,
    effect_numbers,
    effect_size,
    number,
)
from ablation.storage.runs import UNTUNED

# how many factors have a line of their own
MAX_FACTORS = 3
# verdict on an effect that the seeds are too few for, see `_told_effects`
TOO_FEW = "too few seeds to tell"


class Verdict(NamedTuple):
    """What a study shows: sentences of plain text, with names in backquotes; "" where none is."""

    answer: str
    # a line per factor, at most `MAX_FACTORS`
    factors: Sequence[str] = ()
    # effects on some classes that the mean over all does not show
    hidden: str = ""
    # the best arm, or that none is separable
    best: str = ""
    # its difference to the best baseline
    strongest: str = ""
    # the arms against the reference baseline
    baseline: str = ""
    # what could not be seen
    limits: str = ""
    # how many are supported, refuted or not decided
    claims: str = ""
    # that the plan was changed after results were seen, or that the seed changes nothing
    warnings: Sequence[str] = ()

    @property
    def lines(self) -> list[str]:
        """The answer, warnings, what was claimed beforehand, then at most seven lines."""
        best = " ".join(filter(None, (self.best, self.strongest)))
        results = [*self.factors, self.hidden, best, self.baseline, self.limits]
        lines = [self.answer, *self.warnings, self.claims, *results]
        return [line for line in lines if line]


def verdict(results: Results, effects: pd.DataFrame, claims: pd.DataFrame) -> Verdict:
    """The verdict of a study.

    effects, claims: from `effects.judge` and `claims.judge_claims`
    """
    n_complete, n_trials = _n_complete(results), len(results.trials)
    if not n_complete:
        states = _states(results)
        return Verdict(f"No trial has finished ({states}), so there is nothing to answer yet.")
    primary = effects[effects["metric"] == results.primary]
    found = _told_effects(results, primary)
    start = ""
    if n_complete < n_trials:
        start = f"from {n_complete} of {n_trials} trials{_without(results)}: "
        start += _where_finished(results)
    if is_conditional(primary):
        start += "on this one training run, "
    clauses = [*_effects_told(results, found), *_baseline_told(results, primary)]
    if not found and len(results.arms) != 1:
        clauses = [_ranking_told(results), *clauses]
    if not clauses:
        clauses = [_reached(results, list(results.arms))]
    return Verdict(
        _sentence(start + _joined(clauses)),
        [_sentence(line) for line in _factor_lines(results, primary, found)],
        _sentence(_hidden_line(results, effects, found)),
        _sentence(_best_line(results)),
        _sentence(_strongest_told(results)),
        _sentence(_baseline_line(results, primary)),
        _limits_line(results, primary),
        " ".join(filter(None, (claims_counted(claims), _apart(primary, claims)))),
        _warnings_told(results, primary, claims),
    )


def conclusion(results: Results, effects: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """What a run ends with: the answer, the best arm, and the claims; at most three lines.

    Further ones warn of a plan that was changed after results were seen, and of arms that no seed
    changes. A study without two arms or without claims has the first lines of its verdict in their
    place.
    """
    found = verdict(results, effects, claims)
    told = " ".join(filter(None, (found.claims, undecided(claims, max(results.looks, default=0)))))
    lines = [found.answer, found.best, told]
    lines += [*found.factors, found.baseline, found.limits]
    return [*[line for line in lines if line][:3], *found.warnings]


# The verdict


def _told_effects(results: Results, primary: pd.DataFrame) -> list[LevelEffect]:
    """What each level does; `TOO_FEW` in place of "not separable" where seeds are too few to tell.

    They are where even an effect as large as the difference between the best and the worst finished
    trial may well have been missed.
    """
    found, values = level_effects(results, primary), results.cells(results.primary)
    if not _least_effect(results, primary).corrected > values.max().max() - values.min().min():
        return found
    return [
        one._replace(verdict=TOO_FEW) if one.verdict == judged.NOT_SEPARABLE else one
        for one in found
    ]


def _without(results: Results) -> str:
    """Names the arms and baselines of which no trial is finished; "" where no arm has one."""
    names = [*results.arms, *results.baselines]
    missing = [f"`{name}`" for name in names if not len(results.complete(name))]
    if not missing or not any(len(results.complete(arm)) for arm in results.arms):
        return ""
    told = listed(missing) if len(missing) <= MAX_LISTED else f"{number(len(missing))} arms"
    return f", none of {told}"


def _where_finished(results: Results) -> str:
    """The condition of an answer whose trials failed in some seeds; "" of none.

    How an arm does where it does not break may be told by whether it breaks.
    """
    names = [*results.arms, *results.baselines]
    finished = {name: len(results.complete(name)) for name in names if name in results.failed}
    broken = [name for name, n in finished.items() if n]
    planned = results.trials["arm"].value_counts()
    told = [f"`{name}` in {finished[name]} of {planned[name]} seeds" for name in broken]
    if len(broken) > MAX_LISTED:
        told = [f"{number(len(broken))} arms not in all seeds"]
    return f"where trials did not fail ({listed(told)}), " if told else ""


def _effects_told(results: Results, found: Sequence[LevelEffect]) -> list[str]:
    """Clauses on what the factors do; the first names the metric."""
    sign = _sign(results)
    of = {name: [one for one in found if _status(one) == name] for name in _STATUSES}
    raised = [one for one in of["separable"] if one.mean > 0]
    lowered = [one for one in of["separable"] if one.mean < 0]
    depends = dependent_clauses(of["depends"])
    gains = [*(raised if sign > 0 else lowered), *(s for s, _ in depends if s in (0, sign))]
    clauses = [_moved(raised, "raise"), *(text for _, text in depends), _moved(lowered, "lower")]
    clauses = [clause for clause in clauses if clause]
    n_factors = len({one.factor for one in found})
    verb = "raise" if sign > 0 else "lower"
    if clauses and not gains and len(found) > 1 and not of["chance"]:
        which = "neither factor" if n_factors == 2 else f"none of the {number(n_factors)} factors"
        alone = f"{which} is found to {verb} {METRIC} alone"
        one_factor = f"no other level of `{found[0].factor}` is found to {verb} {METRIC}"
        clauses = [alone if n_factors > 1 else one_factor, *clauses]
    else:
        if of["none"]:
            clauses.append(f"no effect of {effect_names(of['none'])} on {METRIC} was found")
        if of["open"]:
            clauses.append(
                "there are too few seeds to tell an effect of "
                f"{effect_names(of['open'])} on {METRIC}"
            )
    if of["chance"]:
        clauses.append(
            f"one seed cannot tell an effect of {effect_names(of['chance'])} from chance"
        )
    if of["agree"]:
        clauses.append(
            f"all seeds agree exactly on {effect_names(of['agree'])}, so no interval is given"
        )
    if of["dead"]:
        clauses.append(f"{effect_names(of['dead'])} {_verb('change', of['dead'])} nothing")
    if of["missing"] and not clauses:
        clauses.append(f"no effect of {effect_names(of['missing'])} can be told yet")
    return _named(clauses, label(results.primary))


def _named(clauses: Sequence[str], metric: str) -> list[str]:
    """The clauses, with the metric's name in the first that speaks of it, and then "it"."""
    first = next((k for k, clause in enumerate(clauses) if METRIC in clause), 0)
    return [
        clause.replace(METRIC, metric, k == first).replace(METRIC, "it")
        for k, clause in enumerate(clauses)
    ]


_STATUSES = {
    "depends": (),
    "separable": (judged.HIGHER, judged.LOWER, judged.SEPARABLE_ON_RUN),
    "none": (judged.NOT_SEPARABLE, judged.NOT_SEPARABLE_ON_RUN),
    "open": (TOO_FEW,),
    "chance": (judged.ONE_SEED,),
    "agree": (judged.NO_SPREAD,),
    "dead": (judged.BY_CONSTRUCTION,),
    "missing": (judged.NO_SEED,),
}


def _status(one: LevelEffect) -> str:
    if one.settings:
        return "depends"
    return next(name for name, verdicts in _STATUSES.items() if one.verdict in verdicts)


def _moved(found: Sequence[LevelEffect], verb: str) -> str:
    """`a` and `b` raise top-1; "" of none."""
    return f"{effect_names(found)} {_verb(verb, found)} {METRIC}" if found else ""


def _baseline_told(results: Results, primary: pd.DataFrame) -> list[str]:
    """A clause on how the arms compare with the reference baseline; [] without an interval.

    After Holm's correction over the arms.
    """
    counts = _compared(results, primary, is_corrected=True)
    reference = results.manifest.reference
    n, better, worse = counts.total(), counts[BETTER], counts[WORSE]
    if n == 0 or counts[UNKNOWN] == n:
        return []
    if n == 1:
        (arm,) = _compared_rows(results, primary).index
        side = "better than" if better else "worse than" if worse else "not distinguishable from"
        return [f"`{arm}` is {side} `{reference}`"]
    if n in (better, worse):
        side = "better" if better else "worse"
        return [f"{'both arms are' if n == 2 else 'every arm is'} {side} than `{reference}`"]
    if better:
        verb = "are" if better > 1 else "is"
        return [f"{number(better)} of {number(n)} arms {verb} better than `{reference}`"]
    return [f"no arm is found to be better than `{reference}`"]


def _ranking_told(results: Results) -> str:
    """A clause on the best of the arms, or of the baselines where there are no arms."""
    names = list(results.arms) or results.baselines
    kind = "arm" if results.arms else "baseline"
    finished = [name for name in names if len(results.complete(name))]
    ranking = judged.rank(results, names)
    if ranking is None:
        return _reached(results, names)
    if _n_seeds(results) == 1 or ranking.rivals:
        return f"no {kind} can be called the best of {number(len(finished))}"
    return f"`{ranking.best}` is the best of {number(len(finished))} {kind}s"


def _reached(results: Results, names: Sequence[str]) -> str:
    """A clause with the means of the arms that finished."""
    finished = [name for name in names if len(results.complete(name))]
    if not finished:
        return f"{'no arm' if results.arms else 'no baseline'} has a finished trial"
    means = [f"`{name}` reaches {_mean(results, name)}" for name in finished]
    return f"{listed(means)} {label(results.primary)}"


# The lines


def _factor_lines(
    results: Results, primary: pd.DataFrame, found: Sequence[LevelEffect]
) -> list[str]:
    """A line per factor; what is too many is merged, first of those without an effect."""
    factors = list(dict.fromkeys(one.factor for one in found))
    of = {factor: [one for one in found if one.factor == factor] for factor in factors}
    n_tests = int(primary["kind"].isin(["main", "interaction"]).sum())
    told = {factor: _factor_line(results, own, n_tests) for factor, own in of.items()}
    if len(factors) <= MAX_FACTORS:
        return list(told.values())
    none = [
        factor for factor in factors if {_status(one) for one in of[factor]} <= {"none", "open"}
    ]
    first = [factor for factor in factors if factor not in none] or none
    rest = [factor for factor in factors if factor not in first]
    if len(first) > MAX_FACTORS - bool(rest):
        kept = sorted(first, key=lambda factor: -max(abs(one.mean) for one in of[factor]))
        kept = kept[: MAX_FACTORS - 1]
        rest = [factor for factor in factors if factor not in kept]
        return [told[factor] for factor in kept] + ["; ".join(told[factor] for factor in rest)]
    sizes = [effect_names([one], with_size=True) for factor in rest for one in of[factor]]
    # few seeds are too few for all of them
    word = _WORDS[_status(of[rest[0]][0])]
    merged = f"{word} {listed(sizes)}{_corrected(n_tests)}"
    return [*(told[factor] for factor in first), merged]


def _factor_line(results: Results, found: Sequence[LevelEffect], n_tests: int) -> str:
    """What the levels of one factor do, in numbers."""
    unit, (first, *others) = points(results.primary), found
    if not others:
        start = effect_name(first)
        if first.level != "on" or first.reference != "off":
            start = f"`{first.factor}` from `{first.reference}` to `{first.level}`"
        return f"{start}: {_level_told(results, first, n_tests, unit)}"
    parts = []
    for status in _STATUSES:
        own = [one for one in found if _status(one) == status]
        if status in _WORDS and own:
            names = [f"`{one.level}`" for one in own]
            if len(own) <= MAX_LISTED and status in ("none", "open", "chance", "agree"):
                names = [f"`{one.level}` {effect_size(one, unit)}" for one in own]
            after = _corrected(n_tests) if status in ("none", "open") else ""
            parts.append(f"{_WORDS[status]} {listed(names)}{after}")
        elif own:
            parts.append(
                ", ".join(
                    f"`{one.level}` {_level_told(results, one, n_tests, unit)}" for one in own
                )
            )
    return f"`{first.factor}` from `{first.reference}`: {'; '.join(parts)}"


_WORDS = {
    "none": "no effect found of",
    "open": "undecided for",
    "chance": "in one seed",
    "agree": "the same in every seed",
    "dead": "nothing is changed by",
    "missing": "not known of",
}


def _level_told(results: Results, one: LevelEffect, n_tests: int, unit: str) -> str:
    size, status = effect_size(one, unit), _status(one)
    if status in ("none", "open"):
        what = "no effect found" if status == "none" else "undecided"
        return f"{what}, {size}{_corrected(n_tests)}"
    if status == "chance":
        return f"{size} in one seed"
    if status == "agree":
        return f"{size} in every seed alike, so that no interval can be given"
    if status == "dead":
        return "no effect by construction, the same bits with and without"
    if status == "missing":
        return "no seed has all its arms"
    if status == "separable":
        return size
    return effect_numbers(one, unit)


def _hidden_line(results: Results, effects: pd.DataFrame, levels: Sequence[LevelEffect]) -> str:
    """The main effects on groups of classes that the mean over all classes hides, in numbers.

    "" where there are none, or a lower metric is better: the groups' may be accuracies.
    """
    split = results.primary.rpartition("/")[0]
    groups = [f"{split}/{group}".lstrip("/") for group in reversed(CLASS_GROUPS)]
    mains = effects[effects["kind"] == "main"]
    tests = mains[mains["metric"].isin(groups)]
    n_groups = tests["metric"].nunique()
    if _sign(results) < 0 or results.primary in groups or n_groups < 2:
        return ""
    of_primary = mains[mains["metric"] == results.primary]
    # an effect that no seed has measured has no row, and keeps its place
    n_tests = n_groups * len(of_primary)
    p = np.append(tests["p"], np.full(n_tests - len(tests), np.nan))
    found = tests[holm(p)[: len(tests)] < ALPHA].sort_values(
        "metric", key=lambda of: of.map(groups.index)
    )
    is_hidden = _is_hidden(found, of_primary)
    told: dict[str, float] = {}
    for level in levels:
        name = level_effect(results.arms, level.factor, level.reference, level.level).name
        own = found[found["effect"] == name]
        if is_hidden[own.index].any():
            units = [points(results.primary), "", ""]
            sizes = [
                f"{label(row.metric)} {effect(row.estimate, row.low, row.high, unit=unit)}"
                for row, unit in zip(own.itertuples(), units, strict=False)
            ]
            told[f"{effect_name(level)} {listed(sizes)}"] = own["estimate"].abs().max()
    if not told:
        return ""
    most = sorted(told, key=lambda text: -told[text])[:MAX_LISTED]
    listing = "; ".join(text for text in told if text in most)
    more = f"; and {number(len(told) - len(most))} more" if len(told) > len(most) else ""
    where = "classes with few, medium or many images"
    tested = f"found after correction for {number(n_tests)} tests"
    return f"The mean hides effects on {where}: {listing}{more} ({tested})"


def _is_hidden(found: pd.DataFrame, primary: pd.DataFrame) -> pd.Series:
    """Whether an effect on a group of classes is one that the mean over all does not show.

    It has another sign than the effect on the mean, or none was found on that, and the two
    intervals lie apart.

    found: rows on groups; primary: those of the same effects on the primary metric
    """
    mean = primary.set_index("effect").reindex(found["effect"]).set_axis(found.index)
    sign = np.sign(mean["estimate"]).where(mean["p_holm"] < ALPHA, 0)
    is_apart = (found["low"] > mean["high"]) | (found["high"] < mean["low"])
    return (np.sign(found["estimate"]) != sign) & is_apart


def _best_line(results: Results) -> str:
    """The best arm or that there is none, and the best baseline; "" with fewer than two arms."""
    names, cells = list(results.arms), results.cells(results.primary)
    ranking = judged.rank(results, names or results.baselines)
    if ranking is None:
        return ""
    kind = "arm" if names else "baseline"
    n, n_planned = int(cells[ranking.best].count()), len(cells)
    seeds = f", {n} of {n_planned} seeds" if n < n_planned else ""
    best = f"`{ranking.best}` ({_mean(results, ranking.best)}{seeds})"
    where = " where its trials did not fail" if ranking.best in results.failed else ""
    what = f"mean, adjusted for the seeds that {kind}s lack," if ranking.is_adjusted else "mean"
    n_others = int(cells[names or results.baselines].notna().any().sum()) - 1
    rivals = listed([f"`{rival}`" for rival in ranking.rivals])
    if len(ranking.rivals) == n_others:
        rivals = "any other" if n_others > 1 else "the other"
    elif len(ranking.rivals) > MAX_LISTED:
        rivals = f"{number(len(ranking.rivals))} of {number(n_others)} others"
    separable = f"not separable from {rivals}"
    gaps = judged.minus_others(results, ranking.best, ranking.rivals)
    if not ranking.rivals:
        separable = "separable from all others that finished"
    if _n_seeds(results) == 1:
        told = f"one seed can call no {kind} the best: {best} has the best {label(results.primary)}"
        if results.hits:
            told += f"; on this one training run, over test images, it is {separable}"
    elif ranking.rivals and all(map(_is_exact, gaps)):
        told = (
            f"{best} has the best {what}, ahead of {rivals} by the same in every seed: no interval"
        )
        told += " can be given"
    elif ranking.rivals:
        told = f"no {kind} can be called the best: {best} has the best {what} but is {separable}"
    else:
        told = f"the best {kind}{where} is {best}, {separable}"
    if not names:
        means = [f"`{name}` {mean}" for name in results.baselines if (mean := _mean(results, name))]
        told += f"; {label(results.primary)} is {listed(means)}"
    return told


def _is_exact(gap: Estimate) -> bool:
    """Whether a difference is the same in each of several seeds, and not 0."""
    return gap.n > 1 and math.isnan(gap.low) and gap.mean != 0


def _strongest_told(results: Results) -> str:
    """The difference of the best arm to the best baseline; "" where that is the reference."""
    ranking, of_baselines = (
        judged.rank(results, names) for names in (list(results.arms), results.baselines)
    )
    if not ranking or not of_baselines or of_baselines.best == results.manifest.reference:
        return ""
    best = of_baselines.best
    (gap,) = judged.minus_others(results, ranking.best, [best])
    if not gap.n:
        return ""
    # over all pairs that might have been these two, few seeds would leave an interval of nothing
    picked = "" if math.isnan(gap.low) else ", not corrected for their being picked by their means"
    return (
        f"its difference to `{best}` ({_mean(results, best)}), the baseline with the best mean, "
        f"is {effect_size(gap, points(results.primary))}{picked}"
    )


BETTER, WORSE, ALIKE, UNKNOWN = "better", "worse", "not distinguishable", "not known"


def _compared(results: Results, primary: pd.DataFrame, is_corrected: bool = False) -> Counter[str]:
    """How many arms are better or worse than the reference baseline, or not distinguishable.

    Each by its own interval, or after Holm's correction over the arms. Of one training run, that is
    Bonferroni's.
    """
    rows, sign = _compared_rows(results, primary), _sign(results)
    is_alike = rows["verdict"].isin([judged.NOT_SEPARABLE, judged.NOT_SEPARABLE_ON_RUN])
    if is_corrected and is_conditional(primary) and len(rows):
        reference, level = results.manifest.reference or "", 1 - ALPHA / len(rows)
        gaps = judged.minus_others(results, reference, list(rows.index), level)
        is_alike |= np.array([one.low <= 0 <= one.high for one in gaps])
    elif is_corrected:
        is_alike |= holm(rows["p"]) >= ALPHA
    counts: Counter[str] = Counter()
    for row, alike in zip(rows.itertuples(), is_alike, strict=True):
        if alike:
            counts[ALIKE] += 1
        elif row.verdict in (judged.HIGHER, judged.LOWER, judged.SEPARABLE_ON_RUN):
            counts[BETTER if sign * row.estimate > 0 else WORSE] += 1
        else:
            counts[UNKNOWN] += 1
    return counts


def _compared_rows(results: Results, primary: pd.DataFrame) -> pd.DataFrame:
    """arm -> its difference to the reference baseline; of those without a seed in common, NaN."""
    reference = results.manifest.reference or ""
    arms = {difference_name(arm, reference): arm for arm in results.arms}
    rows = primary[primary["effect"].isin(arms)]
    return rows.set_index(rows["effect"].map(arms))


def _baseline_line(results: Results, primary: pd.DataFrame) -> str:
    """The arms against the reference baseline, counted."""
    rows, counts = _compared_rows(results, primary), _compared(results, primary)
    if rows["estimate"].isna().all():
        return ""
    reference, unit = results.manifest.reference or "", points(results.primary)
    start = f"against `{reference}` ({_mean(results, reference)})"
    if len(rows) == 1:
        row = rows.iloc[0]
        (verdict,) = counts
        size = effect(row["estimate"], row["low"], row["high"], unit=unit)
        end = "no interval can be given" if verdict == UNKNOWN else verdict
        return f"{start}: `{rows.index[0]}` {size}, {end}"
    places = column_decimals((rows["high"] - rows["low"]) / 2)
    ends = rows["estimate"].agg(["min", "max"])
    lowest, highest = (effect(end, math.nan, math.nan, places) for end in ends)
    span = f"about {lowest}{unit}" if lowest == highest else f"{lowest} to {highest}{unit}"
    if counts[UNKNOWN] == len(rows):
        n = int(rows["estimate"].count())
        arms = f"the {number(n)} arms differ" if n > 1 else "one arm differs"
        return f"{start} {arms} by {span}; no interval can be given"
    each = ", each by its own 95 % interval"
    corrected = _compared(results, primary, is_corrected=True)
    if corrected != counts:
        left = corrected[BETTER] + corrected[WORSE]
        each += f"; {number(left) if left else 'none'} by corrected ones"
    if len(counts) == 1:
        both = "both" if len(rows) == 2 else f"all {number(len(rows))}"
        return f"{start}: {both} arms {next(iter(counts))} ({span}{each})"
    told = ", ".join(
        f"{number(counts[what])} {what}" for what in (BETTER, ALIKE, WORSE, UNKNOWN) if counts[what]
    )
    return f"{start}: of {number(len(rows))} arms {told} ({span}{each})"


def _limits_line(results: Results, primary: pd.DataFrame) -> str:
    """What could not be seen."""
    told = []
    n_complete, n_trials = _n_complete(results), len(results.trials)
    if n_complete < n_trials:
        told.append(f"{n_complete} of {n_trials} trials finished ({_states(results)})")
    designed = results.trials[results.trials["kind"] != UNTUNED]
    by_arm = diverged(designed).groupby(designed["arm"], sort=False)
    broken = {arm: own for arm, own in by_arm if own.any()}
    if broken:
        counts = [f"{own.sum()} of {len(own)} trials of `{arm}`" for arm, own in broken.items()]
        means = "means are of the trials that did not"
        if all(own.all() for own in broken.values()):
            means = f"{'it has' if len(broken) == 1 else 'they have'} no mean"
        told.append(f"training diverged in {listed(counts)}, and {means}")
    if is_conditional(primary):
        told.append(
            "one seed: every interval is over test images and conditional on this one training "
            "run; another seed may turn the order around"
        )
    elif _n_seeds(results) == 1:
        told.append("one seed: no interval can be given, and another may turn the order around")
    told += [power] if (power := _power_told(results, primary)) else []
    return " ".join(_sentence(text) for text in told)


def _warnings_told(results: Results, primary: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    """What was changed after results were seen, where anything was tested; arms without chance."""
    is_tested = bool(primary["p"].notna().any()) or not claims.empty
    told = [f"{text}." for text in results.plan_warnings if is_tested]
    if seedless := results.seedless():
        names = listed([f"`{name}`" for name in seedless])
        if len(seedless) > MAX_LISTED:
            names = f"{number(len(seedless))} arms"
        one = len(seedless) == 1
        told.append(
            f"{names} {'has' if one else 'have'} the same {label(results.primary)} in every seed. "
            f"Does {'its' if one else 'their'} code use the seed?"
        )
    return [f"Warning: {text}" for text in told]


def _apart(primary: pd.DataFrame, claims: pd.DataFrame) -> str:
    """Why an effect has another verdict as a claim: each is corrected for its own family."""
    effects = primary.set_index("effect")["p_holm"].dropna()
    told = []
    for row in claims[claims["metric"].isin(primary["metric"])].itertuples():
        as_effect = effects.get(row.contrast, math.nan)
        # a claim of a margin is another question
        is_same = row.direction in ("up", "down") and row.p_holm == row.p_holm
        if is_same and as_effect == as_effect and (row.p_holm < ALPHA) != (as_effect < ALPHA):
            told.append(
                f"`{row.contrast}` {compared_p(row.p_holm)} as a claim and "
                f"{compared_p(as_effect)} as an effect"
            )
    unique = list(dict.fromkeys(told))
    if not unique:
        return ""
    return f"Claims and effects are corrected apart: {listed(unique)}."


def _power_told(results: Results, primary: pd.DataFrame) -> str:
    """The smallest effect that was not likely to be missed, or difference without factors."""
    found, what = _least_effect(results, primary), "an effect"
    if not found.n_seeds:
        found = detectable(primary[primary["kind"] == "difference"], looks=results.looks)
        what = f"a difference to `{results.manifest.reference}`"
    if not found.n_seeds:
        return ""
    size = two_digits(found.corrected)
    unit = points(results.primary, size)
    if found.most > 2 * found.least:
        ends = (
            two_digits(end * found.corrected / found.pooled) for end in (found.least, found.most)
        )
        unit += f" ({' to '.join(ends)} by each one's own spread)"
    return f"{number(found.n_seeds)} seeds: {what} below {size}{unit} may well have been missed"


def _least_effect(results: Results, primary: pd.DataFrame) -> Detectable:
    """The smallest main effects that were not likely to be missed."""
    n_tests = int(primary["kind"].isin(["main", "interaction"]).sum())
    return detectable(primary[primary["kind"] == "main"], max(1, n_tests), results.looks)


# Words


def _sentence(text: str) -> str:
    """With a capital, unless it begins with a name, and a full stop; "" of nothing."""
    if not text:
        return ""
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


def _joined(clauses: Sequence[str]) -> str:
    """`a`; `a, and b`; `a, b, and c`; with semicolons where a clause has a comma."""
    *first, last = clauses
    between = "; " if any(", " in clause for clause in clauses) else ", "
    return f"{between.join(first)}{between}and {last}" if first else last


def _verb(verb: str, found: Sequence[LevelEffect]) -> str:
    return verb if len(found) > 1 else f"{verb}s"


def _corrected(n_tests: int) -> str:
    """Says that an interval is corrected; "" where there is nothing to correct."""
    if n_tests < 2:
        return ""
    return f", corrected for {number(n_tests)} tests"


def _mean(results: Results, name: str) -> str:
    return over_seeds(results.cells(results.primary)[name])


def _sign(results: Results) -> int:
    """1 where a higher metric is better, else -1."""
    return -1 if results.manifest.metric["goal"] == "minimize" else 1


def _n_seeds(results: Results) -> int:
    return len(results.manifest.seeds)


def _n_complete(results: Results) -> int:
    return int((results.trials["state"] == "COMPLETE").sum())


def _states(results: Results) -> str:
    """`33 complete, 1 failed`."""
    states = results.trials["state"].value_counts().sort_index()
    return ", ".join(f"{n} {state.lower()}" for state, n in states.items())
