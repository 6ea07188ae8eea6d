"""What a study looks like in MLflow, and that importing it again, or after any accident, changes nothing."""

import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from counting import Synced, Tracker
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from ablation.storage.runs import Manifest, Outcome, RunFolder, TrialSpec
from ablation.tracking import mlflow_places as tracking_places
from ablation.tracking import mlflow_store as tracking_store
from ablation.tracking.mlflow_content import FORMAT, trial_contents
from ablation.tracking.mlflow_places import TrackingRefused, TrackingUnavailable

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

STARTED, FINISHED = "2026-03-01T10:00:00+00:00", "2026-03-01T10:01:00+00:00"
START = 1772359200000  # STARTED in milliseconds
NOTHING = Synced()
ROOT = Path(__file__).parents[3]


def spec(
    arm: str, seed: int, levels: dict[str, str], settings: dict, kind: str = "arm"
) -> TrialSpec:
    settings = {"data.name": "digits", "routing": "summed", **settings}
    return TrialSpec(
        f"{arm}--s{seed}", arm, kind, levels, seed, f"key-{arm}-{seed}", settings, 3, 3, 0
    )


SPECS = [
    spec("none", 0, {"lr_split": "off"}, {"optim.lr.encoder": 1e-3}),
    spec("lr_split", 0, {"lr_split": "on"}, {"optim.lr.encoder": 1e-5}),
    spec("ce", 0, {}, {}, kind="baseline"),
]
NONE, LR_SPLIT, CE = SPECS


def manifest(specs: list[TrialSpec] = SPECS) -> Manifest:
    return Manifest(
        study="fixes",
        experiment="digits-lt",
        title="Digits",
        question="Which fix matters?",
        dataset="digits-lt",
        design=["factorial"],
        metric={"name": "test/top1", "goal": "maximize"},
        factors={"lr_split": {"off": {"optim.lr.encoder": 1e-3}, "on": {"optim.lr.encoder": 1e-5}}},
        seeds=[0],
        baselines=["ce"],
        reference="ce",
        claims=[],
        trials=specs,
        published=[],
        facts={},
        provenance={"commit": "abc123", "dirty": True},
    )


def record(phase: str, epoch: int, top1: float, seconds: float = 2.0) -> dict:
    metrics = {"pretrain/loss": 0.5} if phase == "pretrain" else {"grad/encoder": 0.1}
    return {
        "phase": phase,
        "epoch": epoch,
        "seconds": seconds,
        "metrics": {"test/top1": top1, **metrics},
    }


RECORDS = [record("pretrain", 1, 30.0), record("warmup", 1, 50.0), record("joint", 2, 60.0)]
COMPLETE = Outcome(
    "COMPLETE",
    {"test/top1": 60.0, "grad/encoder": 0.1, "best/test/top1": 61.0},
    6.0,
    None,
    STARTED,
    FINISHED,
    {"test/top1_per_class": [90.0, 30.0]},
)
CRASH = {
    "type": "ValueError",
    "message": "loss is nan",
    "traceback": "Traceback ...\nValueError: loss is nan\n",
}
FAILED = Outcome("FAILED", {}, 2.0, CRASH, STARTED, FINISHED)


def finish(folder: RunFolder, spec: TrialSpec, outcome: Outcome = COMPLETE) -> None:
    folder.write_config(spec, {"routing": "summed"})
    folder.write_records(spec.trial, RECORDS)
    folder.write_outcome(spec.trial, outcome)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "runs" / "fixes")
    folder.write_manifest(manifest())
    return folder


def runs(uri: str, view: int = ViewType.ACTIVE_ONLY) -> dict:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("fixes")
    of_trials = "tags.kind != 'summary'"
    found = client.search_runs([experiment.experiment_id], of_trials, run_view_type=view)
    assert len({run.info.run_name for run in found}) == len(found) or view != ViewType.ACTIVE_ONLY
    return {run.info.run_name: run for run in found}


def history(uri: str, run, name: str) -> list[tuple]:
    points = MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def contents(path: Path) -> dict:
    """Every row of the tables that an import writes to."""
    connection = sqlite3.connect(path)
    tables = ["experiments", "runs", "metrics", "latest_metrics", "params", "tags"]
    return {
        table: sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables
    }


def test_a_setting_called_like_a_factor_is_a_param_beside_its_level(folder):
    specs = [replace(spec, settings={"lr_split": i, "seed": i}) for i, spec in enumerate(SPECS[:2])]
    _, second = trial_contents(folder, manifest(specs), is_running=False)
    assert second.params == {
        "lr_split": "on",
        "setting/lr_split": "1",
        "arm": "lr_split",
        "seed": "0",
        "setting/seed": "1",
    }


def test_finished_trial_is_a_child_of_its_study_with_levels_metrics_and_files(
    uri, folder, tmp_path
):
    finish(folder, NONE)
    finish(folder, LR_SPLIT)
    (folder.trial_path(LR_SPLIT.trial) / "stdout.log").write_text("epoch 1\n")
    assert Tracker().sync(folder) == Synced(2, 0, 14, 2)
    found = runs(uri)
    parent, run = found["fixes on digits-lt"], found["lr_split--s0"]
    assert set(found) == {"fixes on digits-lt", "lr_split--s0", "none--s0"}
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params == {
        "lr_split": "on",
        "optim.lr.encoder": "1e-05",
        "arm": "lr_split",
        "seed": "0",
    }
    expected = {
        "factor.lr_split": "on",
        "kind": "arm",
        "seed": "0",
        "arm": "lr_split",
        "key": LR_SPLIT.key,
    }
    assert expected.items() <= run.data.tags.items()
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED",
        START,
        START + 6_000,
    )
    assert history(uri, run, "test/top1") == [(1, 50.0, START + 4000), (2, 60.0, START + 6000)]
    assert run.data.metrics["best/test/top1"] == 61.0
    assert not any("per_class" in name for name in run.data.metrics)
    client, run_id = MlflowClient(uri), run.info.run_id
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files == {"config.yaml", "metrics.jsonl", "outcome.json", "per_class.csv", "stdout.log"}
    path = client.download_artifacts(run_id, "per_class.csv", str(tmp_path))
    assert Path(path).read_text() == "class,test/top1_per_class\n0,90.0\n1,30.0\n"


def test_pretraining_has_metrics_of_its_own_since_it_counts_its_own_epochs(uri, folder):
    finish(folder, NONE)
    Tracker().sync(folder)
    run = runs(uri)["none--s0"]
    assert history(uri, run, "pretrain/test/top1") == [(1, 30.0, START + 2000)]
    assert history(uri, run, "pretrain/loss") == [(1, 0.5, START + 2000)]


def test_parent_says_what_the_study_is_and_how_its_arms_do(uri, folder):
    again = replace(NONE, trial="none--s1", seed=1, key="key-none-1")
    folder.write_manifest(manifest([*SPECS, again]))
    finish(folder, NONE)
    finish(folder, again, replace(COMPLETE, metrics={"test/top1": 62.0}))
    finish(folder, CE, FAILED)
    Tracker().sync(folder)
    parent = runs(uri)["fixes on digits-lt"]
    note = parent.data.tags["mlflow.note.content"]
    assert "Which fix matters?" in note and "abc123 (with uncommitted changes)" in note
    assert "| none | 2 | 61.0 ± 1.4 |" in note and "| ce |" not in note
    assert (
        "Metrics, by epoch: `test/` on the test set, accuracies in percent; `best/`" in note
        and "`diag/`" not in note
    )
    assert parent.data.tags["design"] == "factorial"
    assert parent.data.metrics == {
        "study/trials": 4,
        "study/complete": 2,
        "study/failed": 1,
        "study/wall_seconds": 60,
        "study/trial_seconds": 14,
    }
    assert parent.info.status == "RUNNING"


@pytest.mark.parametrize("is_new_process", [False, True])
def test_importing_twice_changes_nothing(uri, folder, tmp_path, monkeypatch, is_new_process):
    finish(folder, NONE)
    finish(folder, CE, FAILED)
    folder.write_records(LR_SPLIT.trial, RECORDS[:1])
    tracker = Tracker()
    tracker.sync(folder)
    before = contents(tmp_path / "mlflow.db")
    for write in (
        "create_run",
        "log_batch",
        "log_artifact",
        "log_artifacts",
        "log_text",
        "set_terminated",
        "update_run",
        "delete_run",
    ):
        monkeypatch.delattr(MlflowClient, write)
    assert (Tracker() if is_new_process else tracker).sync(folder) == NOTHING
    assert contents(tmp_path / "mlflow.db") == before


@pytest.mark.parametrize("call", ["log_artifacts", "set_terminated"])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_trial_whose_end_could_not_be_delivered_whole_keeps_its_run(
    uri, folder, monkeypatch, call, has_begun
):
    if has_begun:
        folder.write_config(NONE, {})
        folder.write_records(NONE.trial, RECORDS[:1])
        Tracker().sync(folder)
    finish(folder, NONE)

    def fail(*_arguments, **_options):
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, fail)
        for _ in range(2):
            with pytest.raises(TrackingUnavailable):
                Tracker().sync(folder)
    assert Tracker().sync(folder).n_replaced == 0
    client = MlflowClient(uri)
    (experiment,) = (each for each in client.search_experiments() if each.name != "Default")
    found = client.search_runs(
        [experiment.experiment_id], "tags.trial = 'none--s0'", run_view_type=ViewType.ALL
    )
    assert [run.info.status for run in found] == ["FINISHED"]
    assert client.list_artifacts(found[0].info.run_id)


@pytest.mark.parametrize("is_new_process", [False, True])
def test_running_trial_gets_only_its_new_records(uri, folder, is_new_process):
    folder.write_config(NONE, {})
    os.utime(folder.trial_path(NONE.trial) / "config.yaml", (START / 1000, START / 1000))
    tracker = Tracker()
    assert tracker.sync(folder) == NOTHING
    folder.append_record(NONE.trial, RECORDS[0])
    assert tracker.sync(folder) == Synced(n_created=1, n_points=2)
    assert runs(uri)["none--s0"].info.status == "RUNNING"
    for entry in RECORDS[1:]:
        folder.append_record(NONE.trial, entry)
    tracker = Tracker() if is_new_process else tracker
    assert tracker.sync(folder) == Synced(n_points=4)
    folder.write_outcome(NONE.trial, COMPLETE)
    assert tracker.sync(folder) == Synced(n_points=1, n_ended=1)
    run = runs(uri)["none--s0"]
    assert run.info.status == "FINISHED"
    assert history(uri, run, "grad/encoder") == [(1, 0.1, START + 4000), (2, 0.1, START + 6000)]


def test_points_that_were_logged_but_not_counted_are_not_logged_twice(uri, folder):
    folder.write_config(NONE, {})
    folder.write_records(NONE.trial, RECORDS[:1])
    Tracker().sync(folder)
    tags = {
        name: text
        for name, text in runs(uri)["none--s0"].data.tags.items()
        if name.startswith("ablate.")
    }
    folder.write_records(NONE.trial, RECORDS)
    Tracker().sync(folder)
    run = runs(uri)["none--s0"]
    for name, text in tags.items():  # as if killed between points and tags
        MlflowClient(uri).set_tag(run.info.run_id, name, text)
    assert Tracker().sync(folder).n_replaced == 0
    assert len(history(uri, run, "test/top1")) == 2


def as_by_an_earlier_version(uri: str) -> None:
    """Take away what tells that the runs are of the present format."""
    client = MlflowClient(uri)
    for run in runs(uri).values():
        client.set_tag(run.info.run_id, FORMAT, "1")


def test_runs_of_an_earlier_version_are_made_anew_once_and_keep_what_people_noted(uri, folder):
    finish(folder, NONE)
    finish(folder, CE, FAILED)
    folder.write_config(LR_SPLIT, {})
    folder.write_records(LR_SPLIT.trial, RECORDS[:2])
    Tracker().sync(folder)
    client, before = MlflowClient(uri), runs(uri)
    for name, tag in (("none--s0", "mlflow.note.content"), ("lr_split--s0", "paper")):
        client.set_tag(before[name].info.run_id, tag, "mine")
    client.set_tag(before["fixes on digits-lt"].info.run_id, "paper", "mine")
    as_by_an_earlier_version(uri)
    assert Tracker().sync(folder).n_replaced == 3
    assert Tracker().sync(folder) == NOTHING
    after = runs(uri)
    assert after.keys() == before.keys()
    for name, run in after.items():
        assert run.info.run_id != before[name].info.run_id and run.data.tags[FORMAT] == "2"
        assert run.data.metrics == pytest.approx(before[name].data.metrics, nan_ok=True)
        assert run.info.status == before[name].info.status
    assert after["none--s0"].data.tags["mlflow.note.content"] == "mine"
    assert after["lr_split--s0"].data.tags["paper"] == "mine"
    assert after["fixes on digits-lt"].data.tags["paper"] == "mine"
    parent = after["fixes on digits-lt"].info.run_id
    assert {run.data.tags.get("mlflow.parentRunId") for run in after.values()} == {None, parent}


def test_an_ended_run_of_an_earlier_version_stays_while_its_outcome_is_lost(uri, folder):
    finish(folder, NONE)
    Tracker().sync(folder)
    as_by_an_earlier_version(uri)
    (folder.trial_path(NONE.trial) / "outcome.json").unlink()
    assert Tracker().sync(folder, is_running=False).n_replaced == 0


DIGITS = {
    "test/top1": (71.66666666666667, 71.6667),
    "pretrain/top1_ema": (0.123456789, 0.1235),
    "train/loss": (0.0123456789, 0.0123457),
    "train/steps": (123456789.0, 123456789.0),
    "grad/norm": (1234567.891, 1234570.0),
    "tiny": (1.23456789e-12, 1.23457e-12),
}


def test_metrics_have_the_digits_that_mean_something_and_files_have_all(uri, folder):
    values = {name: exact for name, (exact, _) in DIGITS.items()}
    folder.write_config(NONE, {})
    folder.write_records(
        NONE.trial, [{"phase": "joint", "epoch": 1, "seconds": 1.0, "metrics": values}]
    )
    folder.write_outcome(NONE.trial, replace(COMPLETE, metrics=values, vectors={}))
    Tracker().sync(folder)
    assert runs(uri)["none--s0"].data.metrics == {name: told for name, (_, told) in DIGITS.items()}
    assert folder.records(NONE.trial)[0]["metrics"] == values
    assert Tracker().sync(folder) == NOTHING


@pytest.mark.parametrize("has_begun", [False, True])
def test_the_duration_of_a_run_is_its_own_seconds_and_that_of_the_study_a_clock(
    uri, folder, has_begun
):
    if has_begun:
        folder.write_config(NONE, {})
        folder.write_records(NONE.trial, RECORDS[:1])
        Tracker().sync(folder)
    finish(folder, NONE, replace(COMPLETE, wall_seconds=6.5))
    later = replace(COMPLETE, started=FINISHED, finished="2026-03-01T12:00:00+00:00")
    finish(folder, LR_SPLIT, later)
    Tracker().sync(folder)
    assert Tracker().sync(folder) == NOTHING
    info = runs(uri)["none--s0"].info
    assert info.end_time - info.start_time == 6500
    metrics = runs(uri)["fixes on digits-lt"].data.metrics
    assert metrics["study/wall_seconds"] == 7200 and metrics["study/trial_seconds"] == 12.5


def test_a_study_on_a_server_has_a_page_and_one_in_a_file_has_none(uri, folder):
    tracker = Tracker()
    tracker.sync(folder)
    assert tracker.page is None
    tracker.uri, tracker.experiment_id = "https://ada:secret@mlflow.example.org/x/", "7"
    assert tracker.page == (
        "https://mlflow.example.org/x/#/experiments/7/"
        "runs?workflowType=machine_learning&viewStateShareKey=ablate-arms"
    )


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_run_whose_epochs_were_replaced_is_made_anew(uri, folder, is_finished):
    """As after a trial has gone back to a checkpoint to go on with gradient accumulation; times alone are no difference."""
    folder.write_config(NONE, {})
    folder.write_records(NONE.trial, RECORDS[:2])
    tracker = Tracker()
    tracker.sync(folder)
    folder.write_records(NONE.trial, [{**RECORDS[0], "seconds": 9.0}, *RECORDS[1:]])
    assert tracker.sync(folder).n_replaced == 0
    folder.write_records(NONE.trial, [RECORDS[0], record("warmup", 1, 51.0), RECORDS[2]])
    if is_finished:
        folder.write_outcome(NONE.trial, COMPLETE)
    assert tracker.sync(folder).n_replaced == 1
    run = runs(uri)["none--s0"]
    assert [value for _, value, _ in history(uri, run, "test/top1")] == [51.0, 60.0]


def test_failed_trial_shows_its_error(uri, folder, tmp_path):
    finish(folder, NONE, FAILED)
    Tracker().sync(folder)
    run = runs(uri)["none--s0"]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ValueError: loss is nan"
    path = MlflowClient(uri).download_artifacts(run.info.run_id, "error.txt", str(tmp_path))
    assert Path(path).read_text() == CRASH["traceback"]


@pytest.mark.parametrize("is_new_process", [False, True])
def test_failed_trial_that_is_run_again_gets_a_new_run(uri, folder, is_new_process):
    finish(folder, NONE, FAILED)
    tracker = Tracker()
    tracker.sync(folder)
    failed = runs(uri)["none--s0"]
    (folder.trial_path(NONE.trial) / "outcome.json").unlink()
    folder.write_records(NONE.trial, RECORDS[:1])
    assert (Tracker() if is_new_process else tracker).sync(folder) == Synced(1, 1, 2, 0)
    run = runs(uri)["none--s0"]
    assert run.info.run_id != failed.info.run_id
    assert run.info.status == "RUNNING" and "error" not in run.data.tags


@pytest.mark.parametrize("is_new_process", [False, True])
def test_trial_with_other_settings_replaces_the_stale_run(uri, folder, is_new_process):
    for each in SPECS:
        finish(folder, each)
    tracker = Tracker()
    tracker.sync(folder)
    stale = runs(uri)["none--s0"]
    folder.write_manifest(manifest([replace(NONE, key="key-new"), LR_SPLIT, CE]))
    assert (Tracker() if is_new_process else tracker).sync(folder) == Synced(1, 1, 7, 1)
    assert runs(uri)["none--s0"].data.tags["key"] == "key-new"
    assert len(runs(uri)) == 4
    assert MlflowClient(uri).get_run(stale.info.run_id).info.lifecycle_stage == "deleted"


def test_stale_run_goes_even_if_the_new_trial_has_not_begun(uri, folder):
    finish(folder, NONE)
    tracker = Tracker()
    tracker.sync(folder)
    shutil.rmtree(folder.trial_path(NONE.trial))
    folder.write_manifest(manifest([replace(NONE, key="key-new")]))
    assert tracker.sync(folder) == Synced(n_replaced=1)
    assert set(runs(uri)) == {"fixes on digits-lt"}


def test_study_that_grows_keeps_its_runs_and_gives_them_the_new_labels(uri, folder):
    for each in SPECS:
        finish(folder, each)
    Tracker().sync(folder)
    before = runs(uri)
    assert before["fixes on digits-lt"].info.status == "FINISHED"
    grown = [
        replace(each, levels={**each.levels, "routing_rule": "off"}) for each in (NONE, LR_SPLIT)
    ]
    new = spec("decoupled", 0, {"lr_split": "off", "routing_rule": "on"}, {"routing": "decoupled"})
    folder.write_manifest(manifest([*grown, CE, new]))
    assert Tracker().sync(folder) == NOTHING
    after = runs(uri)
    assert after["fixes on digits-lt"].info.status == "RUNNING"
    assert after["none--s0"].info.run_id == before["none--s0"].info.run_id
    assert after["none--s0"].data.params["routing"] == "summed"
    assert (
        after["none--s0"].data.params["routing_rule"]
        == after["none--s0"].data.tags["factor.routing_rule"]
        == "off"
    )


def test_two_imports_at_work_on_one_study_make_one_run_of_a_trial(uri, folder):
    first, second = Tracker(), Tracker()
    first.sync(folder)
    second.sync(folder)
    finish(folder, NONE)
    assert second.sync(folder).n_created == 1
    assert first.sync(folder) == NOTHING
    assert set(runs(uri)) == {"fixes on digits-lt", "none--s0"}


def test_run_deleted_by_hand_is_made_again(uri, folder):
    folder.write_records(NONE.trial, RECORDS[:1])
    tracker = Tracker()
    tracker.sync(folder)
    MlflowClient(uri).delete_run(runs(uri)["none--s0"].info.run_id)
    folder.write_records(NONE.trial, RECORDS)
    with pytest.raises(TrackingUnavailable, match="deleted"):
        tracker.sync(folder)
    assert tracker.sync(folder) == Synced(n_created=1, n_points=6)


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_deleted_experiment_is_told_and_left_to_a_person_since_all_its_runs_would_come_back(
    uri, folder, is_new_process
):
    finish(folder, NONE)
    tracker = Tracker()
    tracker.sync(folder)
    client = MlflowClient(uri)
    id_ = client.get_experiment_by_name("fixes").experiment_id
    foreign = client.create_run(id_, run_name="not ours").info.run_id
    client.delete_experiment(id_)
    finish(folder, LR_SPLIT)
    if not is_new_process:
        with pytest.raises(TrackingUnavailable, match="deleted"):
            tracker.sync(folder)
    with pytest.raises(
        TrackingRefused,
        match=f"its experiment 'fixes' is deleted; .* mlflow experiments restore --experiment-id {id_}`",
    ) as raised:
        (Tracker() if is_new_process else tracker).sync(folder)
    assert not raised.value.is_for_now
    assert (
        client.get_run(foreign).info.lifecycle_stage
        == client.get_experiment(id_).lifecycle_stage
        == "deleted"
    )
    client.restore_experiment(id_)
    assert Tracker().sync(folder).n_created == 1


REFUSED = {  # metrics of one epoch, and settings
    "names": (
        {"loss/": 1.0, "val//loss": 2.0, "/x": 3.0, ".": 4.0, "..": 5.0, "loss": 6.0},
        {"a//b": 1, "a/b": 2, "..": 3},
    ),
    "long names": ({"m" * 300: 1.0, "m" * 301: 2.0}, {"k" * 300: 1, "k" * 301: 2}),
    "long texts": ({"loss": 1.0}, {"text": "v" * 7000, "other": "v" * 7001}),
    "surrogates and zeros": (
        dict([("\ud800", 1.0), ("\udfff", 2.0)]),
        {"\ud800": "a\ud800b", "z": "a\0b"},
    ),
    "more settings than a batch holds": ({"loss": 1.0}, {f"k{n}": n for n in range(250)}),
    "values": (
        {"nan": math.nan, "inf": -math.inf, "int": 10**400, "large": 2**70, "bool": True},
        {"int": 10**400},
    ),
    "epochs": ({"loss": 1.0, "x": 2.0}, {}),
}


@pytest.mark.parametrize(("metrics", "settings"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("truncates", [pytest.param("true", marks=pytest.mark.long), "false"])
def test_what_mlflow_refuses_is_made_to_fit_and_everything_arrives(
    uri, folder, monkeypatch, metrics, settings, truncates
):
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", truncates)
    odd = spec("odd", 0, {"lr_split": "on"}, settings)
    folder.write_manifest(manifest([NONE, odd]))
    finish(folder, NONE)
    epoch = 2**70 if "x" in metrics else 1
    folder.write_records(
        odd.trial,
        [
            {
                "phase": "joint",
                "epoch": epoch,
                "seconds": 1.0,
                "metrics": {"test/top1": 60.0, **metrics},
            }
        ],
    )
    folder.write_outcome(
        odd.trial, replace(COMPLETE, metrics={"test/top1": 60.0, **metrics}, vectors={})
    )
    Tracker().sync(folder)
    assert Tracker().sync(folder) == NOTHING
    found = runs(uri)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    run = found[odd.trial]
    assert len(run.data.metrics) == 1 + len(metrics)
    finite = sorted(float(value) for value in metrics.values() if -math.inf < value < 10**300)
    assert (
        sorted(
            value
            for name, value in run.data.metrics.items()
            if name != "test/top1" and value == value
        )
        == finite
    )
    assert (
        len(run.data.params)
        == len({"routing", "data.name", "arm", "seed", "lr_split"} | settings.keys()) - 2
    )  # which all share


@pytest.mark.parametrize("name", ["val//loss", ".", "m" * 300, "a@"])
@pytest.mark.parametrize("is_new_process", [pytest.param(False, marks=pytest.mark.long), True])
def test_names_of_a_trial_that_is_run_again_are_made_to_fit(uri, folder, name, is_new_process):
    """Though its run in MLflow has ended, and no outcome has the name."""
    finish(folder, NONE, FAILED)
    tracker = Tracker()
    tracker.sync(folder)
    folder.write_records(NONE.trial, [{**RECORDS[1], "metrics": {name: 7.0}}, RECORDS[2]])
    folder.write_outcome(NONE.trial, replace(COMPLETE, finished="2026-03-01T11:00:00+00:00"))
    assert (Tracker() if is_new_process else tracker).sync(folder).n_replaced == 1
    assert 7.0 in runs(uri)["none--s0"].data.metrics.values()


def test_a_run_that_mlflow_refuses_keeps_no_other_from_arriving(uri, folder, monkeypatch):
    for each in SPECS:
        finish(folder, each)
    create = MlflowClient.create_run

    def refuse_one(self, experiment, start, tags, name):
        if name == NONE.trial:
            raise MlflowException("Invalid value for it", error_code=INVALID_PARAMETER_VALUE)
        return create(self, experiment, start, tags, name)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", refuse_one)
        with pytest.raises(
            TrackingRefused, match="does not take all results: Invalid value for it"
        ):
            Tracker().sync(folder)
    assert {LR_SPLIT.trial, CE.trial} <= set(runs(uri)) and NONE.trial not in runs(uri)
    assert Tracker().sync(folder).n_created == 1


def test_a_metric_measured_twice_in_an_epoch_is_one_point(uri, folder):
    folder.write_config(NONE, {})
    folder.write_records(
        NONE.trial, [record("joint", 1, 50.0), record("joint", 1, 51.0), record("joint", 2, 60.0)]
    )
    Tracker().sync(folder)
    assert [
        (step, value) for step, value, _ in history(uri, runs(uri)["none--s0"], "test/top1")
    ] == [(1, 51.0), (2, 60.0)]


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_metric_measured_again_after_the_first_value_was_logged_is_one_point(
    uri, folder, is_new_process
):
    folder.write_config(NONE, {})
    tracker = Tracker()
    for n in (1, 2):
        folder.write_records(
            NONE.trial,
            [record("joint", 1, 50.0), record("joint", 1, 51.0), record("joint", 2, 60.0)][:n],
        )
        (Tracker() if is_new_process else tracker).sync(folder)
    assert [
        (step, value) for step, value, _ in history(uri, runs(uri)["none--s0"], "test/top1")
    ] == [(1, 51.0)]


@pytest.mark.parametrize(
    ("outcome", "blank"),
    [
        (COMPLETE, set()),
        (replace(COMPLETE, metrics={"test/top1": 60.0}), {"grad/encoder"}),
        (
            replace(COMPLETE, metrics={"test/top1": 60.0, "grad/encoder": math.nan}),
            {"grad/encoder"},
        ),
        (FAILED, {"test/top1", "grad/encoder"}),
    ],
)
def test_what_is_blank_in_results_is_blank_in_mlflow(uri, folder, outcome, blank):
    """Though an epoch has had it: MLflow shows the last value that it has."""
    finish(folder, NONE)
    last = {
        name: outcome.metrics[name]
        for name in ("test/top1", "grad/encoder")
        if name in outcome.metrics
    }
    finish(folder, CE, outcome)
    if outcome.state == "COMPLETE":
        folder.write_records(CE.trial, [*RECORDS[:2], {**RECORDS[2], "metrics": last}])
    Tracker().sync(folder)
    metrics = runs(uri)["ce--s0"].data.metrics
    assert {name for name, value in metrics.items() if math.isnan(value)} == blank
    assert Tracker().sync(folder) == NOTHING


@pytest.mark.parametrize("is_copied", [False, True])
def test_a_project_that_was_moved_keeps_its_artifacts(
    uri, folder, tmp_path, monkeypatch, is_copied
):
    finish(folder, NONE)
    Tracker().sync(folder)
    for name in ("mlartifacts", "runs"):
        (shutil.copytree if is_copied else shutil.move)(
            tmp_path / name, tmp_path / "else where" / name
        )
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "else where")
    monkeypatch.chdir(tmp_path / "else where")
    here = f"sqlite:///{tmp_path / 'else where' / 'mlflow.db'}"
    moved = RunFolder(tmp_path / "else where" / "runs" / "fixes")
    finish(moved, LR_SPLIT)
    Tracker().sync(moved)
    client = MlflowClient(here)
    for run in (runs(here)["none--s0"], runs(here)["lr_split--s0"]):
        assert run.info.artifact_uri.startswith((tmp_path / "else where" / "mlartifacts").as_uri())
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
            "config.yaml",
            "metrics.jsonl",
            "outcome.json",
            "per_class.csv",
        }


def test_artifacts_of_a_study_whose_name_is_quoted_in_an_address_move_with_it(
    uri, tmp_path, monkeypatch
):
    _, id_ = tracking_store.open_experiment(uri, "a study ü")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    here = tracking_places.default_uri()
    tracking_places.follow_folder(here)
    found = MlflowClient(here).get_experiment(id_).artifact_location
    assert found == (tmp_path / "elsewhere" / "mlartifacts" / "a study ü").as_uri()


def test_a_project_whose_artifacts_were_left_behind_uses_them_where_they_are(
    uri, folder, tmp_path, monkeypatch
):
    finish(folder, NONE)
    Tracker().sync(folder)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    Tracker().sync(folder)
    here = f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}"
    assert MlflowClient(here).list_artifacts(runs(here)["none--s0"].info.run_id)


def test_report_is_attached_to_the_parent_when_it_changes(uri, folder, tmp_path):
    reports = tmp_path / "reports" / "fixes"
    (reports / "figures").mkdir(parents=True)
    (reports / "report.md").write_text("# Fixes")
    (reports / "results.csv").write_text("trial\n")
    (reports / "claims.csv").write_text("claim\n")
    (reports / "report.html").write_text("<html>")
    (reports / "figures" / "effects.png").write_bytes(b"png")
    (reports / "figures" / "effects.svg").write_bytes(b"svg")
    tracker, client = Tracker(), MlflowClient(uri)
    tracker.sync(folder, reports)
    parent = runs(uri)["fixes on digits-lt"].info.run_id
    assert {file.path for file in client.list_artifacts(parent)} == {
        "report.md",
        "report.html",
        "results.csv",
        "claims.csv",
        "figures",
    }
    assert [file.path for file in client.list_artifacts(parent, "figures")] == [
        "figures/effects.png",
        "figures/effects.svg",
    ]
    (reports / "report.md").write_text("# Fixes, revised")
    Tracker().sync(folder, reports)
    assert (
        Path(client.download_artifacts(parent, "report.md", str(tmp_path))).read_text()
        == "# Fixes, revised"
    )


def test_names_and_values_that_mlflow_refuses_do_not_stop_the_import(uri, folder):
    entry = {
        "phase": "joint",
        "epoch": 1,
        "seconds": 1.0,
        "metrics": {"acc@1 (%)": 5.0, "loss": math.inf},
    }
    folder.write_records(NONE.trial, [entry])
    Tracker().sync(folder)
    metrics = runs(uri)["none--s0"].data.metrics
    assert {name[:-8]: value for name, value in metrics.items()}["acc_1 ___-"] == 5.0
    assert math.isnan(metrics["loss"])


def test_more_points_than_a_batch_holds_all_arrive(uri, folder):
    entries = [
        {
            "phase": "joint",
            "epoch": epoch,
            "seconds": 1.0,
            "metrics": {f"m/{n}": 1.0 for n in range(10)},
        }
        for epoch in range(1, 251)
    ]
    folder.write_records(NONE.trial, entries)
    assert Tracker().sync(folder).n_points == 2500
    assert len(history(uri, runs(uri)["none--s0"], "m/9")) == 250


def test_artifacts_and_database_are_where_a_plain_mlflow_ui_looks(uri, folder, tmp_path):
    tracker = Tracker()
    assert tracker.uri == uri
    finish(folder, NONE)
    tracker.sync(folder)
    assert len(list((tmp_path / "mlartifacts").glob("**/config.yaml"))) == 1


def test_tracking_uri_of_the_environment_is_honoured(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert Tracker().uri == "http://127.0.0.1:9"
    assert Tracker("sqlite:///elsewhere.db").uri == "sqlite:///elsewhere.db"


def test_server_that_is_down_is_one_clear_error_without_credentials(folder):
    with pytest.raises(TrackingUnavailable) as raised:
        Tracker("http://ada:secret@127.0.0.1:9/mlflow").sync(folder)
    assert raised.value.url == "http://***@127.0.0.1:9/mlflow"
    assert "refused" in str(raised.value)
    assert "secret" not in str(raised.value) and "ada" not in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_tracking_uri_is_none(uri, folder, monkeypatch, blank):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", blank)
    assert Tracker().uri == uri
    finish(folder, NONE)
    assert Tracker().sync(folder).n_created == 1


@pytest.mark.parametrize(
    ("chosen", "seconds"),
    [({}, 10), pytest.param({"MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}, 7, marks=pytest.mark.long)],
)
def test_a_server_is_waited_for_ten_seconds_unless_the_user_says_otherwise(chosen, seconds):
    code = "import ablation.tracking.mlflow_store; from mlflow import environment_variables as known; print(known.MLFLOW_HTTP_REQUEST_TIMEOUT.get())"
    environment = {
        name: value for name, value in os.environ.items() if name != "MLFLOW_HTTP_REQUEST_TIMEOUT"
    } | chosen
    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    ).stdout
    assert said == f"{seconds}\n"


@pytest.mark.parametrize(
    "module", ["tracking.mlflow_sync", "doctor.databases", "tracking.mlflow_store"]
)
def test_mlflow_sends_no_statistics_as_is_set_before_it_is_imported(module):
    code = f"""
import os, sys
class Watch:
    def find_spec(self, name, *_):
        if name == "mlflow":
            print(os.environ.get("MLFLOW_DISABLE_TELEMETRY"))
            os._exit(sys.stdout.flush() or 0)
sys.meta_path.insert(0, Watch())
import ablation.{module}
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert said.stdout == "true\n"


def test_a_server_that_takes_the_call_and_never_answers_is_given_up(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TrackingUnavailable, match="timed out"),
    ):
        Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}").sync(folder)


def test_more_runs_than_mlflow_gives_at_once_are_all_found(uri, folder, monkeypatch):
    monkeypatch.setattr(tracking_store, "PAGE", 2)
    for each in SPECS:
        finish(folder, each)
    assert Tracker().sync(folder).n_created == len(SPECS)
    assert Tracker().sync(folder) == NOTHING
    assert len(runs(uri)) == len(SPECS) + 1
