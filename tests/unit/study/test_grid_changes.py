"""A grid that is edited between runs: what is new is run, what is gone leaves the report and stays on record."""

import pandas as pd
import pytest
from mlflow.entities import ViewType

from ablation.errors import InputError
from ablation.tracking.mlflow_content import IN_GRID

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

LEVEL = ", fast: {rate: 2}"
FACTOR = "\n  width: {narrow: {width: 1}, wide: {width: 2}}"


def rows(toy) -> pd.DataFrame:
    return toy.tables()[0].set_index("trial")


@pytest.mark.parametrize(
    ("before", "after", "n_new"),
    [("[0, 1]", "[0, 1, 2]", 4), (LEVEL, LEVEL + ", faster: {rate: 3}", 4), ("rate:", "rate:", 0)],
)
def test_what_is_added_runs_only_what_is_new(toy, before, after, n_new):
    known, there = rows(toy), {entry.path.name for entry in toy.store.entries()}
    toy.edit(before, after)
    done = toy.go()
    assert len(rows(toy)) == 8 + n_new and set(rows(toy)["state"]) == {"COMPLETE"}
    expected = toy.plan().unique().keys() - there
    assert (
        sorted(key for _, key in toy.ran) == sorted(expected)
        and done.n_trained == len(expected)
        and bool(expected) == bool(n_new)
    )
    pd.testing.assert_frame_equal(rows(toy).loc[known.index], known, check_exact=True)


def test_a_factor_that_is_added_keeps_the_trials_of_before_and_their_record(toy):
    known, run = rows(toy), toy.runs()["rate=fast--s1"].info.run_id
    toy.edit("\n  rate:", FACTOR.replace("{width: 1}", "{}") + "\n  rate:")
    toy.go()
    toy.deliver()
    now = rows(toy)
    assert (
        len(now) == 16
        and set(now["state"]) == {"COMPLETE"}
        and (now.loc[known.index, "width"] == "narrow").all()
    )
    pd.testing.assert_frame_equal(now.loc[known.index, known.columns], known, check_exact=True)
    assert toy.runs()["rate=fast--s1"].info.run_id == run and set(
        map(tuple, toy.states().values())
    ) == {("COMPLETE",)}


def contents(toy, trial: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in toy.folder.trial_path(trial).iterdir()}


def test_what_is_removed_drops_out_of_the_report_and_stays_on_record(toy):
    before, files = rows(toy), contents(toy, "rate=fast--s1")
    toy.edit(LEVEL, ", faster: {rate: 3}")
    toy.edit("[0, 1]", "[1]")
    toy.go()
    toy.deliver()
    assert set(rows(toy).index) == {
        f"{arm}--s1"
        for arm in ("reference", "warmup=settling", "rate=faster", "warmup=settling+rate=faster")
    }
    assert contents(toy, "rate=fast--s1") == files
    assert toy.states().keys() == set(
        rows(toy).index
    )  # in Optuna's tools, only what is in the grid counts
    tags = {name: run.data.tags.get(IN_GRID) for name, run in toy.runs().items()}
    assert {name for name, tag in tags.items() if tag == "no"} == set(before.index) - set(
        rows(toy).index
    )
    assert set(tags.values()) == {"no", "yes", None} and set(toy.statuses().values()) == {
        "FINISHED"
    }


def test_what_comes_back_is_not_run_again_and_is_the_same_record(toy):
    before, ids = rows(toy), {name: run.info.run_id for name, run in toy.runs().items()}
    toy.edit(LEVEL, ", faster: {rate: 3}")
    toy.go()
    toy.deliver()
    toy.edit(", faster: {rate: 3}", LEVEL)
    assert toy.go().n_trained == 0
    toy.deliver()
    pd.testing.assert_frame_equal(rows(toy), before, check_exact=True)
    runs = toy.runs(ViewType.ALL)
    assert ids.items() <= {name: run.info.run_id for name, run in runs.items()}.items()
    assert (
        {name for name, run in runs.items() if run.data.tags.get(IN_GRID) == "no"}
        == runs.keys() - ids.keys()
        != set()
    )


@pytest.mark.parametrize("is_running", [True, pytest.param(False, marks=pytest.mark.long)])
def test_what_is_removed_unfinished_neither_waits_nor_runs_until_it_comes_back(killed, is_running):
    toy = killed
    toy.deliver(is_running)
    begun = toy.statuses().keys() - {"toy on nothing"}
    assert any("fast" in trial for trial in begun)
    toy.edit(LEVEL, ", other: {rate: 3}")
    toy.go()
    toy.deliver()
    assert toy.states().keys() == set(rows(toy).index) and toy.counted() == {"COMPLETE": 8}
    assert {toy.statuses()[trial] for trial in begun if "fast" in trial} == {"KILLED"}
    toy.edit(", other: {rate: 3}", LEVEL)
    toy.go(stop_after=1)
    toy.deliver()
    assert toy.counted() == {"COMPLETE": 4, "WAITING": 4} and len(toy.states()) == 4
    assert not any("fast" in trial or "other" in trial for trial in toy.states())
    assert not any(
        run.data.tags.get(IN_GRID) == "no"
        for trial, run in toy.runs().items()
        if "other" not in trial
    )
    toy.go()
    toy.deliver()
    assert set(toy.statuses().values()) == {"FINISHED"}
    assert {states[-1] for states in toy.states().values()} == {"COMPLETE"}


@pytest.mark.parametrize("how", ["a setting", "the metric"])
def test_a_changed_experiment_under_the_same_name_is_refused_and_nothing_changes(toy, how):
    before = {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="--as NAME"):
        if how == "a setting":
            toy.go(overrides=["width=3"])
        else:
            toy.edit("goal: maximize", "goal: minimize")
            before[toy.root / "grid.yaml"] = (toy.root / "grid.yaml").read_bytes()
            toy.go()
    assert {path: path.read_bytes() for path in toy.root.rglob("*") if path.is_file()} == before


def test_a_level_that_means_something_else_now_is_never_mixed_with_what_it_meant(toy):
    before = rows(toy)
    toy.edit("fast: {rate: 2}", "fast: {rate: 3}")
    toy.go(stop_after=1)
    toy.report()
    now = rows(toy)
    is_fast = now.index.str.contains("fast")
    assert now.loc[is_fast, "top1"].isna().all() and set(now.loc[is_fast, "state"]) <= {
        "WAITING",
        "RUNNING",
    }
    pd.testing.assert_frame_equal(
        now.loc[~is_fast, ["state", "top1"]], before.loc[~is_fast, ["state", "top1"]]
    )
    toy.go()
    assert (
        set(rows(toy)["state"]) == {"COMPLETE"}
        and {key for _, key in toy.ran}
        and all(key.endswith("3") for _, key in toy.ran)
    )
