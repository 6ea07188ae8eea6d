"""The ledger keeps one Optuna trial that counts for each key, whatever the processes do."""

import json
import math
import multiprocessing
import shutil
import sqlite3
from pathlib import Path

import fabricate
import optuna
import pytest

from ablation import ledger_storage
from ablation.errors import InputError
from ablation.ledger import Ledger, LedgerUnavailable
from ablation.ledger_import import update_ledger
from ablation.runs import Outcome, TrialSpec


def spec(arm: str, seed: int = 0, **levels: str) -> TrialSpec:
    return TrialSpec(f"{arm}--s{seed}", arm, "arm", levels, seed, f"key-{arm}-{seed}", {}, 1, 1, 0)


ON = spec("lr_split", lr_split="on", warmup="off")
OFF = spec("none", lr_split="off", warmup="off")
BASELINE = TrialSpec("ce--s7", "ce", "baseline", {}, 7, "key-ce-7", {}, 1, 1, 0)


@pytest.fixture
def url(empty_ledger, tmp_path):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_ledger, tmp_path / "runs" / "optuna.db")
    return f"sqlite:///{tmp_path}/runs/optuna.db"


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="fixes", storage=url).trials


def test_enrolled_trial_waits_with_its_levels_as_params_and_its_identity_as_attributes(url):
    assert Ledger(url, "fixes", "maximize").enroll([ON, BASELINE]) == 2
    arm, baseline = trials(url)
    assert arm.state == optuna.trial.TrialState.WAITING
    assert arm.params == {"lr_split": "on", "warmup": "off", "seed": 0}
    assert baseline.params == {"seed": 7}
    assert baseline.user_attrs == {"trial": "ce--s7", "arm": "ce", "kind": "baseline", "seed": 7, "key": "key-ce-7"}


def test_enrolling_again_adds_only_new_keys(url):
    Ledger(url, "fixes", "maximize").enroll([ON])
    ledger = Ledger(url, "fixes", "maximize")
    assert ledger.enroll([ON, OFF, OFF]) == 1
    assert ledger.enroll([ON, OFF]) == 0
    assert [trial.user_attrs["key"] for trial in trials(url)] == [ON.key, OFF.key]


def test_any_trial_can_be_started_whatever_the_order_of_enrolment(url):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON, OFF])
    assert ledger.start(OFF.key)
    assert not ledger.start(OFF.key)
    assert ledger.states() == {ON.key: "WAITING", OFF.key: "RUNNING"}


def test_result_is_recorded_once(url):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON])
    ledger.start(ON.key)
    ledger.complete(ON.key, {"test/top1": 71.5, "test/few": 40.0}, 71.5)
    ledger.complete(ON.key, {"test/top1": 0.0}, 0.0)
    Ledger(url, "fixes", "maximize").fail(ON.key, "too late")
    assert not ledger.start(ON.key)
    (trial,) = trials(url)
    assert trial.value == 71.5
    assert trial.user_attrs["metrics"] == {"test/top1": 71.5, "test/few": 40.0}
    assert "reason" not in trial.user_attrs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_result_that_is_not_finite_is_a_failure(url, value):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON])
    ledger.start(ON.key)
    ledger.complete(ON.key, {"test/top1": value}, value)
    assert ledger.states() == {ON.key: "FAILED"}
    assert trials(url)[0].user_attrs["reason"] == f"the metric is {value}"


def test_failed_trial_can_be_tried_again_and_the_failure_stays_on_record(url):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON])
    assert not ledger.retry(ON.key)
    ledger.start(ON.key)
    ledger.fail(ON.key, "out of memory")
    assert ledger.retry(ON.key)
    assert ledger.states() == {ON.key: "WAITING"}
    assert ledger.start(ON.key)
    ledger.complete(ON.key, {"test/top1": 70.0}, 70.0)
    assert Ledger(url, "fixes", "maximize").states() == {ON.key: "COMPLETE"}
    failed, complete = trials(url)
    assert failed.user_attrs["reason"] == "out of memory"
    assert complete.params == failed.params and "reason" not in complete.user_attrs


def test_trial_left_running_by_a_killed_process_waits_again(url):
    killed = Ledger(url, "fixes", "maximize")
    killed.enroll([ON, OFF])
    killed.start(ON.key)
    ledger = Ledger(url, "fixes", "maximize")
    assert ledger.recover() == [ON.key]
    assert ledger.states() == {ON.key: "WAITING", OFF.key: "WAITING"}
    assert len(trials(url)) == 2
    assert ledger.recover() == []


def test_factor_can_gain_a_level_and_a_study_can_gain_a_factor(url):
    Ledger(url, "fixes", "maximize").enroll([ON, OFF])
    ledger = Ledger(url, "fixes", "maximize")
    plateau = spec("warmup=plateau", lr_split="off", warmup="plateau")
    again = spec("warmup=plateau", seed=1, lr_split="off", warmup="plateau")
    third = spec("warmup=long", lr_split="off", warmup="long")
    head = spec("head", lr_split="off", warmup="off", head="wcdas")
    ledger.enroll([ON, OFF, plateau])
    Ledger(url, "fixes", "maximize").enroll([again, third, head])
    assert [trial.params for trial in trials(url)[2:]] == [
        {"lr_split": "off", "warmup#2": "plateau", "seed": 0},
        {"lr_split": "off", "warmup#2": "plateau", "seed": 1},
        {"lr_split": "off", "warmup#3": "long", "seed": 0},
        {"lr_split": "off", "warmup": "off", "head": "wcdas", "seed": 0},
    ]


def test_other_direction_than_the_study_was_begun_with_is_an_input_error(url):
    Ledger(url, "fixes", "maximize")
    with pytest.raises(InputError, match="begun as 'maximize'"):
        Ledger(url, "fixes", "minimize")


def test_trials_made_with_optuna_itself_are_left_alone(url):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON])
    optuna.load_study(study_name="fixes", storage=url).enqueue_trial({"x": 1})
    assert ledger.states() == {ON.key: "WAITING"}


class InterruptedSpecs(list):
    """Specs that another machine enrolls after this one has looked for them, and before it adds them."""

    def __init__(self, specs, other: Ledger):
        super().__init__(specs)
        self.other, self.n_readings = other, 0

    def __iter__(self):
        self.n_readings += 1
        if self.n_readings == 2:
            self.other.enroll(list(super().__iter__()))
        return super().__iter__()


def test_trial_that_two_machines_enroll_at_once_counts_once(url):
    first, second = Ledger(url, "fixes", "maximize"), Ledger(url, "fixes", "maximize")
    first.enroll(InterruptedSpecs([ON], second))
    assert [trial.state.name for trial in trials(url)] == ["WAITING", "FAIL"]
    assert trials(url)[1].user_attrs["reason"] == "enrolled twice"
    assert second.start(ON.key)
    assert not first.start(ON.key)
    assert first.states() == second.states() == {ON.key: "RUNNING"}


def enroll_and_start_all(url: str, barrier, path: str) -> None:
    specs = [spec(f"arm{n}", lr_split="on") for n in range(20)]
    ledger = Ledger(url, "fixes", "maximize")
    barrier.wait()
    ledger.enroll(specs)
    barrier.wait()
    ledger.states()
    with open(path, "w") as file:
        json.dump([spec.key for spec in specs if ledger.start(spec.key)], file)


def test_processes_that_share_a_ledger_start_each_trial_once(url, tmp_path):
    Ledger(url, "fixes", "maximize")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    paths = [str(tmp_path / f"{n}.json") for n in range(3)]
    processes = [context.Process(target=enroll_and_start_all, args=(url, barrier, path)) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    started = [key for path in paths for key in json.load(open(path))]
    assert sorted(started) == sorted(f"key-arm{n}-0" for n in range(20))
    counting = [trial for trial in trials(url) if not trial.state.is_finished()]
    assert len(counting) == 20


def database(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def unavailable(call, *arguments) -> str:
    with pytest.raises(LedgerUnavailable) as error:
        call(*arguments)
    assert error.value.__suppress_context__  # the traceback of what was raised can hold credentials
    return str(error.value)


def test_damaged_database_is_said_to_be_unavailable(url):
    database(url).write_bytes(b"this is no database\n" * 1000)
    assert unavailable(Ledger, url, "fixes", "maximize") == f"Optuna's ledger at {url} is not available: file is not a database"


@pytest.mark.parametrize("method", ["enroll", "start", "complete", "fail", "retry", "recover", "states"])
def test_database_that_is_lost_on_the_way_is_said_to_be_unavailable(url, method):
    ledger = Ledger(url, "fixes", "maximize")
    ledger.enroll([ON])
    if method == "retry":
        ledger.fail(ON.key, "mend me")
    with sqlite3.connect(database(url)) as connection:
        connection.execute("ALTER TABLE trials RENAME TO lost")
    arguments = {"enroll": [[OFF]], "complete": [ON.key, {}, 1.0], "fail": [ON.key, "why"], "recover": [], "states": []}
    assert "is not available: no such table" in unavailable(getattr(ledger, method), *arguments.get(method, [ON.key]))


def test_locked_database_is_said_to_be_unavailable(url, monkeypatch):
    monkeypatch.setattr(ledger_storage, "SQLITE_TIMEOUT_SECONDS", 0.01)
    ledger = Ledger(url, "fixes", "maximize")
    other = sqlite3.connect(database(url), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert unavailable(ledger.enroll, [ON]).endswith("is not available: database is locked")
    other.execute("ROLLBACK")
    assert ledger.enroll([ON]) == 1


def test_database_of_another_version_of_optuna_is_said_to_be_unavailable(url):
    Ledger(url, "fixes", "maximize")
    with sqlite3.connect(database(url)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    assert "is no longer compatible with the table schema" in unavailable(Ledger, url, "fixes", "maximize")


@pytest.mark.parametrize(
    ("elsewhere", "shown"),
    [
        ("postgresql+nodriver://ada:secret@localhost/optuna", "postgresql+nodriver://***@localhost/optuna"),
        ("sqlserver://ada:secret@localhost/optuna", "sqlserver://***@localhost/optuna"),
        ("sqlite:////proc/none/optuna.db", "sqlite:////proc/none/optuna.db"),
    ],
)
def test_database_out_of_reach_is_said_without_credentials(elsewhere, shown):
    said = unavailable(Ledger, elsewhere, "fixes", "maximize")
    assert said.startswith(f"Optuna's ledger at {shown} is not available: ") and "secret" not in said


@pytest.mark.parametrize("metrics", [{"test/top1": math.nan}, {"loss": 1.0}])
def test_result_without_a_finite_metric_is_imported_once_and_as_a_failure(url, tmp_path, metrics):
    folder = fabricate.study(tmp_path / "study", baselines=["ce"], seeds=[0], factors={"lr": {"off": {}, "on": {"lr": 1}}})
    odd = folder.manifest().trials[0]
    folder.write_outcome(odd.trial, Outcome("COMPLETE", metrics, 1.0, key=odd.key))
    update_ledger(url, folder)
    update_ledger(url, folder)
    assert sorted(trial.state.name for trial in trials(url)) == ["COMPLETE", "COMPLETE", "FAIL"]
