"""What is claimed of error rates and coverage, held against many simulated studies, and against other implementations."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fabricate import FACTORS, arm_name, study
from scipy import special, stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import AnovaRM

from ablation.analysis import effects as judged
from ablation.analysis.claims import judge_claims
from ablation.analysis.contrasts import interactions, main_effects
from ablation.analysis.effects import judge
from ablation.analysis.results import Results, load
from ablation.analysis.statistics import contrast, holm, paired_difference
from ablation.reporting.verdict import verdict
from ablation.storage.runs import Manifest, TrialSpec

LEVELS = {factor: ("off", "on") for factor in FACTORS}
CELLS = [dict(zip(LEVELS, levels)) for levels in itertools.product(*LEVELS.values())]
ARMS = {arm_name(levels): levels for levels in CELLS}
FAMILY = [*main_effects(ARMS, LEVELS), *interactions(ARMS, LEVELS)]
WEIGHTS = np.stack([one.weights(dict.fromkeys(ARMS, 5)) for one in FAMILY])  # (6, 8)
N_SEEDS = 5


def within(share, n, truth):
    """Whether a share of n is `truth` up to Monte Carlo error, three standard errors."""
    return abs(share - truth) <= 3 * np.sqrt(truth * (1 - truth) / n)


def cells_of(n_studies, seed, truth=0.0):
    """(n_studies, seeds, arms) top-1: what seeds share (sd 2), what arms do not (sd 0.6), and the arms' true values."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(65, 2, (n_studies, N_SEEDS, 1))
    return truth + shared + rng.normal(0, 0.6, (n_studies, N_SEEDS, len(ARMS)))


def results_of(cells):
    """A finished study of these cells (seeds, arms), without a file."""
    trials, rows = [], []
    for (seed, own), (arm, levels) in itertools.product(enumerate(cells), ARMS.items()):
        trials.append(TrialSpec(f"{arm}--s{seed}", arm, "arm", levels, seed, "", {}, 1, 1, 0))
        rows.append(
            {
                "trial": trials[-1].trial,
                "arm": arm,
                "seed": seed,
                "state": "COMPLETE",
                **levels,
                "test/top1": own[list(ARMS).index(arm)],
                "epochs_trained": 1,
            }
        )
    manifest = Manifest(
        study="simulated", experiment="none", title="", question="", dataset="", design=["factorial"], metric={"name": "test/top1", "goal": "maximize"},
        factors={factor: {level: {} for level in levels} for factor, levels in LEVELS.items()}, seeds=list(range(len(cells))), baselines=[], reference=None,
        claims=[], trials=trials, published=[], facts={}, provenance={},
    )  # fmt: skip
    empty = pd.DataFrame()
    return Results(manifest, pd.DataFrame(rows), empty, empty, {}, lambda trial: None)


def family_of(cells):
    """The rows of Holm's family from `judge`, by name."""
    rows = judge(results_of(cells))
    return rows[rows["kind"].isin(["main", "interaction"])].set_index("effect")


def p_values(cells):
    """(n_studies, 6) uncorrected, by SciPy, of the contrasts that `judge` takes. cells: (n_studies, seeds, arms)"""
    return stats.ttest_1samp(cells @ WEIGHTS.T, 0.0, axis=1).pvalue


def any_found(p):
    """(n_studies,) bool: whether a study finds anything after Holm's correction. p: (n_studies, 6)"""
    candidates = p.min(axis=1) < judged.ALPHA  # the correction only makes p larger
    return np.array(
        [
            candidate and bool((holm(row) < judged.ALPHA).any())
            for row, candidate in zip(p, candidates)
        ]
    )


def test_ten_thousand_null_studies_keep_the_family_wise_error_at_5_percent():
    n = 10_000
    p = p_values(cells_of(n, seed=1))
    error = any_found(p).mean()
    assert error <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)
    assert error > 0.04  # nor is it thrown away
    assert (p.min(axis=1) < 0.05).mean() > 0.2  # what no correction would do


@pytest.mark.parametrize("n, seed", [(25, 2), pytest.param(400, 3, marks=pytest.mark.slow)])
def test_judge_finds_what_the_simulation_of_null_studies_finds(n, seed):
    cells = cells_of(n, seed)
    found = []
    for study_cells, p in zip(cells, p_values(cells)):
        rows = family_of(study_cells)
        assert rows["p"].to_numpy() == pytest.approx(p)
        found.append(rows["verdict"].isin([judged.HIGHER, judged.LOWER]).any())
    assert found == list(any_found(p_values(cells)))
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)


@pytest.mark.parametrize("n", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_intervals_cover_whatever_the_correlation_of_pairs(n, correlation):
    rng = np.random.default_rng(4)
    pairs = rng.multivariate_normal(
        [71.0, 70.0], 4 * np.array([[1, correlation], [correlation, 1]]), (n, N_SEEDS)
    )
    found = [paired_difference(pair[:, 0], pair[:, 1]) for pair in pairs]
    assert within(np.mean([one.low <= 1 <= one.high for one in found]), n, 0.95)
    shrunk = (
        correlation
        * special.hyp2f1(0.5, 0.5, (N_SEEDS + 1) / 2, correlation**2)
        * special.poch((N_SEEDS - 1) / 2, 0.5) ** 2
        * 2
        / (N_SEEDS - 1)
    )
    assert np.mean([one.correlation for one in found]) == pytest.approx(
        shrunk, abs=3 * 0.5 / np.sqrt(n)
    )  # Hotelling 1953: few seeds pull it to 0
    expected = 2 * np.sqrt(2 * (1 - correlation))  # standard deviation of the differences
    assert np.sqrt(np.mean([one.sd**2 for one in found])) == pytest.approx(
        expected, rel=0.05
    )  # pairing narrows them


def test_intervals_of_main_effects_and_interactions_cover_planted_ones():
    n, truth = 100, np.array([planted(levels) for levels in CELLS])
    expected = WEIGHTS @ truth
    covered, signs = [], []
    for cells in cells_of(n, seed=5, truth=truth):
        found = [contrast(cells, row) for row in WEIGHTS]
        covered += [one.low <= true <= one.high for one, true in zip(found, expected)]
        signs += [
            np.sign(one.mean) == np.sign(true)
            for one, true in zip(found, expected)
            if abs(true) > 1e-9
        ]
    assert within(np.mean(covered), n * len(FAMILY), 0.95)
    assert np.mean(signs) > 0.99


def planted(levels):
    """Two effects of 8 and -2 points, and 3 more where the first two are on together."""
    split, warm, decoupled = (levels[factor] == "on" for factor in LEVELS)
    return 60.0 + 8 * split - 2 * warm + 3 * (split and warm) + 0 * decoupled


def test_a_study_with_planted_effects_gives_them_back(tmp_path):
    rows = (
        judge(load(study(tmp_path, seeds=range(6), top1=planted)))
        .pipe(lambda table: table[table["metric"] == "test/top1"])
        .set_index("effect")
    )
    truth = {
        "lr_split: off -> on": 9.5,
        "warmup: off -> on": -0.5,
        "gradient_decoupling: off -> on": 0.0,
        "lr_split x warmup": 3.0,
        "lr_split x gradient_decoupling": 0.0,
        "lr_split: off -> on at warmup=off": 8.0,
        "lr_split: off -> on at warmup=on": 11.0,
        "warmup: off -> on at lr_split=off": -2.0,
        "warmup: off -> on at lr_split=on": 1.0,
        "lr_split: off -> on (alone)": 8.0,
        "lr_split: off -> on (added last)": 11.0,
        "warmup: off -> on (alone)": -2.0,
        "warmup: off -> on (added last)": 1.0,
    }
    for name, size in truth.items():
        row = rows.loc[name]
        assert row["low"] <= size <= row["high"], name
        assert size == 0 or np.sign(row["estimate"]) == np.sign(size), name
    verdicts = rows.loc[
        [
            "lr_split: off -> on",
            "lr_split x warmup",
            "lr_split: off -> on (alone)",
            "warmup: off -> on at lr_split=off",
        ],
        "verdict",
    ]
    assert list(verdicts) == ["higher", "higher", "higher", "lower"]
    assert rows.loc["gradient_decoupling: off -> on", "verdict"] == judged.NOT_SEPARABLE


@pytest.mark.parametrize("seeds", [[0], range(3)])
def test_arms_that_are_identical_have_no_effect_by_construction(tmp_path, seeds):
    folder = study(tmp_path, seeds=seeds)
    for spec in folder.manifest().trials:
        if spec.kind == "arm" and spec.arm != "reference":
            folder.write_records(spec.trial, folder.records(f"reference--s{spec.seed}"))
            folder.write_outcome(
                spec.trial, replace(folder.outcome(f"reference--s{spec.seed}"), key=spec.key)
            )
    results = load(folder)
    effects = judge(results)
    of_arms = effects[effects["kind"] != "difference"]
    assert set(of_arms["kind"]) == {"main", "interaction", "simple", "add-one-in", "leave-one-out"}
    assert set(of_arms["verdict"]) == {judged.BY_CONSTRUCTION} and (of_arms["estimate"] == 0).all()
    lines = verdict(results, effects, judge_claims(results, effects)).lines
    says = "no effect by construction, the same bits with and without."
    assert lines[1:4] == [f"`{factor}`: {says}" for factor in FACTORS]
    assert " nothing" in lines[0] and "found" not in lines[0].partition(" nothing")[0]


def test_the_family_is_what_repeated_measures_anova_tests():
    cells = cells_of(1, seed=6, truth=np.array([planted(levels) for levels in CELLS]))[0]
    rows = [
        {"seed": seed, "y": cells[seed, i], **levels}
        for seed in range(N_SEEDS)
        for i, levels in enumerate(CELLS)
    ]
    table = pd.DataFrame(rows)
    anova = (
        AnovaRM(table, "y", "seed", within=list(LEVELS)).fit().anova_table
    )  # each effect against its own interaction with seeds
    found = family_of(cells)
    for name, row in found.iterrows():
        expected = anova.loc[name.split(": ")[0].replace(" x ", ":")]
        assert row["p"] == pytest.approx(expected["Pr > F"]), name
        t = row["estimate"] / (row["sd"] / np.sqrt(N_SEEDS))
        assert t**2 == pytest.approx(expected["F Value"]), name
    fit = ols(
        f"y ~ {' * '.join(f'C({factor}, Sum)' for factor in LEVELS)} + C(seed)", table
    ).fit()  # seeds as blocks
    for factor in LEVELS:
        assert found.loc[f"{factor}: off -> on", "estimate"] == pytest.approx(
            -2 * fit.params[f"C({factor}, Sum)[S.off]"]
        )
    for a, b in itertools.combinations(LEVELS, 2):
        assert found.loc[f"{a} x {b}", "estimate"] == pytest.approx(
            4 * fit.params[f"C({a}, Sum)[S.off]:C({b}, Sum)[S.off]"]
        )


def test_pingouin_agrees_on_pairs_and_on_repeated_measures(tmp_path):
    pingouin = pytest.importorskip(
        "pingouin", reason="pingouin, an oracle for tests only, is not installed"
    )
    two = {name: FACTORS[name] for name in ("lr_split", "warmup")}
    folder = study(tmp_path, factors=two, seeds=range(6))
    results = load(folder)
    cells, rows = results.cells("test/top1"), judge(results)
    rows = rows[rows["metric"] == "test/top1"].set_index("effect")
    for arm in ("lr_split", "lr_split+warmup", "ce"):
        table = pingouin.ttest(cells[arm], cells["ldmlr"], paired=True).iloc[0]
        row = rows.loc[f"{arm} - ldmlr"]
        assert row["p"] == pytest.approx(table.filter(regex="^p[-_]val").iloc[0])
        assert row["estimate"] / row["sd"] * np.sqrt(6) == pytest.approx(table["T"])
    trials = results.trials[results.trials["kind"] == "arm"].rename(columns={"test/top1": "top1"})
    anova = pingouin.rm_anova(
        trials, dv="top1", within=["lr_split", "warmup"], subject="seed"
    ).set_index("Source")
    p = anova.filter(regex="^p[-_]unc").iloc[:, 0]
    for name, source in [
        ("lr_split: off -> on", "lr_split"),
        ("warmup: off -> on", "warmup"),
        ("lr_split x warmup", "lr_split * warmup"),
    ]:
        assert rows.loc[name, "p"] == pytest.approx(p[source]), name
