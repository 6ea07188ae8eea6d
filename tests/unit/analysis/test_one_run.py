"""One seed: intervals over test images, said to be of that one training run, from what the trials recorded."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fabricate import FACTORS, N_TEST, better, study, with_hits
from scipy import stats
from tiny_trials import JOINT, STAGED, chain, run_on_shared_epochs

from ablation.analysis import effects as judged
from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import difference_over_images, is_conditional, judge, unpacked
from ablation.analysis.results import load
from ablation.analysis.statistics import image_bootstrap
from ablation.reporting.report import render
from ablation.reporting.verdict import verdict
from ablation.storage.runs import outcome_of

ONE = {"lr_split": FACTORS["lr_split"]}
ON_RUN = {judged.SEPARABLE_ON_RUN, judged.NOT_SEPARABLE_ON_RUN}


def rows_of(folder, metric="test/top1"):
    effects = judge(load(folder))
    return effects[effects["metric"] == metric].set_index("effect")


def hits_of(folder, arm, seed=0):
    return unpacked(folder.outcome(f"{arm}--s{seed}").hits)


def limits_of(results):
    effects = judge(results)
    return render(results, effects, judge_claims(results, effects), []).partition("## Limits")[2]


def said_of(results):
    effects = judge(results)
    return " ".join(verdict(results, effects, judge_claims(results, effects)).lines)


def test_top1_intervals_are_scipys_paired_bootstrap(tmp_path):
    folder = with_hits(study(tmp_path, factors=ONE, seeds=[0]), better)
    row = rows_of(folder).loc["lr_split: off -> on"]
    treated, control = (
        100.0 * np.concatenate(hits_of(folder, arm)) for arm in ("lr_split", "reference")
    )
    expected = stats.bootstrap(
        (treated, control),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=9_999,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx(
        tuple(expected), abs=0.5
    )  # two draws of 9,999; the width is 10
    assert row["low"] < row["estimate"] < row["high"] and row["estimate"] == pytest.approx(
        (treated - control).mean()
    )
    unpaired = stats.bootstrap(
        (treated, control),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        vectorized=True,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert row["high"] - row["low"] < 0.9 * (unpaired.high - unpaired.low)


def test_intervals_of_effects_that_the_answer_is_made_of_hold_together(tmp_path):
    two = {**ONE, "warmup": FACTORS["warmup"]}
    folder = with_hits(study(tmp_path, factors=two, seeds=[0]), better)
    results = load(folder)
    rows = rows_of(folder)
    arms = ["lr_split", "reference", "lr_split+warmup", "warmup"]
    hits = np.stack([np.concatenate(hits_of(folder, arm)) for arm in arms], axis=1)
    weights = np.array([[0.5, -0.5, 0.5, -0.5]])
    told = [100 * image_bootstrap([hits], weights, share)[0] for share in (0.95, 1 - 0.05 / 3)]
    row = rows.loc["lr_split: off -> on"]
    assert (row["low"], row["high"]) == pytest.approx(told[1])
    assert row["low"] < told[0][0] and told[0][1] < row["high"]
    text = render(results, judge(results), judge_claims(results, judge(results)), [])
    assert "points [95 % together]" in text
    assert "those of the 3 main effects and interactions hold together" in text


def test_arms_are_compared_with_the_baseline_by_corrected_intervals_in_the_sentence(tmp_path):
    """Of four arms, one lies as far from the baseline as one comparison finds, and not four."""
    two = {**ONE, "warmup": FACTORS["warmup"]}
    folder = study(tmp_path, factors=two, seeds=[0], baselines=["ldmlr"])
    found = set()
    for share in np.linspace(0.5, 0.6, 21):
        with_hits(folder, lambda arm, share=share: share if arm == "lr_split" else 0.5)
        said = said_of(load(folder))
        is_own = "one better" in said
        is_corrected = "one of four arms is better than" in said
        assert ("none by corrected ones" in said) == (is_own and not is_corrected)
        found.add((is_own, is_corrected))
    assert (True, False) in found and (True, True) in found


def test_balanced_accuracy_is_resampled_within_classes(tmp_path):
    folder = with_hits(study(tmp_path, factors=ONE, seeds=[0]), better)
    row = rows_of(folder, "test/balanced_accuracy").loc["lr_split: off -> on"]
    pairs = zip(hits_of(folder, "lr_split"), hits_of(folder, "reference"))
    variances = [np.var(100.0 * a - 100.0 * b) / len(a) for a, b in pairs]
    half = stats.norm.ppf(0.975) * np.sqrt(np.sum(variances)) / len(N_TEST)
    assert (row["low"], row["high"]) == pytest.approx(
        (row["estimate"] - half, row["estimate"] + half), abs=0.6
    )
    assert row["estimate"] != pytest.approx(
        rows_of(folder).loc["lr_split: off -> on", "estimate"], abs=1e-6
    )


@pytest.mark.parametrize("n", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_intervals_cover_what_more_images_would_show(n):
    rng, covered = np.random.default_rng(0), []
    for _ in range(n):
        hard = rng.random(100)
        hits = np.stack([hard < 0.6, 0.7 * hard + 0.3 * rng.random(100) < 0.5], axis=1)
        low, high = image_bootstrap([hits], np.array([[1.0, -1.0]]))[0]
        covered.append(low <= 0.1 <= high)  # 0.6 - 0.5
    assert np.mean(covered) == pytest.approx(
        0.95, abs=0.01 + 3 * np.sqrt(0.95 * 0.05 / n)
    )  # a percentile interval of 100 images


def test_interactions_take_all_four_arms_of_the_same_images():
    rng = np.random.default_rng(0)
    hits, weights = rng.random((400, 4)) < [0.5, 0.6, 0.6, 0.9], np.array([[1.0, -1.0, -1.0, 1.0]])
    values = hits @ weights[0]
    half = stats.norm.ppf(0.975) * values.std() / 20
    nothing = np.zeros((1, 4))
    found, none = image_bootstrap([hits], np.concatenate([weights, nothing]))
    assert found == pytest.approx([values.mean() - half, values.mean() + half], abs=0.01)
    # each contrast by itself is without width
    assert np.isnan(none).all()


@pytest.mark.parametrize("strata", [[(1, 2)], [(1, 2), (1, 2)], [(5, 2)]])
def test_arms_that_are_right_about_the_same_images_get_no_interval(strata):
    assert np.isnan(
        image_bootstrap([np.ones(shape, bool) for shape in strata], np.array([[1.0, -1.0]]))
    ).all()


def test_two_trials_are_compared_over_the_images_that_both_were_tested_on():
    left, right = "12:fff0 8:f1", "12:f0f0 8:33"
    hits = [np.concatenate(unpacked(one)) for one in (left, right)]
    expected = 100 * image_bootstrap([np.stack(hits, axis=1)], np.array([[1.0, -1.0]]))[0]
    assert difference_over_images("test/top1", left, right) == tuple(expected)
    for metric, other in [("test/top1", "12:f0f0 9:3300"), ("test/top1", ""), ("loss", right)]:
        assert np.isnan(difference_over_images(metric, left, other)).all()


def test_a_class_of_one_image_never_varies():
    many = np.random.default_rng(0).random((200, 2)) < 0.5
    alone, weights = np.array([[True, False]]), np.array([[1.0, -1.0]])
    low, high = image_bootstrap([many, alone], weights)[0]
    assert [low, high] == pytest.approx(image_bootstrap([many], weights)[0] / 2 + 0.5, abs=0.02)


def test_a_contrast_and_its_negative_have_the_same_interval():
    hits = np.random.default_rng(0).random((50, 2)) < [0.5, 0.8]
    there, back = image_bootstrap([hits], np.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert there == pytest.approx(-back[::-1], abs=1e-12)


def test_the_same_hits_give_the_same_bits(tmp_path):
    tables = [
        judge(load(with_hits(study(tmp_path / name, factors=ONE, seeds=[0]), better)))
        for name in "ab"
    ]
    assert tables[0].to_csv() == tables[1].to_csv()


def test_verdicts_are_of_this_run_and_never_plain(tmp_path):
    rows = rows_of(with_hits(study(tmp_path, seeds=[0]), better))
    assert set(rows["verdict"]) == ON_RUN
    contains_zero = (rows["low"] <= 0) & (rows["high"] >= 0)
    assert ((rows["verdict"] == judged.NOT_SEPARABLE_ON_RUN) == contains_zero).all()
    assert rows[["p", "p_holm"]].isna().all(axis=None) and (rows["n_seeds"] == 1).all()
    assert rows.loc["lr_split - ldmlr", "verdict"] == judged.SEPARABLE_ON_RUN
    assert rows.loc["ce - ldmlr", "verdict"] == judged.NOT_SEPARABLE_ON_RUN


def test_other_metrics_have_no_interval(tmp_path):
    rows = rows_of(with_hits(study(tmp_path, factors=ONE, seeds=[0]), better), "test/few")
    assert (rows["verdict"] == judged.ONE_SEED).all() and rows["low"].isna().all()


def test_trials_that_do_not_tell_their_hits_leave_the_others(tmp_path):
    folder = with_hits(study(tmp_path, factors=ONE, seeds=[0]), better)
    folder.write_outcome("ce--s0", replace(folder.outcome("ce--s0"), hits=""))
    verdicts = rows_of(folder)["verdict"]
    assert verdicts["ce - ldmlr"] == judged.ONE_SEED and verdicts["lr_split: off -> on"] in ON_RUN


def test_arms_tested_on_other_images_are_not_paired(tmp_path):
    folder = with_hits(study(tmp_path, factors=ONE, seeds=[0]), better)
    folder.write_outcome("ce--s0", replace(folder.outcome("ce--s0"), hits="120:" + 30 * "f"))
    assert set(rows_of(folder)["verdict"]) == {judged.ONE_SEED}


@pytest.mark.parametrize("state", [{}, {"lr_split--s0": "FAILED"}])
def test_studies_of_two_seeds_are_judged_by_seeds(tmp_path, state):
    folder = with_hits(
        study(
            tmp_path,
            factors=ONE,
            seeds=[0, 1],
            state=lambda spec: state.get(spec.trial, "COMPLETE"),
        ),
        better,
    )
    with_them = rows_of(folder)
    for spec in folder.manifest().trials:
        if spec.trial not in state:
            folder.write_outcome(spec.trial, replace(folder.outcome(spec.trial), hits=""))
    assert with_them.to_csv() == rows_of(folder).to_csv()
    assert (with_them.loc["lr_split: off -> on", "verdict"] == judged.ONE_SEED) == bool(state)


def test_the_answer_says_that_intervals_are_over_images_of_one_run(tmp_path):
    results = load(with_hits(study(tmp_path, seeds=[0]), better))
    text = said_of(results)
    assert "over test images and conditional on this one training run" in text
    assert text.startswith("On this one training run, ")
    assert "of eight arms one better, seven not distinguishable" in text
    assert "corrected" not in text and "The best arm is" not in text
    over_images = (
        "on this one training run, over test images, it is separable from all others that finished."
    )
    assert (
        f"One seed can call no arm the best: `lr_split` (80.0) has the best top-1; {over_images}"
        in text
    )
    limits = limits_of(results)
    assert (
        "conditional on this one training run" in limits
        and "bootstrap over test images" in limits
        and "No interval" not in limits
    )


def test_ranks_of_one_run_are_separable_where_scipys_bootstrap_of_their_images_says_so(tmp_path):
    """At a confidence that pays for as many comparisons as there are other arms."""
    shares = {"warmup": 0.75, "lr_split": 0.73, "gradient_decoupling": 0.6}
    folder = with_hits(study(tmp_path, seeds=[0]), lambda arm: shares.get(arm, 0.5))
    results, others = load(folder), ["lr_split", "gradient_decoupling"]
    best = 100.0 * np.concatenate(hits_of(folder, "warmup"))
    lows = {}
    for other in others:
        gaps = (best - 100.0 * np.concatenate(hits_of(folder, other)),)
        lows[other] = stats.bootstrap(
            gaps,
            np.mean,
            n_resamples=9_999,
            confidence_level=1 - 0.05 / 7,
            method="percentile",
            rng=1,
        ).confidence_interval.low
    ranking = judged.rank(results, list(results.arms))
    assert ranking.best == "warmup" and ranking.rivals == [
        other for other in others if lows[other] <= 0
    ] == ["lr_split"]
    assert [
        one.low for one in judged.minus_others(results, "warmup", others, 1 - 0.05 / 7)
    ] == pytest.approx(list(lows.values()), abs=0.6)


def test_ranks_of_one_run_that_does_not_tell_its_hits_are_left_open(tmp_path):
    results = load(study(tmp_path, seeds=[0]))
    assert len(judged.rank(results, list(results.arms)).rivals) == 7
    assert re.search(
        r"has the best top-1\. Its difference to `balanced-head` \([\d.]+\), the baseline with the best mean, is \+[\d.]+ points\.",
        said_of(results),
    )


def test_without_hits_the_limits_say_that_there_is_no_interval(tmp_path):
    results = load(study(tmp_path, factors=ONE, seeds=[0]))
    assert not is_conditional(judge(results))
    assert "No interval or p-value can be given" in limits_of(results)
    assert not is_conditional(judge(load(study(tmp_path / "two", factors=ONE, seeds=[0, 1]))))


@pytest.mark.parametrize("n_seeds, said", [([1, 1], True), ([1, 3], False), ([3, 3], False)])
def test_one_interval_over_images_makes_a_table_conditional(n_seeds, said):
    rows = pd.DataFrame({"low": [np.nan, 1.0], "n_seeds": n_seeds})
    assert is_conditional(rows) is said


def test_claims_stay_undecided(tmp_path):
    claim = {
        "id": "a",
        "says": "It lifts.",
        "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
        "expects": [{"metric": "test/top1", "direction": "up"}],
    }
    results = load(with_hits(study(tmp_path, factors=ONE, seeds=[0], claims=[claim]), better))
    effects = judge(results)
    assert effects["verdict"].iloc[0] == judged.SEPARABLE_ON_RUN
    assert list(judge_claims(results, effects)["verdict"]) == ["not decided"]


@pytest.mark.parametrize(
    "settings", [JOINT, STAGED, JOINT | {"method": "ce"}], ids=["joint", "staged", "ce"]
)
def test_a_trial_records_which_test_images_are_right(settings, tmp_path):
    store = run_on_shared_epochs(settings)
    records = [store.record(link.key) for link in chain(settings)]
    for record in records:
        assert ("hits" in record) == ("test/top1" in record["metrics"])
        if "hits" in record:
            hits = unpacked(record["hits"])
            assert record["metrics"]["test/top1"] == pytest.approx(
                100 * np.concatenate(hits).mean()
            )
            assert record["vectors"]["test/per_class"] == pytest.approx(
                [100 * own.mean() for own in hits]
            )
    spec = study(tmp_path, factors={}, seeds=[0]).manifest().trials[0]
    assert (
        outcome_of(spec, records, {"name": "test/top1", "goal": "maximize"}).hits
        == records[-1]["hits"]
        != ""
    )
