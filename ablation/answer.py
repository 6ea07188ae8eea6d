"""The answer in one paragraph, written from the numbers: what matters, by how much, how sure."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from ablation import effects as judged
from ablation.claims_text import claims_counted
from ablation.contrasts import difference_name, simple_effects
from ablation.formatting import effect, label, listed, points, value
from ablation.results import Results, diverged
from ablation.statistics import N_RESAMPLES, pooled_sd, smallest_detectable


def answer(results: Results, effects: pd.DataFrame, claims: pd.DataFrame) -> str:
    """One paragraph. Says what the study shows and no more: no arm is best that is not separable.

    effects, claims: from `effects.judge` and `claims.judge_claims`.
    """
    states = results.trials["state"].value_counts()
    n_complete, n_trials = int(states.get("COMPLETE", 0)), len(results.trials)
    if n_complete == 0:
        return f"No trial has finished ({_counts(states)}), so there is nothing to answer yet."
    headline = effects[effects["metric"] == results.headline]
    sentences = []
    if n_complete < n_trials:
        sentences.append(
            f"This is the answer of {n_complete} of {n_trials} trials ({_counts(states)})."
        )
    if is_conditional(headline):
        sentences.append(
            "One seed: every interval is over test images and conditional on this one training run; another seed may turn the order around."
        )
    sentences += _divergence(results)
    depending = interacting(results, headline)
    sentences += _main_effects(results, headline[headline["kind"] == "main"], bool(depending))
    sentences += _interactions(headline, depending)
    sentences += _against_reference(results, headline[headline["kind"] == "difference"])
    sentences += _ranking(results) if results.arms else _baselines(results)
    sentences += _power(results, headline[headline["kind"] == "main"])
    sentences += [count] if (count := claims_counted(claims)) else []
    return " ".join(sentences)


def is_conditional(effects: pd.DataFrame) -> bool:
    """Whether intervals are over test images of one training run, not over seeds. effects: from `effects.judge`."""
    return bool((effects["low"].notna() & (effects["n_seeds"] == 1)).any())


def one_seed_limits(effects: pd.DataFrame) -> list[str]:
    """What a report of one seed has to say of its numbers, a sentence or two each. effects: from `effects.judge`."""
    run = (
        "One seed: every number is of one training run, and another seed may turn the order around."
    )
    if not is_conditional(effects):
        return [f"{run} No interval or p-value can be given."]
    how = f"The intervals are 95 % percentile intervals of a paired bootstrap over test images ({N_RESAMPLES:,} resamples, the same images for all arms)."
    what = "They are conditional on this one training run: they tell how differences would change with other test images, not with another seed"
    return [
        f"{run} {how}",
        f"{what}, for which they are too narrow. So no p-value is given, no claim is decided by them, and nothing is bold.",
    ]


class Detectable(NamedTuple):
    """The smallest true difference that a study finds with 80 % probability, before any correction."""

    n_seeds: int  # the fewest among the rows that have a standard deviation; 0 where none has, and the rest is NaN
    pooled: float  # by the standard deviation pooled over the rows: what to expect of rows that vary alike
    least: float  # by that of the row that varies least
    most: float
    corrected: float  # as `pooled`, at the first step of Holm's correction


def detectable(rows: pd.DataFrame, n_tests: int = 1) -> Detectable:
    """rows: of one metric, from `effects.judge`; n_tests: of Holm's family."""
    rows = rows[rows["sd"] > 0]
    if rows.empty:
        return Detectable(0, *[math.nan] * 4)
    n_seeds, pooled = int(rows["n_seeds"].min()), pooled_sd(rows["sd"])
    found = [
        smallest_detectable(sd, n_seeds) for sd in (pooled, rows["sd"].min(), rows["sd"].max())
    ]
    return Detectable(
        n_seeds, *found, smallest_detectable(pooled, n_seeds, alpha=judged.ALPHA / n_tests)
    )


def interacting(results: Results, headline: pd.DataFrame) -> list[pd.DataFrame]:
    """The simple effects of each pair of factors whose interaction is separable from 0, two levels at a time.

    headline: rows of the headline metric, from `effects.judge`.
    """
    levels = {factor: list(levels) for factor, levels in results.manifest.factors.items()}
    found = []
    for pair in judged.interacting_pairs(results, headline):
        names = [
            one.name
            for one in simple_effects(results.arms, {factor: levels[factor] for factor in pair})
        ]
        found.append(headline[headline["effect"].isin(names)])
    return found


def _divergence(results: Results) -> list[str]:
    of_arms = diverged(results.trials).groupby(results.trials["arm"], sort=False)
    told = [f"{own.sum()} of {len(own)} trials of `{arm}`" for arm, own in of_arms if own.any()]
    return (
        [f"Training diverged in {listed(told)}; what follows is of the trials that did not."]
        if told
        else []
    )


def _main_effects(results: Results, rows: pd.DataFrame, is_mean_of_unlike: bool) -> list[str]:
    name, unit = label(results.headline), points(results.headline)
    told = []
    for verdict, verb in [(judged.HIGHER, "raises"), (judged.LOWER, "lowers")]:
        found = rows[rows["verdict"] == verdict]
        told += [
            f"`{row.effect}` {verb} {name} by {_size(row)}{unit}" for row in found.itertuples()
        ]
    averaged = "averaged over the other factors, " if is_mean_of_unlike else ""
    opening = f"{_n_seeds(rows)}{averaged}"
    sentences = (
        [f"{opening[:1].upper()}{opening[1:]}{listed(told)} (95 % intervals in brackets)."]
        if told
        else []
    )
    unclear = _with_effects(rows, judged.NOT_SEPARABLE)
    if unclear:
        sentences.append(f"Not separable from 0 (after Holm's correction): {listed(unclear)}.")
    for verdict, text in [
        (judged.SEPARABLE_ON_RUN, "Separable from 0 on this one training run:"),
        (judged.NOT_SEPARABLE_ON_RUN, "Not separable from 0 on this one training run:"),
        (
            judged.ONE_SEED,
            "One seed cannot tell an effect from chance; in this one the differences are:",
        ),
        (judged.NO_SPREAD, "All seeds agree exactly, so that no interval can be given:"),
        (judged.BY_CONSTRUCTION, "Without effect by construction, the same bits with and without:"),
    ]:
        found = _with_effects(rows, verdict)
        if found:
            sentences.append(f"{text} {listed(found)}.")
    return sentences


def _interactions(headline: pd.DataFrame, depending: list[pd.DataFrame]) -> list[str]:
    rows = headline[headline["kind"] == "interaction"]
    separable = _with_effects(rows, judged.HIGHER) + _with_effects(rows, judged.LOWER)
    if separable:
        told = [
            f"`{row.effect}` {effect(row.estimate, row.low, row.high)}"
            for pair in depending
            for row in pair.itertuples()
        ]
        return [
            f"But the effects do not add up, and these means describe no arm; interactions separable from 0: {listed(separable)}.",
            f"Level by level: {'; '.join(told)}.",
        ]
    on_run = _with_effects(rows, judged.SEPARABLE_ON_RUN)
    if on_run:
        return [f"Interactions separable from 0 on this one training run: {listed(on_run)}."]
    for verdict, text in [
        (judged.NOT_SEPARABLE, ""),
        (judged.NOT_SEPARABLE_ON_RUN, " on this one training run"),
    ]:
        if (rows["verdict"] == verdict).any():
            return [f"No interaction is separable from 0{text}."]
    return []


def _against_reference(results: Results, rows: pd.DataFrame) -> list[str]:
    reference = results.manifest.reference
    by_name = _directed(rows).set_axis(rows["effect"])
    verdicts = pd.Series(
        {arm: by_name.get(difference_name(arm, reference)) for arm in results.arms}
    ).dropna()
    verdicts = verdicts[verdicts != judged.NO_SEED]
    if reference is None or verdicts.empty:
        return []
    means = results.cells(results.headline).agg(["mean", "std"])
    measured = f"the measured `{reference}` ({value(*means[reference])})"
    sentences = []
    if verdicts.isin([judged.HIGHER, judged.LOWER, judged.NOT_SEPARABLE]).any():
        counted = [
            f"{(verdicts == verdict).sum()} {text}"
            for verdict, text in [
                (judged.HIGHER, "higher"),
                (judged.LOWER, "lower"),
                (judged.NOT_SEPARABLE, "not separable"),
            ]
            if (verdicts == verdict).any()
        ]
        of_arms = f"of {len(verdicts)} arm{'s' * (len(verdicts) > 1)}"
        how = (
            "on this one training run" if is_conditional(rows) else "each by its own 95 % interval"
        )
        sentences.append(f"Compared with {measured}, {how}, {of_arms}: {', '.join(counted)}.")
    else:
        sentences.append(f"Against {measured} no interval can be given.")
    return sentences


def _directed(rows: pd.DataFrame) -> pd.Series:
    """Verdicts in which those on one training run are as those over seeds: for counting, where it is said which they are."""
    ends = rows["estimate"].gt(0).map({True: judged.HIGHER, False: judged.LOWER})
    plain = rows["verdict"].replace(judged.NOT_SEPARABLE_ON_RUN, judged.NOT_SEPARABLE)
    return plain.mask(plain == judged.SEPARABLE_ON_RUN, ends)


def _ranking(results: Results) -> list[str]:
    ranking = judged.rank(results, list(results.arms))
    if ranking is None:
        return []
    cells = results.cells(results.headline)
    n, planned = int(cells[ranking.best].count()), len(cells)
    best = f"`{ranking.best}` ({value(*cells[ranking.best].agg(['mean', 'std']))}{f', {n} of {planned} seeds' * (n < planned)})"
    mean = (
        label(results.headline)
        if planned == 1
        else f"mean{', adjusted for the seeds that arms lack' * ranking.is_adjusted}"
    )
    tied_with_all = len(ranking.rivals) == cells[list(results.arms)].notna().any().sum() - 1
    rivals = "any other" if tied_with_all else listed([f"`{arm}`" for arm in ranking.rivals])
    separable = (
        f"is not separable from {rivals}"
        if ranking.rivals
        else "is separable from all others that finished"
    )
    if planned == 1:
        over_images = f"; on this one training run, over test images, it {separable}" * bool(
            results.hits
        )
        sentences = [f"One seed can call no arm the best: {best} has the best {mean}{over_images}."]
    elif ranking.rivals:
        sentences = [f"No arm can be called the best: {best} has the best {mean}, but {separable}."]
    else:
        sentences = [f"The best arm is {best}, separable from all others that finished."]
    strongest = judged.rank(results, results.baselines)
    if strongest is not None and strongest.best != results.manifest.reference:
        difference = judged.minus_others(results, ranking.best, [strongest.best])[0]
        size = effect(difference.mean, difference.low, difference.high)
        sentences.append(
            f"Its difference to the baseline with the best {mean}, `{strongest.best}`, is {size}."
        )
    return sentences


def _baselines(results: Results) -> list[str]:
    """Of a grid without arms: what was measured."""
    cells = results.cells(results.headline)
    measured = [
        f"`{name}` {value(*cells[name].agg(['mean', 'std']))}"
        for name in results.baselines
        if cells[name].notna().any()
    ]
    return [f"{label(results.headline).capitalize()} of the baselines: {listed(measured)}."]


def _power(results: Results, rows: pd.DataFrame) -> list[str]:
    found = detectable(rows)
    if not found.n_seeds:
        return []
    size = f"{found.pooled:.2g}{points(results.headline)}"
    spread = " (by the spread pooled over these effects)" * (len(rows) > 1)
    return [
        f"With {found.n_seeds} seeds, an effect smaller than {size}{spread} had less than an 80 % chance to be found."
    ]


def _counts(states: pd.Series) -> str:
    return ", ".join(f"{n} {state.lower()}" for state, n in states.sort_index().items())


def _n_seeds(rows: pd.DataFrame) -> str:
    ns = sorted({n for n in rows["n_seeds"] if n > 1})
    return f"Over {' to '.join(map(str, ns[:: len(ns) - 1 or 1]))} seeds, " if ns else ""


def _size(row: tuple) -> str:
    """The size of an effect whose direction the verb has told."""
    bounds = (row.low, row.high) if row.estimate > 0 else (-row.high, -row.low)
    return effect(abs(row.estimate), *bounds).lstrip("+")


def _with_effects(rows: pd.DataFrame, verdict: str) -> list[str]:
    found = rows[rows["verdict"] == verdict]
    return [
        f"`{row.effect}` ({effect(row.estimate, row.low, row.high)})" for row in found.itertuples()
    ]
