"""What is compared, how the difference is estimated, and what is said of it."""

import io
import math
import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from fabricate import FACTORS, better, study, with_hits
from rich.console import Console
from scipy import stats

from ablation.analysis.compare import (
    ON_RUN,
    compare,
    comparison_rows,
    comparison_text,
    difference,
    difference_to_constant,
)
from ablation.analysis.effects import judge
from ablation.analysis.first_plan import plan_warnings
from ablation.analysis.results import load
from ablation.cli.main import main
from ablation.errors import InputError
from ablation.reporting.report import write_report
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import FirstPlan
from ablation.study.comparison import show_comparison

SHORTEST = {"lr_split": FACTORS["lr_split"]}
PUBLISHED = "published:LDMLR"
CLAIM = {
    "id": "helps",
    "says": "It helps.",
    "contrast": {"arm": "lr_split", "minus": "ldmlr"},
    "expects": [{"metric": "test/top1", "direction": "up"}],
}


def fabricated(root, name="fixes", **what):
    """`runs/<name>/`."""
    return study(
        root / "runs" / name,
        study=name,
        **{
            "factors": SHORTEST,
            "facts": {"data_fingerprint": "d1", "source_fingerprint": "s1"},
            **what,
        },
    )


def top1(root, arm, name="fixes"):
    """By seed, from the outcomes."""
    folder = ProjectPaths(root).runs(name)
    return {
        spec.seed: folder.outcome(spec.trial).metrics["test/top1"]
        for spec in folder.manifest().trials
        if spec.arm == arm
    }


def compared(root, left, right, study=None, metrics=()):
    return compare(left, right, study, ProjectPaths(root), metrics)


def test_arms_of_one_study_are_compared_within_each_seed(tmp_path):
    fabricated(tmp_path)
    found = compared(tmp_path, "lr_split", "ldmlr", "fixes")
    left, right = (list(top1(tmp_path, arm).values()) for arm in ("lr_split", "ldmlr"))
    test = stats.ttest_rel(left, right)
    interval = test.confidence_interval()
    assert found.rows[0].found[:4] == pytest.approx(
        (np.mean(left) - np.mean(right), interval.low, interval.high, test.pvalue)
    )
    assert found.rows[0].found.how == "paired, 3 seeds"
    assert [row.metric for row in found.rows] == [
        "test/top1",
        "best/test/top1",
        "test/many",
        "test/few",
    ]
    assert found.warnings == []


def test_other_metrics_are_compared_where_they_are_asked_for(tmp_path):
    fabricated(tmp_path)
    fabricated(tmp_path, "later")
    asked = ["test/few", "test/top1"]
    arms = compared(tmp_path, "fixes:lr_split", "fixes:ldmlr", metrics=asked)
    assert [row.metric for row in arms.rows] == asked
    studies = compared(tmp_path, "fixes", "later", metrics=asked[:1])
    assert {row.metric for row in studies.rows} == {"test/few"} and len(studies.rows) > 1


def test_swapped_the_difference_changes_its_sign(tmp_path):
    fabricated(tmp_path)
    for left, right in [("fixes:lr_split", "fixes:ce"), ("fixes:lr_split", PUBLISHED)]:
        one, other = (
            compared(tmp_path, *names).rows[0].found for names in [(left, right), (right, left)]
        )
        assert other[:4] == pytest.approx((-one.mean, -one.high, -one.low, one.p))


@pytest.mark.parametrize(
    ("facts", "how"),
    [
        ({"data_fingerprint": "d1"}, "paired, 3 seeds"),
        ({"data_fingerprint": "d2"}, "unpaired (Welch), 3 and 3 seeds"),
        # of own code, whose data are not known
        ({}, "paired, 3 seeds"),
        ({"source_fingerprint": "s2"}, "unpaired (Welch), 3 and 3 seeds"),
    ],
)
def test_seeds_pair_across_studies_of_the_same_data_or_by_the_same_code(tmp_path, facts, how):
    fabricated(tmp_path)
    fabricated(tmp_path, "later", facts={"source_fingerprint": "s1", **facts}, noise=2.0)
    found = compared(tmp_path, "fixes:lr_split", "later:lr_split")
    assert found.rows[0].found.how == how
    left, right = (list(top1(tmp_path, "lr_split", name).values()) for name in ("fixes", "later"))
    test = (
        stats.ttest_rel(left, right)
        if how.startswith("paired")
        else stats.ttest_ind(left, right, equal_var=False)
    )
    assert found.rows[0].found.p == pytest.approx(test.pvalue)
    assert bool(found.warnings) == ("data_fingerprint" not in facts or "Welch" in how)


def test_other_code_and_other_data_are_warned_of(tmp_path):
    fabricated(tmp_path)
    fabricated(tmp_path, "later", facts={"data_fingerprint": "d2", "source_fingerprint": "s2"})
    data, code = compared(tmp_path, "fixes:ce", "later:ce").warnings
    assert "trained on other data (data_fingerprint d1 and d2), so seeds are not paired" in data
    assert "trained by other code (source_fingerprint s1 and s2)" in code
    fabricated(tmp_path, "unknown", facts={})
    assert [
        text.startswith("whether") for text in compared(tmp_path, "fixes:ce", "unknown:ce").warnings
    ] == [True, True]


def test_a_published_number_is_a_constant_and_stands_against_its_own_protocol_first(tmp_path):
    fabricated(tmp_path)
    found = compared(tmp_path, "fixes:lr_split", 'published:"ldmlr"')
    best = [value + 1.5 for value in top1(tmp_path, "lr_split").values()]  # as it is fabricated
    test = stats.ttest_1samp(best, 68.5)
    interval = test.confidence_interval()
    same, last = found.rows
    assert (same.what, last.what) == ("best on test, their protocol", "top-1, last epoch")
    assert same.found[:4] == pytest.approx(
        (np.mean(best) - 68.5, interval.low - 68.5, interval.high - 68.5, test.pvalue)
    )
    assert same.found.mean - last.found.mean == pytest.approx(1.5)
    text = comparison_text(found)
    assert (
        "published LDMLR: 68.50, best epoch on test, one number without spread; a paper, table 1"
        in text
    )
    assert re.search(r"\| +68\.50 \|", text)


def test_two_studies_are_compared_arm_by_arm_and_a_study_with_one_arm(tmp_path):
    fabricated(tmp_path)
    fabricated(tmp_path, "later", baselines=["ce"])
    assert [row.what for row in compared(tmp_path, "fixes", "later").rows] == [
        "`reference`",
        "`lr_split`",
        "`ce`",
    ]
    others = compared(tmp_path, "fixes", "fixes:ldmlr").rows
    assert [row.what for row in others] == [
        "`reference`",
        "`lr_split`",
        "`ce`",
        "`ldmlr-no-generation`",
        "`balanced-head`",
    ]
    arms = {row.what.split(",")[0] for row in compared(tmp_path, "later", PUBLISHED).rows}
    assert arms == {"`reference`", "`lr_split`", "`ce`"}


def test_settings_that_differ_are_listed_and_no_others(tmp_path):
    folder = fabricated(tmp_path)
    for spec in folder.manifest().trials:
        folder.write_config(
            spec,
            {"epochs": 5, "optim": {"lr": {"encoder": 1e-5 if spec.arm == "lr_split" else 1e-3}}},
        )
    assert compared(tmp_path, "lr_split", "reference", "fixes").settings == [
        ("optim.lr.encoder", 1e-5, 1e-3)
    ]
    assert "| `optim.lr.encoder` | `1e-05`" in comparison_text(
        compared(tmp_path, "lr_split", "reference", "fixes")
    )


def test_trials_that_are_missing_are_told_and_the_others_paired(tmp_path):
    fabricated(
        tmp_path, state=lambda spec: "FAILED" if spec.trial == "lr_split--s1" else "COMPLETE"
    )
    found = compared(tmp_path, "fixes:lr_split", "fixes:ce")
    first = found.rows[0]
    assert first.found.how == "paired, 2 seeds"
    assert list(first.left.index) == list(first.right.index) == [0, 2]
    assert first.left.mean() - first.right.mean() == pytest.approx(first.found.mean)
    assert found.warnings == ["fixes has trials that are not finished: `lr_split` 2 of 3"]


def test_without_runs_the_report_s_tables_say_the_same(tmp_path):
    folder = fabricated(tmp_path)
    there = compared(tmp_path, "fixes:lr_split", "fixes:ldmlr")
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        write_report(folder, tmp_path / "reports" / "fixes")
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "published.yaml").write_text(
        "digits-lt:\n- {method: LDMLR, top1: 68.5, protocol: best epoch, source: a paper}\n"
    )
    here = compared(tmp_path, "fixes:lr_split", "fixes:ldmlr")
    assert [row.found for row in here.rows] == [row.found for row in there.rows]
    assert here.settings == [("lr_split", "on", None)]
    assert compared(tmp_path, "fixes:ce", PUBLISHED).rows[0].metric == "best/test/top1"
    (tmp_path / "elsewhere").rename(tmp_path / "runs")
    fabricated(tmp_path, "later", facts={"data_fingerprint": "d1", "source_fingerprint": "s2"})
    (tmp_path / "runs" / "fixes" / "study.json").unlink()
    assert [
        "by other code" in text for text in compared(tmp_path, "fixes:ce", "later:ce").warnings
    ] == [True]


def test_seeds_and_claims_changed_after_results_were_seen_are_told_from_runs_and_reports(tmp_path):
    folder = fabricated(tmp_path, first_plan=FirstPlan([], [0, 1], [CLAIM]))
    seeds, claims = plan_warnings(folder.manifest())
    assert "(first 2 seeds, now 3 seeds)" in seeds and "(removed `helps`)" in claims
    fabricated(tmp_path, "other")
    for names in [
        ("fixes:lr_split", "fixes:ldmlr"),
        ("other:ce", "fixes:ce"),
        ("fixes", PUBLISHED),
    ]:
        told = compared(tmp_path, *names).warnings
        assert [text for text in told if "results were seen" in text] == [
            f"fixes: {seeds}", f"fixes: {claims}"
        ]  # fmt: skip
    assert compared(tmp_path, "other:ce", "other:ldmlr").warnings == []
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        write_report(folder, tmp_path / "reports" / "fixes")
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    told = compared(tmp_path, "fixes:lr_split", "fixes:ldmlr").warnings
    assert told == [f"fixes: {seeds}; {claims}"]


def test_a_report_without_effects_warns_by_its_claims(tmp_path):
    folder = fabricated(tmp_path, claims=[CLAIM], first_plan=FirstPlan([], [0, 1], [CLAIM]))
    report = tmp_path / "reports" / "fixes"
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        write_report(folder, report)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    before = compared(tmp_path, "fixes:lr_split", "fixes:ldmlr").warnings
    (report / "effects.csv").unlink()
    assert before and compared(tmp_path, "fixes:lr_split", "fixes:ldmlr").warnings == before


@pytest.mark.parametrize(
    "names, says",
    [
        (
            ("fixe:ce", "fixes:cee"),
            [
                "fixe:ce: no study 'fixe' in runs/, reports/ or docs/results/; did you mean 'fixes'?",
                "fixes:cee: fixes has no arm 'cee'; did you mean 'ce'?",
            ],
        ),
        (
            ("lr_split", "fixes"),
            [
                "lr_split: no study 'lr_split' in runs/, reports/ or docs/results/; say 'fixes:lr_split' or 'later:lr_split'"
            ],
        ),
        (
            ("fixes:ce", "published:LDMLRR"),
            ["published:LDMLRR: nothing published on digits-lt by 'LDMLRR'; did you mean 'LDMLR'?"],
        ),
        (
            ("published:LDMLR", "published:LDMLR"),
            ["published:LDMLR: is compared with a STUDY or STUDY:ARM"],
        ),
        (
            ("ce", "lr", "--study", "fixs"),
            ["--study: no study 'fixs' in runs/, reports/ or docs/results/; did you mean 'fixes'?"],
        ),
        (
            ("fixes:ce", "fixes:lr_split", "--figure", "x.jpg"),
            ["--figure: x.jpg must end in .png or .svg"],
        ),
        (
            ("fixes:ce", "fixes:lr_split", "--metric", "test/fw"),
            ["--metric: 'test/fw' is not measured; did you mean 'test/few'?"],
        ),
        (
            ("fixes", "later", "--metric", "test/few", "--metric", "test/many"),
            ["--metric: is one where arms are compared one by one"],
        ),
        (
            ("fixes:ce", "published:LDMLR", "--metric", "test/few"),
            ["--metric: a published number is of top-1 alone"],
        ),
    ],
)
def test_unknown_names_exit_with_2_and_the_nearest_right_one(tmp_path, monkeypatch, names, says):
    fabricated(tmp_path)
    fabricated(tmp_path, "later")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["compare", *names])
    assert (done.exit_code, done.stdout, done.stderr.splitlines()) == (2, "", says)


def test_an_arm_needs_no_study_where_there_is_one_only(tmp_path, monkeypatch):
    fabricated(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["compare", "lr_split", "ldmlr"])
    assert done.exit_code == 0
    assert (
        done.stdout == CliRunner().invoke(main, ["compare", "fixes:lr_split", "fixes:ldmlr"]).stdout
    )


def committed(root, name):
    """A report in docs/results/ without its runs."""
    own = root / "elsewhere"
    write_report(fabricated(own, name), root / "docs" / "results" / name)


def test_own_studies_come_before_committed_ones(tmp_path, monkeypatch):
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        committed(tmp_path, "fixes")
        committed(tmp_path, "others")
    fabricated(tmp_path, "mine", baselines=["ce"])
    monkeypatch.chdir(tmp_path)
    assert compared(tmp_path, "lr_split", "ce").left == "mine:lr_split"
    assert compared(tmp_path, "lr_split", "fixes:ce").right == "fixes:ce"
    for names, says in [
        (("lr_splt", "ce"), "lr_splt: mine has no arm 'lr_splt'; did you mean 'mine:lr_split'?"),
        (("ldmlr", "ce"), "ldmlr: mine has no arm 'ldmlr'; say 'fixes:ldmlr' or 'others:ldmlr'"),
        (("fixs", "ce"), "fixs: mine has no arm 'fixs'; did you mean 'fixes'?"),
    ]:
        done = CliRunner().invoke(main, ["compare", *names])
        assert (done.exit_code, done.stderr.strip()) == (2, says)
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        write_report(ProjectPaths(tmp_path).runs("mine"), tmp_path / "reports" / "mine")
    for form in ("markdown", "latex"):
        said = CliRunner().invoke(main, ["table", "--format", form])
        assert said.exit_code == 0
        assert said.stdout == CliRunner().invoke(main, ["table", "mine", "--format", form]).stdout


def test_settings_are_not_compared_with_a_report_that_has_levels_alone(tmp_path):
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        committed(tmp_path, "fixes")
        committed(tmp_path, "others")
    fabricated(tmp_path, "mine", config={"optim": {"lr": 1e-3}})
    assert compared(tmp_path, "mine:lr_split", "fixes:lr_split").settings == []
    assert compared(tmp_path, "fixes", "mine").settings == []
    found = compared(tmp_path, "others:lr_split", "fixes:reference")
    assert found.settings == [("lr_split", "on", "off")]


def test_a_name_is_told_to_be_wrong_beside_a_study_that_cannot_be_read(tmp_path):
    fabricated(tmp_path)
    fabricated(tmp_path, "later")
    (tmp_path / "runs" / "fixes" / "study.json").write_text("{")
    with pytest.raises(InputError, match="no study 'lr_split' .*; say 'later:lr_split'"):
        compared(tmp_path, "lr_split", "later")
    with pytest.raises(InputError, match="no study 'lr_splt' .*; did you mean 'later:lr_split'"):
        compared(tmp_path, "lr_splt", "later")


def test_the_nearest_arm_is_named_where_there_are_several_studies(tmp_path):
    fabricated(tmp_path)
    fabricated(tmp_path, "later", factors={"warmup": FACTORS["warmup"]})
    with pytest.raises(InputError, match="no study 'warmp' .*; did you mean 'later:warmup'\\?"):
        compared(tmp_path, "warmp", "fixes:ce")


def test_what_neither_side_has_a_finite_value_of_has_no_row(tmp_path):
    folder = fabricated(tmp_path)
    for spec in folder.manifest().trials:
        outcome = folder.outcome(spec.trial)
        metrics = {**outcome.metrics, "test/few": math.inf, "test/many": math.inf}
        if spec.arm == "ce":
            metrics["test/many"] = 70.0
        folder.write_outcome(spec.trial, replace(outcome, metrics=metrics))
    rows = [row.metric for row in compared(tmp_path, "lr_split", "ce").rows]
    assert "test/few" not in rows and "test/many" in rows and rows[0] == "test/top1"


def shown(found, width) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show_comparison(found, console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_on_a_terminal_it_is_a_table_without_markdown_and_without_columns_of_dashes(tmp_path):
    fabricated(tmp_path)
    found = compared(tmp_path, "lr_split", "ldmlr")
    lines = shown(found, 110)
    assert not any("|" in line or "`" in line or "**" in line for line in lines)
    assert lines[2].split("  ")[0] == "metric" and "pair correlation" in lines[2]
    assert not lines[2].endswith("how") and "Every row: paired, 3 seeds." in lines
    rows = comparison_rows(found)[1]
    row = next(line for line in lines if line.startswith("top-1 "))
    cells = [cell.strip("*").replace(" (3 seeds)", "") for cell in rows[0]]
    assert row.split("  ")[0] == "top-1" and all(cells[i] in row for i in (1, 2, 3, 4, 6))
    one_seeded(tmp_path / "one")
    one = compared(tmp_path / "one", "lr_split", "ldmlr")
    (heading,) = (line for line in shown(one, 200) if line.startswith("metric"))
    assert " p " not in heading and "difference [95 %]" in heading
    # too narrow for a table: nothing is cut
    assert "metric top-1" in shown(found, 50)


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0])
def test_numbers_of_one_unit_have_the_same_decimals_in_a_column(tmp_path, noise):
    fabricated(tmp_path, factors=FACTORS, noise=noise)
    rows = comparison_rows(compared(tmp_path, "fixes", "fixes:ldmlr"))[1]
    assert len(rows) == 11
    for column in zip(*(row[1:5] for row in rows)):
        decimals = {len(number) for cell in column for number in re.findall(r"\.(\d+)", cell)}
        assert len(decimals) == 1, column


@pytest.mark.parametrize("width", [150, 110, 80])
def test_a_narrow_terminal_leaves_out_columns_and_tells_what_stood_in_them(tmp_path, width):
    fabricated(tmp_path, factors=FACTORS)
    one_alone = {"state": lambda spec: "WAITING" if spec.trial == "ce--s1" else "COMPLETE"}
    fabricated(tmp_path, "later", factors=FACTORS, noise=3.0, **one_alone)
    found = compared(tmp_path, "fixes", "later")
    lines = shown(found, width)
    heading = lines[2]
    assert heading.startswith("top-1 of") and "difference [95 %]" in heading
    assert ("pair correlation" in heading) == (width == 150)
    # means are of other seeds than differences
    assert ("later (seeds)" in heading) == (width > 80)
    # the longest of the names is folded, and nothing is cut
    names = [line.split("  ")[0] for line in lines[3 : lines.index("", 3)]]
    assert "".join(names) == "".join(row.what.strip("`") for row in found.rows)
    assert (len(names) > len(found.rows)) == (width == 80)
    assert ("paired, 2 seeds: ce." in lines) == (width == 80)


@pytest.mark.parametrize("noise", [0.2, 6.0])
def test_only_differences_whose_interval_excludes_0_are_bold(tmp_path, noise):
    fabricated(tmp_path, factors=FACTORS, noise=noise)
    text = comparison_text(compared(tmp_path, "fixes", "fixes:ldmlr"))
    found = re.findall(r"(\*\*)?[-+][\d.]+ \[([-\d.]+), ([-\d.]+)\]", text)
    assert len(found) == 11 and (noise > 1 or any(bold for bold, *_ in found))
    for bold, low, high in found:
        assert bool(bold) == (float(low) * float(high) > 0)
    sentence = comparison_text(
        compared(tmp_path, "fixes:lr_split", "fixes:gradient_decoupling")
    ).split("\n")[0]
    assert ("not separable from 0" in sentence) == (noise > 1)


def test_an_arm_with_one_seed_is_compared_within_that_seed(tmp_path):
    left, right = pd.Series({0: 60.0, 1: 70.0, 2: 71.0}), pd.Series({1: 69.0})
    assert difference(left, right, may_pair=True)[::4] == (1.0, "one seed")
    assert difference(right, left, may_pair=True)[::4] == (-1.0, "one seed")
    assert difference(left, right, may_pair=False)[::4] == (-2.0, "one seed")
    assert difference(left, right.rename({1: 5}), may_pair=True)[::4] == (-2.0, "one seed")
    folder = fabricated(
        tmp_path, state=lambda one: "FAILED" if one.trial == "lr_split--s0" else "COMPLETE",
        seeds=(0, 1)
    )  # fmt: skip
    effects = judge(load(folder)).set_index(["effect", "metric"])
    assert (
        compared(tmp_path, "fixes:lr_split", "fixes:ldmlr").rows[0].found.mean
        == (effects.loc[("lr_split - ldmlr", "test/top1"), "estimate"])
    )


def test_one_seed_and_seeds_that_agree_have_no_interval():
    one, two, same = (
        pd.Series(values, index=range(len(values)))
        for values in ([70.0], [70.0, 71.0], [72.46, 72.46])
    )
    for found in (
        difference(one, two, False),
        difference(one, one + 1, True),
        difference(same, same + 1, True),
        difference_to_constant(one, 3.0),
    ):
        assert np.isfinite(found.mean) and np.isnan([found.low, found.high, found.p]).all()


def test_what_has_no_spread_is_a_constant_in_welch_s_place():
    values, same = pd.Series([70.0, 71.0, 72.5]), pd.Series([72.46] * 3)
    found, test = difference(values, same, may_pair=False), stats.ttest_1samp(values, 72.46)
    assert found[:4] == pytest.approx(
        (values.mean() - 72.46, *(np.array(test.confidence_interval()) - 72.46), test.pvalue)
    )
    assert difference(same, values, may_pair=False).low == pytest.approx(-found.high)


def one_seeded(root, name="fixes", **what):
    return with_hits(fabricated(root, name, seeds=[0], **what), better)


def test_one_seed_of_each_is_compared_over_its_test_images_and_said_to_be(tmp_path):
    expected = judge(load(one_seeded(tmp_path))).set_index(["effect", "metric"])
    for arms, name in [
        (("lr_split", "ldmlr"), "lr_split - ldmlr"),
        (("ce", "ldmlr"), "ce - ldmlr"),
    ]:
        found = compared(tmp_path, *arms, "fixes")
        for row in found.rows:
            if row.metric in ("test/top1", "test/balanced_accuracy"):
                assert (row.found.low, row.found.high) == pytest.approx(
                    tuple(expected.loc[(name, row.metric), ["low", "high"]]), abs=0.5
                )
            else:
                assert math.isnan(row.found.low) and row.found.how == "one seed"
        text, is_apart = comparison_text(found), expected.loc[(name, "test/top1"), "low"] > 0
        assert (
            "] points, separable from 0 on this one training run (one seed: over test images)."
            in text.split("\n")[0]
        ) == is_apart
        assert ("not separable from 0 on this one training run" in text) != is_apart
        assert (
            "paired bootstrap over test images" in text
            and "conditional on this one training run" in text
        )
        assert "**" not in text and all(math.isnan(row.found.p) for row in found.rows)


def test_one_seed_is_compared_across_studies_of_the_same_data_and_seed_alone(tmp_path):
    one_seeded(tmp_path)
    one_seeded(tmp_path, "later")
    one_seeded(tmp_path, "other-data", facts={"data_fingerprint": "d2"})
    with_hits(fabricated(tmp_path, "other-seed", seeds=[1]), better)
    hows = [
        compared(tmp_path, "fixes:lr_split", f"{name}:ce").rows[0].found.how
        for name in ("later", "other-data", "other-seed")
    ]
    assert hows == [ON_RUN, "one seed", "one seed"]


def test_without_hits_one_seed_has_no_interval(tmp_path):
    fabricated(tmp_path, seeds=[0])
    text = comparison_text(compared(tmp_path, "lr_split", "ldmlr", "fixes"))
    assert "no interval can be given (one seed)" in text and "bootstrap" not in text


def test_the_correlation_of_pairs_stands_beside_their_difference(tmp_path):
    fabricated(tmp_path)
    found = compared(tmp_path, "lr_split", "ldmlr", "fixes")
    left, right = (list(top1(tmp_path, arm).values()) for arm in ("lr_split", "ldmlr"))
    assert found.rows[0].found.correlation == pytest.approx(np.corrcoef(left, right)[0, 1])
    assert "| pair correlation |" in comparison_text(found)
    assert "pair correlation" not in comparison_text(
        compared(tmp_path, "fixes:lr_split", PUBLISHED)
    )


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_figure_is_the_same_bytes_every_time(tmp_path, monkeypatch, kind):
    fabricated(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        assert (
            CliRunner()
            .invoke(main, ["compare", "lr_split", PUBLISHED, "--figure", f"{name}.{kind}"])
            .exit_code
            == 0
        )
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert len((tmp_path / f"a.{kind}").read_bytes()) > 5_000


def test_a_study_of_another_metric_is_refused(tmp_path):
    fabricated(tmp_path)
    folder = fabricated(tmp_path, "later")
    folder.write_manifest(replace(folder.manifest(), metric={"name": "loss", "goal": "minimize"}))
    for path in folder.path.glob("*/outcome.json"):
        path.write_text(path.read_text().replace("test/", "other/"))
    with pytest.raises(
        InputError, match="test/top1: is not measured in later, and loss not in fixes"
    ):
        compared(tmp_path, "fixes:ce", "later:ce")
