"""The headline of a study from its committed files says what its report says."""

import re
from unittest import mock

import pytest
from click.testing import CliRunner
from fabricate import FACTORS, study

from ablation.cli.main import main
from ablation.errors import InputError
from ablation.reporting.report import write_report
from ablation.reporting.tables import headline_tables

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
        return write_report(study(root / "runs" / name, **what), root / "reports" / name)


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
        headline_tables([tmp_path / "reports"], "fixes"),
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
    text = headline_tables([tmp_path / "reports"], "fixes", ["arms"])
    found = re.findall(r"(\*\*)?[-+][\d.]+ \[([-\d.]+), ([-\d.]+)\]", text)
    assert len(found) == 11 and {bool(bold) for bold, *_ in found} == {True, False}
    for bold, low, high in found:
        assert not (bold and float(low) <= 0 <= float(high))


@pytest.mark.parametrize(
    "what", [{"baselines": []}, {"baselines": [], "factors": {}}, {"state": lambda s: "WAITING"}]
)
def test_what_is_not_there_is_left_out_or_blank(tmp_path, what):
    reported(tmp_path, **what)
    text = headline_tables([tmp_path / "reports"], "fixes")
    assert ("minus" in text) == ("baselines" not in what)
    assert "`reference`" in text and "nan" not in text


def test_names_that_read_as_nothing_or_as_numbers_stay_names(tmp_path):
    reported(tmp_path, factors={}, baselines=[], claims=[{**CLAIMS[0], "id": "null", "says": "NA"}])
    file = tmp_path / "reports" / "fixes" / "results.csv"
    file.write_text(file.read_text().replace(",reference,", ",007,"))
    text = headline_tables([tmp_path / "reports"], "fixes")
    assert "`007`" in text and "| NA " in text


def test_claims_stand_with_their_verdict_and_numbers(tmp_path):
    reported(tmp_path, claims=CLAIMS)
    whole = headline_tables([tmp_path / "reports"], "fixes")
    arms, table = whole.split("\n\n")
    assert (
        headline_tables([tmp_path / "reports"], "fixes", ["claims"]) == table
        and headline_tables([tmp_path / "reports"], "fixes", ["arms"]) == arms
    )
    rows = cells(table)
    assert rows["It goes up."][0] == "not decided" and rows["It goes down."][0] == "**refuted**"
    size = r"top-1 \+[\d.]+ \[[\d., ]+\] points \(p .* after Holm's correction, 3 seeds\)"
    assert re.fullmatch(
        rf"`lr_split: off -> on`: {size}; diag/drift not measured", rows["It goes up."][1]
    )


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
def test_wrong_names_are_told_with_the_nearest_right_one(tmp_path, study_name, parts, says):
    reported(tmp_path, factors={})
    reported(tmp_path, "other", factors={})
    with pytest.raises(InputError) as error:
        headline_tables([tmp_path / "reports"], study_name, parts)
    assert str(error.value) == f"{tmp_path}/reports: {says}"


def test_the_command_prints_the_only_study(tmp_path, monkeypatch):
    reported(tmp_path, factors={"lr_split": FACTORS["lr_split"]}, claims=CLAIMS)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["table"])
    assert (
        done.exit_code == 0
        and done.stdout == headline_tables([tmp_path / "reports"], "fixes") + "\n"
    )
    assert (
        CliRunner().invoke(main, ["table", "fixes", "claims"]).stdout
        == headline_tables([tmp_path / "reports"], "fixes", ["claims"]) + "\n"
    )
