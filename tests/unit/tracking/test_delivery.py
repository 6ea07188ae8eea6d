"""Optuna and MLflow are asked again only when there may be something new for them."""

import os
from contextlib import nullcontext
from types import SimpleNamespace

import fabricate
import pytest
from rich.console import Console

from ablation.storage.files import folder_lock
from ablation.storage.project import ProjectPaths
from ablation.study.running import ShownDelivery
from ablation.tracking import delivery as module
from ablation.tracking import ledger
from ablation.tracking import mlflow_sync as tracking
from ablation.tracking.delivery import LONGEST_SECONDS, SYNC_SECONDS, Delivery
from ablation.tracking.ledger import LedgerUnavailable
from ablation.tracking.mlflow_places import TrackingRefused, TrackingUnavailable


@pytest.fixture
def project(tmp_path, monkeypatch) -> ProjectPaths:
    """A project with a study and its report."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = ProjectPaths(tmp_path)
    fabricate.study(places.runs("fixes").path, baselines=["ce"], seeds=[0])
    places.report("fixes").mkdir(parents=True)
    (places.report("fixes") / "results.csv").write_text("trial,test/top1\nreference--s0,60.0\n")
    return places


@pytest.fixture(autouse=True)
def looked(project, monkeypatch) -> list[str]:
    """The studies that MLflow was looked through for; the databases are files that nobody reads."""
    studies = []

    class Tracker:
        def sync(self, folder, reports, is_running=True):
            studies.append(folder.path.name)
            (project.root / "mlflow.db").touch()

    monkeypatch.setattr(
        ledger,
        "update_ledger",
        lambda url, folder, is_running=True: (project.root / ".ablate" / "optuna.db").touch(),
    )
    monkeypatch.setattr(tracking, "Tracker", Tracker)
    return studies


def deliver(places, name="fixes") -> bool:
    return Delivery(places, name, Console(quiet=True)).deliver_news()  # of another process


def test_what_was_delivered_is_not_delivered_again(project, looked):
    assert deliver(project) and deliver(project)
    assert looked == ["fixes"]


def change_report(places, monkeypatch):
    (places.report("fixes") / "results.csv").write_text("trial,test/top1\nreference--s0,61.0\n")


def change_manifest(places, monkeypatch):
    manifest = places.runs("fixes").manifest()
    manifest.seeds.append(1)
    places.runs("fixes").write_manifest(manifest)


def lose_mlflow(places, monkeypatch):
    (places.root / "mlflow.db").unlink()


def change_mlflow(places, monkeypatch):
    os.utime(places.root / "mlflow.db", (1, 1))


def change_mlflow_ahead(places, monkeypatch):
    """As somebody else's connection does to a database that is written ahead."""
    database = places.root / "mlflow.db"
    before = database.stat()
    (places.root / "mlflow.db-wal").write_bytes(b"a change")
    os.utime(database, ns=(before.st_atime_ns, before.st_mtime_ns))


def lose_ledger(places, monkeypatch):
    (places.root / ".ablate" / "optuna.db").unlink()


def damage_note(places, monkeypatch):
    (places.root / ".ablate" / "delivered" / "fixes").write_bytes(b"\xff\xfe")


def name_a_server(places, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")


@pytest.mark.parametrize(
    "change",
    [
        change_report,
        change_manifest,
        lose_mlflow,
        change_mlflow,
        change_mlflow_ahead,
        lose_ledger,
        damage_note,
        name_a_server,
    ],
)
def test_any_change_is_delivered(project, looked, change, monkeypatch):
    deliver(project)
    change(project, monkeypatch)
    assert deliver(project) and len(looked) == 2
    assert deliver(project) and len(looked) == 2


def test_that_nobody_runs_the_study_any_more_is_delivered(project, looked):
    with folder_lock(project.runs("fixes").path):
        deliver(project)
    assert deliver(project) and looked == ["fixes", "fixes"]


def test_studies_are_delivered_each_for_itself(project, looked):
    fabricate.study(project.runs("other").path, baselines=["ce"], seeds=[0])
    deliver(project)
    deliver(project, "other")
    assert looked == ["fixes", "other"]


def refuse(self, folder, reports, is_running=True):
    raise TrackingUnavailable("http://localhost:5000", "it is down")


def test_what_could_not_be_delivered_is_tried_again(project, looked, monkeypatch):
    with monkeypatch.context() as down:
        down.setattr(tracking.Tracker, "sync", refuse)
        assert not deliver(project)
    assert deliver(project) and looked == ["fixes"]


@pytest.mark.parametrize(
    ("raised", "is_promised"), [(TrackingUnavailable, True), (TrackingRefused, False)]
)
def test_what_can_never_be_delivered_is_not_promised(
    project, monkeypatch, capsys, raised, is_promised
):
    def refuse(self, folder, reports, is_running=True):
        raise raised("http://localhost:5000", "it is so")

    monkeypatch.setattr(tracking.Tracker, "sync", refuse)
    assert not Delivery(project, "fixes", Console()).deliver()
    said = capsys.readouterr().out
    assert (
        "it is so; the files are complete" in said
        and ("delivers them later" in said) == is_promised
    )


def test_a_ledger_out_of_reach_keeps_nothing_from_mlflow(project, looked, monkeypatch):
    def locked(url, folder, is_running=True):
        raise LedgerUnavailable(url, OSError("database is locked"))

    monkeypatch.setattr(ledger, "update_ledger", locked)
    assert not deliver(project) and looked == ["fixes"]


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_tracking_uri_is_as_none(project, looked, monkeypatch, blank):
    deliver(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", blank)
    assert deliver(project) and looked == ["fixes"]


def test_attempts_become_rarer_while_they_fail_and_are_as_frequent_as_before_after_a_success(
    project, monkeypatch
):
    delivery, intervals = Delivery(project, "fixes", Console(quiet=True)), []
    with monkeypatch.context() as down:
        down.setattr(tracking.Tracker, "sync", refuse)
        for _ in range(9):
            delivery.deliver()
            intervals.append(delivery.interval)
    assert intervals == [40.0, 80.0, 160.0, 320.0, 640.0, *[LONGEST_SECONDS] * 4]
    delivery.deliver()
    assert delivery.interval == SYNC_SECONDS


@pytest.mark.parametrize("interval", [SYNC_SECONDS, 2 * SYNC_SECONDS])
def test_what_happens_in_between_is_delivered_when_the_interval_is_over(
    project, looked, monkeypatch, interval
):
    delivery = Delivery(project, "fixes", Console(quiet=True))
    delivery.interval = interval
    progress = SimpleNamespace(doing=lambda what: nullcontext())
    begun = now = delivery.last
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    for now in (begun + interval - 1, begun + interval + 1):
        looked.append(f"{now - delivery.last - interval:+.0f}")
        ShownDelivery(delivery, progress).tick()
    assert looked == ["-1", "+1", "fixes"]
