"""What n seeds can find: against statsmodels, closed forms and simulated studies; and what `ablate plan` says of it."""

from dataclasses import replace

import numpy as np
import pytest
from fabricate import FACTORS, study
from scipy import stats
from statsmodels.stats.power import TTestPower

from ablation.analysis.power import GUESS, Spread, family, measured_spread, told
from ablation.analysis.results import load
from ablation.analysis.sequential import needed_seeds
from ablation.analysis.statistics import paired_difference, power_of, smallest_detectable
from ablation.grid.design import Factor, Level, arms

TEXT = ("test/top1", "digits-lt")


@pytest.mark.parametrize(
    "n, effect_size", [(3, 0.1), (3, 2.0), (5, 0.7), (20, 0.1), (20, 0.7), (100, 0.3)]
)  # it has NaN beyond
def test_power_is_that_of_statsmodels(n, effect_size):
    assert power_of(effect_size, n) == pytest.approx(
        TTestPower().power(effect_size, n, 0.05), abs=1e-6
    )


def test_power_is_that_of_the_noncentral_f_up_to_certainty():
    cases = [(n, d) for n in (2, 3, 20, 646, 10_000) for d in np.geomspace(1e-3, 1e3, 61)]
    expected = [stats.ncf.sf(stats.t.ppf(0.995, n - 1) ** 2, 1, n - 1, n * d**2) for n, d in cases]
    assert [power_of(d, n, 0.01) for n, d in cases] == pytest.approx(expected, abs=1e-9)
    assert np.isnan([power_of(np.nan, 5), power_of(1.0, 5, np.nan)]).all()


@pytest.mark.parametrize("n, alpha", [(2, 0.05), (3, 0.05 / 6), (5, 0.05), (8, 0.05 / 28)])
def test_the_smallest_detectable_difference_is_found_in_80_percent_of_simulated_studies(n, alpha):
    size = smallest_detectable(2.0, n, alpha=alpha)
    differences = np.random.default_rng(n).normal(size, 2.0, (20_000, n))
    found = stats.ttest_1samp(differences, 0.0, axis=1).pvalue < alpha
    assert found.mean() == pytest.approx(0.8, abs=4 * np.sqrt(0.8 * 0.2 / 20_000))


@pytest.mark.parametrize("n_tests", [1, 6, 28, 300])
def test_two_seeds_have_a_closed_form_and_no_correction_is_too_strict_for_the_solver(n_tests):
    alpha = 0.05 / n_tests
    size = smallest_detectable(1.0, 2, alpha=alpha) * np.sqrt(2)
    critical = np.tan(np.pi / 2 * (1 - alpha))  # Student's t of one degree of freedom is Cauchy's
    z = np.linspace(
        0, 10, 200_001
    )  # |difference| must exceed critical times an estimate |z| of its deviation
    found = stats.norm.cdf(size - critical * z) + stats.norm.cdf(-size - critical * z)
    assert np.trapezoid(2 * stats.norm.pdf(z) * found, z) == pytest.approx(0.8, abs=1e-3)


def test_with_many_seeds_it_is_that_of_the_normal_distribution():
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / np.sqrt(5000)
    assert smallest_detectable(1.0, 5000) == pytest.approx(expected, rel=1e-3)


def test_it_scales_with_the_deviation_and_shrinks_with_seeds():
    assert smallest_detectable(3.0, 4) == pytest.approx(3 * smallest_detectable(1.0, 4))
    sizes = [smallest_detectable(1.0, n) for n in range(2, 12)]
    assert sizes == sorted(sizes, reverse=True)


def test_the_spread_is_that_of_the_differences_to_the_reference(tmp_path):
    folder = study(tmp_path / "fixes", seeds=range(4))
    cells = load(folder).cells("test/top1")
    sds = [paired_difference(cells[arm], cells["ldmlr"]).sd for arm in cells if arm != "ldmlr"]
    found = measured_spread(tmp_path, *reversed(TEXT))
    assert found.sd == pytest.approx(np.sqrt(np.mean(np.square(sds))))
    assert found[1:] == ("fixes", "ldmlr", 11 * 3)


def test_seeds_that_lack_a_side_and_arms_that_agree_to_the_bit_tell_nothing(tmp_path):
    failed = {"ce--s0": "FAILED", "reference--s1": "WAITING"}
    one = {"lr_split": FACTORS["lr_split"]}
    folder = study(
        tmp_path / "fixes",
        factors=one,
        baselines=["ce", "ldmlr"],
        seeds=range(4),
        state=lambda s: failed.get(s.trial, "COMPLETE"),
    )
    for seed in range(4):
        copied = folder.outcome(f"ldmlr--s{seed}")
        folder.write_outcome(f"lr_split--s{seed}", replace(copied, key=f"key-lr_split-{seed}"))
    cells = load(folder).cells("test/top1")
    variances = [
        paired_difference(cells[arm], cells["ldmlr"]).sd ** 2 for arm in ("ce", "reference")
    ]
    found = measured_spread(tmp_path, *reversed(TEXT))
    assert (found.sd, found.n) == (pytest.approx(np.sqrt(np.mean(variances))), 4)


@pytest.mark.parametrize(
    "options",
    [{"baselines": []}, {"state": lambda s: "FAILED" if s.arm == "ldmlr" else "COMPLETE"}],
)
def test_without_a_measured_baseline_the_first_arm_is_the_reference(tmp_path, options):
    study(tmp_path / "fixes", **options)
    assert measured_spread(tmp_path, *reversed(TEXT)).reference == "reference"


@pytest.mark.parametrize(
    "what",
    [
        {"experiment": "cifar10"},
        {"metric": {"name": "test/few", "goal": "maximize"}},
        {"seeds": [0]},
        {"noise": 0.0},
        {"state": lambda spec: "WAITING"},
    ],
)
def test_studies_of_other_experiments_or_without_spread_tell_nothing(tmp_path, what):
    study(tmp_path / "other", **what)
    found = measured_spread(tmp_path, *reversed(TEXT))
    assert found is None or found.sd < 1e-12


def test_the_study_that_tells_most_is_taken_and_a_broken_one_passed_over(tmp_path):
    study(tmp_path / "small", seeds=range(2), study="small")
    assert measured_spread(tmp_path, *reversed(TEXT)).study == "small"
    study(tmp_path / "large", seeds=range(3), study="large")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text('{"study": "of another version"}')
    assert measured_spread(tmp_path, *reversed(TEXT)).study == "large"
    assert measured_spread(tmp_path / "nowhere", *reversed(TEXT)) is None


def test_the_plan_says_what_the_seeds_can_find_and_from_which_study():
    text = "\n".join(told(3, 6, 4, Spread(0.8, "fixes", "ldmlr", 22), *TEXT))
    assert f"3 seeds find a difference of {smallest_detectable(0.8, 3):.2g} points" in text
    assert (
        f"of {smallest_detectable(0.8, 3, alpha=0.05 / 6):.2g} points at the first step of Holm's correction over 6 tests"
        in text
    )
    assert (
        "0.8 points" in text
        and "as measured in study fixes (differences to ldmlr, 22 degrees of freedom)" in text
    )
    assert "the mean of 4 such differences: 0.5 times" in text
    assert f"{needed_seeds(1.0, 0.8, 0.05)} seeds would find 1 point" in text
    assert "test of 3 seeds can reach is 0.25: it is never below 0.05" in text


def test_a_guess_is_called_one_and_enough_seeds_are_not_asked_for_more():
    text = "\n".join(told(30, 1, 1, GUESS, *TEXT))
    assert (
        "a guess of 1 point" in text
        and "scale linearly" in text
        and "lack of a finished study of digits-lt" in text
    )
    assert (
        "would find" not in text
        and "Holm" not in text
        and "main effect" not in text
        and "never" not in text
    )


def test_one_seed_is_told_what_it_lacks():
    text = "\n".join(told(1, 6, 4, GUESS, *TEXT))
    assert "one seed gives no interval over seeds" in text and "at least two are needed" in text
    assert f"{needed_seeds(1.0, 1.0, 0.05)} seeds would find 1 point" in text
    assert "conditional on that one training run" in text and "nan" not in text
    assert told(2, 6, 4, GUESS, *TEXT)[0].startswith("power: 2 seeds find")


def test_a_metric_without_points_has_none():
    assert "point" not in "\n".join(
        [*told(3, 6, 4, GUESS, "loss", "x"), *told(1, 6, 4, GUESS, "loss", "x")]
    )


def test_the_family_is_the_main_effects_and_interactions_of_the_design():
    class Variant:
        def __init__(self, arm):
            self.name, self.kind, self.levels = arm.name, "arm", arm.levels

    factors = [Factor(name, (Level("off", {}), Level("on", {}))) for name in "abc"]

    class Study:
        def __init__(self, design):
            self.grid = type("Grid", (), {"factors": factors})
            self.variants = [Variant(arm) for arm in arms(factors, [design])]

    assert family(Study("factorial")) == (6, 4)
    assert family(Study("leave-one-out")) == (3, 1)
