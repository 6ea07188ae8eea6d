"""Error, power and coverage of looks at growing numbers of seeds, against simulated studies and a geometric integral."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from ablation.analysis import sequential
from ablation.analysis.sequential import needed_seeds, repeated_confidence, repeated_p
from ablation.analysis.statistics import (
    Estimate,
    contrast,
    holm,
    margin_p,
    power_of,
    smallest_detectable,
)
from ablation.grid.seeds import SIZES, looks

ALPHA = 0.05
N_STUDIES = 4_000
# claims on six arms that share them: four arms minus the first, and one pair besides
CLAIMS = np.array(
    [
        [-1, 1, 0, 0, 0, 0],
        [-1, 0, 1, 0, 0, 0],
        [-1, 0, 0, 1, 0, 0],
        [-1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, -1, 1],
    ]
)


def error_of(share, n):
    """Three standard errors of a share of n."""
    return 3 * math.sqrt(share * (1 - share) / n)


def differences(n_studies, effects, seed):
    """(n_studies, seeds, claims): paired differences of standard deviation 1; effects: (claims,)."""
    arms = np.random.default_rng(seed).normal(0, math.sqrt(0.5), (n_studies, SIZES[-1], 6))
    return arms @ CLAIMS.T + np.asarray(effects)


def p_values(values, sizes=SIZES, true=0.0):
    """(n_studies, looks, ...): two-sided, of `true`. values: (n_studies, seeds, ...)"""
    return np.stack([stats.ttest_1samp(values[:, :n], true, axis=1).pvalue for n in sizes], axis=1)


def repeated(p, sizes=SIZES, sides=2, planned=SIZES):
    """`repeated_p` of (n_studies, looks, ...), where it can be below ALPHA; else p, which is less."""
    found = p.copy()
    for look, n in enumerate(sizes):
        own = found[:, look]
        may = own < ALPHA
        own[may] = [repeated_p(one, n, planned, sides) for one in own[may]]
    return found


def adjusted(p):
    """Holm's correction along the last axis, as `holm` has it."""
    order = np.argsort(p, axis=-1)
    steps = np.arange(p.shape[-1], 0, -1) * np.take_along_axis(p, order, -1)
    steps = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    found = np.empty_like(p)
    np.put_along_axis(found, order, steps, -1)
    return found


def decided_at(p):
    """(n_studies, claims): at which look each claim was decided, or the number of looks.

    Holm at each look; what is decided stays so and keeps its p. p: (n_studies, looks, claims)
    """
    n_looks = p.shape[1]
    at = np.full((p.shape[0], p.shape[2]), n_looks)
    last = np.ones(at.shape)
    for look in range(n_looks):
        is_open = at == n_looks
        last[is_open] = p[:, look][is_open]
        rejected = adjusted(last) < ALPHA
        assert rejected[~is_open].all()
        at[is_open & rejected] = look
    return at


def seeds_used(at, sizes=SIZES):
    return np.array([*sizes, sizes[-1]])[at]


def test_holm_of_these_tests_is_that_of_the_analysis():
    p = np.random.default_rng(0).uniform(0, 0.1, (20, 5))
    assert adjusted(p) == pytest.approx(np.stack([holm(row) for row in p]))


@pytest.mark.parametrize("effects", [[0, 0, 0, 0, 0], [3, 3, 0, 0, 0]], ids=["none", "two true"])
def test_family_wise_error_is_at_most_5_percent_and_naive_peeking_has_more(effects):
    p = p_values(differences(N_STUDIES, effects, seed=1))
    is_null = np.array(effects) == 0

    def wrong(p):
        return (decided_at(p) < len(SIZES))[:, is_null].any(axis=1).mean()

    allowed = ALPHA + error_of(ALPHA, N_STUDIES)
    assert wrong(repeated(p)) <= allowed
    assert wrong(p) > allowed


@pytest.mark.parametrize("sizes", [SIZES, pytest.param((2, 3, 4), marks=pytest.mark.long), (4, 30)])
def test_error_of_one_claim_is_5_percent_over_all_looks(sizes):
    n_studies = 8_000
    values = np.random.default_rng(2).normal(0, 1, (n_studies, sizes[-1]))
    found = repeated(p_values(values, sizes), sizes, planned=sizes) < ALPHA
    assert found.any(axis=1).mean() == pytest.approx(ALPHA, abs=error_of(ALPHA, n_studies))


@pytest.mark.parametrize(
    "sizes",
    [
        (2, 4, 6, 11, 19),
        *(
            pytest.param(sizes, marks=pytest.mark.long)
            for sizes in [(3, 4, 6, 9, 13), (3, 5, 7, 11, 20)]
        ),
    ],
)
def test_failed_seeds_leave_the_error_at_5_percent(sizes):
    n_studies = 8_000
    values = np.random.default_rng(3).normal(0, 1, (n_studies, SIZES[-1]))
    found = repeated(p_values(values, sizes), sizes) < ALPHA
    assert found.any(axis=1).mean() <= ALPHA + error_of(ALPHA, n_studies)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("p, tolerance", [(0.04, 0.02), (0.004, 0.05)])
def test_repeated_p_is_the_share_of_a_sphere(p, tolerance, sides):
    """Without an effect, three values have a uniform direction, and t depends on nothing else.

    Tolerance: three standard errors of the simulation, and some for the grid.
    """
    sizes = (2, 3)
    # longitude of the first two values, and the third value, which is uniform (Archimedes)
    n_angles, n_thirds = 40_000, 100
    angle = (np.arange(n_angles) + 0.5)[:, None] * 2 * np.pi / n_angles
    third = -1 + (np.arange(n_thirds) + 0.5) * 2 / n_thirds
    first_two = np.cos(angle) + np.sin(angle)
    first_p = stats.ttest_1samp([np.cos(angle), np.sin(angle)], 0, alternative="greater").pvalue
    mean = (first_two * np.sqrt(1 - third**2) + third) / 3
    t = mean / np.sqrt((1 / 3 - mean**2) / 2)
    limits = p * 2 / 3, p
    if sides == 2:
        first_p, t = 2 * np.minimum(first_p, 1 - first_p), np.abs(t)
    rejected = (first_p <= limits[0]) | (t >= stats.t.isf(limits[1] / sides, 2))
    for n, own in zip(sizes, limits):
        assert repeated_p(own, n, sizes, sides) == pytest.approx(rejected.mean(), rel=tolerance)


def test_planted_effects_are_found_with_the_power_of_a_fixed_design_of_three_more_seeds():
    effect = smallest_detectable(1.0, SIZES[-1])
    values = np.random.default_rng(4).normal(effect, 1, (N_STUDIES, SIZES[-1]))
    power = (repeated(p_values(values)) < ALPHA).any(axis=1).mean()
    assert power > power_of(effect, SIZES[-1] - 3) - error_of(0.7, N_STUDIES)
    found = decided_at(repeated(p_values(differences(2_000, [1.5] * 5, seed=5)))) < len(SIZES)
    assert found.mean() > 0.99


def test_large_effects_take_35_percent_fewer_trials_than_a_fixed_design_of_equal_power():
    noise = np.random.default_rng(6).normal(0, 1, (N_STUDIES, SIZES[-1]))

    def at(effect):
        return decided_at(repeated(p_values(noise + effect))[..., None])

    # the same noise at each effect, so that power rises with it
    detectable = optimize.brentq(
        lambda effect: (at(effect) < len(SIZES)).mean() - 0.8, 0.6, 0.85, xtol=0.005
    )
    fixed = needed_seeds(detectable, 1.0, ALPHA)
    # seeds are whole: 18, where 17.2 would do (of these, 34 % are saved)
    assert fixed == 18
    large = at(1.5 * detectable)
    assert (large < len(SIZES)).mean() > 0.98
    assert seeds_used(large).mean() <= 0.65 * fixed


@pytest.mark.parametrize("margin, exact", [(0.5, False), (1.5, True)])
def test_an_effect_at_the_margin_is_called_within_it_in_at_most_5_percent(margin, exact):
    values = np.random.default_rng(7).normal(margin, 1, (N_STUDIES, SIZES[-1]))
    p = np.stack([_margin_p(values[:, :n], margin) for n in SIZES], axis=1)
    within = (repeated(p, sides=1) < ALPHA).any(axis=1).mean()
    error = error_of(ALPHA, N_STUDIES)
    # near margins the other bound is in the way too
    assert ALPHA - error <= within <= ALPHA + error if exact else within <= ALPHA + error


def test_no_effect_is_called_within_a_wide_margin():
    values = np.random.default_rng(8).normal(0, 1, (2_000, SIZES[-1]))
    p = np.stack([_margin_p(values[:, :n], 1.0) for n in SIZES], axis=1)
    assert (repeated(p, sides=1) < ALPHA).any(axis=1).mean() > 0.95


def _margin_p(values, margin):
    """(n_studies,): that of `margin_p` inside the margin, 1 outside; values: (n_studies, n)"""
    n = values.shape[1]
    means, sds = values.mean(axis=1), values.std(axis=1, ddof=1)
    t = (np.abs(means) - margin) / (sds / math.sqrt(n))
    found = np.where(t < 0, stats.t.cdf(t, n - 1), 1.0)
    inside = np.argmax(t < 0)
    nan = math.nan
    one = Estimate(means[inside], nan, nan, nan, n, sds[inside], nan)
    assert found[inside] == pytest.approx(margin_p(one, margin))
    return found


def test_repeated_intervals_hold_the_true_value_at_all_looks_together():
    values = np.random.default_rng(9).normal(3, 2, (N_STUDIES, SIZES[-1]))
    covered = np.ones(N_STUDIES, dtype=bool)
    for n in SIZES:
        own, level = values[:, :n], repeated_confidence(n, SIZES)
        low, high = stats.ttest_1samp(own, 0, axis=1).confidence_interval(level)
        found = contrast(np.stack([own[0], np.zeros(n)], axis=1), [1, -1], level)
        assert (found.low, found.high) == pytest.approx((low[0], high[0]))
        covered &= (low < 3) & (high > 3)
    assert covered.mean() == pytest.approx(0.95, abs=error_of(0.95, N_STUDIES))


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99, 1 - 1e-4, 1 - 1e-9])
@pytest.mark.parametrize("sizes", [SIZES, (3, 20), (7,)])
def test_an_interval_leaves_out_0_exactly_where_the_repeated_p_is_below_the_error(
    sizes, confidence
):
    for n in sizes:
        level = repeated_confidence(n, sizes, confidence)
        for nudge, is_rejected in ((1 - 1e-6, True), (1 + 1e-6, False)):
            p = (1 - level) * nudge
            assert (repeated_p(p, n, sizes) < 1 - confidence) is is_rejected
            # seeds with just this p
            values = np.linspace(-1, 1, n)
            values += stats.t.isf(p / 2, n - 1) * stats.sem(values)
            found = contrast(np.stack([values, np.zeros(n)], axis=1), [1, -1], level)
            assert found.p == pytest.approx(p, rel=1e-8)
            assert (found.low > 0) is is_rejected


@pytest.mark.parametrize("sides", [1, 2])
def test_repeated_p_rises_with_p_and_lies_between_p_and_the_sum_over_looks(sides):
    p = np.concatenate([[0], np.geomspace(1e-12, 1, 2_000)])
    for n in (3, 4, 5, 20):
        found = np.array([repeated_p(one, n, SIZES, sides) for one in p])
        assert (np.diff(found) >= 0).all()
        assert (found >= p).all() and (found <= 1).all()
        planned = min(size for size in SIZES if size >= n)
        assert (found <= p * sum(SIZES) / planned * (1 + 1e-12)).all()
    earlier = [repeated_p(0.01, n, SIZES, sides) for n in SIZES]
    assert earlier == sorted(earlier, reverse=True)


def test_a_single_look_is_the_t_test_itself():
    assert repeated_p(0.03, 5, (5,)) == repeated_p(0.03, 5, (5,), sides=1) == 0.03
    assert repeated_confidence(5, (5,)) == pytest.approx(0.95)


def test_what_has_no_p_has_no_repeated_p():
    assert math.isnan(repeated_p(math.nan, 3, SIZES))
    assert math.isnan(repeated_p(math.nan, 1, SIZES, sides=1))


def test_a_number_of_seeds_between_looks_counts_as_the_next_and_one_beyond_is_an_error():
    assert repeated_p(0.01, 4, SIZES) == repeated_p(0.01, 5, SIZES) < repeated_p(0.01, 3, SIZES)
    assert repeated_confidence(2, SIZES) == repeated_confidence(3, SIZES)
    for call in (lambda: repeated_p(0.01, 21, SIZES), lambda: repeated_confidence(21, SIZES)):
        with pytest.raises(ValueError, match="21 seeds"):
            call()


@pytest.mark.parametrize(
    "start, most, sizes, expected",
    [
        (3, 20, None, (3, 5, 8, 12, 20)),
        (4, 10, None, (4, 5, 8, 10)),
        (3, 50, None, (3, 5, 8, 12, 20, 50)),
        (6, 6, None, (6,)),
        (2, 9, (7, 4, 9, 11, 2, 4), (2, 4, 7, 9)),
        (2, 9, (), (2, 9)),
    ],
)
def test_looks_begin_at_the_start_and_end_at_the_most(start, most, sizes, expected):
    assert looks(start, most, sizes) == expected


@pytest.mark.parametrize("start, most", [(1, 5), (0, 5), (5, 4)])
def test_looks_need_two_seeds_and_a_most_above_the_start(start, most):
    with pytest.raises(ValueError, match="2 <= start <= most"):
        looks(start, most)


@pytest.mark.parametrize("effect, sd, alpha", [(1.0, 2.0, 0.05), (-3.0, 2.0, 0.01), (9, 1, 0.05)])
def test_needed_seeds_are_the_fewest(effect, sd, alpha, monkeypatch):
    n = needed_seeds(effect, sd, alpha)
    assert power_of(effect / sd, n, alpha) >= 0.8
    assert n == 2 or power_of(effect / sd, n - 1, alpha) < 0.8
    assert needed_seeds(effect, sd, alpha, least=n + 1) == n + 1
    monkeypatch.setattr(sequential, "MOST_SEEDS", n)
    assert needed_seeds(effect, sd, alpha) == n
    monkeypatch.setattr(sequential, "MOST_SEEDS", n - 1)
    assert needed_seeds(effect, sd, alpha) is None


@pytest.mark.parametrize(
    "effect, sd", [(0, 1), (1, 0), (math.nan, 1), (1, math.nan), (1e-6, 1), (1, -1)]
)
def test_needed_seeds_are_none_where_not_defined_or_too_many(effect, sd):
    assert needed_seeds(effect, sd, 0.05) is None


def test_an_effect_that_dwarfs_the_spread_needs_two_seeds():
    assert needed_seeds(100.0, 1.0, 0.05) == 2
