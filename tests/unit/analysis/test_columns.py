"""Whatever metrics, factors and arms are called, no two things share a column, and what reads the tables finds them."""

import csv
from dataclasses import replace
from unittest import mock

import pytest
from fabricate import FACTORS, study
from hypothesis import given
from hypothesis import strategies as st

from ablation.analysis.compare import compare
from ablation.analysis.results import column_of, load, metric_of
from ablation.errors import InputError
from ablation.reporting.report import write_report
from ablation.reporting.tables import study_tables
from ablation.storage.project import ProjectPaths

OURS = {
    "results": [
        "trial",
        "arm",
        "kind",
        "seed",
        "state",
        "lr_split",
        "test/top1",
        "best/test/top1",
        "epochs_trained",
        "epochs_shared",
        "wall_seconds",
        "error",
    ],
    "history": ["trial", "arm", "seed", "phase", "epoch"],
}
TAKEN = [
    "trial",
    "arm",
    "kind",
    "seed",
    "state",
    "phase",
    "epoch",
    "epochs_trained",
    "epochs_shared",
    "wall_seconds",
    "error",
    "accumulation",
    "encoding_batch",
    "lr_split",
    "best/test/top1",
]
FREE = [
    "index", "Index", "mean", "count", "name", "T", "_x", "values", "shape", "Error", "SEED", "effect", "metric", "verdict", "claim", "level_0", "Unnamed: 0", "test/top1.1", "nan", "1", "",
    " ", "a b", " a ", "a,b", 'a "b" c', "it's", "a\nb", "a\tb", "a|b", "a\\nb", "=1+1", "ünï", "日本", "metric/loss", "x" * 300,
    # the same in other Unicode forms
    "\u00e4", "a\u0308", "\ufb01t", "fit", "\u212b", "\u00c5", "A\u030a",
]  # fmt: skip
SHORTEST = {"lr_split": FACTORS["lr_split"]}


def reported(root, name="fixes", names=lambda metrics: metrics, **what):
    """`runs/<name>/` and `reports/<name>/`, without figures. names: takes a trial's metrics and gives others."""
    folder = study(
        root / "runs" / name,
        study=name,
        **{"factors": SHORTEST, "baselines": ["ldmlr"], "seeds": [0, 1], **what},
    )
    with mock.patch("os.fsync"), mock.patch("ablation.reporting.figures.draw", return_value=[]):
        for spec in folder.manifest().trials:
            records = [
                {**record, "metrics": names(record["metrics"])}
                for record in folder.records(spec.trial)
            ]
            folder.write_records(spec.trial, records)
            outcome = folder.outcome(spec.trial)
            if outcome is not None and outcome.state == "COMPLETE":
                best = {
                    f"best/{folder.manifest().metric['name']}": outcome.metrics["best/test/top1"]
                }
                folder.write_outcome(
                    spec.trial, replace(outcome, metrics={**records[-1]["metrics"], **best})
                )
        write_report(folder, root / "reports" / name)
    return root / "reports" / name


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plus(*more):
    """More metrics beside the others, of 7, 8, ..."""
    return lambda metrics: {**metrics, **{name: 7.0 + i for i, name in enumerate(more)}}


def calling(primary):
    """test/top1 alone, by another name."""
    return lambda metrics: {primary: metrics["test/top1"]} if metrics else {}


STATES = {"lr_split--s1": "FAILED", "ldmlr--s0": "WAITING"}


# the next test has all of them at once
@pytest.mark.parametrize(
    "name",
    [
        "error",
        "lr_split",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("kind", "epoch", "best/test/top1")
        ),
    ],
)
def test_a_metric_named_like_a_column_has_one_of_its_own_and_all_others_stay(tmp_path, name):
    state = {"state": lambda spec: STATES.get(spec.trial, "COMPLETE")}
    before, after = (
        reported(tmp_path, "before", **state),
        reported(tmp_path, "after", plus(name), **state),
    )
    for table, ours in OURS.items():
        old, new = rows(before / f"{table}.csv"), rows(after / f"{table}.csv")
        assert [[row[column] for column in ours] for row in old] == [
            [row[column] for column in ours] for row in new
        ]
        assert {
            row[f"metric/{name}"] for row in new if row.get("state", "COMPLETE") == "COMPLETE"
        } == {"7.0"}
    assert f"The metric `{name}` is called `metric/{name}`" in (after / "report.md").read_text()
    assert "is called" not in (before / "report.md").read_text()
    assert f"metric/{name}" in {row["metric"] for row in rows(after / "effects.csv")}
    assert study_tables([tmp_path / "reports"], "after") == study_tables(
        [tmp_path / "reports"], "before"
    )


def test_all_of_them_at_once_and_names_of_such_columns_too(tmp_path):
    names = [
        *TAKEN,
        *(f"metric/{name}" for name in TAKEN),
        "metric/metric/error",
        "metric/",
        "metric",
    ]
    before, report = reported(tmp_path, "before"), reported(tmp_path, names=plus(*names))
    for table, ours in OURS.items():
        old, new = rows(before / f"{table}.csv"), rows(report / f"{table}.csv")
        assert [[row[column] for column in ours] for row in old] == [
            [row[column] for column in ours] for row in new
        ]
        last = new[-1]
        assert {last[f"metric/{name}"]: name for name in names[:-2]} == {
            f"{7.0 + i}": name for i, name in enumerate(names[:-2])
        }
        assert (last["metric/"], last["metric"]) == (
            f"{7.0 + len(names) - 2}",
            f"{7.0 + len(names) - 1}",
        )


def test_a_metric_of_any_other_name_has_the_column_of_that_name(tmp_path):
    report = reported(tmp_path, names=plus(*FREE))
    for table in ("results", "history"):
        *_, last = rows(report / f"{table}.csv")
        assert {name: last[name] for name in FREE} == {
            name: f"{7.0 + i}" for i, name in enumerate(FREE)
        }
    assert {row["metric"] for row in rows(report / "effects.csv")} >= set(FREE)
    table = study_tables([tmp_path / "reports"], "fixes")
    assert table.count("\n") == 4 and "`lr_split`" in table
    assert (
        compare("fixes:lr_split", "fixes:ldmlr", None, ProjectPaths(tmp_path)).rows[0].metric
        == "test/top1"
    )


@pytest.mark.parametrize(
    ("name", "column"), [("a\0b", "a\\x00b"), ("a\r\nb", "a\\r\\nb"), ("a\ud800", "a\\ud800")]
)
def test_a_name_that_no_table_can_hold_is_written_with_escapes(tmp_path, name, column):
    report = reported(tmp_path, names=plus(name))
    for table in ("results", "history"):
        assert rows(report / f"{table}.csv")[-1][column] == "7.0"
    assert "`lr_split`" in study_tables([tmp_path / "reports"], "fixes")


# a column of results.csv and of what claims say, and the name that such a metric is given
@pytest.mark.parametrize(
    "primary",
    [
        "error",
        "metric/error",
        "verdict",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("seed", "wall_seconds")),
    ],
)
def test_a_study_may_be_about_a_metric_of_any_name(tmp_path, primary):
    for study_name, name in [("plain", "score"), ("other", primary)]:
        expects = [{"metric": metric, "direction": "up"} for metric in (name, f"best/{name}")]
        claim = {
            "id": "a",
            "says": "It helps.",
            "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
            "expects": expects,
        }
        report = reported(
            tmp_path,
            study_name,
            calling(name),
            metric={"name": name, "goal": "maximize"},
            claims=[claim],
        )
    column = column_of(primary)
    texts = {
        name: [
            study_tables([tmp_path / "reports"], name),
            (tmp_path / "reports" / name / "claims.csv").read_text(),
        ]
        for name in ("plain", "other")
    }
    plain = [
        text.replace("best/score", f"best/{primary}").replace("score", column)
        for text in texts["plain"]
    ]
    assert ["".join(text.split()).replace("-", "") for text in texts["other"]] == [
        "".join(text.split()).replace("-", "") for text in plain
    ]
    assert (
        rows(report / "effects.csv")[0]["metric"] == column
        and load(ProjectPaths(tmp_path).runs("other")).metrics[0] == column
    )
    for _ in range(2):
        ours, theirs = (
            compare(f"{name}:lr_split", f"{name}:ldmlr", None, ProjectPaths(tmp_path))
            for name in ("other", "plain")
        )
        assert [row.found[:5] for row in ours.rows] == [row.found[:5] for row in theirs.rows] and [
            row.metric for row in ours.rows
        ] == [primary, f"best/{primary}"]
        if (tmp_path / "runs").exists():  # and again, from the tables alone
            (tmp_path / "runs").rename(tmp_path / "elsewhere")


@pytest.mark.parametrize("from_tables", [False, True])
def test_studies_are_compared_by_a_metric_that_is_a_factor_s_name_in_one_of_them(
    tmp_path, from_tables
):
    reported(tmp_path, "a", calling("warmup"), metric={"name": "warmup", "goal": "maximize"})
    reported(tmp_path, "b", plus("warmup"), factors={"warmup": FACTORS["warmup"]})
    reported(tmp_path, "c", factors={"warmup": FACTORS["warmup"]})
    if from_tables:
        (tmp_path / "runs").rename(tmp_path / "elsewhere")
    row = compare("a:ldmlr", "b:ldmlr", None, ProjectPaths(tmp_path)).rows[0]
    assert row.metric == "warmup" and set(row.right) == {7.0}
    with pytest.raises(InputError, match="warmup: is not measured in c"):
        compare("a:ldmlr", "c:ldmlr", None, ProjectPaths(tmp_path))


@pytest.mark.parametrize("factor", ["index", "epoch", "Kind"])
def test_a_factor_may_have_any_name_that_is_no_column(tmp_path, factor):
    report = reported(
        tmp_path,
        names=plus(factor),
        factors={factor: {"seed": {"a": 1}, "007": {"a": 2}, "nan": {"a": 3}}},
    )
    assert {row[factor] for row in rows(report / "results.csv")} == {"seed", "007", "nan", ""}
    assert {row[f"metric/{factor}"] for row in rows(report / "results.csv")} == {"7.0"}
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    arms = [f"fixes:{arm}" for arm in (f"{factor}=007", f"{factor}=nan")]
    assert compare(*arms, None, ProjectPaths(tmp_path)).settings == [(factor, "007", "nan")]


NAMES = st.one_of(st.sampled_from([*TAKEN, *FREE]), st.text("ae/", max_size=4)).flatmap(
    lambda name: st.integers(0, 3).map(lambda n: "metric/" * n + name)
)


@given(
    st.lists(NAMES, unique=True), st.sets(st.sampled_from(["lr_split", "a", "e", "best/test/top1"]))
)
def test_each_metric_has_a_column_that_nothing_else_has_and_that_leads_back_to_it(names, taken):
    columns = [column_of(name, taken) for name in names]
    assert len(set(columns)) == len(names) and not set(columns) & {*TAKEN[:-2], *taken}
    assert [metric_of(column, taken) for column in columns] == names
