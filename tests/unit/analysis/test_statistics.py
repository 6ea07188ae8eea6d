"""Statistics against independent implementations, closed forms, and what must hold of any interval."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

from ablation.analysis.statistics import (
    adjusted_means,
    contrast,
    holm,
    margin_p,
    paired_difference,
    smallest_detectable,
    smallest_permutation_p,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_paired_difference_is_scipys_paired_t_test(rng):
    control = rng.normal(70, 2, 6)
    treated = control + rng.normal(1, 0.5, 6)
    found, expected = paired_difference(treated, control), stats.ttest_rel(treated, control)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert (found.mean, found.n) == (pytest.approx((treated - control).mean()), 6)
    assert found.sd == pytest.approx((treated - control).std(ddof=1))
    assert found.correlation == pytest.approx(np.corrcoef(treated, control)[0, 1])


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_correlation_needs_three_seeds(rng, n):
    treated, control = rng.normal(70, 1, (2, n))
    expected = np.nan if n < 3 else np.corrcoef(treated, control)[0, 1]
    found = paired_difference(treated, control).correlation
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("apart", [0.0, 0.5, 0.9, 1.1, 1.5, 3.0])
def test_the_p_of_a_margin_is_of_scipys_t_tests(rng, apart, sign):
    """Two one-sided tests within a margin of 1, a two-sided one beyond it."""
    values = rng.normal(0, 1, 5)
    values += sign * apart - values.mean()
    if apart < 1:
        above = stats.ttest_1samp(values, -1, alternative="greater").pvalue
        expected = max(above, stats.ttest_1samp(values, 1, alternative="less").pvalue)
    else:
        expected = stats.ttest_1samp(values, sign).pvalue
    assert margin_p(contrast(values[:, None], [1]), 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[0.2], [0.2, 0.2, 0.2]])
def test_a_margin_has_no_p_where_there_is_no_interval(values):
    assert np.isnan(margin_p(contrast(np.array(values)[:, None], [1]), 1.0))


def test_adjusted_means_are_those_of_least_squares_at_the_average_seed(rng):
    cells = rng.normal(70, 1, (4, 3)) + np.array([[0.0], [0.0], [0.0], [-30.0]])
    assert adjusted_means(cells) == pytest.approx(cells.mean(axis=0))
    cells[3, 1] = cells[0, 2] = np.nan
    table = pd.DataFrame(
        [
            {"y": cells[s, c], "seed": s, "cell": c}
            for s, c in np.ndindex(4, 3)
            if np.isfinite(cells[s, c])
        ]
    )
    fit = ols("y ~ C(cell) + C(seed)", table).fit()
    expected = [fit.predict(pd.DataFrame({"cell": c, "seed": range(4)})).mean() for c in range(3)]
    assert adjusted_means(cells) == pytest.approx(expected)
    assert abs(np.nanmean(cells[:, 1]) - expected[1]) > 5


def test_paired_difference_agrees_with_pingouin(rng):
    pingouin = pytest.importorskip(
        "pingouin", reason="pingouin, an oracle for tests only, is not installed"
    )
    treated, control = rng.normal(71, 1, 8), rng.normal(70, 1, 8)
    found, table = (
        paired_difference(treated, control),
        pingouin.ttest(treated, control, paired=True).iloc[0],
    )
    assert found.p == pytest.approx(table.filter(regex="^p[-_]val").iloc[0])
    interval = table.filter(regex="^CI95").iloc[0]
    assert (found.low, found.high) == pytest.approx(
        tuple(interval), abs=0.005
    )  # pingouin rounds to 2 decimals


def test_what_seeds_share_cancels(rng):
    control, treated, shift = rng.normal(0, 1, (3, 5))
    before, after = (
        paired_difference(treated, control),
        paired_difference(treated + 50 * shift, control + 50 * shift),
    )
    assert after[:4] == pytest.approx(before[:4])
    assert after.correlation > 0.99


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_brackets_the_estimate_and_widens_with_confidence(rng, n):
    treated, control = rng.normal(0, 1, (2, n))
    found, wider = (
        paired_difference(treated, control),
        paired_difference(treated, control, confidence=0.99),
    )
    assert wider.low < found.low < found.mean < found.high < wider.high


def test_interval_covers_the_truth_at_its_confidence(rng):
    covered = 0
    for sample in rng.normal(3.0, 1.0, (1000, 4)):
        found = paired_difference(sample, np.zeros(4))
        covered += found.low <= 3.0 <= found.high
    assert covered / 1000 == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 1000))


def test_one_seed_gives_a_difference_and_no_certainty():
    found = paired_difference([72.0], [70.0])
    assert (found.mean, found.n) == (2.0, 1)
    assert np.isnan([found.low, found.high, found.p, found.sd]).all()


@pytest.mark.parametrize("control", [[70.0, 71.0, 72.0], [70.1, 71.3, 72.7]])
def test_seeds_that_agree_exactly_give_no_false_certainty(control):
    found = paired_difference(np.array(control) + 0.1, control)  # equal but for rounding
    assert found.mean == pytest.approx(0.1)
    assert (found.n, found.sd) == (3, 0.0)
    assert np.isnan([found.low, found.high, found.p]).all()


@pytest.mark.parametrize("n", [1, 3])
def test_arms_that_are_equal_but_for_rounding_differ_by_0(n):
    rounding = 0.1 + 0.2 - 0.3
    assert contrast(np.array([[0.3 + rounding, 0.3]] * n), [1.0, -1.0]).mean == 0.0


@pytest.mark.parametrize("scale", [1e-3, 0.9, 70.0])
@pytest.mark.parametrize("weights, null", [([1.0, -1.0], 0.0), ([1.0, 0.0], 0.999)])
def test_the_rounding_of_float32_is_no_spread(scale, weights, null):
    """Of code that ignores the seed and sums in another order each time."""
    end = np.float32(scale)
    seeds = [end, np.nextafter(end, np.float32(np.inf)), end]
    found = contrast(np.array([seeds, [end / 2] * 3]).T, weights, null=null * scale)
    assert (found.n, found.sd) == (3, 0.0) and np.isnan([found.low, found.high, found.p]).all()


def test_a_mean_is_tested_against_a_number_as_scipy_does(rng):
    cells = rng.normal(70, 1, (5, 1))
    found, expected = contrast(cells, [1.0], null=69.0), stats.ttest_1samp(cells[:, 0], 69.0)
    assert found.p == pytest.approx(expected.pvalue)
    assert found[:3] == pytest.approx([cells.mean(), *expected.confidence_interval()])


def test_a_small_scale_is_not_mistaken_for_no_spread():
    found = paired_difference([1e-6, 2e-6, 4e-6], [0.0, 0.0, 0.0])
    assert found.low < found.mean < found.high


def test_seeds_without_every_cell_are_left_out(rng):
    cells = rng.normal(70, 1, (5, 3))
    holed = cells.copy()
    holed[1, 0], holed[2, 2] = np.nan, np.nan
    found = contrast(holed, [1, -1, 0])  # the third cell plays no part, so neither does its hole
    assert found == contrast(np.delete(cells, 1, axis=0), [1, -1, 0])
    assert contrast(np.full((3, 2), np.nan), [1, -1]).n == 0


def test_cells_and_weights_must_fit():
    with pytest.raises(ValueError, match="n_seeds, n_cells"):
        contrast(np.zeros((3, 2)), [1, -1, 0])


def test_factorial_contrasts_agree_with_repeated_measures_anova(rng):
    pd = pytest.importorskip("pandas")
    cells = rng.normal(70, 1, (6, 4)) + np.array([0, 1, 3, 5])  # (a, b): 00 01 10 11
    rows = [
        (s, a, b, cells[s, 2 * a + b])
        for s, a, b in itertools.product(range(6), range(2), range(2))
    ]
    table = pd.DataFrame(rows, columns=["seed", "a", "b", "y"])
    anova = AnovaRM(table, "y", "seed", within=["a", "b"]).fit().anova_table
    for weights, row in [
        ([-0.5, -0.5, 0.5, 0.5], "a"),
        ([-0.5, 0.5, -0.5, 0.5], "b"),
        ([1, -1, -1, 1], "a:b"),
    ]:
        assert contrast(cells, weights).p == pytest.approx(anova.loc[row, "Pr > F"])
    fit = ols("y ~ a * b + C(seed)", table).fit()
    assert contrast(cells, [1, -1, -1, 1]).mean == pytest.approx(fit.params["a:b"])


def test_holm_is_its_closed_form():
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_holm_has_the_bits_of_statsmodels(n):
    p_values = np.random.default_rng(n).random(n) ** 3
    p_values[: n // 3] = p_values[n // 3]
    np.testing.assert_array_equal(holm(p_values), multipletests(p_values, method="holm")[1])


def test_holm_keeps_the_place_of_a_test_without_p_value():
    assert holm([0.01, np.nan, 0.02]) == pytest.approx([0.03, np.nan, 0.04], nan_ok=True)
    assert holm([]).size == 0


@pytest.mark.parametrize("n", [1, 3, 6])
def test_smallest_permutation_p_is_what_enumeration_finds(n):
    differences = np.arange(1.0, n + 1)  # all of one sign: the most extreme there is
    flipped = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=n)]
    assert smallest_permutation_p(n) == np.mean(np.array(flipped) >= differences.sum())


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_smallest_detectable_difference_is_found_with_80_percent_power(n):
    noncentrality = smallest_detectable(sd=2.0, n=n) / 2.0 * np.sqrt(n)
    critical = stats.t.ppf(0.975, n - 1)
    # the second by symmetry: SciPy's `nct.cdf` is NaN there for most noncentralities at n = 2
    above = stats.nct.sf(critical, n - 1, noncentrality)
    power = above + stats.nct.sf(critical, n - 1, -noncentrality)
    assert power == pytest.approx(0.8, abs=1e-3)


def test_smallest_detectable_difference_is_undefined_without_spread():
    assert np.isnan(
        [smallest_detectable(2.0, 1), smallest_detectable(0.0, 3), smallest_detectable(np.nan, 3)]
    ).all()
