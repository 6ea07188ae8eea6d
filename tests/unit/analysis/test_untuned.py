"""Tuned arms are the arms of the design; their untuned twins stand beside them, and enter nothing."""

import math

import pandas as pd
import pytest
from fabricate import FACTORS
from fabricate_search import tuned_study

from ablation.analysis.claims import judge_claims
from ablation.analysis.compare import compare
from ablation.analysis.effects import judge
from ablation.analysis.power import measured_spread
from ablation.analysis.results import CLAIM_COLUMNS, load
from ablation.analysis.statistics import paired_difference
from ablation.analysis.tuning import (
    UNTUNED_COLUMNS,
    as_untuned,
    beside_untuned,
    tuned_arms,
    twins,
    unrewarded,
)
from ablation.storage.project import ProjectPaths

ONE = {"lr_split": FACTORS["lr_split"]}
RISES = {
    "id": "rises",
    "says": "It rises.",
    "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
    "expects": [{"metric": "test/top1", "direction": "up"}],
}


def results_of(path, gains, **options):
    options = {"factors": ONE, "baselines": ["ldmlr"], "seeds": [0, 1, 2, 3], **options}
    return load(tuned_study(path, gains, **options))


def values(results, arm):
    own = results.trials[results.trials["arm"] == arm]
    return own.set_index("seed")["test/top1"]


def test_twins_are_no_arms_and_no_baselines(tmp_path):
    results = results_of(tmp_path, {"lr_split": 4.0, "ldmlr": 1.0})
    assert twins(results) == {"lr_split": "lr_split.untuned", "ldmlr": "ldmlr.untuned"}
    assert (list(results.arms), results.baselines) == (["reference", "lr_split"], ["ldmlr"])
    assert not judge(results)["effect"].str.contains("untuned").any()
    kinds = results.trials.set_index("arm")["kind"]
    assert set(kinds["lr_split.untuned"]) == {"untuned"}


def test_the_untuned_view_is_the_study_as_if_nothing_had_been_tuned(tmp_path):
    results = results_of(tmp_path, {"lr_split": 40.0, "ldmlr": 1.0})
    view = as_untuned(results)
    assert list(view.arms) == list(results.arms) and view.baselines == results.baselines
    for arm, whose in [("lr_split", "lr_split.untuned"), ("reference", "reference")]:
        assert values(view, arm).equals(values(results, whose))
    assert list(view.cells("test/top1")["ldmlr"]) == list(values(results, "ldmlr.untuned"))
    kinds = view.trials.groupby("arm")["kind"].first().to_dict()
    assert kinds == {"reference": "arm", "lr_split": "arm", "ldmlr": "baseline"}
    assert twins(view) == {}
    names = view.trials.set_index(["arm", "seed"])["trial"]
    assert names["lr_split", 0] == "lr_split.untuned--s0"
    (tuned,) = judge(results).query("effect == 'lr_split: off -> on' & metric == 'test/top1'")[
        "estimate"
    ]
    (untuned,) = judge(view).query("effect == 'lr_split: off -> on' & metric == 'test/top1'")[
        "estimate"
    ]
    assert tuned - untuned == pytest.approx(40, abs=1)


def test_bits_that_agree_are_compared_with_those_of_the_untuned_arm(tmp_path):
    results = results_of(tmp_path, {"lr_split": 4.0})
    view = as_untuned(results)
    assert view.digest("lr_split", 0) == results.digest_of("lr_split.untuned--s0")
    assert view.digest("reference", 0) == results.digest_of("reference--s0")


def test_claims_are_judged_on_tuned_arms_and_the_untuned_stand_beside(tmp_path):
    results = results_of(tmp_path, {"lr_split": 12.0}, claims=[RISES])
    tuned = judge_claims(results, judge(results))
    both = beside_untuned(tuned, results)
    assert list(both.columns) == [*CLAIM_COLUMNS, *UNTUNED_COLUMNS]
    pd.testing.assert_frame_equal(both[CLAIM_COLUMNS], tuned)
    row = both.iloc[0]
    assert (row["claim_verdict"], row["untuned_claim_verdict"]) == ("supported", "refuted")
    expected = paired_difference(values(results, "lr_split.untuned"), values(results, "reference"))
    found = row[["untuned_estimate", "untuned_low", "untuned_high", "untuned_p_holm"]]
    assert list(found) == pytest.approx(expected[:4])


def test_what_tuning_gained_is_paired_by_seed(tmp_path):
    results = results_of(tmp_path, {"lr_split": 4.0, "ldmlr": 0.0})
    by_arm = {one.arm: one for one in tuned_arms(results)}
    assert list(by_arm) == ["reference", "lr_split", "ldmlr"]
    expected = paired_difference(values(results, "lr_split"), values(results, "lr_split.untuned"))
    assert by_arm["lr_split"].on_test == pytest.approx(expected, nan_ok=True)
    assert by_arm["lr_split"].on_validation == pytest.approx(
        by_arm["lr_split"].found["value"] - 67.0
    )
    own = by_arm["reference"]
    assert own.is_own_best and own.on_test.n == 0 and math.isnan(own.on_test.mean)


@pytest.mark.parametrize(
    "gain, goal, is_warned",
    [(4.0, "maximize", False), (-4.0, "maximize", True), (-4.0, "minimize", False)],
)
def test_a_gain_on_validation_that_the_test_set_does_not_show_is_told(
    tmp_path, gain, goal, is_warned
):
    metric = {"name": "test/top1", "goal": goal}
    results = results_of(tmp_path, {"lr_split": gain}, metric=metric)
    assert [one.arm for one in unrewarded(results)] == ["lr_split"] * is_warned


def test_a_gain_that_chance_explains_is_told_too(tmp_path):
    results = results_of(tmp_path, {"lr_split": 0.25})
    (one,) = unrewarded(results)
    assert one.on_test.low < 0 < one.on_test.mean < one.on_test.high


def test_a_loss_on_validation_is_no_gain_that_is_missed(tmp_path):
    worse = {"metric": {"name": "validation/loss", "goal": "minimize"}}
    results = results_of(tmp_path, {"lr_split": -4.0}, search=worse)
    assert not list(unrewarded(results))


def test_comparing_whole_studies_leaves_untuned_twins_out_and_naming_one_does_not(tmp_path):
    places = ProjectPaths(tmp_path)
    for name in ("one", "two"):
        options = {"factors": ONE, "baselines": ["ldmlr"], "seeds": [0, 1, 2]}
        tuned_study(places.runs(name).path, {"lr_split": 4.0}, study=name, **options)
    rows = compare("one", "two", None, places).rows
    assert [row.what for row in rows] == ["`reference`", "`lr_split`", "`ldmlr`"]
    rows = compare("one", "one:reference", None, places).rows
    assert [row.what for row in rows] == ["`lr_split`", "`ldmlr`"]
    first = compare("one:lr_split", "one:lr_split.untuned", None, places).rows[0]
    assert first.found.mean == pytest.approx(4, abs=1)


def test_the_trials_of_a_search_are_no_study_to_compare(tmp_path):
    places = ProjectPaths(tmp_path)
    for name in ("one", "one.search"):
        tuned_study(places.runs(name).path, {}, study=name, factors=ONE, baselines=["ldmlr"])
    # the only study there is, so that arms need no prefix
    assert compare("reference", "lr_split", None, places).left == "one:reference"


def test_the_spread_of_a_study_is_that_of_its_arms(tmp_path):
    options = {"factors": ONE, "baselines": ["ldmlr"], "experiment": "digits-lt"}
    tuned_study(tmp_path / "runs" / "one", {"lr_split": 4.0}, study="one", **options)
    spread = measured_spread(tmp_path / "runs", "digits-lt", "test/top1")
    assert spread.n == 2 * 2
