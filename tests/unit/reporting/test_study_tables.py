"""The primary metric of a study from its committed files says what its report says."""

import math
import re
from dataclasses import replace
from unittest import mock

import pytest
from click.testing import CliRunner
from fabricate import FACTORS, study

from ablation.analysis.first_plan import plan_warnings
from ablation.cli.main import main
from ablation.errors import InputError
from ablation.formatting import (
    column_decimals,
    compared_p,
    durations,
    effect,
    effects_decimals,
    over_seeds,
    p_cell,
)
from ablation.reporting.report import write_report
from ablation.reporting.tables import latex, latex_table, study_tables
from ablation.storage.runs import FirstPlan, RunFolder

CLAIMS = [
    {
        "id": f"is-{direction}",
        "says": f"It goes {direction}.",
        "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
        "expects": [
            {"metric": "test/top1", "direction": direction},
            {"metric": "diag/drift", "direction": "up"},
        ][: 1 + (direction == "up")],
    }
    for direction in ("up", "down")
]


def reported(root, name="fixes", **what):
    """`reports/<name>/` of a fabricated study, without figures."""
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        return write_report(study(root / "runs" / name, **what), root / "reports" / name).path


def cells(text):
    """First column -> the other cells, of all rows."""
    rows = [
        [cell.strip() for cell in line[1:-1].split(" | ")]
        for line in text.split("\n")
        if line.startswith("|")
    ]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"noise": 4.0},
        {"seeds": [0]},
        {"state": lambda s: "FAILED" if s.trial == "warmup--s1" else "COMPLETE"},
    ],
)
def test_the_numbers_are_those_of_the_report(tmp_path, what):
    report = reported(tmp_path, **what).read_text()
    shown, text = (
        cells(report.split("\n## Accuracy\n")[1].split("\nTop-1 is")[0]),
        study_tables([tmp_path / "reports"], "fixes"),
    )
    header, *_ = text.split("\n")
    assert [cell.strip() for cell in header[1:-1].split("|")] == [
        "arm",
        "seeds",
        "top-1 (mean ± std)",
        "minus `ldmlr` [95 %]",
        "best on test",
    ]
    table = cells(text)
    arms = [arm for arm in shown if not arm.startswith(("*", "arm", "-"))]
    assert [arm for arm in table if not arm.startswith(("arm", "-"))] == arms and len(arms) == 12
    for arm in arms:
        _, seeds, accuracy, difference, _, _, best, _ = shown[arm]
        assert table[arm] == [seeds, accuracy, difference, best]
    assert table["ldmlr"][2] == "reference"


def test_only_differences_whose_interval_excludes_0_are_bold(tmp_path):
    reported(tmp_path, noise=2.0, top1=lambda levels: 66.0 + 9 * (levels["lr_split"] == "on"))
    text = study_tables([tmp_path / "reports"], "fixes", ["arms"])
    found = re.findall(r"(\*\*)?[-+][\d.]+ \[([-\d.]+), ([-\d.]+)\]", text)
    assert len(found) == 11 and {bool(bold) for bold, *_ in found} == {True, False}
    for bold, low, high in found:
        assert not (bold and float(low) <= 0 <= float(high))


@pytest.mark.parametrize(
    "what", [{"baselines": []}, {"baselines": [], "factors": {}}, {"state": lambda s: "WAITING"}]
)
def test_what_is_not_there_is_left_out_or_blank(tmp_path, what):
    reported(tmp_path, **what)
    text = study_tables([tmp_path / "reports"], "fixes")
    assert ("minus" in text) == ("baselines" not in what)
    assert "`reference`" in text and "nan" not in text


def test_without_effects_the_primary_metric_is_the_one_whose_best_epoch_is_told(tmp_path):
    metric = {"name": "accuracy", "goal": "maximize"}
    folder = study(tmp_path / "runs" / "fixes", factors={}, baselines=[], metric=metric)
    for spec in folder.manifest().trials:
        metrics = {"accuracy": 50.0, "best/accuracy": 60.0, "a/loss": 1.0}
        folder.write_outcome(spec.trial, replace(folder.outcome(spec.trial), metrics=metrics))
    with mock.patch("ablation.reporting.figures.draw", return_value=[]):
        write_report(folder, tmp_path / "reports" / "fixes")
    shown = cells(study_tables([tmp_path / "reports"], "fixes"))
    assert shown["arm"] == ["seeds", "accuracy (mean ± std)", "best/accuracy"]
    assert shown["reference"] == ["3/3", "50.0 ± 0.0", "60.0"]


def test_names_that_read_as_nothing_or_as_numbers_stay_names(tmp_path):
    reported(tmp_path, factors={}, baselines=[], claims=[{**CLAIMS[0], "id": "null", "says": "NA"}])
    file = tmp_path / "reports" / "fixes" / "results.csv"
    file.write_text(file.read_text().replace(",reference,", ",007,"))
    text = study_tables([tmp_path / "reports"], "fixes")
    assert "`007`" in text and "| NA " in text


def test_claims_stand_with_their_verdict_and_numbers(tmp_path):
    reported(tmp_path, claims=CLAIMS)
    whole = study_tables([tmp_path / "reports"], "fixes")
    arms, table = whole.split("\n\n")
    assert (
        study_tables([tmp_path / "reports"], "fixes", ["claims"]) == table
        and study_tables([tmp_path / "reports"], "fixes", ["arms"]) == arms
    )
    rows = cells(table)
    assert rows["It goes up."][0] == "not decided" and rows["It goes down."][0] == "**refuted**"
    size = (
        r"top-1 \+[\d.]+ \[[\d., ]+\] points \(interval and p .* after Holm's correction, 3 seeds\)"
    )
    assert re.fullmatch(
        rf"`lr_split: off -> on`: {size}; diag/drift not measured", rows["It goes up."][1]
    )


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    reported(root, factors={})
    reported(root, "other", factors={})
    return root / "reports"


@pytest.mark.parametrize(
    "study_name, parts, says",
    [
        ("fixs", (), "fixs: no such report; did you mean 'fixes'?"),
        (None, (), "name a study; choose from fixes, other"),
        (
            "fixes",
            ("claim",),
            "fixes: no part of a report is called 'claim'; did you mean 'claims'?",
        ),
        ("fixes", ("claims",), "fixes: the study has no claims"),
    ],
)
def test_wrong_names_are_told_with_the_nearest_right_one(two_studies, study_name, parts, says):
    with pytest.raises(InputError) as error:
        study_tables([two_studies], study_name, parts)
    assert str(error.value) == f"{two_studies}: {says}"


def test_the_command_prints_the_only_study(tmp_path, monkeypatch):
    reported(tmp_path, factors={"lr_split": FACTORS["lr_split"]}, claims=CLAIMS)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["table"])
    assert (
        done.exit_code == 0 and done.stdout == study_tables([tmp_path / "reports"], "fixes") + "\n"
    )
    assert (
        CliRunner().invoke(main, ["table", "fixes", "claims"]).stdout
        == study_tables([tmp_path / "reports"], "fixes", ["claims"]) + "\n"
    )


def decimals_of(numbers: str) -> set[int]:
    """The decimals of all numbers in a text."""
    return {len(number.partition(".")[2]) for number in re.findall(r"\d+(?:\.\d+)?", numbers)}


def test_numbers_of_a_column_have_the_same_decimals(tmp_path):
    report = reported(tmp_path, top1=lambda v: 66.0 - 40 * (v["warmup"] == "on"), noise=0.6)
    rows = cells(study_tables([tmp_path / "reports"], "fixes", ["arms"]))
    arms = [name for name in rows if not name.startswith(("arm", "-"))]
    for column in (1, 2, 3):
        shown = " ".join(rows[arm][column] for arm in arms if rows[arm][column] != "reference")
        assert len(decimals_of(shown)) == 1, shown
    text = report.read_text()
    for section in re.findall(r"(?<=\n\n)\| effect .*?\n\n", text, re.S):
        for column in (1, 2):
            shown = [line.split("|")[1 + column] for line in section.strip().split("\n")[2:]]
            known = " ".join(one for one in shown if "<" not in one and "–" not in one)
            assert len(decimals_of(known)) == 1, known


def test_a_column_has_the_decimals_that_its_median_uncertainty_allows():
    assert column_decimals([5.0, 0.9, 0.08, 0.7, float("nan"), 0.0]) == 1
    assert column_decimals([float("nan"), 0.0]) is None
    assert over_seeds([10.0, 20.0, 12.0], places=1) == "14.0 ± 5.3"
    assert effects_decimals([(0.5, -1.0, 2.0), (3.0, 0.04, 5.96), (1.0, math.nan, math.nan)]) == 2
    # one interval that needs many more has them alone
    assert effects_decimals([(0.5, -1.0, 2.0), (3.0, 1e-6, 5.96)]) == 3
    assert effect(2.98, 1e-6, 5.96, 3) == "+2.980000 [0.000001, 5.960000]"
    assert effect(3.0, 1.0, 5.0, 2) == "+3.00 [1.00, 5.00]"


def test_p_values_and_times_of_a_column_are_alike():
    assert [p_cell(p) for p in (1.0, 0.47, 0.0051, 0.0004, 0.0499, 0.0496)] == [
        *("1.000", "0.470", "0.005", "< 0.001", "0.0499", "0.0496"),
    ]
    # no p below 0.05 reads as 0.05, in tables or sentences
    assert [p_cell(p) for p in (0.05, 0.04996)] == ["0.050", "0.04996"]
    assert [compared_p(p) for p in (0.05, 0.0497, 0.04996, 0.0004)] == [
        *("= 0.05", "= 0.0497", "= 0.04996", "< 0.001"),
    ]
    assert durations([4.8, 37.0]) == ["4.8 s", "37.0 s"]
    assert durations([58.0, 63.0, float("nan")]) == ["1.0 min", "1.1 min", "–"]
    assert durations([15.0, 37.4]) == ["15 s", "37 s"]


def test_tables_warn_of_seeds_changed_after_results_were_seen(tmp_path):
    folders = [tmp_path / "reports"]
    reported(tmp_path, claims=CLAIMS)
    before = [study_tables(folders, "fixes"), latex_table(folders, "fixes")]
    assert not any("seen" in text for text in before)
    reported(tmp_path, claims=CLAIMS, first_plan=FirstPlan([], [0, 1], CLAIMS))
    (warning,) = plan_warnings(RunFolder(tmp_path / "runs" / "fixes").manifest())
    assert "(first 2 seeds, now 3 seeds)" in warning
    for parts in [[], ["arms"], ["claims"]]:
        assert study_tables(folders, "fixes", parts).count(f"\n\n**Warning:** {warning}.") == 1
    shown = latex_table(folders, "fixes")
    assert f"; warning: {latex(warning)}.}}" in shown
    # arms without a difference have nothing to warn of
    changed = {"claims": CLAIMS, "first_plan": FirstPlan([], [0, 1], CLAIMS)}
    reported(tmp_path, baselines=["ce"], **changed)
    assert not any(
        "seen" in text
        for text in (study_tables(folders, "fixes", ["arms"]), latex_table(folders, "fixes"))
    )
    assert study_tables(folders, "fixes").count(f"**Warning:** {warning}.") == 1
    # of a warning that is gone, nothing stays
    reported(tmp_path, claims=CLAIMS)
    assert [study_tables(folders, "fixes"), latex_table(folders, "fixes")] == before


def test_the_latex_table_has_the_rows_of_the_markdown_table(tmp_path):
    reported(tmp_path, claims=CLAIMS)
    text = latex_table([tmp_path / "reports"], "fixes")
    rows = cells(study_tables([tmp_path / "reports"], "fixes", ["arms"]))
    body = text.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0].split("\n")
    arms = [name for name in rows if not name.startswith(("arm", "-"))]
    assert len(body) == len(arms) == 12
    for arm, line in zip(arms, body):
        assert line.endswith(r" \\") and not re.search(r"(?<!\\)[_#%]", line)
        name, *shown = line.removesuffix(r" \\").split(" & ")
        assert name.replace(r"\_", "_") == rf"\texttt{{{arm}}}"
        plain = [
            one.replace(r"$\pm$", "±").replace("$-$", "-").replace("$+$", "+").replace("--", "–")
            for one in shown
        ]
        plain = [re.sub(r"\\textbf\{(.*)\}", r"**\1**", one) for one in plain]
        assert plain == rows[arm]
    for part in (
        r"\begin{table}",
        r"\caption{Top-1 in the study fixes; mean $\pm$ standard deviation over seeds; difference",
        r"\label{tab:fixes}",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"minus \texttt{ldmlr} [95 \%]",
    ):
        assert part in text


def test_what_latex_would_read_as_a_command_is_escaped():
    assert latex("50 % & a_b #1 $x {y} ~^ \\") == (
        r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{}\textasciicircum{} \textbackslash{}"
    )
    assert latex("**+0.5 [-0.1, 1.1]**") == r"\textbf{$+$0.5 [$-$0.1, 1.1]}"
    assert latex("`a-1+b_2`") == r"\texttt{a-1+b\_2}" and latex("top-1") == "top-1"


def test_the_command_prints_latex_of_the_arms_alone(tmp_path, monkeypatch):
    reported(tmp_path, factors={"lr_split": FACTORS["lr_split"]}, claims=CLAIMS)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["table", "--format", "latex"])
    assert done.exit_code == 0
    assert done.stdout == latex_table([tmp_path / "reports"], "fixes") + "\n"
    refused = CliRunner().invoke(main, ["table", "fixes", "claims", "--format", "latex"])
    assert refused.exit_code == 2 or refused.exit_code == 1
    assert "does not go with claims" in str(refused.exception) + refused.output
