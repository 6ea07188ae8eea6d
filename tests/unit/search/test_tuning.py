"""`search:`: every arm is tuned by Optuna before its seeds are run."""

from __future__ import annotations

import json
import sys

import pandas as pd
import pytest
from rich.console import Console
from tunable import GRID, SEARCH, TunedProject

from ablation.errors import InputError
from ablation.planning.forecast import Listener
from ablation.search.tuning import SearchPlanner
from ablation.storage.asked import SearchLog
from ablation.study import running
from ablation.study.live import Progress
from ablation.study.opening import planned_search


class Killed(BaseException):
    """As by kill -9: nothing is caught."""


def kill_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the n-th event of a search, or epoch, be the last thing that happens."""
    left = [n]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    real_append = SearchLog.append

    def append(self, event):
        count()
        real_append(self, event)
        count()

    class Counting(Listener):
        def recorded(self, specs, record):
            count()

    monkeypatch.setattr(SearchLog, "append", append)
    real_train = running.train

    def train(planned, options, listener, *others):
        return real_train(planned, options, running.Listeners([Counting(), listener]), *others)

    monkeypatch.setattr(running, "train", train)


@pytest.fixture
def project(tmp_path, monkeypatch):
    return TunedProject(tmp_path / "project", monkeypatch)


def outcomes(project: TunedProject) -> dict[str, dict]:
    """Trial -> its metrics, of the study and of its search."""
    return {
        path.parent.name: json.loads(path.read_text())["metrics"]
        for path in sorted((project.root / "runs").glob("*/*/outcome.json"))
    }


def test_each_arm_is_tuned_on_as_many_trials_and_its_best_settings_are_run(project):
    project.run()
    for arm in project.open().tuning.arms.values():
        assert len(arm.log.ended()) == 8
        assert arm.best.value == max(
            one.value for one in arm.log.ended() if one.state == "COMPLETE"
        )
    manifest = project.open().folder.manifest()
    rates = {spec.arm: spec.settings.get("rate", 1e-3) for spec in manifest.trials}
    # the best of `other` is 0.1, and its own rate a hundredth of that
    assert rates["method=other"] > 10 * rates["method=other.untuned"]
    assert rates["method=other.untuned"] == 1e-3


def test_an_arm_that_needs_another_rate_is_not_condemned(tmp_path, monkeypatch):
    project = TunedProject(tmp_path / "project", monkeypatch, reports=True)
    project.run()
    claims = pd.read_csv(project.root / "reports" / "tune" / "claims.csv")
    assert list(claims["claim_verdict"]) == ["supported"]
    trials = pd.read_csv(project.root / "reports" / "tune" / "results.csv")
    table = trials.groupby("arm")["test/top1"].mean()
    # untuned, the better method looks worse
    assert table["method=other.untuned"] < table.get("reference.untuned", table["reference"])


def test_an_arm_that_is_best_by_the_luck_of_tuning_is_not_crowned(tmp_path, monkeypatch):
    """Two arms that are the same but for noise: the one with the luckier search gains nothing."""
    grid = (
        GRID.replace("other: {method: other}", "other: {method: same}")
        .replace("seeds: 4", "seeds: 8")
        .replace("experiment: nothing", "experiment: nothing\nsettings: {noise: 6.0}")
    )
    project = TunedProject(tmp_path / "project", monkeypatch, grid + SEARCH, reports=True)
    project.run()
    arms = project.open().folder.manifest().search["arms"]
    values = [arm["value"] for arm in arms.values()]
    assert abs(values[0] - values[1]) > 1, "the searches were not unlike in luck"
    claims = pd.read_csv(project.root / "reports" / "tune" / "claims.csv")
    assert list(claims["claim_verdict"]) == ["not decided"]


def test_trials_are_the_same_for_any_number_of_jobs(tmp_path, monkeypatch):
    told = []
    for jobs in (1, 3):
        project = TunedProject(tmp_path / f"with-{jobs}", monkeypatch)
        project.run(jobs)
        told.append(project.events())
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("sampler", "step"),
    [
        ("tpe", 97),
        pytest.param("grid", 41, marks=pytest.mark.long),
        pytest.param("random", 23, marks=pytest.mark.long),
        pytest.param("gp", 23, marks=pytest.mark.long),
        pytest.param("tpe", 5, marks=pytest.mark.long),
    ],
)
def test_a_killed_search_goes_on_with_the_same_trials(sampler, step, tmp_path, monkeypatch):
    search = SEARCH.replace("metric: val", f"sampler: {sampler}\n  metric: val")
    grid = GRID.replace("seeds: 4", "seeds: 2") + search
    if sampler == "grid":
        grid = grid.replace(
            "{low: 1.0e-5, high: 1.0, log: true}", "{low: 0.001, high: 0.101, step: 0.05}"
        )
    undisturbed = TunedProject(tmp_path / "undisturbed", monkeypatch, grid)
    undisturbed.run()
    n_moments = sum(map(len, undisturbed.events().values()))
    for n in range(0, 2 * n_moments, step):
        project = TunedProject(tmp_path / f"killed-{n}", monkeypatch, grid)
        with monkeypatch.context() as killing:
            kill_after(n, killing)
            with pytest.raises(Killed):
                while True:
                    project.run()
        project.run()
        assert project.events() == undisturbed.events(), n
        assert outcomes(project) == outcomes(undisturbed), n


def test_a_finished_search_asks_nothing_and_trains_nothing(project):
    project.run()
    events, n_trained = project.events(), len(project.trained)
    project.run()
    assert project.events() == events
    assert len(project.trained) == n_trained


@pytest.mark.parametrize("content", ["{", None])
def test_a_lost_manifest_of_a_finished_search_is_written_again(project, content):
    project.run()
    path = project.root / "runs" / "tune.search" / "study.json"

    def trials():
        told = json.loads(path.read_text())["trials"]
        return {spec["trial"]: (spec["key"], spec["epochs_planned"]) for spec in told}

    before, results, n_trained = trials(), outcomes(project), len(project.trained)
    path.write_text(content) if content else path.unlink()
    project.run()
    assert trials() == before
    assert (outcomes(project), len(project.trained)) == (results, n_trained)


def test_no_epoch_is_trained_twice_and_pruned_trials_cost_their_epochs_alone(project):
    project.run()
    assert len(set(project.trained)) == len(project.trained)
    planned = project.open()
    folder = planned.tuning.folder
    pruned = [
        (arm.variant.name, one)
        for arm in planned.tuning.arms.values()
        for one in arm.log.ended()
        if one.state == "PRUNED"
    ]
    assert pruned
    for arm, one in pruned:
        records = folder.records(f"{arm}--t{one.number:03d}--s100")
        assert len(records) == one.pruned_at < 9


def test_more_trials_go_on_from_those_that_are_there(project):
    project.run()
    before = project.events()
    project.grid.write_text(GRID + SEARCH.replace("trials: 8", "trials: 11"))
    project.run()
    for file, events in project.events().items():
        assert events[: len(before[file])] == before[file]
        assert sum("ask" in event for event in events) == 11


def test_another_space_is_another_search(project):
    project.run()
    project.grid.write_text(GRID + SEARCH.replace("high: 1.0,", "high: 0.5,"))
    project.run()
    for events in project.events().values():
        assert all(event["values"]["rate"] <= 0.5 for event in events if "ask" in event)
    folder = project.root / "runs" / "tune.search"
    assert len(list(folder.glob("*.earlier1"))) == 2 and not list(folder.glob("*.damaged*"))


def test_a_budget_of_epochs_ends_the_search_of_each_arm(tmp_path, monkeypatch):
    grid = GRID + SEARCH.replace("trials: 8", "budget: 40")
    project = TunedProject(tmp_path / "project", monkeypatch, grid)
    project.run()
    for arm in project.open().tuning.arms.values():
        # the last trial is not broken off
        assert 40 <= arm.epochs_spent < 40 + 9


def test_the_arms_own_settings_are_the_first_trial(project):
    project.run()
    first = [events[1]["values"] for events in project.events().values()]
    assert all(values["rate"] == 1e-3 for values in first)


def test_own_settings_are_the_first_trial_where_choices_write_their_numbers_otherwise(
    tmp_path, monkeypatch
):
    search = SEARCH.replace("mode: {choices: [soft, hard]}", "noise: {choices: [0, 1]}")
    grid = GRID + search + "settings: {noise: 1.0}\n"
    planned = TunedProject(tmp_path / "project", monkeypatch, grid).open()
    planner = SearchPlanner(planned.tuning, planned.store)
    planned.folder.path.with_name("tune.search").mkdir(parents=True)
    planner.grown(planner.begun())
    for arm in planned.tuning.arms.values():
        assert arm.log.trials[0].values == arm.own == {"rate": 1e-3, "noise": 1}


def test_an_arm_is_not_tuned_in_what_its_levels_set_or_its_method_ignores(project):
    arms = project.open().tuning.arms
    assert set(arms["reference"].space) == {"rate"}
    assert set(arms["method=other"].space) == {"rate", "mode"}


def test_trials_that_fail_do_not_win_and_do_not_stop_the_search(tmp_path, monkeypatch):
    grid = GRID + SEARCH.replace("[soft, hard]", "[soft, broken]")
    project = TunedProject(tmp_path / "project", monkeypatch, grid)
    result = project.run()
    assert not result.failed
    other = project.open().tuning.arms["method=other"]
    states = {one.values["mode"]: one.state for one in other.log.ended()}
    assert states["broken"] in ("FAILED", "PRUNED")
    assert other.best.values["mode"] == "soft"


def test_an_arm_whose_trials_all_fail_keeps_its_settings(tmp_path, monkeypatch):
    grid = GRID.replace("other: {method: other}", "other: {method: other, mode: broken}")
    search = SEARCH.replace("    mode: {choices: [soft, hard]}\n", "")
    project = TunedProject(tmp_path / "project", monkeypatch, grid + search)
    result = project.run()
    # its own trials fail, as they would without a search
    assert {name.partition("--")[0] for name in result.failed} == {"method=other"}
    assert project.open().tuning.arms["method=other"].best is None


def test_values_that_do_not_go_together_are_passed_over(tmp_path, monkeypatch):
    grid = (GRID + SEARCH).replace("[soft, hard]", "[soft, unfit]")
    project = TunedProject(tmp_path / "project", monkeypatch, grid)
    # one method allows what the other refuses
    with pytest.raises(InputError, match=r"search\.space\.mode.*does not go with method other"):
        project.open()


def test_several_seeds_are_averaged(tmp_path, monkeypatch):
    search = SEARCH.replace("  pruner: {name: hyperband, min_epochs: 2}\n", "  seeds: [100, 101]\n")
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    project.run()
    planned = project.open()
    for arm in planned.tuning.arms.values():
        for one in arm.log.ended():
            settings = arm.settings_of(one.values)
            values = [project.subject.accuracy(settings, seed, 9) for seed in (100, 101)]
            assert one.value == pytest.approx(sum(values) / 2)


def test_a_damaged_line_is_looked_for_again(project):
    project.run()
    events = project.events()
    path = next((project.root / "runs" / "tune.search").glob("*other.asked.jsonl"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:9], '{"ask": "?', *lines[10:]]) + "\n")
    project.run()
    assert project.events() == events


def test_a_torn_last_line_is_written_again(project):
    project.run()
    events = project.events()
    path = next((project.root / "runs" / "tune.search").glob("*other.asked.jsonl"))
    path.write_text(path.read_text()[:-9])
    project.run()
    assert project.events() == events


def test_a_plan_of_a_search_that_is_under_way_changes_no_file(project, monkeypatch):
    with monkeypatch.context() as killing:
        kill_after(30, killing)
        with pytest.raises(Killed):
            project.run()
    before = project.events()
    assert not project.open().tuning.is_finished
    assert project.events() == before


def test_the_manifest_tells_what_was_found(project):
    project.run()
    search = project.open().folder.manifest().search
    assert search["metric"] == {"name": "validation/top1", "goal": "maximize"}
    other = search["arms"]["method=other"]
    assert sum(other["counts"].values()) == 8
    assert other["best"]["rate"] == pytest.approx(other["best"]["rate"])
    assert set(other["importances"]) <= {"rate", "mode"}
    assert json.loads(json.dumps(search)) == search


def test_a_search_that_is_known_is_opened_without_optuna(project, monkeypatch):
    project.run()
    before = project.open().search
    monkeypatch.setitem(sys.modules, "ablation.search.sampling", None)
    assert project.open().search == before


def test_parallel_trials_of_an_arm_end_as_many(tmp_path, monkeypatch):
    grid = GRID + SEARCH.replace("trials: 8", "trials: 8\n  parallel: 3")
    project = TunedProject(tmp_path / "project", monkeypatch, grid)
    planned = project.open()
    planner = SearchPlanner(planned.tuning, planned.store)
    assert len(planner.grown(planner.begun()).trials) == 6
    project.run(jobs=2)
    assert all(len(arm.log.ended()) == 8 for arm in project.open().tuning.arms.values())


def test_progress_counts_the_trials_that_are_not_asked_for_yet(project):
    planned = project.open()
    planner = SearchPlanner(planned.tuning, planned.store)
    searched = planned_search(planned, planned.tuning, planner.grown(planner.begun()))
    progress = Progress(searched, Console(), planned.timings, 1)
    assert progress.summary().startswith("0/16 trials")
    assert len(searched.plan.trials) == 2


def test_the_table_of_a_search_has_each_arms_best_trial_and_how_many_were_pruned(
    project, monkeypatch
):
    tables, leave = [], Progress.__exit__
    monkeypatch.setattr(
        Progress,
        "__exit__",
        lambda progress, *error: (tables.append(progress.table()), leave(progress, *error))[1],
    )
    project.run()
    # of the search, then of the study
    search, study = [
        {str(column.header): list(column.cells) for column in table.columns} for table in tables
    ]
    assert search["done"] == ["8/8", "8/8"] and "pruned" not in study
    arms = project.open().tuning.arms
    told = zip(search["arm"], search["pruned"], search["best validation/top1 so far"], strict=True)
    for name, pruned, best in told:
        asked = arms[name].log.trials.values()
        assert int(pruned or 0) == sum(one.state == "PRUNED" for one in asked) > 0
        assert float(best) == pytest.approx(
            max(one.value for one in asked if one.value == one.value), abs=0.1
        )


def test_an_option_that_the_search_replaces_is_told_in_plan_and_run(project, capsys):
    says = "-S rate=0.01 does not hold for tuned arms: the search sets rate"
    begins = f"{says}, and only begins there"
    asked = {"overrides": ["rate=0.01", "noise=0.1"]}
    assert project.open(**asked).warnings == [begins]
    outside = project.open(overrides=["rate=2"])
    assert outside.warnings == [says.replace("0.01", "2")]
    assert project.open().warnings == []
    project.run(**asked)
    told = " ".join(capsys.readouterr().out.split())
    assert f"on validation/top1 warning: {begins}" in told and "noise" not in told
    assert told.count(says) == 1
    # where the search has ended before, its study tells
    project.run(**asked)
    assert " ".join(capsys.readouterr().out.split()).count(f"warning: {begins}") == 1


def test_an_option_that_no_arm_looks_for_is_not_told_as_replaced(tmp_path, monkeypatch):
    grid = GRID.replace("plain: {method", "plain: {rate: 0.1, method").replace(
        "other: {method", "other: {rate: 0.2, method"
    )
    with pytest.raises(InputError, match="rate: would be undone in every arm"):
        TunedProject(tmp_path / "own", monkeypatch, grid + SEARCH).open(overrides=["rate=0.01"])
