"""Whatever is damaged is said, loses nothing that can be known, and is made again by the next run."""

import errno
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError
from toy_project import ToyProject

from ablation.cli.main import main
from ablation.planning.forecast import Timings
from ablation.storage import project
from ablation.storage.cache import KINDS, DiskStore
from ablation.storage.files import warn_once
from ablation.storage.project import ProjectPaths, making, require_usable_name
from ablation.storage.runs import Damaged
from ablation.study.views import status_of
from ablation.tracking.ledger import LedgerUnavailable, update_ledger
from ablation.tracking.mlflow_places import TrackingUnavailable
from ablation.tracking.mlflow_store import reaching
from ablation.tracking.mlflow_sync import Tracker

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

TRIAL = "warmup=settling+rate=fast--s1"
HOW = {
    "empty": lambda data: b"",
    "torn": lambda data: data[: len(data) // 2],
    "NUL bytes": lambda data: data[:40] + bytes(8) + data[48:],
    "zeros, as a crash leaves them": lambda data: bytes(len(data)),
    "not UTF-8": lambda data: data[:40] + b"\xff\xfe" + data[42:],
    "something else": lambda data: b'["well-formed"]\n',
    "text": lambda data: b"oops\n" * 9,
    "deep": lambda data: b"[" * 100_000 + b"\n",
}


# each unreadable in a way of its own; what becomes of the file is tried in every way
IN_EVERY_RUN = {"empty", "NUL bytes", "something else", "deep"}
HOW_MADE_AGAIN = [
    pytest.param(how, id=name, marks=[] if name in IN_EVERY_RUN else pytest.mark.long)
    for name, how in HOW.items()
]


def break_(toy: ToyProject, name: str, how) -> Path:
    warn_once.cache_clear()
    path = toy.folder.trial_path(TRIAL) / name
    path.write_bytes(how(path.read_bytes()))
    return path


def assert_as_before(toy: ToyProject, before) -> None:
    for table, was in zip(toy.tables(), before):
        pd.testing.assert_frame_equal(table, was, check_exact=True)


@pytest.mark.parametrize("how", HOW_MADE_AGAIN)
@pytest.mark.parametrize("name", ["outcome.json", "metrics.jsonl", "config.yaml"])
def test_a_damaged_file_of_a_finished_trial_is_made_again_without_training(toy, name, how, capsys):
    before, content = toy.tables(), (toy.folder.trial_path(TRIAL) / name).read_bytes()
    path = break_(toy, name, how)
    done = toy.go()
    assert path.read_bytes() == content
    assert done.n_trained == 0 and toy.ran == [] and len(toy.restored) == 1
    assert toy.restored[0].startswith(f"{TRIAL}: {name} was damaged")
    assert_as_before(toy, before)


@pytest.mark.parametrize("name", ["outcome.json", "metrics.jsonl"])
def test_a_damaged_file_is_computed_again_where_the_cache_has_nothing(toy, name, caplog):
    before = toy.tables()
    toy.store.clear()
    if name == "outcome.json":  # nor can it be closed from its own records
        break_(toy, "metrics.jsonl", HOW["torn"])
    path = break_(toy, name, HOW["NUL bytes"])
    done = toy.go()
    assert done.n_trained == 4 and {trial for trial, _ in toy.ran} == {TRIAL}
    assert_as_before(toy, before)
    assert name == "metrics.jsonl" or f"{path} is damaged" in caplog.text


def test_an_outcome_follows_from_its_trial_s_records_where_the_cache_has_nothing(toy):
    before = toy.tables()
    toy.store.clear()
    break_(toy, "outcome.json", HOW["torn"])
    assert toy.go().n_trained == 0
    assert_as_before(toy, before)


def test_records_of_before_the_trial_changed_do_not_make_its_outcome(toy):
    toy.store.clear()
    toy.edit("fast: {rate: 2}", "fast: {rate: 3}")
    break_(toy, "outcome.json", HOW["torn"])
    toy.go()
    assert TRIAL in {trial for trial, _ in toy.ran}


@pytest.mark.parametrize(
    "how",
    [lambda data: data + b"{}\n", lambda data: data.replace(b"21.0", b"22.0")],
    ids=["a line too many", "a digit"],
)
def test_records_that_are_well_formed_and_not_what_the_trial_left_are_made_again(toy, how, caplog):
    before = toy.tables()
    break_(toy, "metrics.jsonl", how)
    assert toy.folder.ending(next(spec for spec in toy.plan().specs if spec.trial == TRIAL)) is None
    assert "metrics.jsonl is not what the trial left" in caplog.text
    assert toy.go().n_trained == 0
    assert_as_before(toy, before)


@pytest.mark.parametrize("name", ["outcome.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_nobody_stumbles_over_a_damaged_file_before_it_is_made_again(toy, name, how, caplog):
    path = break_(toy, name, how)
    toy.report()
    status_of(toy.folder, None)
    if name == "outcome.json":
        row = toy.tables()[0].set_index("trial").loc[TRIAL]
        assert row["state"] != "COMPLETE" and pd.isna(row["top1"])
        assert (
            f"{path} is damaged" in caplog.text
            and "`ablate run` closes the trial again" in caplog.text
        )
    if (name == "metrics.jsonl" and how(b"") != b"") or (
        how is HOW["NUL bytes"] and name == "metrics.jsonl"
    ):
        assert f"{path}: line 1 is damaged" in caplog.text


@pytest.mark.parametrize("name", ["outcome.json", "metrics.jsonl", "config.yaml"])
@pytest.mark.parametrize("how", ["torn", pytest.param("something else", marks=pytest.mark.long)])
def test_a_damaged_file_takes_nothing_from_mlflow_and_from_optuna_for_as_long_as_it_is_damaged(
    toy, name, how
):
    break_(toy, name, HOW[how])
    toy.deliver()
    assert set(toy.statuses().values()) <= {"FINISHED", "KILLED"}
    assert toy.states().get(TRIAL) == (None if name == "outcome.json" else ["COMPLETE"])
    toy.go()
    toy.deliver()
    assert toy.states()[TRIAL] == ["COMPLETE"] and set(toy.statuses().values()) == {"FINISHED"}


def test_the_whole_lines_before_a_damaged_one_are_kept_and_those_behind_it_are_not(toy):
    break_(toy, "metrics.jsonl", lambda data: data.replace(b'"epoch": 3', b'"epoch": x'))
    assert [record["epoch"] for record in toy.folder.records(TRIAL)] == [1, 2]


def test_a_torn_last_line_is_no_damage_while_a_trial_runs(toy, caplog):
    (toy.folder.trial_path(TRIAL) / "outcome.json").unlink()
    break_(toy, "metrics.jsonl", lambda data: data[:-9])
    assert (
        len(toy.folder.records(TRIAL)) == 3 and toy.folder.damage(TRIAL) == {} and caplog.text == ""
    )


@pytest.mark.parametrize("name", ["outcome.json", "metrics.jsonl", "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_moved_aside(toy, name):
    before, path = toy.tables(), toy.folder.trial_path(TRIAL) / name
    path.unlink()
    (path / "inside").mkdir(parents=True)
    toy.report()
    assert toy.go().n_trained == 0
    assert path.is_file() and list(path.parent.glob(f"{name}.damaged1/inside"))
    assert_as_before(toy, before)


@pytest.mark.parametrize("how", HOW.values(), ids=HOW.keys())
def test_a_damaged_manifest_is_named_and_written_again_by_a_run(toy, how, caplog):
    before, path = toy.tables(), toy.folder.path / "study.json"
    content = toy.folder.manifest()
    path.write_bytes(how(path.read_bytes()))
    warn_once.cache_clear()
    for read in (
        toy.report,
        lambda: update_ledger(toy.url, toy.folder),
        lambda: Tracker(toy.uri).sync(toy.folder),
    ):
        with pytest.raises(
            Damaged,
            match=r"study\.json: is damaged .*`ablate run` with the study's grid writes it again",
        ):
            read()
    assert toy.go().n_trained == 0
    assert "study.json: is damaged" in caplog.text
    assert toy.folder.manifest().trials == content.trials
    assert_as_before(toy, before)


WRONG = [
    ("wall_seconds", "long"),
    ("metrics", [1]),
    ("metrics", {"top1": "high"}),
    ("error", "it failed"),
    ("error", {"type": "E"}),
    ("state", "DONE"),
    ("more", 1),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_an_outcome_with_a_field_that_cannot_be_is_damaged(toy, field, value):
    break_(
        toy, "outcome.json", lambda data: json.dumps({**json.loads(data), field: value}).encode()
    )
    assert toy.folder.outcome(TRIAL) is None and "outcome.json" in toy.folder.damage(TRIAL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", {}),
        ("trials", [{"trial": 3}]),
        ("seeds", 3),
        ("metric", {}),
        ("factors", []),
        ("claims", None),
    ],
)
def test_a_manifest_with_a_field_that_cannot_be_is_damaged(toy, field, value):
    path = toy.folder.path / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(Damaged, match="is damaged"):
        toy.folder.manifest()


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "{}",
        '{"phase": "joint", "epoch": "1", "metrics": {}}',
        '{"phase": "joint", "epoch": 1, "metrics": {"top1": "x"}}',
        '{"phase": "joint", "epoch": 1, "metrics": {}, "seconds": "x"}',
    ],
)
def test_a_well_formed_line_that_is_no_record_is_damaged(toy, line):
    break_(toy, "metrics.jsonl", lambda data: line.encode() + b"\n" + data)
    assert (
        toy.folder.records(TRIAL) == []
        and "line 1 is damaged" in toy.folder.damage(TRIAL)["metrics.jsonl"]
    )


def test_failed_trials_are_not_run_again_because_their_records_were_damaged(toy):
    outcome = toy.folder.outcome(TRIAL)
    error = {"type": "ArithmeticError", "message": "it diverged", "traceback": ""}
    toy.folder.write_records(TRIAL, toy.folder.records(TRIAL)[:3])
    toy.folder.write_outcome(TRIAL, type(outcome)("FAILED", {}, 3.0, error, key=outcome.key))
    break_(toy, "metrics.jsonl", HOW["NUL bytes"])
    toy.go()
    assert (
        toy.ran == []
        and toy.folder.outcome(TRIAL).error == error
        and len(toy.folder.records(TRIAL)) >= 3
    )


# --- the cache

SPOILT = {
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a folder": lambda path: (path.unlink(), (path / "inside").mkdir(parents=True)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_entry_counts_as_absent_is_found_and_makes_way(tmp_path, kind, spoil):
    store, key = DiskStore(tmp_path), "0123456789abcdef" * 2
    for each in (key, key[::-1]):
        store.save(kind, each, b"content")
        spoil(store.path(kind, each))
    assert set(store.damaged()) == {store.path(kind, key), store.path(kind, key[::-1])}
    assert list(store.entries()) == [] or spoil is SPOILT["torn"]
    assert store.peek(kind, key) is None and os.path.lexists(store.path(kind, key))
    assert store.load(kind, key) is None and not os.path.lexists(store.path(kind, key))
    for each in (key, key[::-1]):  # the second without a look at what is there
        store.save(kind, each, b"again")
        assert store.load(kind, each) == b"again"
    assert list(store.damaged()) == []


def test_an_unreadable_entry_counts_as_absent_and_one_that_was_not_read_for_another_reason_stays(
    tmp_path, monkeypatch
):
    store, key = DiskStore(tmp_path), "0123456789abcdef" * 2
    store.save("state", key, b"content")

    def refuse(number):
        def read(path):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "read_bytes", read)

    refuse(errno.EMFILE)
    with pytest.raises(OSError, match="Too many open files"):
        store.load("state", key)
    assert store.holds("state", key)
    refuse(errno.EACCES)
    assert store.load("state", key) is None
    assert not store.holds("state", key)


def test_stores_of_studies_and_trials_may_have_names_of_kinds(tmp_path):
    DiskStore(tmp_path).alone("record", "state").save("record", "0123", b"{}")
    assert list(DiskStore(tmp_path).damaged()) == []


def entries(toy, kind: str) -> list[Path]:
    return [entry.path for entry in toy.store.entries() if entry.kind == kind]


@pytest.mark.parametrize("kind", ["record", "state"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_a_finished_study_does_not_need_its_cache(toy, kind, spoil):
    before = toy.tables()
    for path in entries(toy, kind):
        spoil(path)
    assert toy.go().n_trained == 0
    assert_as_before(toy, before)


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize("kind", ["record", "state"])
@pytest.mark.parametrize(
    "spoil",
    [
        # all are removed alike: see above
        pytest.param(spoil, id=name, marks=[] if name == "torn" else pytest.mark.long)
        for name, spoil in SPOILT.items()
    ],
)
def test_damaged_entries_of_an_unfinished_chain_are_computed_again(toy, kind, spoil, i):
    before = toy.tables()
    for trial in ("rate=fast--s0", "reference--s1"):
        (toy.folder.trial_path(trial) / "outcome.json").unlink()
        path = toy.store.path(kind, toy.plan().trials[trial].links[i].key)
        if path.exists():
            spoil(path)
    last = toy.plan().trials["rate=fast--s0"].links[-1].key
    if toy.store.holds("record", last):
        toy.store.path("record", last).unlink()  # so that it has to be trained
    done = toy.go()
    assert done.n_trained > 0 and not done.failed
    assert_as_before(toy, before)


@pytest.mark.parametrize("stop_after", [0, 5, 20])
def test_an_unfinished_study_starts_over_without_its_cache(tmp_path, monkeypatch, toy, stop_after):
    before = toy.tables()
    shutil.rmtree(toy.folder.path)
    toy.store.clear()
    if stop_after:
        toy.go(stop_after=stop_after)
    shutil.rmtree(toy.store.root, ignore_errors=True)
    toy.go()
    assert_as_before(toy, before)


# --- what the harness remembers for its own convenience


@pytest.mark.parametrize(
    "how",
    [b"", b"\xff\xfe", b"[1]", b'{"nothing": 3}', b'{"nothing": {"joint": "x"}}', b"[" * 100_000],
)
def test_damaged_timings_are_forgotten_and_measured_anew(tmp_path, how):
    path = tmp_path / "timings.json"
    path.write_bytes(how)
    timings = Timings(path, "nothing", {})
    assert timings.known() == {}
    timings.recorded([], {"phase": "joint", "seconds": 2.0})
    timings.save()
    assert Timings(path, "nothing", {}).known() == {"joint": 2.0}


# --- databases


@pytest.fixture
def patience(monkeypatch):
    def wait(seconds: float) -> None:
        monkeypatch.setattr(project, "PATIENCE_SECONDS", seconds)

    return wait


def locked(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def ledger(toy) -> None:
    update_ledger(toy.url, toy.folder)


def tracker(toy) -> None:
    Tracker(toy.uri).sync(toy.folder)


@pytest.mark.parametrize(
    ("name", "reach", "error"),
    [(".ablate/optuna.db", ledger, LedgerUnavailable), ("mlflow.db", tracker, TrackingUnavailable)],
)
class TestDatabases:
    def test_one_that_is_locked_is_named_in_a_line_and_brought_up_later(
        self, toy, name, reach, error, patience, capsys, caplog
    ):
        patience(0.05)
        (toy.folder.trial_path(TRIAL) / "outcome.json").unlink()
        toy.go()
        other = locked(toy.root / name)
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(error) as raised:
                reach(toy)
        assert (
            time.monotonic() - begun < 5.0
        )  # Optuna and MLflow themselves wait a minute, and twenty seconds
        assert str(raised.value).endswith(f"{Path(name).name} is not available: database is locked")
        assert capsys.readouterr().err == "" and "Traceback" not in caplog.text
        other.execute("ROLLBACK")
        for _ in range(2):
            toy.deliver()
            assert set(map(tuple, toy.states().values())) == {("COMPLETE",)} and set(
                toy.statuses().values()
            ) == {"FINISHED"}

    def test_one_that_is_locked_for_a_moment_is_waited_for(self, toy, name, reach, error, caplog):
        other = locked(toy.root / name)
        threading.Timer(0.3, other.execute, ["ROLLBACK"]).start()
        reach(toy)
        assert caplog.text == ""

    def test_a_text_file_is_named_in_a_line_at_once_and_left_alone(self, toy, name, reach, error):
        (toy.root / name).write_text("this is no database\n" * 99)
        with pytest.raises(
            error, match=rf"{Path(name).name} is not available: file is not a database$"
        ):
            reach(toy)
        assert (toy.root / name).read_text() == "this is no database\n" * 99


def test_what_a_database_says_is_told_without_statement_values_and_links():
    error = OperationalError(
        "SELECT secret", {"password": "x"}, sqlite3.OperationalError("database is locked\nmore")
    )
    assert project.first_line(error) == "database is locked"
    assert (
        project.first_line(OSError("(sqlite3.OperationalError) disk I/O error\n[SQL: SELECT]"))
        == "(sqlite3.OperationalError) disk I/O error"
    )


def test_what_mlflow_says_is_told_in_a_line():
    with (
        pytest.raises(TrackingUnavailable, match=r"database is locked$") as raised,
        reaching("http://localhost:5000"),
    ):
        raise MlflowException(
            "(sqlite3.OperationalError) database is locked\n[SQL: SELECT]\n(Background on this error at: https://sqlalche.me)"
        )
    assert "\n" not in str(raised.value)


def test_what_mlflow_raises_it_does_not_log_with_a_traceback_too():
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)


def test_a_database_whose_maker_was_killed_is_made_anew_and_one_that_was_there_before_stays(
    tmp_path,
):
    path = tmp_path / "some.db"
    code = (
        "import os, sqlite3, sys; from ablation.storage.project import making\n"
        "with making(f'sqlite:///{sys.argv[1]}'):\n"
        "    connection = sqlite3.connect(sys.argv[1]); connection.execute(f'CREATE TABLE t{sys.argv[2]} (x)'); connection.commit(); os._exit(9)"
    )
    for n in range(3):  # each finds no file, and the last one leaves half of one
        assert subprocess.run([sys.executable, "-c", code, path, str(n)], cwd=ROOT).returncode == 9
    with making(f"sqlite:///{path}"):
        assert not path.exists()
        sqlite3.connect(path).execute("CREATE TABLE whole (x)")
    assert len(list(tmp_path.glob("some.db.damaged*"))) == 3
    assert subprocess.run([sys.executable, "-c", code, path, "3"], cwd=ROOT).returncode == 9
    with making(f"sqlite:///{path}"):
        assert path.exists()


def test_nothing_is_left_beside_a_database_that_was_made(tmp_path):
    path = tmp_path / "some.db"
    for _ in range(2):
        with making(f"sqlite:///{path}"):
            sqlite3.connect(path).close()
    with pytest.raises(ZeroDivisionError), making(f"sqlite:///{path}"):
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["some.db"]


def test_one_process_at_a_time_makes_a_database_though_each_removes_what_it_held(tmp_path):
    path, log = tmp_path / "some.db", tmp_path / "log"
    log.touch()

    def make():
        for _ in range(20):
            with making(f"sqlite:///{path}"):
                with log.open("a") as file:
                    file.write("in ")
                time.sleep(0.0005)
                with log.open("a") as file:
                    file.write("out\n")

    threads = [
        threading.Thread(target=make) for _ in range(8)
    ]  # flock holds between open files, of one process too
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.read_text() == "in out\n" * 160


def test_urls_of_sqlite_are_files_and_others_are_not():
    assert project.sqlite_file("sqlite:////tmp/a.db") == Path("/tmp/a.db")
    assert project.sqlite_file("sqlite:///a.db?timeout=3") == Path("a.db")
    for url in (
        "postgresql://me@host/db",
        "http://host:5000",
        "sqlite://",
        "sqlite:///:memory:",
        "/a/folder",
    ):
        assert project.sqlite_file(url) is None


FOLDERS = [
    "what?now",
    "percent%20enc",
    "100%",
    "{x}",
    "a#b;c",
    "sp ace",
    "it's",
    'say "x"',
    "new\nline",
    "ünï☃",
    "a\\b",
    ":memory:",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_database_is_made_in_the_project_whatever_its_folder_is_called(
    tmp_path, monkeypatch, name
):
    (tmp_path / name / "within").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / name / "within")
    require_usable_name(Path())
    for path in (Path("a.db"), Path.cwd() / "b.db"):
        url = project.sqlite_url(path)
        assert not set("?%{}") & set(url)
        assert project.sqlite_file(url).absolute() == path.absolute()
        sqlalchemy.create_engine(url).connect().close()
        assert path.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["what?now", "percent%20enc", "{x}"])
def test_a_database_of_another_folder_is_made_there_too(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    url = project.sqlite_url(tmp_path / name / "a.db")
    assert project.sqlite_file(url).absolute() == tmp_path / name / "a.db"
    sqlalchemy.create_engine(url).connect().close()
    assert (tmp_path / name / "a.db").is_file()


@pytest.mark.parametrize("name", ["q'uo\"te", "a :b", os.fsdecode(b"caf\xe9")])
def test_a_project_in_a_folder_that_mlflow_cannot_name_is_refused_before_anything_is_made(
    tmp_path, monkeypatch, name
):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    for arguments in (["run", "--grid", "g.yaml"], ["status"], ["ui"]):
        done = CliRunner().invoke(main, arguments)
        assert (
            done.exit_code == 2
            and ascii(str(tmp_path / name)) in done.output
            and "rename the folder" in done.output
        )
    assert list(Path().iterdir()) == []


def test_places_are_those_of_the_project(toy):
    assert toy.places == ProjectPaths(toy.root)
