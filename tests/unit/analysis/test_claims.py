"""Claims are decided by what the seeds show after correction, and by nothing else."""

import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from fabricate import BASELINES, FACTORS, planted, study
from scipy import stats

from ablation.analysis import claims
from ablation.analysis.claims import (
    CLAIM_COLUMNS,
    claim_texts,
    claims_counted,
    claims_table,
    judge_claims,
    judged_intervals,
)
from ablation.analysis.effects import judge
from ablation.analysis.first_plan import plan_warnings
from ablation.analysis.results import load, read_claims, read_effects
from ablation.analysis.statistics import contrast, holm, margin_p, paired_difference
from ablation.formatting import effect
from ablation.reporting.report import render, write_report
from ablation.reporting.tables import study_tables
from ablation.storage.runs import FirstPlan

ONE = {"lr_split": FACTORS["lr_split"]}
TWO = {**ONE, "gradient_decoupling": FACTORS["gradient_decoupling"]}
LEVELS = {"rate": {"low": {}, "middle": {}, "high": {}}}
OFF_ON = {"factor": "lr_split", "from": "off", "to": "on"}


def claim(contrast, *expects, id="a"):
    """expects: "up" (of the primary metric), or "metric: up"."""
    pairs = [text.split(": ") if ": " in text else ["test/top1", text] for text in expects]
    expectations = [{"metric": metric, "direction": direction} for metric, direction in pairs]
    return {"id": id, "says": f"This is {id}.", "contrast": contrast, "expects": expectations}


def judged(folder):
    results = load(folder)
    return judge_claims(results, judge(results))


def verdicts(folder):
    return list(judged(folder)["verdict"])


def lifting(size):
    return lambda levels: 66.0 + size * (levels["lr_split"] == "on")


@pytest.mark.parametrize(
    "size, direction, verdict",
    [
        (8, "up", "supported"),
        (8, "down", "refuted"),
        (8, "none", "refuted"),
        (-8, "up", "refuted"),
        (-8, "down", "supported"),
        (-8, "none", "refuted"),
        (0, "up", "not decided"),
        (0, "down", "not decided"),
        (0, "none", "not decided"),
    ],
)
@pytest.mark.parametrize(
    "contrast",
    [OFF_ON, {"arm": "lr_split", "minus": "reference"}, {"arm": "lr_split", "minus": "ldmlr"}],
)
def test_planted_effects_decide_and_intervals_with_0_do_not(
    tmp_path, contrast, size, direction, verdict
):
    table = judged(
        study(
            tmp_path,
            factors=ONE,
            top1=lifting(size),
            seeds=range(5),
            claims=[claim(contrast, direction)],
        )
    )
    assert list(table.columns) == CLAIM_COLUMNS
    (row,) = table.itertuples()
    assert (row.verdict, row.claim_verdict) == (verdict, verdict)
    assert (row.low <= 0 <= row.high) == (size == 0)
    assert row.n_seeds == 5 and row.low < size < row.high


def test_estimates_are_those_of_the_effects(tmp_path):
    contrasts = [OFF_ON, {"arm": "lr_split", "minus": "ldmlr"}]
    results = load(
        study(tmp_path, claims=[claim(c, "up", id=str(i)) for i, c in enumerate(contrasts)])
    )
    effects = judge(results)
    found = judge_claims(results, effects).set_index("contrast")
    expected = effects[effects["metric"] == "test/top1"].set_index("effect").loc[found.index]
    for column in ("estimate", "low", "high", "p"):
        assert list(found[column]) == list(expected[column])


def test_a_contrast_may_start_from_any_level_and_end_at_the_reference(tmp_path):
    truth = {"low": 60.0, "middle": 64.0, "high": 70.0}
    ends = [("middle", "high"), ("high", "low")]
    sides = [{"factor": "rate", "from": start, "to": end} for start, end in ends]
    folder = study(
        tmp_path,
        factors=LEVELS,
        top1=lambda v: truth[v["rate"]],
        claims=[claim(s, "up", id=s["to"]) for s in sides],
        noise=0.1,
    )
    cells, table = load(folder).cells("test/top1"), judged(folder)
    for row, (start, end) in zip(table.itertuples(), ends):
        expected = paired_difference(cells[f"rate={end}"], cells[f"rate={start}"])
        assert (row.estimate, row.low, row.high) == pytest.approx(expected[:3])
        assert row.contrast == f"rate: {start} -> {end}"
    assert list(table["verdict"]) == ["supported", "refuted"]


def test_a_baseline_may_stand_on_either_side(tmp_path):
    (row,) = judged(
        study(tmp_path, noise=0.2, claims=[claim({"arm": "ce", "minus": "ldmlr"}, "down")])
    ).itertuples()
    assert row.verdict == "supported" and row.contrast == "ce - ldmlr"


BROKEN = "over 1 of 2 pairs of arms: without `lr_split+gradient_decoupling` (1 of 5 seeds)"


def breaking(path, **options):
    """Two factors; the arm of both breaks in 4 of 5 seeds, and in the others `lr_split` raises."""

    def state(spec):
        is_broken = spec.arm == "lr_split+gradient_decoupling" and spec.seed > 0
        return "FAILED" if is_broken else "COMPLETE"

    return study(path, factors=TWO, seeds=range(5), top1=lifting(8), state=state, **options)


@pytest.mark.parametrize("looks", [[], [3, 5]])
@pytest.mark.parametrize("direction", ["up", "down", "none"])
def test_a_claim_over_fewer_arms_than_it_names_is_not_decided_and_says_so(
    tmp_path, direction, looks
):
    """It is no claim on `lr_split` without `gradient_decoupling` alone."""
    folder = breaking(tmp_path / "runs", claims=[claim(OFF_ON, direction)], looks=looks)
    table = judged(folder)
    (row,) = table.itertuples()
    assert (row.verdict, row.claim_verdict) == ("not decided", "not decided")
    assert np.isnan(row.p) and row.low > 0 and row.n_seeds == 5
    assert row.over == BROKEN
    ((told,),) = [one.expectations for one in claim_texts(table)]
    assert told.endswith(f"] points ({BROKEN}; not tested)") and BROKEN in claims_table(table)
    write_report(folder, tmp_path / "report", drawn=[])
    for name in ("claims", "effects"):
        assert BROKEN in (tmp_path / "report" / f"{name}.csv").read_text()
    assert claims_table(read_claims(tmp_path / "report")) == claims_table(table)


def test_an_effect_over_fewer_arms_than_it_has_says_so_where_it_is_told(tmp_path):
    folder = breaking(tmp_path)
    results = load(folder)
    effects = judge(results)
    text = render(results, effects, judge_claims(results, effects), [])
    assert f"`lr_split` ({BROKEN}) raises top-1" in text.partition("## ")[0]
    assert f"higher; {BROKEN}" in text.partition("## Effects")[2]


def test_a_claim_of_the_seeds_that_its_arms_survived_says_so(tmp_path):
    folder = study(
        tmp_path / "runs",
        factors=ONE,
        seeds=range(10),
        top1=lifting(8),
        state=lambda s: "FAILED" if s.arm == "lr_split" and s.seed > 3 else "COMPLETE",
        claims=[claim(OFF_ON, "up")],
    )
    table = judged(folder)
    said = "in 4 of 10 seeds: where `lr_split` did not fail"
    assert list(table["over"]) == [said] and list(table["claim_verdict"]) == ["supported"]
    assert f"after Holm's correction, {said})" in claim_texts(table)[0].expectations[0]
    assert claims_counted(table) == "Of 1 claim: 1 supported (`a` where trials did not fail)."
    write_report(folder, tmp_path / "report", drawn=[])
    effects = read_effects(tmp_path / "report").set_index("effect")
    assert set(effects.loc["lr_split: off -> on", "over"]) == {said}
    assert set(effects.loc["reference - ldmlr", "over"]) == {""}


def test_an_arm_that_broke_where_no_claim_compares_it_leaves_claims_decided(tmp_path):
    sides = {"arm": "lr_split", "minus": "reference"}
    table = judged(breaking(tmp_path, claims=[claim(sides, "up")]))
    assert list(table["claim_verdict"]) == ["supported"] and "over" not in table


def test_a_claim_is_as_its_worst_expectation(tmp_path):
    several = [
        claim(OFF_ON, "up", "test/few: up", id="all"),
        claim(OFF_ON, "up", "test/few: down", "diag/drift: up", id="one-refuted"),
        claim(OFF_ON, "up", "diag/drift: up", id="one-unknown"),
    ]
    table = judged(study(tmp_path, factors=ONE, claims=several))
    whole = table.drop_duplicates("claim")["claim_verdict"]
    assert list(whole) == ["supported", "refuted", "not decided"]


def test_what_was_not_measured_decides_nothing(tmp_path):
    folder = study(
        tmp_path, factors=ONE, claims=[claim(OFF_ON, "diag/drift: up", "diag/drift: none")]
    )
    table = judged(folder)
    assert set(table["verdict"]) == {"not decided"} and not table["n_seeds"].any()
    assert all(
        line.endswith("not decided, not measured") for line in claim_texts(table)[0].expectations
    )


def test_one_seed_decides_nothing(tmp_path):
    table = judged(
        study(tmp_path, factors=ONE, seeds=[0], claims=[claim(OFF_ON, "up", "down", "none")])
    )
    assert set(table["verdict"]) == {"not decided"}
    assert "(one seed: no interval over seeds)" in claim_texts(table)[0].expectations[0]


def test_seeds_that_agree_exactly_decide_nothing(tmp_path):
    table = judged(
        study(tmp_path, factors=ONE, noise=0.0, claims=[claim(OFF_ON, "up", "down", "none")])
    )
    assert set(table["verdict"]) == {"not decided"}
    assert "(seeds agree exactly: no interval over seeds)" in claim_texts(table)[0].expectations[0]


def test_seeds_that_lack_a_side_drop_out(tmp_path):
    state = {"lr_split--s1": "FAILED"}
    folder = study(
        tmp_path,
        factors=ONE,
        claims=[claim(OFF_ON, "up")],
        state=lambda s: state.get(s.trial, "COMPLETE"),
        seeds=range(4),
    )
    assert judged(folder)["n_seeds"].item() == 3


def test_a_study_that_waits_decides_nothing(tmp_path):
    folder = study(
        tmp_path, factors=ONE, claims=[claim(OFF_ON, "up", "none")], state=lambda s: "WAITING"
    )
    assert verdicts(folder) == ["not decided", "not decided"]


def kill(folder, arm, by):
    """Give an arm the very records and outcomes of another."""
    specs = {(spec.arm, spec.seed): spec for spec in folder.manifest().trials}
    for (name, seed), spec in specs.items():
        if name == arm:
            partner = specs[by, seed].trial
            folder.write_records(spec.trial, folder.records(partner))
            folder.write_outcome(spec.trial, replace(folder.outcome(partner), key=spec.key))


@pytest.mark.parametrize("contrast", [OFF_ON, {"arm": "lr_split", "minus": "reference"}])
@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_a_dead_toggle_supports_no_effect_and_refutes_any(tmp_path, contrast, seeds):
    folder = study(
        tmp_path,
        factors=ONE,
        seeds=seeds,
        claims=[claim(contrast, "none", "up", "down", "diag/drift: none")],
    )
    kill(folder, "lr_split", by="reference")
    table = judged(folder)
    if len(seeds) == 1:
        assert set(table["verdict"]) == {"not decided"}, "one seed decides no claim"
        return
    assert list(table["verdict"]) == ["supported", "refuted", "refuted", "not decided"]
    assert (
        claim_texts(table)[0]
        .expectations[1]
        .endswith("refuted, no effect by construction (the same bits)")
    )


@pytest.mark.parametrize("n_numbers, said", [(9, "not decided"), (10, "supported")])
def test_few_equal_numbers_of_own_code_show_nothing(tmp_path, n_numbers, said):
    """An accuracy of 1.0 in both arms does not say that the code never used what was changed."""
    folder = study(tmp_path, factors=ONE, baselines=[], claims=[claim(OFF_ON, "none")])
    manifest = folder.manifest()
    specs = [replace(spec, epochs_planned=1) for spec in manifest.trials]
    folder.write_manifest(replace(manifest, trials=specs))
    for spec in specs:
        metrics = {"test/top1": 1.0} | {f"m{i}": float(i) for i in range(2, n_numbers + 1)}
        record = {**folder.records(spec.trial)[-1], "metrics": metrics}
        folder.write_records(spec.trial, [record])
        outcome = folder.outcome(spec.trial)
        folder.write_outcome(spec.trial, replace(outcome, metrics=metrics, vectors={}))
    assert verdicts(folder) == [said]


def test_equal_results_of_other_histories_do_not_support_no_effect(tmp_path):
    folder = study(tmp_path, factors=ONE, claims=[claim(OFF_ON, "none")])
    kill(folder, "lr_split", by="reference")
    records = folder.records("lr_split--s1")
    records[0]["metrics"]["train/diffusion_loss"] = 0.123
    folder.write_records("lr_split--s1", records)
    assert verdicts(folder) == ["not decided"]


def within(margin):
    return {
        **claim(OFF_ON),
        "expects": [{"metric": "test/top1", "direction": "none", "within": margin}],
    }


@pytest.mark.parametrize(
    "margin, verdict", [(3.0, "supported"), (1.05, "not decided"), (0.3, "refuted")]
)
def test_no_effect_within_a_margin_is_supported_by_two_one_sided_tests(tmp_path, margin, verdict):
    folder = study(
        tmp_path,
        factors=ONE,
        seeds=range(6),
        noise=0.2,
        top1=lambda v: 60.0 + (v["lr_split"] == "on"),
        claims=[within(margin)],
    )
    cells, (row,) = load(folder).cells("test/top1"), judged(folder).itertuples()
    d = cells["lr_split"] - cells["reference"]
    sides = [
        stats.ttest_1samp(d, -margin, alternative="greater").pvalue,
        stats.ttest_1samp(d, margin, alternative="less").pvalue,
    ]
    expected = max(sides) if abs(d.mean()) < margin else stats.ttest_1samp(d, margin).pvalue
    assert (
        row.p == pytest.approx(expected)
        and row.verdict == verdict
        and row.direction == f"none within {margin:g}"
    )
    assert (
        claim_texts(judged(folder))[0]
        .expectations[0]
        .startswith(f"top-1 should not change by {margin:g} points or more: {verdict}, ")
    )


def test_a_margin_decides_nothing_from_one_seed_and_is_needless_where_bits_agree(tmp_path):
    assert verdicts(study(tmp_path / "one", factors=ONE, seeds=[0], claims=[within(50.0)])) == [
        "not decided"
    ]
    folder = study(tmp_path / "dead", factors=ONE, claims=[within(0.1)])
    kill(folder, "lr_split", by="reference")
    assert verdicts(folder) == ["supported"]


@pytest.mark.parametrize("side", [-1, 1])
def test_at_its_bound_a_margin_is_wrongly_kept_in_5_percent_of_studies(side):
    differences = np.random.default_rng(8).normal(side * 1.0, 0.8, (1_000, 5))
    kept = [
        abs(one.mean) < 1 and margin_p(one, 1.0) < 0.05
        for one in (contrast(row[:, None], [1.0]) for row in differences)
    ]
    assert np.mean(kept) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1_000)
    assert np.mean(kept) > 0.02


def one_sided(contrast, direction, value, metric="test/top1"):
    return {
        **claim(contrast),
        "expects": [{"metric": metric, "direction": direction, "value": value}],
    }


@pytest.mark.parametrize("contrast, arms", [
    ({"arm": "reference"}, ["reference"]), ({"arm": "ldmlr"}, ["ldmlr"]),
    ({"factor": "gradient_decoupling", "level": "on"}, ["gradient_decoupling", "lr_split+gradient_decoupling"]),
    pytest.param({"factor": "lr_split", "level": "off"}, ["reference", "gradient_decoupling"], marks=pytest.mark.long),
])  # fmt: skip
@pytest.mark.parametrize(
    "shift, below, above",
    [(-9, "refuted", "supported"), (0, "not decided", "not decided"), (9, "supported", "refuted")],
)
def test_the_mean_of_an_arm_or_a_level_is_tested_against_a_number(
    tmp_path, contrast, arms, shift, below, above
):
    cells = load(study(tmp_path / "cells", factors=TWO, seeds=range(5))).cells("test/top1")
    number = float(cells[arms].mean(axis=1).mean()) + shift
    several = [
        one_sided(contrast, "below", number),
        {**one_sided(contrast, "above", number), "id": "b"},
    ]
    table = judged(study(tmp_path, factors=TWO, seeds=range(5), claims=several))
    assert list(table["verdict"]) == [below, above]
    values = cells[arms].mean(axis=1)
    for row in table.itertuples():
        test = stats.ttest_1samp(values, number)
        assert (row.estimate, row.p, row.n_seeds) == (
            pytest.approx(values.mean()),
            pytest.approx(test.pvalue),
            5,
        )
        assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval()))
        assert row.contrast == (
            contrast["arm"] if "arm" in contrast else f"{contrast['factor']}: {contrast['level']}"
        )
    assert list(table["direction"]) == [f"below {number:.12g}", f"above {number:.12g}"]


@pytest.mark.parametrize("options, told", [
    ({"seeds": [0]}, "(one seed: no interval over seeds)"), ({"state": lambda spec: "FAILED" if spec.seed else "COMPLETE"}, "(one seed: no interval over seeds)"),
    ({"state": lambda spec: "WAITING"}, "not measured"),
])  # fmt: skip
def test_a_mean_without_an_interval_decides_nothing(tmp_path, options, told):
    table = judged(
        study(
            tmp_path, factors=ONE, claims=[one_sided({"arm": "reference"}, "above", 1.0)], **options
        )
    )
    assert list(table["verdict"]) == ["not decided"]
    assert (
        claim_texts(table)[0].expectations[0].startswith("top-1 should be above 1 %: not decided, ")
    )
    assert claim_texts(table)[0].expectations[0].endswith(told)


def test_a_dead_toggle_says_nothing_about_the_mean_of_its_levels(tmp_path):
    folder = study(
        tmp_path,
        factors=ONE,
        seeds=range(4),
        claims=[one_sided({"factor": "lr_split", "level": "on"}, "above", 1.0)],
    )
    kill(folder, "lr_split", by="reference")
    assert verdicts(folder) == ["supported"]


def test_means_and_differences_are_one_family_and_one_table(tmp_path):
    several = [claim(OFF_ON, "up"), {**one_sided({"arm": "reference"}, "below", 20), "id": "b"}]
    results = load(study(tmp_path, factors=ONE, seeds=range(5), top1=lifting(8), claims=several))
    effects = judge(results)
    table = judge_claims(results, effects)
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"]))
    assert table["p_holm"].min() == 2 * table["p"].min()
    mean = f"{table['estimate'][1]:.1f} ["
    assert f" | `reference`: top-1 {mean}" in claims_table(
        table
    ) and "difference or mean [interval]" in claims_table(table)
    assert "difference [interval]" in claims_table(table[:1])
    text = render(results, effects, table, [])
    assert (
        f"- top-1 should be below 20 %: refuted, {mean}" in text and "(`b`, by `reference`)" in text
    )
    assert "a one-sample t-test of its mean against the number named" in text


@pytest.mark.parametrize("direction, beyond", [("below", 1e-3), ("above", -1e-3)])
def test_no_bound_reads_as_the_number_that_it_leaves_out(tmp_path, direction, beyond):
    """A claim that 64.3 [63.7, 65.0] is below 65 is not supported, as a reader sees it."""
    results = load(study(tmp_path / "cells", factors=ONE, seeds=range(5)))
    found = stats.ttest_1samp(results.cells("test/top1")["reference"], 0).confidence_interval()
    number = (found.high if direction == "below" else found.low) + beyond
    claims = [one_sided({"arm": "reference"}, direction, number)]
    (claim,) = claim_texts(judged(study(tmp_path, factors=ONE, seeds=range(5), claims=claims)))
    low, high = map(float, re.search(r"\[(\S+), (\S+)\]", claim.expectations[0]).groups())
    assert claim.verdict == "supported"
    assert high < number if direction == "below" else low > number


def test_a_margin_of_1_is_one_point(tmp_path):
    (told,) = claim_texts(judged(study(tmp_path, factors=ONE, claims=[within(1.0)])))
    assert told.expectations[0].startswith("top-1 should not change by 1 point or more: ")


def test_no_bound_reads_as_the_margin_that_it_lies_within(tmp_path):
    cells = load(study(tmp_path / "cells", factors=ONE, seeds=range(5))).cells("test/top1")
    differences = cells["lr_split"] - cells["reference"]
    # of a test with one side
    high = differences.mean() + stats.t.ppf(0.95, 4) * differences.std() / np.sqrt(5)
    margin = float(np.ceil(10 * high) / 10)
    folder = study(
        tmp_path,
        factors=ONE,
        seeds=range(5),
        top1=lambda levels: planted(levels) + (margin - high - 1e-3) * (levels["lr_split"] == "on"),
        claims=[within(margin)],
    )
    (told,) = claim_texts(judged(folder))
    assert told.verdict == "supported"
    assert float(re.search(r", (\S+)\]", told.expectations[0])[1]) < margin


def test_a_level_whose_arms_lie_on_both_sides_of_the_number_is_told_arm_by_arm(tmp_path):
    several = [
        one_sided({"factor": "gradient_decoupling", "level": "off"}, "above", number, "test/top1")
        | {"id": f"c{number}"}
        for number in (10, 60, 90)
    ]
    table = judged(
        study(
            tmp_path,
            factors=TWO,
            seeds=range(4),
            noise=0.3,
            top1=lambda levels: 80.0 - 40 * (levels["lr_split"] == "on"),
            claims=several,
        )
    )
    low, middle, high = table["level_by_level"]
    assert (low, high) == ("", "")
    reference, lr_split = middle.split(" and ")
    assert reference.endswith(" in reference") and lr_split.endswith(" in lr_split")
    assert float(reference.split(" ")[0]) == pytest.approx(80, abs=4) and float(
        lr_split.split(" ")[0]
    ) == pytest.approx(40, abs=4)
    assert (
        f"a mean that describes no arm; arm by arm, not corrected: {middle}"
        in claim_texts(table)[1].expectations[0]
    )


def with_p_values(folder, *p_values):
    """The claims of a study whose tests gave these p-values."""
    true = claims._estimate
    given = iter(p_values)
    with mock.patch.object(claims, "_estimate", lambda *what: true(*what)._replace(p=next(given))):
        return judged(folder)


def test_two_claims_that_each_alone_would_be_decided_are_not_together(tmp_path):
    two = [claim(OFF_ON, "up", id="a"), claim({"arm": "lr_split", "minus": "ldmlr"}, "up", id="b")]
    alone = with_p_values(study(tmp_path / "alone", factors=ONE, claims=two[:1]), 0.04)
    assert list(alone["verdict"]) == ["supported"]
    together = with_p_values(study(tmp_path / "together", factors=ONE, claims=two), 0.04, 0.04)
    assert list(together["verdict"]) == ["not decided", "not decided"]
    assert list(together["p"]) == [0.04, 0.04] and list(together["p_holm"]) == [0.08, 0.08]


def test_the_family_is_every_expectation_of_every_claim(tmp_path):
    several = [
        claim(OFF_ON, "up", "diag/drift: up", id="a"),
        claim({"arm": "ce", "minus": "ldmlr"}, "none", "test/few: down", id="b"),
    ]
    table = judged(study(tmp_path, claims=several))
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"]))
    assert table["p_holm"][0] == pytest.approx(4 * table["p"][0])  # the smallest of four


def test_a_mean_over_unlike_effects_is_told_level_by_level(tmp_path):
    def top1(levels):
        return 90.0 - 70 * (levels["gradient_decoupling"] == "on" and levels["lr_split"] == "off")

    several = [
        claim(OFF_ON, "up"),
        claim({**OFF_ON, "from": "on", "to": "off"}, "down", id="b"),
        claim({"arm": "lr_split", "minus": "ldmlr"}, "up", id="c"),
    ]
    table = judged(
        study(tmp_path, factors=TWO, top1=top1, noise=0.3, seeds=range(4), claims=several)
    )
    forward, backward, _ = notes = list(table["level_by_level"])
    assert notes[2] == ""
    off, on = forward.split(" and ")
    assert abs(float(off.split(" ")[0])) < 1 and off.endswith("at gradient_decoupling=off")
    assert float(on.split(" ")[0]) == pytest.approx(70, abs=1) and on.endswith(
        "at gradient_decoupling=on"
    )
    assert " and -70" in backward or " and -69" in backward
    assert forward in claim_texts(table)[0].expectations[0] and forward in claims_table(table)
    assert (
        claims_counted(table) == "Of 3 claims: 3 supported (`a` on average, `b` on average, `c`)."
    )


def test_a_claim_about_levels_that_do_not_interact_is_not_told_level_by_level(tmp_path):
    """One level of the rate needs the split; what is claimed of the others is as it is."""

    def middle_needs_the_split(levels):
        return 60.0 + 10 * (levels["rate"] == "middle" and levels["lr_split"] == "on")

    ends = [("low", "high"), ("low", "middle"), ("middle", "high")]
    several = [
        claim({"factor": "rate", "from": start, "to": end}, "up", id=f"{start}-{end}")
        for start, end in ends
    ]
    table = judged(
        study(
            tmp_path,
            factors={**LEVELS, **ONE},
            top1=middle_needs_the_split,
            noise=0.3,
            seeds=range(6),
            claims=several,
        )
    )
    assert [bool(told) for told in table["level_by_level"]] == [False, True, True]


def test_effects_that_add_up_are_not_told_level_by_level(tmp_path):
    table = judged(study(tmp_path, seeds=range(4), noise=0.3, claims=[claim(OFF_ON, "up")]))
    assert list(table["level_by_level"]) == [""]


def test_claims_are_counted_in_one_sentence(tmp_path):
    several = [
        claim(OFF_ON, direction, id=id)
        for id, direction in [("a", "up"), ("b", "down"), ("c", "up")]
    ]
    several.append(claim(OFF_ON, "diag/drift: up", id="d"))
    table = judged(study(tmp_path, factors=ONE, claims=several))
    assert (
        claims_counted(table)
        == "Of 4 claims: 2 supported (`a`, `c`), 1 refuted (`b`), 1 not decided."
    )
    assert claims_counted(table[table["claim"] == "d"]) == "Of 1 claim: 1 not decided."
    assert claims_counted(table.iloc[:0]) == ""


def test_the_report_tells_each_claim_with_its_numbers(tmp_path):
    results = load(
        study(
            tmp_path,
            factors=ONE,
            claims=[claim(OFF_ON, "up", "test/few: down"), claim(OFF_ON, "diag/drift: up", id="b")],
        )
    )
    effects = judge(results)
    table = judge_claims(results, effects)
    text = render(results, effects, table, [])
    section = text.split("\n## Claims\n")[1].split("\n## ")[0]
    row = effects[(effects["metric"] == "test/top1") & (effects["kind"] == "main")].iloc[0]
    assert (
        "**Refuted:** This is a. (`a`, by `lr_split: off -> on`)" in section
        and "**Not decided:** This is b." in section
    )
    low, high = judged_intervals(table).iloc[0]
    assert low < row["low"] and row["high"] < high
    size = effect(row["estimate"], low, high)
    assert f"- top-1 should rise: supported, {size} points (interval and p = " in section
    assert "- few should fall: refuted, " in section and "over all 3 expectations" in section
    assert "leaves out 0 exactly where that is decided" in section and "\n\n\n" not in text
    assert "Of 2 claims: 1 refuted (`a`), 1 not decided." in text.split("\n## ")[0]
    assert "[claims.csv](claims.csv)" in text


def near(number, metric="test/top1"):
    """Expects a change that stays within a margin."""
    return {"metric": metric, "direction": "none", "within": number}


def test_the_interval_of_a_claim_agrees_with_its_verdict(tmp_path):
    several = [
        *(
            claim({"arm": "lr_split", "minus": minus}, "up", id=minus)
            for minus in ("reference", "balanced-head", "ldmlr", "ldmlr-no-generation")
        ),
        *(
            {**claim({"arm": "balanced-head", "minus": "ldmlr"}), "id": f"n{size}"}
            | {"expects": [near(size)]}
            for size in (0.1, 0.5, 1.5, 3.0)
        ),
        *(
            one_sided({"arm": "reference"}, "above", size) | {"id": f"m{size}"}
            for size in (55, 64, 66, 67)
        ),
    ]
    n_unlike = 0
    for run in range(8):
        folder = study(
            tmp_path / str(run),
            factors=ONE,
            baselines=BASELINES,
            top1=lambda levels: 66.0 + (levels["lr_split"] == "on"),
            seeds=range(10 * run, 10 * run + 4),
            noise=0.5,
            claims=several,
        )
        table = judged(folder)
        for row in table.assign(**judged_intervals(table)).itertuples():
            kind, _, number = row.direction.partition(" ")
            number = float(number.removeprefix("within ") or 0)
            if kind != "none":
                is_decided = not row.low_holm <= number <= row.high_holm
                n_unlike += is_decided == (row.low <= number <= row.high)
            elif row.verdict == "supported":
                is_decided = -number < row.low_holm and row.high_holm < number
            else:
                is_decided = row.low_holm > number or row.high_holm < -number
            assert is_decided == (row.verdict != "not decided")
    # without the correction, some would not agree
    assert n_unlike > 3


def test_the_file_of_claims_comes_and_goes_with_them(tmp_path):
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        folder = study(tmp_path / "runs", factors=ONE, claims=[claim(OFF_ON, "up")])
        first = write_report(folder, tmp_path / "reports").path.parent / "claims.csv"
        again = write_report(folder, tmp_path / "again").path.parent / "claims.csv"
        assert first.read_bytes() == again.read_bytes()
        assert list(pd.read_csv(first).columns) == CLAIM_COLUMNS
        report = write_report(study(tmp_path / "runs", factors=ONE), tmp_path / "reports").path
    assert not first.exists()
    assert "claims" not in report.read_text().lower()


FIRST, OTHER = claim(OFF_ON, "up"), claim(OFF_ON, "test/few: up", id="b")


def planned_as(claims, seeds=(0, 1, 2)):
    """Of a manifest: what was planned as its results were first seen."""
    return {"first_plan": FirstPlan([], list(seeds), claims)}


@pytest.mark.parametrize(
    ("first", "now", "post_hoc"),
    [
        ([FIRST], [FIRST, OTHER], ["no", "yes"]),
        ([FIRST, claim(OFF_ON, "down", id="c")], [FIRST, OTHER], ["yes", "yes"]),
    ],
)
def test_claims_made_after_results_were_seen_are_marked_wherever_they_are_told(
    tmp_path, first, now, post_hoc
):
    folder = study(tmp_path / "runs", factors=ONE, claims=now, **planned_as(first))
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        written = write_report(folder, tmp_path / "reports" / "fixes")
    reports, (warning,) = written.path.parent, plan_warnings(folder.manifest())
    rows = pd.read_csv(reports / "claims.csv")
    assert list(rows.columns) == [*CLAIM_COLUMNS, "post_hoc", "warning"]
    assert list(rows["post_hoc"]) == post_hoc and set(rows["warning"]) == {warning}
    assert set(pd.read_csv(reports / "effects.csv")["warning"]) == {warning}
    text = written.path.read_text()
    shown = study_tables([tmp_path / "reports"], "fixes")
    assert shown.endswith(f"\n\n**Warning:** {warning}.") and shown.count("Warning") == 1
    counted = claims_counted(written.claims)
    for one, mark in zip(now, post_hoc, strict=True):
        (row,) = [line for line in shown.splitlines() if line.startswith(f"| {one['says']}")]
        assert ("**supported**, post hoc" in row) == (mark == "yes")
        heading = "**Supported, post hoc:**" if mark == "yes" else "**Supported:**"
        assert f"{heading} {one['says']}" in text
        assert (f"`{one['id']}` post hoc" in counted) == (mark == "yes")
    assert counted in text.partition("## ")[0]


def test_nothing_is_marked_where_no_plan_was_changed(tmp_path):
    folder = study(tmp_path / "runs", factors=ONE, claims=[FIRST, OTHER])
    assert list(judged(folder).columns) == CLAIM_COLUMNS
    # seeds that were changed make no claim a new one
    folder = study(
        tmp_path / "seeds", factors=ONE, claims=[FIRST, OTHER], **planned_as([OTHER, FIRST], [0, 1])
    )
    assert plan_warnings(folder.manifest()) and list(judged(folder).columns) == CLAIM_COLUMNS
