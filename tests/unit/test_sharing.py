"""How a host becomes one of those that share a study, or is refused; and which of them delivers."""

import io
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import update
from toy_project import ToyProject

from ablation import shared_delivery
from ablation.definition import define, read_definition, unpack
from ablation.delivery import Delivery
from ablation.errors import InputError
from ablation.grid import load_study
from ablation.lock import only_one
from ablation.plan import build_plan
from ablation.provenance import provenance
from ablation.runs import Outcome
from ablation.shared_database import STUDIES, storage_url
from ablation.shared_delivery import LEDGER, SharedDelivery
from ablation.sharing import Sharing
from ablation.study import manifest_of

FAILED = Outcome("FAILED", {}, 0.0, {"type": "Planted", "message": "it failed", "traceback": ""})


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    return ToyProject(tmp_path / "project", monkeypatch)


@pytest.fixture
def definition(project):
    manifest = manifest_of(project.study(), "toy", project.plan(), Path("published.yaml"))
    return define(manifest, project.root / "grid.yaml", project.root / "nothing.yaml", Path("published.yaml"), ["rate=3"], "2")


def host(url: str, tmp_path: Path, study: str = "toy") -> Sharing:
    sharing = Sharing(url, root=tmp_path)
    sharing.open(study)
    return sharing


def problems(call, *arguments) -> list[str]:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense", "--storage: nonsense: is no database URL; write postgresql://user@host/database"),
        ("mysql://u:s3cret@h/d", "--storage: mysql://***@h/d: must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"),
        ("sqlite://", "--storage: sqlite://: must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"),
    ],
)
def test_what_is_no_database_that_hosts_can_share_is_refused(text, message):
    assert problems(storage_url, text) == [message]


def test_the_driver_that_is_installed_is_chosen_and_a_missing_one_is_named_with_the_extra(monkeypatch):
    find_spec = "ablation.shared_database.importlib.util.find_spec"
    monkeypatch.setattr(find_spec, lambda name: name == "psycopg2")
    assert storage_url("postgres://u:s3cret@h/d") == "postgresql+psycopg2://u:s3cret@h/d"
    assert storage_url("postgresql+psycopg://h/d") == "postgresql+psycopg://h/d"
    monkeypatch.setattr(find_spec, lambda name: None)
    assert problems(storage_url, "postgresql://u:s3cret@h/d") == ["--storage: postgresql://***@h/d: needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'"]


def test_a_database_out_of_reach_ends_in_one_line_without_its_password():
    (said,) = problems(Sharing, "postgresql://ablate:s3cret@127.0.0.1:1/none")
    assert said.startswith("--storage: the storage at postgresql+psycopg://***@127.0.0.1:1/none is not available") and "s3cret" not in said


def test_the_command_in_the_provenance_holds_no_password(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ablate", "run", "--storage", "postgresql://me:s3cret@host/db"])
    assert provenance()["command"] == "ablate run --storage postgresql://***@host/db"


def test_a_study_goes_through_the_database_and_comes_out_the_same(url, tmp_path, definition, project):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(definition, may_change=True)
    assert second.definition("toy") == definition
    options = unpack(second.definition("toy"), tmp_path / "unpacked")
    assert options["overrides"] == ["rate=3"] and options["seeds"] == "2"
    study = load_study(options["grid"], options["experiment"], [], options["seeds"], lambda name: project.subject)
    plan = build_plan(study, project.store, project.folder)
    assert {spec.trial: spec.key for spec in plan.specs} == definition.keys


def test_a_study_that_nobody_has_begun_is_refused_with_those_there_are(url, tmp_path, definition):
    sharing = host(url, tmp_path)
    assert "there is none yet" in problems(sharing.definition, "toy")[0]
    sharing.agree(definition, may_change=True)
    assert problems(sharing.definition, "tyo") == [f"--study: tyo: no such study at {url}; did you mean 'toy'?"]


@pytest.mark.parametrize("text", ["{", "[]", '{"grid": 1}', '{"experiment": "../../x"}'])
def test_a_definition_that_is_damaged_or_hostile_is_refused(url, tmp_path, definition, text):
    sharing = host(url, tmp_path)
    sharing.agree(definition, may_change=True)
    if text.startswith('{"'):
        text = json.dumps(asdict(definition) | json.loads(text))
    with sharing.engine.begin() as connection:
        connection.execute(update(STUDIES).values(definition=text))
    (said,) = problems(sharing.definition, "toy")
    assert said.startswith("--study: toy: its definition in the storage is damaged")


def other(definition, **facts):
    """The same study on a host where something is different."""
    return replace(definition, facts=facts, keys={trial: f"other {key}" for trial, key in definition.keys.items()})


def test_a_host_with_other_code_or_data_is_refused_and_told_what_differs(url, tmp_path, definition):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(replace(definition, facts={"source_fingerprint": "a", "versions": {"torch": "2.11"}, "device": "cpu"}), may_change=True)
    mine = other(definition, source_fingerprint="b", versions={"torch": "2.12"}, device="cpu")
    assert problems(second.agree, mine, False) == [
        "toy: source_fingerprint: a where the study was begun, b here",
        "toy: versions.torch: 2.11 where the study was begun, 2.12 here",
        "toy: this host would not compute what the others do; make these the same, or begin a study of its own with --as NAME",
    ]
    assert "its trials have other keys" in problems(second.agree, replace(other(definition), facts=first.definition("toy").facts), False)[0]


def test_who_begins_a_study_may_change_its_code_while_nobody_runs_it(url, tmp_path, definition):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(definition, may_change=True)
    mine = other(definition, source_fingerprint="new")
    first.leases.beat()
    assert "source_fingerprint" in problems(second.agree, mine, True)[0]
    first.leases.leave()
    second.agree(mine, may_change=True)
    assert second.definition("toy") == mine


def test_a_study_of_another_experiment_is_never_mixed_in(url, tmp_path, definition):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(definition, may_change=True)
    mine = replace(definition, config={**definition.config, "epochs": 9})
    assert "toy in the storage: epochs: was None, is 9; keep this study under another name with --as NAME" in problems(second.agree, mine, True)


def test_a_host_whose_facts_differ_is_refused_though_its_trials_are_called_the_same(url, tmp_path, definition):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(replace(definition, facts={"versions": {"torch": "2.11"}}), may_change=True)
    assert "toy: versions.torch: 2.11 where the study was begun, 2.12 here" in problems(second.agree, replace(definition, facts={"versions": {"torch": "2.12"}}), False)
    assert problems(second.agree, replace(definition, keys={"reference--s7": "k"}), False) == ["toy: no trial of it is one of those that the others run"]


def test_a_study_that_grows_waits_for_the_others_and_is_the_new_one_from_then_on(url, tmp_path, definition):
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(definition, may_change=True)
    first.leases.beat()  # at work
    grown = replace(definition, seeds="3", keys={**definition.keys, "reference--s2": "new"})
    assert problems(second.agree, grown, True) == [
        f"--grid: toy: {first.leases.host} would not hear of the trials that are new; stop them first, or wait until they have ended"
    ]
    first.leases.leave()
    second.agree(grown, may_change=True)
    assert read_definition(second.engine, "toy") == grown


def test_a_host_with_another_mlflow_delivers_to_its_own_and_marks_nothing_for_the_others(url, tmp_path, definition, project, monkeypatch):
    delivered = []
    monkeypatch.setattr(Delivery, "deliver", lambda self: delivered.append(self.sharing.leases.host) or True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://theirs")
    with_it = SharedDelivery(project.places, "toy", Console(), host(url, tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    without = SharedDelivery(project.places, "toy", Console(), host(url, tmp_path))
    project.folder.write_manifest(manifest_of(project.study(), "toy", project.plan(), Path("published.yaml")))
    assert without.deliver_news() and with_it.deliver_news() and with_it.deliver_news()
    assert delivered == [without.sharing.leases.host, with_it.sharing.leases.host]


def test_of_hosts_that_stop_together_the_last_to_leave_lets_no_record_stay_running(url, tmp_path, monkeypatch, project):
    """Each delivers, or leaves it to the other, while the other is still there."""
    delivered = []
    monkeypatch.setattr(Delivery, "deliver", lambda self: delivered.append((self, self.is_running())) or True)
    first, second = (SharedDelivery(project.places, "toy", Console(), host(url, tmp_path)) for _ in range(2))
    first.sharing.leases.beat(), second.sharing.leases.beat()
    assert first.deliver() and second.deliver() and delivered == [(first, True)]
    first.sharing.leases.leave()
    first.deliver_if_last()
    assert len(delivered) == 1
    second.sharing.leases.leave()
    second.deliver_if_last()
    assert delivered[1:] == [(second, False)] and first.sharing.leases.others() == []
    second.deliver_if_last()
    assert len(delivered) == 2


def test_a_host_without_the_studys_mlflow_says_so_and_shows_no_password(url, tmp_path, monkeypatch, project):
    monkeypatch.setattr(Delivery, "deliver", lambda self: True)
    said = []
    for uri in ("http://me:s3cret@theirs", "http://you:other@theirs", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        delivery = SharedDelivery(project.places, "toy", Console(file=io.StringIO()), host(url, tmp_path))
        assert delivery.deliver() and delivery.deliver()
        said.append(delivery.console.file.getvalue())
    assert said[0] == said[1] == ""  # the same server
    assert said[2].count("http://***@theirs; set MLFLOW_TRACKING_URI alike") == 1 and "mlflow.db" in said[2] and "s3cret" not in said[2]


def test_hosts_with_different_mlflows_write_to_optuna_one_at_a_time(url, tmp_path, monkeypatch, project):
    first, second = (host(url, tmp_path) for _ in range(2))
    free = []
    monkeypatch.setattr(Delivery, "_update_ledger", lambda self, folder, is_running: free.append(second.leases.take([LEDGER])))
    SharedDelivery(project.places, "toy", Console(), first)._update_ledger(project.folder, True)
    assert free == [False] and second.leases.take([LEDGER])


def test_a_host_whose_study_has_grown_leaves_the_delivery_to_the_others(url, tmp_path, definition, project, monkeypatch):
    """It had fallen silent, so that another could let the study grow."""
    delivered, console = [], Console(file=io.StringIO())
    monkeypatch.setattr(Delivery, "deliver", lambda self: delivered.append(self) or True)
    project.folder.write_manifest(manifest_of(project.study(), "toy", project.plan(), Path("published.yaml")))
    first, second = host(url, tmp_path), host(url, tmp_path)
    first.agree(definition, may_change=True)
    delivery = SharedDelivery(project.places, "toy", console, first)
    assert delivery.deliver() and len(delivered) == 1
    first.leases.leave()
    second.agree(replace(definition, seeds="3", keys={**definition.keys, "reference--s2": "new"}), may_change=True)
    assert delivery.deliver() and delivery.deliver_news() and len(delivered) == 1
    assert console.file.getvalue().count("toy has other trials by now than when this host joined it") == 1


def test_nobody_waits_for_ever_for_a_host_that_delivers(url, tmp_path, project, monkeypatch):
    monkeypatch.setattr(shared_delivery, "PATIENCE_SECONDS", -1.0)
    project.folder.write_manifest(manifest_of(project.study(), "toy", project.plan(), Path("published.yaml")))
    first, second = (SharedDelivery(project.places, "toy", Console(file=io.StringIO()), host(url, tmp_path)) for _ in range(2))
    assert first.sharing.leases.take([first._lease])
    assert not second.deliver_news() and "`ablate sync toy` brings what it leaves" in second.console.file.getvalue()


def test_a_trial_of_which_all_records_are_there_has_not_failed_whatever_a_host_says(url, tmp_path, definition, project):
    """On a host that has heard of the failure before, and on one that has not."""
    plan = project.run(project.monkeypatch)
    whole, other = plan.specs[:2]
    (project.folder.trial_path(other.trial) / "outcome.json").unlink()
    project.store.path("record", plan.trials[other.trial].links[-1].key).unlink()
    first = host(url, tmp_path)
    first.agree(definition, may_change=True)
    first.store.push_failures({spec.key: replace(FAILED, key=spec.key) for spec in (whole, other)})
    old, new = project.places.runs("old"), project.places.runs("new")
    old.write_outcome(whole.trial, replace(FAILED, key=whole.key))
    for folder in (old, new):
        sharing = host(url, project.root)
        sharing.agree(definition, may_change=False)
        sharing.reconcile(plan, folder, retry=False)
        assert folder.ending(whole) is None and folder.ending(other).error == FAILED.error


def test_a_trial_that_ended_by_records_that_others_have_otherwise_ends_again_by_theirs(url, tmp_path, definition, project):
    plan = project.run(project.monkeypatch)
    spec, key = plan.specs[0], plan.trials[plan.specs[0].trial].links[-1].key
    first = host(url, tmp_path)
    first.store.save("record", key, json.dumps(project.store.record(key) | {"metrics": {"top1": -1.0}}).encode())
    first.store.push("record", [key])
    second = host(url, project.root)
    second.agree(definition, may_change=True)
    second.reconcile(plan, project.folder, retry=False)
    assert project.folder.ending(spec) is None and not project.store.holds("state", key)
    assert all(project.folder.ending(other) is not None for other in plan.specs[1:])


def test_who_has_completed_its_plan_withdraws_the_checkpoints_of_that(url, tmp_path, definition, project):
    plan = project.run(project.monkeypatch)
    first, second = host(url, project.root), host(url, tmp_path)
    first.agree(definition, may_change=True)
    ends = [trial.links[-1].key for trial in plan.trials.values()]
    second.store.save("state", "another", b"checkpoint")
    first.store.push("state", ends), second.store.push("state", ["another"])
    first.clean(plan)
    second.store.pull()
    assert set(second.store.entries.read("state", [*ends, "another"])) == {"another"}


def test_the_same_trials_have_failed_on_every_host(url, tmp_path, definition, project):
    first, plan = host(url, tmp_path), project.plan()
    of_old, of_new = plan.specs[:2]
    project.folder.write_outcome(of_old.trial, replace(FAILED, key=of_old.key))
    first.agree(definition, may_change=True)
    first.reconcile(plan, project.folder, retry=False)  # the one host until now: its failures are the study's
    second = host(url, tmp_path)
    second.agree(definition, may_change=False)
    second.store.push_failures({of_new.key: replace(FAILED, key=of_new.key)})
    there = project.places.runs("elsewhere")
    second.reconcile(plan, there, retry=False)
    assert there.ending(of_old).error == FAILED.error and there.ending(of_new) is None  # pushed after it had opened the study
    third = host(url, tmp_path)
    third.agree(definition, may_change=False)
    third.reconcile(plan, there, retry=False)
    assert there.ending(of_new).error == FAILED.error


def test_failures_are_forgotten_everywhere_when_they_are_tried_again_which_must_wait_for_the_others(url, tmp_path, definition, project):
    first, plan = host(url, tmp_path), project.plan()
    project.folder.write_outcome(plan.specs[0].trial, replace(FAILED, key=plan.specs[0].key))
    first.agree(definition, may_change=True)
    first.reconcile(plan, project.folder, retry=False)
    first.leases.beat()
    second = host(url, tmp_path)
    second.agree(definition, may_change=True)
    assert "stop them first" in problems(second.reconcile, plan, project.folder, True)[0]
    first.leases.leave()
    second.reconcile(plan, project.folder, retry=True)
    assert project.folder.ending(plan.specs[0]) is None
    third, there = host(url, tmp_path), project.places.runs("elsewhere")
    there.write_outcome(plan.specs[0].trial, replace(FAILED, key=plan.specs[0].key))  # left from before
    third.agree(definition, may_change=False)
    third.reconcile(plan, there, retry=False)
    assert there.ending(plan.specs[0]) is None


def test_one_host_delivers_at_a_time_and_the_end_once(url, tmp_path, definition, project, monkeypatch):
    delivered = []
    monkeypatch.setattr(Delivery, "deliver", lambda self: delivered.append((self.sharing.leases.host, self.is_running())) or True)
    project.folder.write_manifest(manifest_of(project.study(), "toy", project.plan(), Path("published.yaml")))
    first, second = (SharedDelivery(project.places, "toy", Console(), host(url, tmp_path)) for _ in range(2))
    a, b = (delivery.sharing.leases.host for delivery in (first, second))
    with only_one(project.folder.path):
        assert first.deliver() and second.deliver() and first.deliver()
    assert delivered == [(a, True), (a, True)]
    first.sharing.leases.leave()
    assert second.deliver() and delivered.pop() == (b, False)
    first.sharing.leases.beat()  # another host is alive: records may stay RUNNING
    assert second.deliver() and delivered.pop() == (b, True)
    assert second.deliver_news() and delivered.pop() == (b, True)
    assert first.deliver_news() and second.deliver_news() and len(delivered) == 2  # it was marked
