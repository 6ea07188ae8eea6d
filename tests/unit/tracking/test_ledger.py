"""Optuna's own tools find a study's ended trials as the files have them, whatever came in between."""

import fcntl
import math
import multiprocessing
import shutil
import sqlite3
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fabricate
import matplotlib
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from ablation.storage.asked import SearchLog, trial_name
from ablation.storage.runs import Outcome, RunFolder
from ablation.tracking import ledger
from ablation.tracking.ledger import LedgerUnavailable, update_ledger

FACTORS = {"lr": {"off": {}, "on": {"lr": 1}}, "warmup": {"off": {}, "on": {"warmup": 1}}}
STARTED, FINISHED = "2026-03-01T10:00:00+00:00", "2026-03-01T10:01:00+00:00"


@pytest.fixture
def url(empty_ledger, tmp_path):
    (tmp_path / ".ablate").mkdir()
    shutil.copy(empty_ledger, tmp_path / ".ablate" / "optuna.db")
    return f"sqlite:///{tmp_path}/.ablate/optuna.db"


def made(tmp_path: Path, **options) -> RunFolder:
    options = {"factors": FACTORS, "seeds": [0, 1], "baselines": ["ce"], **options}
    return fabricate.study(tmp_path / "runs" / "fixes", **options)


def loaded(url: str, name: str = "fixes") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url)


def names(url: str) -> list[str]:
    return optuna.get_all_study_names(url)


def rewrite(folder: RunFolder, trial: str, **changes) -> None:
    folder.write_outcome(trial, replace(folder.outcome(trial), **changes))


def with_other_keys(folder: RunFolder) -> None:
    """As after a change of code: all trials are new, and have not run yet."""
    manifest = folder.manifest()
    folder.write_manifest(
        replace(manifest, trials=[replace(spec, key=f"{spec.key}-new") for spec in manifest.trials])
    )


def run_again(folder: RunFolder, add: float) -> None:
    """Give all trials an outcome of their keys, that much better."""
    for spec in folder.manifest().trials:
        outcome = folder.outcome(spec.trial)
        metrics = {**outcome.metrics, "test/top1": outcome.metrics["test/top1"] + add}
        folder.write_outcome(spec.trial, replace(outcome, metrics=metrics, key=spec.key))


def test_trials_have_levels_as_parameters_and_identity_as_attributes(url, tmp_path):
    folder = made(tmp_path)
    update_ledger(url, folder)
    study = loaded(url)
    assert (
        len(study.trials) == 8
        and study.metric_names == ["test/top1"]
        and study.direction.name == "MAXIMIZE"
    )
    trial = next(each for each in study.trials if each.user_attrs["trial"] == "lr--s1")
    assert trial.params == {"lr": "on", "warmup": "off"}
    assert trial.distributions == {
        factor: CategoricalDistribution(("off", "on")) for factor in FACTORS
    }
    outcome = folder.outcome("lr--s1")
    identity = {"trial": "lr--s1", "arm": "lr", "kind": "arm", "seed": 1, "key": "key-lr-1"}
    assert trial.user_attrs == {**identity, "metrics": outcome.metrics}
    assert trial.value == outcome.metrics["test/top1"]
    assert study.user_attrs == {"states": {"COMPLETE": 8}}


def test_baselines_have_a_study_of_their_own_after_that_of_the_arms(url, tmp_path):
    update_ledger(url, made(tmp_path))
    assert names(url) == ["fixes", "fixes/baselines"]
    assert [trial.user_attrs["trial"] for trial in loaded(url, "fixes/baselines").trials] == [
        "ce--s0",
        "ce--s1",
    ]


def test_a_study_without_baselines_has_one_study(url, tmp_path):
    update_ledger(url, made(tmp_path, baselines=[]))
    assert names(url) == ["fixes"]


def test_importances_name_the_factor_that_matters_and_no_seed(url, tmp_path):
    update_ledger(
        url,
        made(
            tmp_path,
            factors=fabricate.FACTORS,
            seeds=[0, 1, 2, 3],
            baselines=["ce", "ldmlr"],
            noise=0.1,
        ),
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(loaded(url), evaluator=evaluator)
    assert set(found) == set(fabricate.FACTORS) and max(found, key=found.get) == "lr_split"


PLOTS = [
    "param_importances",
    "optimization_history",
    "parallel_coordinate",
    "slice",
    "contour",
    "intermediate_values",
    "edf",
    "rank",
    "timeline",
]


@pytest.fixture(scope="module")
def with_histories(empty_ledger, tmp_path_factory) -> str:
    """A ledger of a study whose trials have whole histories."""
    root = tmp_path_factory.mktemp("plotted")
    shutil.copy(empty_ledger, root / "optuna.db")
    update_ledger(f"sqlite:///{root}/optuna.db", made(root, detail=True))
    return f"sqlite:///{root}/optuna.db"


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_of_optuna_shows_the_study(with_histories, name):
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = getattr(plots, f"plot_{name}")(loaded(with_histories))
    figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
    drawn = [
        part for each in figure.axes for part in (*each.lines, *each.collections, *each.patches)
    ]
    matplotlib.pyplot.close(figure)
    assert drawn


def test_intermediate_values_are_the_metric_by_epoch_without_pretraining(url, tmp_path):
    folder = made(tmp_path, baselines=[])
    records = [
        {"phase": "pretrain", "epoch": 1, "seconds": 1.0, "metrics": {"test/top1": 1.0}},
        {"phase": "warmup", "epoch": 1, "seconds": 1.0, "metrics": {"test/top1": 20.0}},
        {"phase": "joint", "epoch": 2, "seconds": 1.0, "metrics": {"loss": 0.5}},
        {"phase": "joint", "epoch": 3, "seconds": 1.0, "metrics": {"test/top1": math.inf}},
        {"phase": "joint", "epoch": 4, "seconds": 1.0, "metrics": {"test/top1": 60.0}},
    ]
    folder.write_records("lr--s0", records)
    update_ledger(url, folder)
    trial = next(each for each in loaded(url).trials if each.user_attrs["trial"] == "lr--s0")
    assert trial.intermediate_values == pytest.approx({1: 20.0, 3: math.nan, 4: 60.0}, nan_ok=True)


@pytest.mark.parametrize(("wall", "began"), [(30.0, 0), (60.0, 0), (90.0, -30)])
def test_a_trial_has_its_own_times_and_not_those_of_the_import(url, tmp_path, wall, began):
    """Of a chain the end of the first epoch is known, and what all took."""
    folder = made(tmp_path)
    rewrite(folder, "lr--s0", started=STARTED, finished=FINISHED, wall_seconds=wall)
    update_ledger(url, folder)
    trial = next(each for each in loaded(url).trials if each.user_attrs["trial"] == "lr--s0")
    started = datetime(2026, 3, 1, 10, tzinfo=UTC).astimezone().replace(tzinfo=None)
    assert trial.datetime_start == started + timedelta(seconds=began)
    assert trial.datetime_complete == started + timedelta(seconds=60)


@pytest.mark.parametrize("is_running", [True, False])
def test_what_has_not_ended_is_counted_and_no_trial(url, tmp_path, is_running):
    states = {"lr--s0": "RUNNING", "lr--s1": "WAITING", "warmup--s0": "FAILED"}
    folder = made(tmp_path, state=lambda spec: states.get(spec.trial, "COMPLETE"))
    update_ledger(url, folder, is_running)
    counted = (
        {"COMPLETE": 5, "FAILED": 1, "WAITING": 1, "RUNNING": 1}
        if is_running
        else {"COMPLETE": 5, "FAILED": 1, "WAITING": 2}
    )
    assert loaded(url).user_attrs["states"] == counted
    assert sorted(trial.state.name for trial in loaded(url).trials) == ["COMPLETE"] * 5 + ["FAIL"]


def contents(url: str) -> list[tuple]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    tables = [
        "studies",
        "trials",
        "trial_params",
        "trial_values",
        "trial_intermediate_values",
        "trial_user_attributes",
        "study_user_attributes",
    ]
    return [sorted(map(repr, connection.execute(f"SELECT * FROM {table}"))) for table in tables]


def fail_one(folder):
    error = {"type": "ValueError", "message": "out of memory", "traceback": "..."}
    folder.write_outcome(
        "lr--s0", Outcome("FAILED", {}, 3.0, error, finished=FINISHED, key="key-lr-0")
    )


def blank_one(folder):
    rewrite(
        folder,
        "lr--s0",
        metrics={**folder.outcome("lr--s0").metrics, "loss": math.nan, "norm": math.inf},
    )


@pytest.mark.parametrize("change", [lambda folder: None, fail_one, blank_one])
def test_bringing_it_up_twice_changes_nothing(url, tmp_path, change):
    folder = made(tmp_path)
    change(folder)
    update_ledger(url, folder)
    before = contents(url)
    update_ledger(url, folder)
    assert contents(url) == before


@pytest.mark.parametrize(
    ("domain", "own", "held"),
    [
        ({"values": [0, 0.5]}, 0.0, 0),
        ({"values": [0.0, "a"]}, 0, 0.0),
        ({"low": 1, "high": 5, "log": False, "step": None}, 3.0, 3),
        ({"low": 0.5, "high": 5.0, "log": False, "step": None}, 3, 3.0),
    ],
)
def test_own_settings_that_a_search_begins_with_are_held_as_its_space_writes_them(
    url, tmp_path, domain, own, held
):
    folder = fabricate.study(tmp_path / "runs" / "fixes", {}, ["ce"], [0])
    manifest, log = folder.manifest(), SearchLog(folder.path, "ce", "d")
    log.append({"ask": 0, "values": {"mixup": own}})
    log.append({"end": 0, "state": "COMPLETE", "value": 70.0})
    spec = replace(manifest.trials[-1], trial=trial_name("ce", 0, 0), key="a")
    folder.write_outcome(spec.trial, Outcome("COMPLETE", {"test/top1": 70.0}, 1.0, key="a"))
    told = {"of": "fixes", "arms": {"ce": {"space": {"mixup": domain}, "digest": "d"}}}
    folder.write_manifest(replace(manifest, trials=[spec], search=told))
    update_ledger(url, folder)
    (trial,) = loaded(url, "fixes/ce").trials
    assert repr(trial.params) == repr({"mixup": held})
    assert ledger.ledger_differences(url, folder.manifest(), folder) == []


def test_what_ends_later_is_added(url, tmp_path):
    folder = made(tmp_path, state=lambda spec: "RUNNING" if spec.seed else "COMPLETE")
    update_ledger(url, folder)
    before = [trial._trial_id for trial in loaded(url).trials]
    made(tmp_path)
    update_ledger(url, folder)
    after = [trial._trial_id for trial in loaded(url).trials]
    assert after[: len(before)] == before and len(after) == 8


@pytest.mark.parametrize("are_run", [False, True])
def test_superseded_trials_do_not_count(url, tmp_path, are_run):
    folder = made(tmp_path)
    update_ledger(url, folder)
    with_other_keys(folder)
    if are_run:
        run_again(folder, -20.0)
    update_ledger(url, folder)
    found = loaded(url).trials
    assert [trial.user_attrs["key"][-4:] for trial in found] == (["-new"] * 8 if are_run else [])
    assert (
        names(url) == ["fixes", "fixes/baselines"]
        and len(loaded(url, "fixes/baselines").trials) == 2 * are_run
    )
    if are_run:
        assert loaded(url).best_value == max(
            folder.outcome(each.user_attrs["trial"]).metrics["test/top1"] for each in found
        )


def test_trials_that_left_the_grid_do_not_count(url, tmp_path):
    folder = made(tmp_path)
    update_ledger(url, folder)
    manifest = folder.manifest()
    folder.write_manifest(
        replace(manifest, trials=[spec for spec in manifest.trials if spec.seed == 0])
    )
    update_ledger(url, folder)
    assert {trial.user_attrs["seed"] for trial in loaded(url).trials} == {0}


@pytest.mark.parametrize("grows", ["level", "factor"])
def test_a_study_that_grows_keeps_one_parameter_for_each_factor(url, tmp_path, grows):
    update_ledger(url, made(tmp_path))
    factors = (
        {**FACTORS, "warmup": {**FACTORS["warmup"], "plateau": {"warmup": 2}}}
        if grows == "level"
        else {**FACTORS, "head": {"off": {}, "on": {}}}
    )
    update_ledger(url, made(tmp_path, factors=factors))
    found = loaded(url).trials
    choices = {factor: CategoricalDistribution(tuple(levels)) for factor, levels in factors.items()}
    assert len(found) == (12 if grows == "level" else 16)
    assert all(trial.distributions == choices for trial in found)


def test_a_failed_trial_that_is_run_again_counts_and_the_failure_does_not(url, tmp_path):
    folder = made(tmp_path)
    complete = folder.outcome("lr--s0")
    fail_one(folder)
    update_ledger(url, folder)
    (failure,) = [trial for trial in loaded(url).trials if trial.state == TrialState.FAIL]
    assert failure.user_attrs["reason"] == "ValueError: out of memory"
    folder.write_outcome("lr--s0", complete)
    update_ledger(url, folder)
    found = [trial for trial in loaded(url).trials if trial.user_attrs["trial"] == "lr--s0"]
    assert [trial.state.name for trial in found] == ["COMPLETE"]
    assert "reason" not in found[0].user_attrs


@pytest.mark.parametrize(
    "metrics", [{"test/top1": math.nan}, {"test/top1": -math.inf}, {"loss": 1.0}]
)
def test_a_result_without_a_finite_metric_is_one_failure(url, tmp_path, metrics):
    folder = made(tmp_path, baselines=[])
    rewrite(folder, "lr--s0", metrics=metrics)
    update_ledger(url, folder)
    update_ledger(url, folder)
    assert sorted(trial.state.name for trial in loaded(url).trials) == ["COMPLETE"] * 7 + ["FAIL"]


def test_a_trial_whose_outcome_is_lost_is_gone_until_it_is_there_again(url, tmp_path):
    folder = made(tmp_path)
    outcome = folder.outcome("lr--s0")
    update_ledger(url, folder)
    (folder.trial_path("lr--s0") / "outcome.json").unlink()
    update_ledger(url, folder, is_running=False)
    assert len(loaded(url).trials) == 7
    folder.write_outcome("lr--s0", replace(outcome, metrics={"test/top1": 1.0}))
    update_ledger(url, folder)
    assert [
        trial.value for trial in loaded(url).trials if trial.user_attrs["trial"] == "lr--s0"
    ] == [1.0]


def test_another_goal_makes_the_study_anew(url, tmp_path):
    update_ledger(url, made(tmp_path))
    update_ledger(url, made(tmp_path, metric={"name": "test/few", "goal": "minimize"}))
    study = loaded(url)
    assert (
        study.direction.name == "MINIMIZE"
        and study.metric_names == ["test/few"]
        and len(study.trials) == 8
    )


def test_what_an_earlier_version_enrolled_is_replaced(url, tmp_path):
    """Seeds as parameters, baselines beside arms, trials that wait."""
    study = optuna.create_study(storage=url, study_name="fixes", direction="maximize")
    seeds = {"seed": optuna.distributions.IntDistribution(0, 2**32 - 1)}
    for state, name in ((TrialState.WAITING, "lr--s0"), (TrialState.COMPLETE, "ce--s0")):
        attributes = {"trial": name, "key": f"key-{name[:2]}-0"}
        value = None if state == TrialState.WAITING else 99.0
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params={"seed": 0},
                distributions=seeds,
                user_attrs=attributes,
            )
        )
    update_ledger(url, made(tmp_path))
    assert names(url) == ["fixes", "fixes/baselines"] and len(loaded(url).trials) == 8
    assert not any("seed" in trial.params for trial in loaded(url).trials)


@pytest.mark.parametrize("is_remade", [False, True])
def test_what_others_have_put_into_the_study_stays(url, tmp_path, is_remade):
    folder = made(tmp_path)
    update_ledger(url, folder)
    study = loaded(url)
    study.enqueue_trial({"x": 1})
    study.set_user_attr("note", "mine")
    if is_remade:
        with_other_keys(folder)
    update_ledger(url, folder)
    assert [trial.state for trial in loaded(url).trials if "key" not in trial.user_attrs] == [
        TrialState.WAITING
    ]
    assert loaded(url).user_attrs["note"] == "mine"


def test_trials_of_others_whose_parameters_have_other_choices_are_named(url, tmp_path):
    study = optuna.create_study(storage=url, study_name="fixes", direction="maximize")
    study.add_trial(
        optuna.trial.create_trial(
            value=1.0, params={"lr": "a"}, distributions={"lr": CategoricalDistribution(("a", "b"))}
        )
    )
    assert "study 'fixes': CategoricalDistribution" in unavailable(
        update_ledger, url, made(tmp_path)
    )


def bring(url: str, path: str, barrier) -> None:
    barrier.wait()
    update_ledger(url, RunFolder(Path(path)))


def test_processes_that_deliver_at_once_add_each_trial_once(url, tmp_path):
    folder = made(tmp_path)
    update_ledger(url, folder)
    with_other_keys(folder)  # so that each finds that the study is to be made anew
    run_again(folder, 1.0)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [
        context.Process(target=bring, args=(url, str(folder.path), barrier)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(trial.user_attrs["key"] for trial in loaded(url).trials) == sorted(
        spec.key for spec in folder.manifest().trials if spec.kind == "arm"
    )


def database(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def unavailable(call, *arguments) -> str:
    with pytest.raises(LedgerUnavailable) as error:
        call(*arguments)
    assert error.value.__suppress_context__  # the traceback of what was raised can hold credentials
    return str(error.value)


def test_a_process_that_does_not_let_go_of_the_ledger_is_told(url, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PATIENCE_SECONDS", 0.0)
    with database(url).with_name("optuna.db.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert unavailable(update_ledger, url, made(tmp_path)).endswith(
            "is not available: another process is writing to it"
        )


def test_damaged_database_is_said_to_be_unavailable(url, tmp_path):
    database(url).write_bytes(b"this is no database\n" * 1000)
    assert (
        unavailable(update_ledger, url, made(tmp_path))
        == f"Optuna's ledger at {url} is not available: file is not a database"
    )


def test_database_that_lacks_a_table_is_said_to_be_unavailable(url, tmp_path, monkeypatch):
    folder = made(tmp_path)
    update_ledger(url, folder)
    with ledger.opened(url) as storage:
        pass
    with sqlite3.connect(database(url)) as connection:
        connection.execute("ALTER TABLE trials RENAME TO lost")
    monkeypatch.setattr(ledger, "_open", lambda url: storage)
    assert "is not available: no such table" in unavailable(update_ledger, url, folder)


def test_locked_database_is_said_to_be_unavailable(url, tmp_path, monkeypatch):
    monkeypatch.setattr("ablation.storage.project.PATIENCE_SECONDS", 0.01)
    folder = made(tmp_path)
    other = sqlite3.connect(database(url), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert unavailable(update_ledger, url, folder).endswith("is not available: database is locked")
    other.execute("ROLLBACK")
    update_ledger(url, folder)
    assert len(loaded(url).trials) == 8


def test_database_of_another_version_of_optuna_is_said_to_be_unavailable(url, tmp_path):
    with sqlite3.connect(database(url)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    assert "is no longer compatible with the table schema" in unavailable(
        update_ledger, url, made(tmp_path)
    )


@pytest.mark.parametrize(
    ("elsewhere", "shown"),
    [
        (
            "postgresql+nodriver://ada:secret@localhost/optuna",
            "postgresql+nodriver://***@localhost/optuna",
        ),
        ("sqlserver://ada:secret@localhost/optuna", "sqlserver://***@localhost/optuna"),
        ("sqlite:////proc/none/optuna.db", "sqlite:////proc/none/optuna.db"),
    ],
)
def test_database_out_of_reach_is_said_without_credentials(elsewhere, shown, tmp_path):
    said = unavailable(update_ledger, elsewhere, made(tmp_path))
    assert (
        said.startswith(f"Optuna's ledger at {shown} is not available: ") and "secret" not in said
    )
