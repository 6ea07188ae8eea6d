"""The doctor finds each seeded corruption by its name, changes nothing by looking, and mends it: results are as they were."""

import functools
import json
import os
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from toy_project import ToyProject

from ablation.doctor import examine as module
from ablation.doctor import machine as doctor_machine
from ablation.doctor.databases import database_checks
from ablation.doctor.examine import WIDTH, doctor, examine, examine_project
from ablation.doctor.files import YOUNG_SECONDS, cache_checks
from ablation.storage.files import folder_lock
from ablation.storage.runs import Outcome
from ablation.tracking.ledger import update_ledger
from ablation.tracking.mlflow_content import FORMAT, IN_GRID

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

TRIAL, SHARED = "warmup=settling+rate=fast--s0", "reference--s0"
HIDDEN = ".0123456789abcdef"


def lines(toy: ToyProject, repair: bool = False) -> dict[str, tuple[str, str]]:
    said: list[str] = []
    examine_project(toy.places, ["toy"], repair, said.append)
    return read(said)


APART = {
    "Optuna": ("MLflow",),
    "MLflow": ("Optuna",),
    "files": ("MLflow",),
}  # what has no say in a check, and takes long


def lines_around(toy: ToyProject, check: str, repair: bool = False) -> dict[str, tuple[str, str]]:
    """The check among those of its group."""
    of_study = functools.partial(module._study_checks, toy.places, "toy", ())
    makers = (
        lambda: cache_checks(toy.places, ()),
        of_study,
        lambda: database_checks(toy.places, ()),
    )
    group = next(
        found for found in (make() for make in makers) if check in [each.name for each in found]
    )
    said: list[str] = []
    examine(
        "", [each for each in group if each.name not in APART.get(check, ())], repair, said.append
    )
    return read(said)


def read(said: list[str]) -> dict[str, tuple[str, str]]:
    """Check -> result and text."""
    found = [line.split(maxsplit=1) for line in said if line.startswith("  ")]
    return {text[:WIDTH].strip(): (result, text[WIDTH:].strip()) for result, text in found}


def path(toy: ToyProject, name: str, trial: str = TRIAL) -> Path:
    return toy.folder.trial_path(trial) / name


def entry(toy: ToyProject, kind: str, i: int, trial: str = TRIAL) -> Path:
    return toy.store.path(kind, toy.plan().trials[trial].links[i].key)


def put(file: Path, content: bytes = b"half writ") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (time.time() - 2 * YOUNG_SECONDS,) * 2)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def rewrite(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def in_optuna(toy: ToyProject, statement: str, *values) -> None:
    with sqlite3.connect(toy.root / ".ablate" / "optuna.db") as connection:
        assert connection.execute(statement, values).rowcount > 0


def in_mlflow(toy: ToyProject, statement: str, *values) -> None:
    with sqlite3.connect(toy.root / "mlflow.db") as connection:
        assert connection.execute(statement, values).rowcount > 0


OF_TRIAL = (
    "trial_id = (SELECT trial_id FROM trial_user_attributes WHERE key = 'trial' AND value_json = ?)"
)


def enroll_again(toy: ToyProject, state: optuna.trial.TrialState) -> None:
    """As two machines do at once."""
    trial = next(trial for trial in toy.trials() if trial.user_attrs["trial"] == TRIAL)
    trial.state = state
    trial.values = trial.values if state.name == "COMPLETE" else None
    trial.datetime_complete = trial.datetime_complete if state.is_finished() else None
    optuna.load_study(study_name="toy", storage=toy.url).add_trial(trial)


def run_of(toy: ToyProject, name: str = TRIAL) -> str:
    return toy.runs()[name].info.run_id


def run_of_arm(toy: ToyProject) -> str:
    of_arm = "tags.kind = 'summary' AND tags.arm = 'reference'"
    (run,) = MlflowClient(toy.uri).search_runs(["1"], of_arm)
    return run.info.run_id


def copy_run(toy: ToyProject, name: str) -> None:
    run = toy.runs()[name]
    client = MlflowClient(toy.uri)
    made = client.create_run(run.info.experiment_id, run.info.start_time + 1, run.data.tags, name)
    client.set_terminated(made.info.run_id, "FINISHED", run.info.end_time)


def consistently_other(toy: ToyProject) -> None:
    """Files that agree with each other, and not with the cache."""
    records = toy.folder.records(TRIAL)
    records[-1]["metrics"]["top1"] = 99.0
    outcome = toy.folder.outcome(TRIAL)
    toy.folder.write_records(TRIAL, records)
    toy.folder.write_outcome(
        TRIAL, replace(outcome, metrics={**outcome.metrics, "top1": 99.0, "best/top1": 99.0})
    )


OTHERWISE = f"trials that are not as in the files, 1: {TRIAL}"
CORRUPTIONS = {  # what is done -> how, the check that finds it, what is said
    "a cached record": (lambda toy: cut(entry(toy, "record", 1)), "cache", "damaged entries, 1: .ablate/cache/record/se/seed0 w2"),
    "a checkpoint": (lambda toy: cut(entry(toy, "state", 3)), "cache", "damaged entries, 1: .ablate/cache/state/se/seed0 "),
    "a folder in the cache": (lambda toy: put(toy.store.path("latents", "abcd") / "inside"), "cache", "damaged entries, 1: .ablate/cache/latents/ab/abcd"),
    "temporary in the cache": (lambda toy: put(toy.store.path("state", "ab").with_name(HIDDEN)), "temporary files", f"left behind, 1: .ablate/cache/state/ab/{HIDDEN}"),
    "temporary in runs": (lambda toy: put(path(toy, HIDDEN)), "temporary files", f"left behind, 1: runs/toy/{TRIAL}/{HIDDEN}"),
    "temporary in reports": (lambda toy: put(toy.places.report("toy") / ".probe-a1"), "temporary files", "1: reports/toy/.probe-a1"),
    "a store of its own": (lambda toy: toy.store.alone("toy", TRIAL).save("record", "ab12", b"{}"), "stores of finished trials", f"1: .ablate/cache/alone/toy/{TRIAL}"),
    "an outcome": (lambda toy: cut(path(toy, "outcome.json")), "files", f"1: runs/toy/{TRIAL}/outcome.json"),
    "an outcome that is a folder": (lambda toy: (path(toy, "outcome.json").unlink(), path(toy, "outcome.json").mkdir()), "files", f"1: runs/toy/{TRIAL}/outcome.json"),
    "records": (lambda toy: put(path(toy, "metrics.jsonl"), b"\0" * 99), "files", f"1: runs/toy/{TRIAL}/metrics.jsonl"),
    "a record's digit": (lambda toy: put(path(toy, "metrics.jsonl"), path(toy, "metrics.jsonl").read_bytes().replace(b"20.0", b"21.0")), "files", f"1: runs/toy/{TRIAL}/metrics.jsonl"),
    "no records": (lambda toy: path(toy, "metrics.jsonl").unlink(), "files", f"1: runs/toy/{TRIAL}/metrics.jsonl"),
    "a configuration": (lambda toy: put(path(toy, "config.yaml")), "files", f"1: runs/toy/{TRIAL}/config.yaml"),
    "several files": (lambda toy: [put(path(toy, name, trial), b"half a record\n") for name in ("outcome.json", "metrics.jsonl") for trial in (TRIAL, SHARED)], "files", "4: runs/toy/reference--s0/"),
    "an outcome's digit": (lambda toy: rewrite(path(toy, "outcome.json"), metrics={"top1": 41.0}), "files", f"1: runs/toy/{TRIAL}/outcome.json does not follow from the records"),
    "other results": (consistently_other, "files", f"1: runs/toy/{TRIAL}/metrics.jsonl has other records than the cache"),
    "RUNNING in Optuna": (lambda toy: (toy.folder.path / TRIAL / "outcome.json").unlink() or in_optuna(toy, f"UPDATE trials SET state = 'RUNNING' WHERE {OF_TRIAL}", f'"{TRIAL}"'), "Optuna", OTHERWISE),
    "WAITING in Optuna": (lambda toy: in_optuna(toy, f"UPDATE trials SET state = 'WAITING' WHERE {OF_TRIAL}", f'"{TRIAL}"'), "Optuna", OTHERWISE),
    "failed in Optuna": (lambda toy: in_optuna(toy, f"UPDATE trials SET state = 'FAIL' WHERE {OF_TRIAL}", f'"{TRIAL}"'), "Optuna", OTHERWISE),
    "not in Optuna": (lambda toy: in_optuna(toy, f"DELETE FROM trials WHERE {OF_TRIAL}", f'"{TRIAL}"'), "Optuna", OTHERWISE),
    "another value in Optuna": (lambda toy: in_optuna(toy, f"UPDATE trial_values SET value = 7 WHERE {OF_TRIAL}", f'"{TRIAL}"'), "Optuna", OTHERWISE),
    "in Optuna, not in runs": (lambda toy: shutil.rmtree(toy.folder.path / TRIAL), "Optuna", OTHERWISE),
    "there and waiting": (lambda toy: enroll_again(toy, optuna.trial.TrialState.WAITING), "Optuna", OTHERWISE),
    "there twice": (lambda toy: enroll_again(toy, optuna.trial.TrialState.COMPLETE), "Optuna", OTHERWISE),
    "there and running": (lambda toy: enroll_again(toy, optuna.trial.TrialState.RUNNING), "Optuna", OTHERWISE),
    "no ledger": (lambda toy: (toy.root / ".ablate/optuna.db").unlink(), "Optuna", "trials that are not as in the files, 8: reference--s0"),
    "a run": (lambda toy: MlflowClient(toy.uri).delete_run(run_of(toy)), "MLflow", f"runs that are missing, 1: {TRIAL}"),
    "the study's run": (lambda toy: MlflowClient(toy.uri).delete_run(run_of(toy, "toy on nothing")), "MLflow", "runs that are missing, 1: the study's own"),
    "no MLflow": (lambda toy: (toy.root / "mlflow.db").unlink(), "MLflow", "runs that are missing, 13: the study's own"),
    "a run twice": (lambda toy: copy_run(toy, TRIAL), "MLflow", f"runs that are there twice, 1: {TRIAL}"),
    "the study's run twice": (lambda toy: copy_run(toy, "toy on nothing"), "MLflow", "runs that are there twice, 1: the study's own"),
    "a point in the middle": (lambda toy: in_mlflow(toy, "DELETE FROM metrics WHERE run_uuid = ? AND key = 'top1' AND step = 2", run_of(toy)), "MLflow", f"runs with fewer points than the files, 1: {TRIAL}"),
    "the best value": (lambda toy: in_mlflow(toy, "DELETE FROM metrics WHERE run_uuid = ? AND key = 'best/top1'", run_of(toy)), "MLflow", f"runs with fewer points than the files, 1: {TRIAL}"),
    "RUNNING in MLflow": (lambda toy: MlflowClient(toy.uri).update_run(run_of(toy), "RUNNING"), "MLflow", f"runs with the status RUNNING, and FINISHED is right, 1: {TRIAL}"),
    "KILLED in MLflow": (lambda toy: MlflowClient(toy.uri).set_terminated(run_of(toy), "KILLED"), "MLflow", f"runs with the status KILLED, and FINISHED is right, 1: {TRIAL}"),
    "a study RUNNING in MLflow": (lambda toy: MlflowClient(toy.uri).update_run(run_of(toy, "toy on nothing"), "RUNNING"), "MLflow", "with the status RUNNING, and FINISHED is right, 1: the study's own"),
    "left by MLflow": (lambda toy: MlflowClient(toy.uri).set_tag(run_of(toy), IN_GRID, "no"), "MLflow", f"runs said to have left the grid, 1: {TRIAL}"),
    "of another version in MLflow": (lambda toy: MlflowClient(toy.uri).set_tag(run_of(toy), FORMAT, "1"), "MLflow", f"runs written by another version of ablate, 1: {TRIAL}"),
    "another key in MLflow": (lambda toy: MlflowClient(toy.uri).set_tag(run_of(toy), "key", "other"), "MLflow", f"runs of what the trial was before, 1: {TRIAL}"),
    "another end in MLflow": (lambda toy: MlflowClient(toy.uri).set_terminated(run_of(toy), "FINISHED", 12345), "MLflow", f"runs of what the trial was before, 1: {TRIAL}"),
    "an arm's run": (lambda toy: MlflowClient(toy.uri).delete_run(run_of_arm(toy)), "MLflow", "runs that are missing, 1: means of reference"),
    "an arm's other means": (lambda toy: MlflowClient(toy.uri).set_tag(run_of_arm(toy), "ablate.digest", "other"), "MLflow", "runs of other results than the files', 1: means of reference"),
    "an arm RUNNING in MLflow": (lambda toy: MlflowClient(toy.uri).update_run(run_of_arm(toy), "RUNNING"), "MLflow", "runs with the status RUNNING, and FINISHED is right, 1: means of reference"),
    "Optuna's database": (lambda toy: put(toy.root / ".ablate/optuna.db", b"text\n" * 999), "Optuna's database", ".ablate/optuna.db: file is not a database"),
    "MLflow's database": (lambda toy: put(toy.root / "mlflow.db", b"text\n" * 999), "MLflow's database", "mlflow.db: file is not a database"),
    "a page of a database": (lambda toy: (toy.root / "mlflow.db").write_bytes((data := (toy.root / "mlflow.db").read_bytes())[:4096] + b"\xff" * 8192 + data[12288:]), "MLflow's database", "malformed"),
}  # fmt: skip


def contents(toy: ToyProject) -> dict[Path, bytes | None]:
    """Every file, but what SQLite keeps beside its databases."""
    paths = (
        path
        for path in toy.root.rglob("*")
        if not path.name.endswith(("-wal", "-shm", ".lock", ".db"))
    )
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


# much like others that are tried in every run, or tried there together
FURTHER = {
    "WAITING in Optuna", "failed in Optuna", "there and waiting", "there and running", "the study's run twice",
    "the best value", "KILLED in MLflow", "of another version in MLflow", "another key in MLflow", "another end in MLflow",
    "a run", "MLflow's database", "another value in Optuna", "not in Optuna", "the study's run", "a run twice",
    "a study RUNNING in MLflow", "an arm's run", "a configuration", "an outcome's digit",
}  # fmt: skip


def named(check: str) -> pytest.MarkDecorator:
    """The corruptions that are found by these checks, as parameters of a test."""
    found = [
        pytest.param(*each, id=name, marks=pytest.mark.long if name in FURTHER else [])
        for name, each in CORRUPTIONS.items()
        if each[1] in check.split(", ")
    ]
    return pytest.mark.parametrize(("corrupt", "check", "said"), found)


def assert_found_and_mended(toy: ToyProject, corrupt, check: str, said: str) -> None:
    corrupt(toy)
    corrupted = contents(toy)
    found = lines_around(toy, check)
    assert found[check][0] == "found" and said in found[check][1] and "--repair" in found[check][1]
    assert contents(toy) == corrupted
    repaired = lines_around(toy, check, repair=True)
    assert repaired[check][0] == "mended" and {result for result, _ in repaired.values()} <= {
        "ok",
        "mended",
    }  # it was looked at again


@named("cache, temporary files, stores of finished trials")
def test_what_is_damaged_or_left_behind_in_the_cache_is_found_by_name_and_removed(
    toy, corrupt, check, said
):
    before = contents(toy)
    assert_found_and_mended(toy, corrupt, check, said)
    assert {
        path for path, content in contents(toy).items() if content not in (None, before.get(path))
    } == set()


@named("files")
def test_damaged_files_of_trials_are_found_by_name_and_made_again(toy, corrupt, check, said):
    before = toy.tables()
    assert_found_and_mended(toy, corrupt, check, said)
    for bring_up in (toy.report, toy.go):
        bring_up()
        for table, was in zip(toy.tables(), before):
            pd.testing.assert_frame_equal(table, was, check_exact=True)


@named("Optuna")
def test_what_optuna_holds_otherwise_than_the_files_is_found_by_name_and_repaired(
    toy, corrupt, check, said
):
    before = toy.tables()
    assert_found_and_mended(toy, corrupt, check, said)
    toy.go()
    for table, was in zip(toy.tables(), before):
        pd.testing.assert_frame_equal(table, was, check_exact=True)
    update_ledger(toy.url, toy.folder, is_running=False)
    assert all(
        sorted(set(states)) in (["COMPLETE"], ["COMPLETE", "FAIL"])
        and states.count("COMPLETE") == 1
        for states in toy.states().values()
    )


@named("MLflow")
def test_what_mlflow_holds_otherwise_than_the_files_is_found_by_name_and_repaired(
    toy, corrupt, check, said
):
    assert_found_and_mended(toy, corrupt, check, said)
    toy.deliver()
    assert list(toy.statuses().values()) == ["FINISHED"] * 9


@named("Optuna's database, MLflow's database")
def test_a_database_that_is_none_is_found_by_name_moved_aside_and_filled_anew(
    toy, corrupt, check, said
):
    corrupt(toy)
    database = toy.root / (".ablate/optuna.db" if check.startswith("Optuna") else "mlflow.db")
    content = database.read_bytes()
    found = lines_around(toy, check)  # MLflow keeps what it has opened open
    assert found[check][0] == "found" and said in found[check][1] and "--repair" in found[check][1]
    assert database.read_bytes() == content
    repaired = lines(toy, repair=True)
    assert repaired[check][0] == "mended" and {result for result, _ in repaired.values()} <= {
        "ok",
        "mended",
    }
    assert database.with_name(f"{database.name}.damaged1").read_bytes() == content
    assert {result for result, _ in lines(toy).values()} == {"ok"}
    assert (
        set(map(tuple, toy.states().values())) == {("COMPLETE",)}
        and list(toy.statuses().values()) == ["FINISHED"] * 9
    )


def test_a_sound_project_is_found_well_and_repairing_it_changes_nothing(toy):
    before = contents(toy)
    for repair in (False, True):
        assert {result for result, _ in lines(toy, repair).values()} == {"ok"}
    assert contents(toy) == before


def test_what_is_left_to_the_long_tests_is_there():
    assert FURTHER <= CORRUPTIONS.keys()


TOGETHER = [
    "a cached record", "temporary in reports", "a store of its own", "a configuration", "an outcome's digit",
    "another value in Optuna", "an arm's run", "a study RUNNING in MLflow", "a run twice",
]  # fmt: skip


def test_corruptions_of_all_kinds_at_once_are_repaired(toy):
    before = toy.tables()
    for name in TOGETHER:
        CORRUPTIONS[name][0](toy)
    found = lines(toy)
    assert {CORRUPTIONS[name][1] for name in TOGETHER} == {
        check for check, (result, _) in found.items() if result == "found"
    }
    for name in TOGETHER:
        _, check, said = CORRUPTIONS[name]
        assert all(part in found[check][1] for part in said.split("1: ")), name
    assert {result for result, _ in lines(toy, repair=True).values()} <= {"ok", "mended"}
    assert {result for result, _ in lines(toy).values()} == {"ok"}
    toy.go()
    for table, was in zip(toy.tables(), before):
        pd.testing.assert_frame_equal(table, was, check_exact=True)


@pytest.mark.parametrize(
    "name", ["outcome.json", pytest.param("metrics.jsonl", marks=pytest.mark.long)]
)
def test_what_neither_cache_nor_files_have_is_left_to_the_next_run(toy, name):
    before = toy.tables()
    toy.store.clear()
    put(path(toy, "metrics.jsonl"))
    put(path(toy, name))
    repaired = lines(toy, repair=True)
    assert (
        repaired["files"][0] == "mended"
        and "1 to be run again by `ablate run`" in repaired["files"][1]
    )
    assert repaired["Optuna"][0] == "mended" and OTHERWISE in repaired["Optuna"][1]
    assert {result for result, _ in lines(toy).values()} == {"ok"}
    assert TRIAL not in toy.states()
    assert toy.go().n_trained == 4
    toy.deliver()
    assert toy.states()[TRIAL] == ["COMPLETE"]
    for table, was in zip(toy.tables(), before):
        pd.testing.assert_frame_equal(table, was, check_exact=True)


def test_what_is_replaced_and_may_be_nowhere_else_is_put_aside(toy):
    """Trained anew on a device that does not compute the same twice, say: which of the two is meant, nobody knows."""
    consistently_other(toy)
    others = {name: path(toy, name).read_bytes() for name in ("outcome.json", "metrics.jsonl")}
    said = lines(toy, repair=True)["files"][1]
    assert "what it said is kept in metrics.jsonl.damaged1, outcome.json.damaged1" in said
    assert {name: path(toy, f"{name}.damaged1").read_bytes() for name in others} == others
    consistently_other(toy)
    lines(toy, repair=True)
    assert (
        path(toy, "outcome.json.damaged2").read_bytes() != b""
        and path(toy, "outcome.json.damaged1").read_bytes() == others["outcome.json"]
    )


def test_results_that_only_their_own_files_have_are_put_aside_when_those_cannot_be_told(toy):
    toy.store.clear()
    outcome = path(toy, "outcome.json").read_bytes()
    path(toy, "metrics.jsonl").write_bytes(b"half writ\n")
    lines(toy, repair=True)
    assert (
        not path(toy, "outcome.json").exists()
        and path(toy, "outcome.json.damaged1").read_bytes() == outcome
    )
    assert path(toy, "metrics.jsonl.damaged1").read_bytes() == b"half writ\n"


def test_an_outcome_is_made_of_whole_records_where_the_cache_has_nothing(toy):
    toy.store.clear()
    before = path(toy, "outcome.json").read_text()
    rewrite(path(toy, "outcome.json"), metrics={"top1": 41.0})
    assert "does not follow from the records" in lines(toy, repair=True)["files"][1]
    assert path(toy, "outcome.json").read_text() == before


def test_records_of_an_interrupted_study_are_mended_and_none_stays_running(toy):
    shutil.rmtree(toy.folder.path)
    toy.store.clear()
    toy.go(stop_after=5)
    toy.deliver(is_running=True)
    trial = next(
        spec.trial
        for spec in toy.folder.manifest().trials
        if len(toy.folder.records(spec.trial)) > 1
    )
    kept = toy.folder.records(trial)
    put(path(toy, "metrics.jsonl", trial), b"\0" * 50 + b"\n")
    found = lines(toy)
    assert f"{trial}/metrics.jsonl" in found["files"][1] and found["MLflow"][0] == "found"
    assert {result for result, _ in lines(toy, repair=True).values()} <= {"ok", "mended"}
    assert toy.folder.records(trial) == kept
    assert (
        "RUNNING" not in [states[-1] for states in toy.states().values()]
        and "RUNNING" not in toy.statuses().values()
    )


CODE = {
    "unmet": ("import nothing_like_it", "cannot import 'unmet': No module named 'nothing_like_it'"),
    "unlicensed": (
        "raise RuntimeError('no licence')",
        "cannot import 'unlicensed': RuntimeError: no licence",
    ),
}


@pytest.mark.parametrize(("name", "code", "said"), [(name, *each) for name, each in CODE.items()])
def test_code_that_cannot_be_loaded_is_named_and_the_rest_is_still_looked_at(toy, name, code, said):
    (toy.root / f"{name}.py").write_text(f"{code}\n")
    toy.folder.write_manifest(replace(toy.folder.manifest(), subject=f"{name}:train"))
    found = lines_around(toy, "files")
    assert found["code"][0] == "found" and said in found["code"][1]
    assert found["files"][0] == "ok"


def test_a_failed_trial_stays_failed(toy):
    error = {"type": "ArithmeticError", "message": "it diverged", "traceback": ""}
    toy.folder.write_outcome(
        TRIAL, Outcome("FAILED", {}, 3.0, error, key=toy.folder.outcome(TRIAL).key)
    )
    put(path(toy, "metrics.jsonl"))
    assert {result for result, _ in lines(toy, repair=True).values()} <= {"ok", "mended"}
    assert (
        toy.folder.outcome(TRIAL).error == error
        and toy.states()[TRIAL] == ["FAIL"]
        and toy.statuses()[TRIAL] == "FAILED"
    )


def test_a_damaged_manifest_is_named_and_left_to_the_next_run(toy):
    put(toy.folder.path / "study.json")
    for repair, result in ((False, "found"), (True, "left")):
        found = lines(toy, repair)
        assert (
            found["study.json"][0] == result
            and "`ablate run` with the study's grid writes it again" in found["study.json"][1]
        )
        assert "MLflow" not in found


def test_trials_that_left_the_grid_are_told_and_are_no_fault(toy):
    toy.edit("[0, 1]", "[0]")
    toy.go()
    result, said = lines(toy)["MLflow"]
    assert result == "found" and "left the grid, and are not said to" in said
    toy.deliver()
    found = lines(toy)
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["folders"][1].startswith("of trials that have left the grid, 4: ")


def test_a_trial_that_counts_in_optuna_though_it_left_the_grid_is_found(toy):
    toy.edit("[0, 1]", "[0]")
    toy.go()
    assert "trials that are not as in the files, 4: reference--s1" in lines(toy)["Optuna"][1]
    assert lines(toy, repair=True)["Optuna"][0] == "mended"


def test_a_study_that_is_being_run_is_not_touched(toy):
    for corrupt in (
        "an outcome",
        "RUNNING in MLflow",
        "a run twice",
        "temporary in the cache",
        "a store of its own",
    ):
        CORRUPTIONS[corrupt][0](toy)
    with folder_lock(toy.folder.path):
        before, runs = contents(toy), MlflowClient(toy.uri).search_runs(["1"])
        found = lines(toy, repair=True)
        assert found["all"] == ("ok", "not looked at: it is being run")
        assert "while a study is being run: toy" in found["temporary files"][1]
        assert contents(toy) == before and len(MlflowClient(toy.uri).search_runs(["1"])) == len(
            runs
        )


def test_a_database_that_is_none_is_not_said_to_be_moved_aside_while_a_study_runs(toy):
    (toy.root / ".ablate" / "optuna.db").write_bytes(b"no database" * 100)
    check, _ = database_checks(toy.places, running={"toy"})
    found = check.look()
    assert found.mend is None and "once no study is being run, --repair moves" in found.remedy


def test_a_database_that_another_program_holds_is_left_and_named(toy, monkeypatch):
    monkeypatch.setattr("ablation.storage.project.PATIENCE_SECONDS", 0.05)
    other = sqlite3.connect(toy.root / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    found = lines(toy, repair=True)
    assert found["MLflow's database"] == (
        "left",
        "mlflow.db: database is locked; end the program that holds it, or let it be written to, and look again",
    )
    assert (
        found["MLflow"][0] == "left"
        and "is not available" in found["MLflow"][1]
        and found["Optuna"][0] == "ok"
    )


def test_a_study_whose_code_has_changed_is_not_compared_with_the_cache(toy):
    manifest = toy.folder.manifest()
    toy.folder.write_manifest(replace(manifest, subject="no.such.module:SUBJECT"))
    put(path(toy, "config.yaml"))
    found = lines(toy, repair=True)
    assert (
        found["files"][0] == "left"
        and "1 left as it is: code or data have changed since, or cannot be loaded"
        in found["files"][1]
    )
    assert path(toy, "config.yaml").read_bytes() == b"half writ"


def test_a_file_that_may_be_being_written_is_no_litter(toy):
    (toy.folder.path / HIDDEN).write_bytes(b"half writ")
    assert lines_around(toy, "temporary files")["temporary files"] == ("ok", "none left behind")


def examined(study: str | None, repair: bool = False) -> tuple[str, bool]:
    said: list[str] = []
    is_well = doctor(study, repair, said.append)
    return "\n".join(said), is_well


def test_the_doctor_looks_at_every_study_or_at_one_and_tells_whether_all_is_well(toy, monkeypatch):
    monkeypatch.setattr(module, "machine_checks", lambda places: [])
    shutil.copytree(toy.folder.path, toy.root / "runs" / "other")
    manifest = toy.folder.manifest()
    toy.places.runs("other").write_manifest(replace(manifest, study="other"))
    text, is_well = examined(None)
    assert (
        "study other" in text and "study toy" in text and not is_well
    )  # other was never delivered
    assert text.endswith(
        "Nothing was changed. `ablate doctor --repair` mends what is marked --repair; the other lines say what to do."
    )
    text, is_well = examined("toy")
    assert "study other" not in text and is_well and text.endswith("All is well.")
    text, is_well = examined(None, repair=True)
    assert is_well and text.endswith("All is well again.")
    put(toy.folder.path / "study.json")
    text, is_well = examined(None, repair=True)
    assert not is_well and text.endswith(
        "What is marked `left` could not be mended; its lines say what to do."
    )


def test_without_a_project_there_is_nothing_to_mend_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(doctor_machine, "TIMEOUT_SECONDS", 0.0)
    examined(None)
    assert os.listdir(tmp_path) == []
