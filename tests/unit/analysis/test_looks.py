"""A study that looks at its seeds: each claim is judged at the look that decided it, and the report says so."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fabricate import FACTORS, study
from scipy import stats

from ablation.analysis import looks as module
from ablation.analysis.claims import _needed, claims_replay, judge_claims, undecided
from ablation.analysis.compare import compare
from ablation.analysis.effects import effects_replay, judge, minus_others
from ablation.analysis.results import CLAIM_COLUMNS, LOOK_COLUMNS, load, read_claims
from ablation.analysis.sequential import needed_seeds, repeated_confidence, repeated_p
from ablation.analysis.statistics import contrast, margin_p, paired_difference
from ablation.reporting.report import render, write_report
from ablation.reporting.tables import study_tables
from ablation.storage.project import ProjectPaths

LOOKS = (3, 5, 8, 12, 20)
ONE = {"lr_split": FACTORS["lr_split"]}
CELLS = ["reference", "lr_split", "ce", "ldmlr", "ldmlr-no-generation", "balanced-head"]


def claim(name, arm, minus, *expects):
    expects = expects or ({"metric": "test/top1", "direction": "up"},)
    return {
        "id": name,
        "says": f"{arm} is better than {minus}.",
        "contrast": {"arm": arm, "minus": minus},
        "expects": [*expects],
    }


pytestmark = pytest.mark.usefixtures("few_paths")

SPLIT = claim("split", "lr_split", "reference")  # 8 points
WORSE = claim("worse", "ce", "ldmlr")  # -3 points
CLOSE = claim("close", "balanced-head", "ldmlr")  # 0.5 points
CLAIMS = [SPLIT, WORSE, CLOSE]


def fabricated(path, claims=CLAIMS, n_seeds=20, n_done=20, noise=0.3, state=None, **manifest):
    def of_trial(spec):
        return "COMPLETE" if spec.seed < n_done else "WAITING"

    manifest = {"looks": list(LOOKS), "factors": ONE, **manifest}
    folder = study(
        path, seeds=range(n_seeds), claims=claims, noise=noise, state=state or of_trial, **manifest
    )
    return load(folder)


def claims_of(results):
    return judge_claims(results, judge(results)).set_index("claim")


def difference(results, arm, minus, n):
    cells = results.cells("test/top1")[[arm, minus]].iloc[:n]
    return paired_difference(cells[arm], cells[minus])


def test_a_claim_keeps_the_verdict_and_the_numbers_of_the_look_that_decided_it(tmp_path):
    results = fabricated(tmp_path)
    row = claims_of(results).loc["split"]
    own = results.cells("test/top1").iloc[:3]
    test = stats.ttest_rel(own["lr_split"], own["reference"])
    interval = test.confidence_interval(repeated_confidence(3, LOOKS))
    assert (row.verdict, row.claim_verdict, row.n_seeds) == ("supported", "supported", 3)
    assert (row.decided_at, row.claim_decided_at) == (3, 3) and pd.isna(row.seeds_needed)
    assert [row.estimate, row.low, row.high] == pytest.approx(
        [(own["lr_split"] - own["reference"]).mean(), interval.low, interval.high]
    )
    assert row.p == pytest.approx(repeated_p(test.pvalue, 3, LOOKS))
    assert row.high - row.low > 2 * np.ptp(test.confidence_interval())


def test_only_the_arms_of_undecided_claims_are_due_more_seeds(tmp_path):
    results = fabricated(tmp_path, n_done=3)
    replayed = claims_replay(results)
    assert [bool(one.decided_at) for one in replayed.questions] == [True, True, False]
    assert replayed.due == {"balanced-head": 5, "ldmlr": 5}
    (look,) = replayed.looks
    assert (look.n_seeds, look.n_decided, look.n_asked) == (3, 2, 3)
    assert look.going_on == {"balanced-head", "ldmlr"}


def test_a_claim_that_is_decided_later_is_so_by_the_seeds_up_to_that_look(tmp_path):
    results = fabricated(tmp_path)
    row = claims_of(results).loc["close"]
    at = int(row.decided_at)
    assert 3 < at <= 20 and row.n_seeds == at
    found = difference(results, "balanced-head", "ldmlr", at)
    assert row.estimate == pytest.approx(found.mean)
    earlier = [n for n in LOOKS if n < at]
    # alone in its family once the others are decided
    assert all(
        repeated_p(difference(results, "balanced-head", "ldmlr", n).p, n, LOOKS) >= 0.05
        for n in earlier[1:]
    )
    assert row.p_holm == pytest.approx(repeated_p(found.p, at, LOOKS)) and row.p_holm < 0.05


def test_seeds_after_the_look_that_decided_change_nothing(tmp_path):
    few = fabricated(tmp_path / "few", n_seeds=8, n_done=8)
    many = fabricated(tmp_path / "many")
    decided = claims_of(few).dropna(subset="claim_decided_at")
    own = [name for name in CLAIM_COLUMNS if name != "claim"]
    assert len(decided) >= 2
    # trials have the noise of their place in the manifest, which is the same in both
    pd.testing.assert_frame_equal(decided[own], claims_of(many).loc[decided.index, own])


@pytest.mark.parametrize(("least", "due"), [(0, []), (1, ["reference"])], ids=["all", "others"])
def test_an_arm_that_breaks_in_every_seed_asks_for_no_more_of_them(tmp_path, least, due):
    def of_trial(spec):
        is_broken = spec.arm == "lr_split+gradient_decoupling" and spec.seed >= least
        return "WAITING" if spec.seed > 2 else "FAILED" if is_broken else "COMPLETE"

    one = {**SPLIT, "contrast": {"factor": "lr_split", "from": "off", "to": "on"}}
    two = {name: FACTORS[name] for name in ("lr_split", "gradient_decoupling")}
    replayed = claims_replay(fabricated(tmp_path, claims=[one], factors=two, state=of_trial))
    assert not replayed.questions[0].decided_at
    assert [arm for arm in replayed.due if arm == "reference"] == due


@pytest.mark.parametrize(("state", "is_complete"), [("FAILED", True), ("WAITING", False)])
def test_a_look_is_complete_once_its_trials_have_ended_failed_or_not(tmp_path, state, is_complete):
    def of_trial(spec):
        if spec.trial == "lr_split--s1":
            return state
        return "COMPLETE" if spec.seed < 3 else "WAITING"

    results = fabricated(tmp_path, claims=[SPLIT], state=of_trial)
    assert bool(claims_replay(results).looks) == is_complete
    row = claims_of(results).loc["split"]
    assert row.n_seeds == 2 and (is_complete or row.verdict == "not decided")


def test_before_the_first_look_nothing_is_decided_however_clear_it_is(tmp_path):
    results = fabricated(tmp_path, n_done=2, noise=1e-4)
    table = claims_of(results)
    assert set(table["claim_verdict"]) == {"not decided"} and table["decided_at"].isna().all()
    assert claims_replay(results).due == {}


def test_the_other_expectation_of_a_refuted_claim_asks_for_no_more_seeds(tmp_path):
    # 8 points: refuted; no further than 8 points from 0: on the margin, never decided
    expects = (
        {"metric": "test/top1", "direction": "down"},
        {"metric": "test/few", "direction": "none", "within": 8.0},
    )
    results = fabricated(
        tmp_path, claims=[claim("both", "lr_split", "reference", *expects)], n_done=3
    )
    replayed = claims_replay(results)
    assert [one.decided_at for one in replayed.questions] == [3, 0]
    assert replayed.due == {} and replayed.looks[0].n_decided == 1
    undecided = claim("both", "lr_split", "reference", expects[1])
    results = fabricated(tmp_path / "other", claims=[undecided], n_done=3)
    assert claims_replay(results).due == {"lr_split": 5, "reference": 5}


def test_within_a_margin_the_test_has_one_side(tmp_path):
    expects = {"metric": "test/top1", "direction": "none", "within": 3.0}
    results = fabricated(tmp_path, claims=[claim("near", "balanced-head", "ldmlr", expects)])
    row = claims_of(results).loc["near"]
    n = int(row.decided_at)
    p = margin_p(difference(results, "balanced-head", "ldmlr", n), 3.0)
    assert row.verdict == "supported" and row.p == repeated_p(p, n, LOOKS, sides=1)
    assert row.p != repeated_p(p, n, LOOKS, sides=2)


@pytest.mark.parametrize("n_done", [2, 3, 8, 20])
def test_the_interval_of_a_claim_agrees_with_its_verdict(tmp_path, n_done):
    margins = [
        claim(f"within-{size}", "balanced-head", "ldmlr", expects)
        for size in (0.2, 0.7, 3.0)
        for expects in [{"metric": "test/top1", "direction": "none", "within": size}]
    ]
    results = fabricated(tmp_path, claims=[*CLAIMS, *margins], n_done=n_done, noise=0.5)
    for row in claims_of(results).itertuples():
        if n_done == 2:
            # before the first look, whatever the p
            assert row.verdict == "not decided" and not row.low_holm > 0
            continue
        margin = float(row.direction.partition(" within ")[2] or 0)
        if row.verdict == "supported" and margin:
            assert -margin < row.low_holm and row.high_holm < margin
        else:
            is_decided = row.low_holm > margin or row.high_holm < -margin
            assert is_decided == (row.verdict != "not decided")


def test_what_a_fixed_design_would_have_said_is_ordinary_holm_on_all_seeds(tmp_path):
    results = fabricated(tmp_path)
    table, fixed = claims_of(results), claims_of(results.without_looks())
    assert list(table.reset_index().columns) == [*CLAIM_COLUMNS, *LOOK_COLUMNS]
    assert list(fixed.reset_index().columns) == CLAIM_COLUMNS
    p = [difference(results, *one["contrast"].values(), 20).p for one in CLAIMS]
    assert fixed["p"].to_list() == pytest.approx(p)
    assert table["p_holm_fixed"].to_list() == fixed["p_holm"].to_list()
    assert table["claim_verdict_fixed"].to_list() == fixed["claim_verdict"].to_list()
    assert (fixed["n_seeds"] == 20).all()


def test_an_undecided_claim_tells_how_many_seeds_would_decide_it(tmp_path):
    results = fabricated(tmp_path, n_seeds=3, n_done=3)
    table = claims_of(results)
    row = table.loc["close"]
    said = f": about {row.seeds_needed} seeds for `close` (3 so far)."
    assert undecided(table.reset_index(), most=5) == f"To decide the rest{said}"
    assert undecided(table.reset_index(), most=3) == f"To decide the rest by a new plan{said}"


def shares_rejected(effect_size, n_studies=4000):
    """Look -> in how many studies the test of that look alone rejects, by simulation."""
    values = np.random.default_rng(3).normal(effect_size, 1, (n_studies, LOOKS[-1]))
    shares = {}
    for n in LOOKS:
        p = stats.ttest_1samp(values[:, :n], 0, axis=1).pvalue
        shares[n] = np.mean([repeated_p(one, n, LOOKS) <= 0.05 for one in p])
    return shares


@pytest.mark.parametrize("effect_size", [4.0, 2.0, 1.4, 0.9])
def test_the_seeds_that_would_decide_are_those_of_a_later_look_by_its_own_limits(effect_size):
    shares = shares_rejected(effect_size)
    expected = next(n for n in LOOKS if shares[n] > 0.8)
    assert all(abs(share - 0.8) > 0.02 for share in shares.values()), "too close to tell"
    assert module.deciding_seeds(effect_size, 1.0, 0.05, LOOKS, 0) == expected
    # a look that has been made decides no more, however likely it was to
    later = min((n for n in LOOKS if n > expected), default=LOOKS[-1] + 1)
    assert module.deciding_seeds(effect_size, 1.0, 0.05, LOOKS, expected) == later
    # one claim of five
    assert module.deciding_seeds(effect_size, 1.0, 0.01, LOOKS, 0) >= expected


@pytest.mark.parametrize(("effect_size", "least"), [(0.7, 21), (0.2, 150), (4.0, 21)])
def test_where_no_look_is_left_that_would_decide_more_seeds_than_are_planned_are_told(
    effect_size, least
):
    done = LOOKS[-1] if effect_size == 4.0 else 3
    needed = module.deciding_seeds(effect_size, 1.0, 0.05, LOOKS, done)
    assert needed == max(least, needed_seeds(effect_size, 1.0, 0.05)) > LOOKS[-1]


@pytest.mark.parametrize(
    ("difference", "sd"), [(0.0, 1.0), (np.nan, 1.0), (1.0, 0.0), (1.0, np.nan)]
)
def test_no_number_of_seeds_is_told_without_a_difference_or_a_spread(difference, sd):
    assert module.deciding_seeds(difference, sd, 0.05, LOOKS, 3) is None


@pytest.mark.parametrize("n_done", [3, 5, 8, 12, 20])
def test_an_undecided_claim_is_never_told_to_need_no_more_seeds_than_it_has(tmp_path, n_done):
    n_undecided = 0
    for run in range(6):
        results = fabricated(
            tmp_path / str(run), n_seeds=n_done, n_done=n_done, noise=0.2 + 0.3 * run
        )
        rows = claims_of(results)
        left = rows[rows["claim_verdict"] == "not decided"]
        n_undecided += len(left)
        assert (left["seeds_needed"].dropna() > left["n_seeds"]).all()
        assert set(left["seeds_needed"].dropna()) <= {*LOOKS, *range(21, 10_001)}
    assert n_undecided


def test_a_look_that_waits_for_other_trials_is_not_told_as_enough(tmp_path):
    def state(spec):
        return "WAITING" if spec.seed == 2 and spec.arm == "ce" else "COMPLETE"

    rows = claims_of(fabricated(tmp_path, n_seeds=3, noise=0.01, state=state))
    assert (rows.loc[["split", "close"], "n_seeds"] == 3).all()
    assert (rows["seeds_needed"].dropna() > rows["n_seeds"]).all()


def test_main_effects_that_are_to_be_decided_keep_the_numbers_of_their_look(tmp_path):
    factors = {name: FACTORS[name] for name in ("lr_split", "gradient_decoupling")}
    asked = {
        "claims": [],
        "factors": factors,
        "baselines": ["ce"],
        "decides_effects": True,
        "noise": 0.1,
    }
    early = fabricated(tmp_path / "early", n_done=3, **asked)
    assert set(effects_replay(early).due) == set(early.arms)
    results = fabricated(tmp_path / "late", **asked)
    table = judge(results).query("metric == 'test/top1'").set_index("effect")
    split, none = table.loc["lr_split: off -> on"], table.loc["gradient_decoupling: off -> on"]
    assert (split.n_seeds, split.verdict) == (3, "higher")
    assert (none.n_seeds, none.verdict) == (20, "not separable from 0")
    own = results.first(3).cells("test/top1")
    weights = [-0.5 if arm in ("reference", "gradient_decoupling") else 0.5 for arm in results.arms]
    found = contrast(own[list(results.arms)], weights)
    assert split.estimate == pytest.approx(found.mean)
    assert split.p == pytest.approx(repeated_p(found.p, 3, LOOKS))
    # without the question, they are of all seeds
    other = judge(fabricated(tmp_path / "other", **{**asked, "decides_effects": False}))
    row = other.query("metric == 'test/top1'").set_index("effect").loc["lr_split: off -> on"]
    assert row.n_seeds == 20


def test_an_interaction_asks_for_no_seeds_and_is_tested_at_the_looks_all_the_same(tmp_path):
    factors = {name: FACTORS[name] for name in ("lr_split", "warmup")}
    results = fabricated(
        tmp_path,
        claims=[],
        n_seeds=5,
        n_done=5,
        noise=0.1,
        factors=factors,
        baselines=[],
        decides_effects=True,
    )
    assert effects_replay(results).looks[-1].n_seeds == 3
    rows = judge(results).query("metric == 'test/top1'").set_index("effect")
    assert rows.loc["lr_split x warmup", "n_seeds"] == 3


@pytest.mark.parametrize("apart", [0.3, 1.5])
def test_beyond_a_margin_as_many_seeds_are_needed_as_for_a_difference_and_within_it_fewer(apart):
    def needed(mean, direction, within=None):
        values = [mean - 1, mean, mean + 1]
        found = paired_difference(values, [0.0] * 3)
        asked = SimpleNamespace(found=found, value=0.0, within=within, direction=direction)
        return _needed(asked, 0.05, LOOKS, 3)

    beyond = needed(5 + apart, "none", within=5.0)
    assert beyond == needed(-5 - apart, "none", within=5.0) == needed(apart, "up")
    within = needed(5 - apart, "none", within=5.0)
    assert within == needed(apart - 5, "none", within=5.0) < beyond
    assert math.isnan(needed(apart, "none"))


def test_differences_and_ranks_have_repeated_intervals(tmp_path):
    results = fabricated(tmp_path)
    table = judge(results).query("metric == 'test/top1'").set_index("effect")
    row = table.loc["lr_split - ldmlr"]
    expected = module.repeated(difference(results, "lr_split", "ldmlr", 20), LOOKS)
    assert (row.low, row.high, row.p) == pytest.approx((expected.low, expected.high, expected.p))
    plain = judge(results.without_looks()).query("metric == 'test/top1'").set_index("effect")
    assert row.low < plain.loc["lr_split - ldmlr"].low
    (found,) = minus_others(results, "lr_split", ["ldmlr"], confidence=0.99)
    (narrow,) = minus_others(results.without_looks(), "lr_split", ["ldmlr"], confidence=0.99)
    assert found.low < narrow.low and found.high > narrow.high


def test_an_estimate_without_interval_stays_as_it_is():
    found = paired_difference([72.0], [70.0])
    assert module.repeated(found, LOOKS) == found
    assert math.isnan(module.repeated(paired_difference([1, 2], [1, 2]), LOOKS).p)


def report_of(results):
    effects = judge(results)
    return render(results, effects, judge_claims(results, effects), [])


def test_the_report_says_how_looks_are_paid_for_and_at_which_each_claim_was_decided(tmp_path):
    results = fabricated(tmp_path, n_seeds=5, n_done=3)
    text = report_of(results)
    of_looks = text.partition("## Looks")[2].partition("\n## ")[0]
    assert "after 3, 5, 8, 12, 20 seeds" in of_looks
    # as far as this study has come, all have three
    assert "So arms may have different numbers of seeds" in of_looks
    assert "Jennison & Turnbull" in of_looks and "Ye, Li, Liu & Yao" in of_looks
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in of_looks.splitlines()]
    assert ["3", "2 of 3", "`ldmlr`, `balanced-head`"] in rows
    of_claims = text.partition("## Claims")[2].partition("\n## ")[0]
    split, worse, close = of_claims.split("\n\n**")[1:]
    fixed = "As a study of a fixed number of seeds, the same results say: "
    assert f"Decided after 3 seeds. {fixed}supported." in split
    assert f"Decided after 3 seeds. {fixed}refuted." in worse
    assert "Not decided after 3 seeds: if the estimate and the spread" in close
    assert "sign-flip" not in text and "with its repeated 95 % interval (see Looks)" in text


def test_the_report_of_a_fixed_number_of_seeds_says_nothing_of_looks(tmp_path):
    text = report_of(fabricated(tmp_path, looks=[], n_seeds=5, n_done=5))
    assert "look" not in text.lower() and "repeated" not in text and "Decided after" not in text


def test_claims_of_looks_are_read_back_and_shown_in_a_readme(tmp_path):
    results = fabricated(tmp_path / "runs" / "fixes", n_seeds=3, n_done=3)
    places = ProjectPaths(tmp_path)
    write_report(places.runs("fixes"), places.report("fixes"))
    table = judge_claims(results, judge(results))
    read = read_claims(places.report("fixes"))
    assert undecided(read, 5) == undecided(table, 5) != ""
    shown = study_tables(places.report_folders, "fixes", ["claims"])
    assert "| not decided " in shown and "(repeated interval and p = " in shown
    # that of an earlier version cannot tell an interval that agrees with the verdict
    path = places.report("fixes") / "claims.csv"
    pd.read_csv(path).drop(columns=["low_holm", "high_holm"]).to_csv(path, index=False)
    shown = study_tables(places.report_folders, "fixes", ["claims"])
    assert "(repeated p = " in shown and "top-1 +0.49 points" in shown


def test_a_comparison_warns_that_its_intervals_know_nothing_of_looks(tmp_path):
    fabricated(tmp_path / "runs" / "fixes", n_seeds=3, n_done=3)
    found = compare("lr_split", "ldmlr", "fixes", ProjectPaths(tmp_path))
    assert any("fixes added seeds until its claims were decided" in text for text in found.warnings)
