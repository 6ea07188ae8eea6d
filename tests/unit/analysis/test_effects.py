"""Comparisons of a study: planted effects come back, and nothing is claimed that the seeds do not show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fabricate import FACTORS, study
from scipy import stats

from ablation.analysis import effects as judged
from ablation.analysis.claims import judge_claims
from ablation.analysis.contrasts import enough, main_effects, simple_effects, single_effects
from ablation.analysis.effects import detectable, factor_pairs, judge, rank
from ablation.analysis.factors import level_effects
from ablation.analysis.results import load
from ablation.analysis.statistics import holm, paired_difference, smallest_detectable
from ablation.grid.design import Factor, Level, arms
from ablation.reporting.verdict import verdict

THREE_LEVELS = {
    "routing": {"summed": {}, "decoupled": {}, "pcgrad": {}},
    "warmup": FACTORS["warmup"],
}


def primary(folder):
    effects = judge(load(folder))
    return effects[effects["metric"] == "test/top1"].set_index("effect")


def test_planted_effects_are_recovered_in_sign_and_size(tmp_path):
    table = primary(study(tmp_path, seeds=range(6)))
    for effect, truth in [("lr_split: off -> on", 8.0), ("warmup: off -> on", 2.0)]:
        row = table.loc[effect]
        assert row["low"] < truth < row["high"]
        assert row["verdict"] == "higher"
    assert table.loc["gradient_decoupling: off -> on", "verdict"] == "not separable from 0"
    assert list(table.index[3:6]) == [
        "lr_split x warmup",
        "lr_split x gradient_decoupling",
        "warmup x gradient_decoupling",
    ]


def test_planted_interaction_is_the_difference_of_differences(tmp_path):
    def top1(levels):
        split, warm = levels["lr_split"] == "on", levels["warmup"] == "on"
        return 60 + 2 * split + warm + 3 * (split and warm)

    table = primary(study(tmp_path, seeds=range(5), top1=top1, noise=0.1))
    assert table.loc["lr_split x warmup", "low"] < 3 < table.loc["lr_split x warmup", "high"]
    assert table.loc["lr_split: off -> on", "estimate"] == pytest.approx(
        3.5, abs=0.1
    )  # 2, and 3 more in half the pairs


def test_simple_effects_are_the_effect_at_each_level_of_the_other_factor(tmp_path):
    def top1(levels):
        split, decoupled = levels["lr_split"] == "on", levels["gradient_decoupling"] == "on"
        return 90 - 70 * (decoupled and not split)

    table = primary(study(tmp_path, seeds=range(5), top1=top1, noise=0.1))
    assert table.loc["gradient_decoupling: off -> on at lr_split=off", "estimate"] == pytest.approx(
        -70, abs=0.3
    )
    assert table.loc["gradient_decoupling: off -> on at lr_split=on", "estimate"] == pytest.approx(
        0, abs=0.3
    )
    assert table.loc["gradient_decoupling: off -> on", "estimate"] == pytest.approx(-35, abs=0.3)
    assert table.loc["lr_split: off -> on at gradient_decoupling=on", "estimate"] == pytest.approx(
        70, abs=0.3
    )


def test_designs_without_interactions_have_no_simple_effects():
    cells = {
        "reference": {"a": "off", "b": "off"},
        "a": {"a": "on", "b": "off"},
        "b": {"a": "off", "b": "on"},
    }
    assert list(simple_effects(cells, {"a": ["off", "on"], "b": ["off", "on"]})) == []


def test_simple_effects_stand_only_where_the_design_has_their_arms():
    levels = {"a": OFF_ON, "b": ("off", "plateau", "on")}
    factors = [Factor(name, tuple(Level(one, {}) for one in own)) for name, own in levels.items()]
    cells = {arm.name: arm.levels for arm in arms(factors, ["one-factor", "leave-one-out"])}
    assert {one.name: one.replicas for one in simple_effects(cells, levels)} == {
        "a: off -> on at b=off": [("a", "reference")],
        "a: off -> on at b=on": [("a+b", "b")],
        "b: off -> plateau at a=off": [("b=plateau", "reference")],
        "b: off -> on at a=off": [("b", "reference")],
        "b: off -> on at a=on": [("a+b", "a")],
    }


def test_a_factorial_tells_what_a_level_adds_alone_and_last(tmp_path):
    folder = study(tmp_path)
    cells, table = load(folder).cells("test/top1"), primary(folder)
    alone, last = (
        table.loc["warmup: off -> on (alone)"],
        table.loc["warmup: off -> on (added last)"],
    )
    full = "lr_split+warmup+gradient_decoupling"
    for row, pair, kind in [
        (alone, ("warmup", "reference"), "add-one-in"),
        (last, (full, "lr_split+gradient_decoupling"), "leave-one-out"),
    ]:
        assert row["kind"] == kind and np.isnan(row["p_holm"])
        found = tuple(row[["estimate", "low", "high", "p"]])
        assert found == pytest.approx(paired_difference(*(cells[arm] for arm in pair))[:4])


def contrasts_of(design, levels):
    """kind -> name -> replicas of the single effects of a design over factors of these levels."""
    factors = [
        Factor(name, tuple(Level(level, {}) for level in names)) for name, names in levels.items()
    ]
    found = single_effects({arm.name: arm.levels for arm in arms(factors, design)}, levels)
    return {(one.kind, one.name): one.replicas for one in found}


OFF_ON = ("off", "on")


def test_with_more_levels_the_others_stand_where_the_design_has_its_full_arm():
    found = contrasts_of(
        ["factorial"],
        {"warmup": ("off", "on", "plateau"), "rule": ("summed", "decoupled", "pcgrad")},
    )
    assert found == {
        ("add-one-in", "warmup: off -> on (alone)"): [("warmup", "reference")],
        ("leave-one-out", "warmup: off -> on (added last)"): [
            ("warmup+rule=decoupled", "rule=decoupled")
        ],
        ("add-one-in", "warmup: off -> plateau (alone)"): [("warmup=plateau", "reference")],
        ("leave-one-out", "warmup: off -> plateau (added last)"): [
            ("warmup=plateau+rule=decoupled", "rule=decoupled")
        ],
        ("add-one-in", "rule: summed -> decoupled (alone)"): [("rule=decoupled", "reference")],
        ("leave-one-out", "rule: summed -> decoupled (added last)"): [
            ("warmup+rule=decoupled", "warmup")
        ],
        ("add-one-in", "rule: summed -> pcgrad (alone)"): [("rule=pcgrad", "reference")],
        ("leave-one-out", "rule: summed -> pcgrad (added last)"): [
            ("warmup+rule=pcgrad", "warmup")
        ],
    }


@pytest.mark.parametrize("design", ["leave-one-out", "add-one-in", "one-factor"])
def test_what_is_the_main_effect_of_a_design_is_not_told_twice(design):
    assert contrasts_of([design], {"a": OFF_ON, "b": OFF_ON, "c": OFF_ON}) == {}
    assert contrasts_of(["factorial"], {"a": OFF_ON}) == {}


def test_two_designs_in_one_study_have_both():
    found = contrasts_of(["leave-one-out", "add-one-in"], {"a": OFF_ON, "b": OFF_ON, "c": OFF_ON})
    assert [kind for kind, _ in found] == 3 * ["add-one-in", "leave-one-out"]
    assert found["leave-one-out", "b: off -> on (added last)"] == [("a+b+c", "a+c")]


def test_without_noise_estimates_are_exact_and_claim_no_certainty(tmp_path):
    row = primary(study(tmp_path, noise=0.0)).loc["warmup: off -> on"]
    assert row["estimate"] == pytest.approx(2.0)
    assert row["verdict"] == judged.NO_SPREAD and np.isnan(row["p"])


def test_each_level_of_three_is_compared_with_the_reference(tmp_path):
    truth = {"summed": 60.0, "decoupled": 64.0, "pcgrad": 55.0}
    table = primary(
        study(tmp_path, factors=THREE_LEVELS, seeds=range(6), top1=lambda v: truth[v["routing"]])
    )
    assert table.loc["routing: summed -> decoupled", "estimate"] == pytest.approx(4, abs=1)
    assert table.loc["routing: summed -> pcgrad", "verdict"] == "lower"
    assert {"routing=decoupled x warmup", "routing=pcgrad x warmup"} <= set(table.index)


def test_a_main_effect_takes_each_pair_of_arms_that_differ_in_nothing_else_once():
    cells = {
        "reference": ("summed", "off"),
        "a": ("decoupled", "off"),
        "b": ("pcgrad", "off"),
        "c": ("summed", "on"),
    }
    cells = {arm: dict(zip(THREE_LEVELS, levels)) for arm, levels in cells.items()}
    factors = {factor: list(levels) for factor, levels in THREE_LEVELS.items()}
    found = {one.name: one.replicas for one in main_effects(cells, factors)}
    assert found == {
        "routing: summed -> decoupled": [("a", "reference")],
        "routing: summed -> pcgrad": [("b", "reference")],
        "warmup: off -> on": [("c", "reference")],
    }


@pytest.mark.parametrize(
    ("n_seeds", "kept"),
    [
        ((3, 2, 1, 0), ["ab"]),
        ((9, 9, 2, 2), ["ab", "cd", "ac"]),
        ((1, 0, 1, 1), ["cd", "ac"]),
        ((0, 0, 0, 0), []),
    ],
)
def test_arms_of_two_seeds_are_enough_and_of_one_where_there_are_no_others(n_seeds, kept):
    assert enough(["ab", "cd", "ac"], dict(zip("abcd", n_seeds))) == kept


def test_leave_one_out_compares_with_the_full_arm(tmp_path):
    folder = study(tmp_path)
    manifest = folder.manifest()
    kept = [
        t
        for t in manifest.trials
        if t.kind == "baseline" or list(t.levels.values()).count("on") >= 2
    ]
    folder.write_manifest(type(manifest)(**{**vars(manifest), "trials": kept}))
    results, table = load(folder), primary(folder)
    cells = results.cells("test/top1")
    expected = (
        cells["lr_split+warmup+gradient_decoupling"] - cells["warmup+gradient_decoupling"]
    ).mean()
    assert table.loc["lr_split: off -> on", "estimate"] == pytest.approx(expected)
    assert "interaction" not in set(table["kind"])


def test_differences_to_the_reference_are_paired_by_seed(tmp_path):
    folder = study(tmp_path)
    cells, table = load(folder).cells("test/top1"), primary(folder)
    row, expected = (
        table.loc["lr_split - ldmlr"],
        paired_difference(cells["lr_split"], cells["ldmlr"]),
    )
    assert tuple(row[["estimate", "low", "high", "p"]]) == pytest.approx(expected[:4])
    assert "ldmlr - ldmlr" not in table.index and "balanced-head - ldmlr" in table.index


def test_holm_runs_over_main_effects_and_interactions_of_the_primary_metric(tmp_path):
    effects = judge(load(study(tmp_path)))
    family = effects[
        (effects["metric"] == "test/top1") & effects["kind"].isin(["main", "interaction"])
    ]
    assert len(family) == 6
    assert list(family["p_holm"]) == pytest.approx(list(holm(family["p"])))
    assert effects.drop(family.index)["p_holm"].isna().all()


def test_a_level_without_arms_in_the_design_is_no_test_of_the_family(tmp_path):
    levels = {"off": {}, "half": {}, "on": {}}
    folder = study(tmp_path, factors={"lr_split": levels, "warmup": FACTORS["warmup"]})
    manifest, names = folder.manifest(), ["lr_split+warmup", "lr_split", "warmup"]
    trials = [one for one in manifest.trials if one.kind == "baseline" or one.arm in names]
    folder.write_manifest(replace(manifest, design=["leave-one-out"], trials=trials))
    effects = judge(load(folder))
    table = effects[effects["p_holm"].notna()].set_index("effect")
    assert list(table.index) == ["lr_split: off -> on", "warmup: off -> on"]
    assert list(table["p_holm"]) == pytest.approx(holm(table["p"]))
    assert not effects["effect"].str.contains("half").any()
    results = load(folder)
    assert [one.level for one in level_effects(results, primary(folder).reset_index())] == 2 * [
        "on"
    ]
    assert "half" not in verdict(results, effects, judge_claims(results, effects)).answer


def test_verdicts_never_contradict_their_interval(tmp_path):
    effects = judge(load(study(tmp_path, noise=3.0, seeds=range(3))))
    clear = effects[effects["verdict"].isin(["higher", "lower"])]
    assert len(clear) and ((clear["low"] > 0) | (clear["high"] < 0)).all()
    assert (effects.loc[effects["verdict"] == "higher", "estimate"] > 0).all()
    contains_zero = effects[(effects["low"] <= 0) & (effects["high"] >= 0)]
    assert len(contains_zero) and (contains_zero["verdict"] == "not separable from 0").all()


def test_what_could_be_detected_goes_by_the_root_mean_square_of_the_spreads():
    rows = pd.DataFrame({"sd": [3.0, np.nan, 0.0, 4.0], "n_seeds": [5, 1, 4, 6]})
    found = detectable(rows, n_tests=2)
    expected = [smallest_detectable(sd, 5) for sd in (12.5**0.5, 3.0, 4.0)]
    assert found[:4] == pytest.approx((5, *expected))
    assert found.corrected == pytest.approx(smallest_detectable(12.5**0.5, 5, 0.025))


def test_one_seed_gets_no_interval(tmp_path):
    table = primary(study(tmp_path, seeds=[0]))
    assert (table["verdict"] == "one seed: no interval").all()
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)


def copy_arms(folder, dead):
    """Give every arm with `dead` on the very records and outcome of its partner with `dead` off."""
    specs = {
        (tuple(t.levels.items()), t.seed): t for t in folder.manifest().trials if t.kind == "arm"
    }
    for (levels, seed), spec in specs.items():
        partner = specs[tuple({**dict(levels), dead: "off"}.items()), seed].trial
        folder.write_records(spec.trial, folder.records(partner))
        folder.write_outcome(spec.trial, replace(folder.outcome(partner), key=spec.key))


def test_a_dead_toggle_has_no_effect_by_construction(tmp_path):
    folder = study(tmp_path)
    copy_arms(folder, "warmup")
    table = primary(folder)
    dead = {"warmup: off -> on", "lr_split x warmup", "warmup x gradient_decoupling"}
    dead |= {
        f"warmup: off -> on at {other}={at}"
        for other in ("lr_split", "gradient_decoupling")
        for at in ("off", "on")
    }
    dead |= {"warmup: off -> on (alone)", "warmup: off -> on (added last)"}
    assert set(table.index[table["verdict"] == "no effect by construction"]) == dead


def test_equal_accuracy_with_another_history_is_not_by_construction(tmp_path):
    folder = study(tmp_path)
    copy_arms(folder, "warmup")
    records = folder.records("warmup--s1")
    records[0]["metrics"]["train/diffusion_loss"] = 0.123
    folder.write_records("warmup--s1", records)
    assert primary(folder).loc["warmup: off -> on", "verdict"] == judged.NO_SPREAD


def test_arms_that_never_finished_leave_the_other_pairs(tmp_path):
    folder = study(
        tmp_path, state=lambda spec: "FAILED" if spec.arm == "lr_split+warmup" else "COMPLETE"
    )
    cells, table = load(folder).cells("test/top1"), primary(folder)
    pairs = [("lr_split", "reference"), ("lr_split+gradient_decoupling", "gradient_decoupling")]
    pairs += [("lr_split+warmup+gradient_decoupling", "warmup+gradient_decoupling")]
    expected = np.mean([(cells[on] - cells[off]).mean() for on, off in pairs])
    assert table.loc["lr_split: off -> on", "estimate"] == pytest.approx(expected)


def test_an_effect_that_no_seed_has_is_listed_all_the_same_on_the_primary_metric(tmp_path):
    folder = study(
        tmp_path,
        state=lambda spec: "FAILED" if spec.levels.get("warmup") == "on" else "COMPLETE",
    )
    effects, table = judge(load(folder)), primary(folder)
    assert effects.loc[effects["n_seeds"] == 0, "metric"].unique().tolist() == ["test/top1"]
    assert effects["metric"].nunique() > 1
    assert table.loc["warmup: off -> on", "verdict"] == judged.NO_SEED
    assert table.loc["lr_split: off -> on", "n_seeds"] == 3


def test_an_arm_that_finished_once_does_not_leave_means_with_one_seed(tmp_path):
    states = {"lr_split+warmup--s1": "FAILED", "lr_split+warmup--s2": "FAILED"}
    folder = study(tmp_path, state=lambda spec: states.get(spec.trial, "COMPLETE"))
    cells, table = load(folder).cells("test/top1"), primary(folder)
    pairs = [("lr_split", "reference"), ("lr_split+gradient_decoupling", "gradient_decoupling")]
    pairs += [("lr_split+warmup+gradient_decoupling", "warmup+gradient_decoupling")]
    within = np.mean([cells[on] - cells[off] for on, off in pairs], axis=0)
    row = table.loc["lr_split: off -> on"]
    assert (
        row["n_seeds"] == 3
        and row["estimate"] == pytest.approx(within.mean())
        and row["p"] == pytest.approx(stats.ttest_1samp(within, 0).pvalue)
    )
    alone = table.loc["lr_split+warmup - ldmlr"]
    assert (
        alone["n_seeds"] == 1
        and alone["verdict"] == judged.ONE_SEED
        and np.isfinite(alone["estimate"])
    )


def test_a_seed_that_one_arm_lacks_leaves_every_mean_that_the_arm_belongs_to(tmp_path):
    """Else the arm's other pairs would bring that seed's own ease or hardness in on one side alone."""
    folder = study(
        tmp_path,
        seeds=range(4),
        state=lambda spec: "FAILED" if spec.trial == "lr_split+warmup--s2" else "COMPLETE",
    )
    cells, table = load(folder).cells("test/top1"), primary(folder)
    on, off = (
        [arm for arm, levels in load(folder).arms.items() if levels["lr_split"] == level]
        for level in ("on", "off")
    )
    whole = cells.drop(index=2)
    assert table.loc["lr_split: off -> on", "n_seeds"] == 3
    assert table.loc["lr_split: off -> on", "estimate"] == pytest.approx(
        (whole[on].mean(axis=1) - whole[off].mean(axis=1)).mean()
    )
    assert table.loc["lr_split: off -> on at warmup=off", "n_seeds"] == 4


def test_the_means_of_an_interaction_plot_differ_by_the_interaction_also_where_a_trial_is_missing(
    tmp_path,
):
    folder = study(
        tmp_path,
        noise=3.0,
        seeds=range(4),
        state=lambda spec: "FAILED" if spec.trial in ("warmup--s3", "lr_split--s1") else "COMPLETE",
    )
    results, table = load(folder), primary(folder)
    pairs = list(factor_pairs(results, "test/top1"))
    assert len(pairs) == 3
    for pair in pairs:
        m = {levels: found.mean for levels, found in pair.means.items()}
        assert {found.n for found in pair.means.values()} == {2}
        assert m["on", "on"] - m["on", "off"] - m["off", "on"] + m["off", "off"] == pytest.approx(
            table.loc[pair.interactions[0], "estimate"]
        )


def test_an_interaction_has_no_plot_where_no_seed_has_all_its_arms(tmp_path):
    """Those with the warm-up finish under two seeds, the others under the other two."""
    folder = study(
        tmp_path,
        seeds=range(4),
        state=lambda spec: (
            "FAILED" if (spec.levels.get("warmup") == "on") == (spec.seed < 2) else "COMPLETE"
        ),
    )
    assert not list(factor_pairs(load(folder), "test/top1"))


def cells_study(path, **values):
    """A study of arms x=<name> with these values by seed; NaN for a trial that failed."""
    folder = study(
        path,
        factors={"x": {name: {} for name in values}},
        baselines=[],
        seeds=range(len(next(iter(values.values())))),
    )
    for spec in folder.manifest().trials:
        own, outcome = values[spec.levels["x"]][spec.seed], folder.outcome(spec.trial)
        failed = {
            "state": "FAILED",
            "metrics": {},
            "error": {"type": "Diverged", "message": "at epoch 2", "traceback": ""},
        }
        folder.write_outcome(
            spec.trial,
            replace(outcome, **failed if np.isnan(own) else {"metrics": {"test/top1": own}}),
        )
    return load(folder)


def test_an_arm_without_the_hard_seed_is_not_the_best_by_missing_it(tmp_path):
    """`lucky` has the best mean, and in each seed that it has it is behind."""
    results = cells_study(
        tmp_path,
        steady=[80.0, 80.2, 80.1, 50.0],
        lucky=[79.0, 79.1, 79.2, np.nan],
        low=[60.0, 60.1, 60.3, 31.0],
    )
    ranking = rank(results, list(results.arms))
    assert (ranking.best, ranking.rivals, ranking.is_adjusted) == ("x=steady", [], True)


def test_a_best_mean_that_is_behind_where_both_finished_is_not_crowned(tmp_path):
    results = cells_study(
        tmp_path,
        a=[80.0, 80.1, np.nan, np.nan],
        b=[np.nan, np.nan, 70.0, 70.1],
        c=[80.9, 81.0, 60.0, 60.1],
    )
    ranking = rank(results, list(results.arms))
    assert ranking.best == "x=b" and set(ranking.rivals) >= {
        "x=a"
    }  # b beats c by 10, a is 0.9 behind c: never met


@pytest.mark.parametrize("noise, is_crowned", [(0.05, True), (5.0, False)])
def test_the_best_arm_is_crowned_only_where_separable(tmp_path, noise, is_crowned):
    factors = {name: FACTORS[name] for name in ["lr_split", "warmup"]}
    results = load(study(tmp_path, factors=factors, seeds=range(4), noise=noise))
    assert (rank(results, list(results.arms)).rivals == []) == is_crowned
    if is_crowned:
        assert rank(results, list(results.arms)).best == "lr_split+warmup"


def test_a_metric_to_minimize_is_ranked_by_its_smallest(tmp_path):
    results = load(study(tmp_path, metric={"name": "test/top1", "goal": "minimize"}, noise=0.05))
    assert rank(results, results.baselines).best == "ce"
