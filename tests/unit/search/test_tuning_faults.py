"""Searches that are pruned, killed, edited or started twice in ways that once went wrong."""

from __future__ import annotations

import json
import math

import pytest
from test_tuning import Killed, kill_after
from toy_search import N_EPOCHS as N_TOY_EPOCHS
from toy_search import N_PRETRAINING, N_WARMUP, SearchedStudy
from tunable import GRID, N_EPOCHS, SEARCH, Tunable, TunedProject

from ablation.analysis.results import load
from ablation.analysis.tuning import tuned_arms
from ablation.errors import InputError
from ablation.reporting import search
from ablation.search import sampling, tuning
from ablation.storage.asked import SearchLog
from ablation.storage.files import folder_lock
from ablation.storage.runs import failure, failure_of
from ablation.study import running, views
from ablation.subject.protocol import Fault


class Sparse(Tunable):
    """The metric grows with the epochs, and is measured at every third of them alone."""

    every = 3

    def accuracy(self, settings, seed, epoch):
        if epoch % self.every:
            return math.nan
        return super().accuracy(settings, seed, epoch) + 10 * epoch


class Dense(Sparse):
    """Measured at every epoch."""

    every = 1


def project_of(subject, grid, path, monkeypatch):
    project = TunedProject(path, monkeypatch, grid)
    project.subject = project.workers.subject = subject
    return project


def test_the_median_rule_prunes(tmp_path, monkeypatch):
    grid = GRID + SEARCH.replace("hyperband", "median").replace("trials: 8", "trials: 14")
    project = project_of(Dense(), grid, tmp_path / "project", monkeypatch)
    project.run()
    states = [one.state for one in project.open().tuning.arms["reference"].log.ended()]
    assert "PRUNED" in states


@pytest.mark.parametrize(
    "pruner", ["hyperband", pytest.param("successive-halving", marks=pytest.mark.long)]
)
def test_a_killed_search_prunes_alike_where_not_every_rung_is_measured(
    pruner, tmp_path, monkeypatch
):
    grid = GRID.replace("seeds: 4", "seeds: 1\nsettings: {epochs: 27}") + SEARCH.replace(
        "hyperband", pruner
    ).replace("trials: 8", "trials: 14")
    undisturbed = project_of(Sparse(), grid, tmp_path / "undisturbed", monkeypatch)
    undisturbed.run()
    assert any(event.get("prune") for events in undisturbed.events().values() for event in events)
    project = project_of(Sparse(), grid, tmp_path / "killed", monkeypatch)
    is_killed = True
    while is_killed:
        with monkeypatch.context() as killing:
            kill_after(60, killing)
            try:
                project.run()
                is_killed = False
            except Killed:
                pass
    assert project.events() == undisturbed.events()


def test_a_grid_that_asks_for_more_while_it_is_searched_gets_it(tmp_path, monkeypatch):
    project, n_searches = TunedProject(tmp_path / "project", monkeypatch), [0]
    real = running._search

    def search(*arguments):
        result = real(*arguments)
        n_searches[0] += 1
        project.grid.write_text((GRID + SEARCH).replace("trials: 8", "trials: 12"))
        return result

    monkeypatch.setattr(running, "_search", search)
    project.run()
    assert n_searches == [2]
    arms = project.open().folder.manifest().search["arms"]
    assert [sum(arm["counts"].values()) for arm in arms.values()] == [12, 12]


def test_a_second_process_does_not_touch_the_events_of_a_search(tmp_path, monkeypatch):
    project = TunedProject(tmp_path / "project", monkeypatch)
    with monkeypatch.context() as killing:
        kill_after(30, killing)
        with pytest.raises(Killed):
            project.run()
    before = project.events()
    project.grid.write_text((GRID + SEARCH).replace("low: 1.0e-5", "low: 1.0e-4"))
    with (
        folder_lock(project.root / "runs" / "tune.search"),
        pytest.raises(InputError, match="another process"),
    ):
        project.run()
    assert project.events() == before


def test_events_that_another_process_has_added_since_are_read(tmp_path, monkeypatch):
    project = TunedProject(tmp_path / "project", monkeypatch)
    planned = project.open()
    project.run()
    events = project.events()
    running.run(planned, running.RunOptions(jobs=1, offline=True))
    assert project.events() == events


def test_events_are_kept_where_another_search_is_refused(tmp_path, monkeypatch):
    project = TunedProject(tmp_path / "project", monkeypatch)
    project.run()
    events = project.events()
    project.grid.write_text((GRID + SEARCH).replace("{validation: 1}", "{validation: 1, noise: 1}"))
    with pytest.raises(InputError, match="another name"):
        project.run()
    assert project.events() == events


class Unfit(Tunable):
    """A hard mode needs a small rate."""

    def check(self, settings):
        is_unfit = settings.get("mode") == "hard" and settings.get("rate", 0) > 0.01
        return super().check(settings) + [Fault("mode", "needs a small rate")] * is_unfit


def test_a_search_that_was_killed_while_it_refused_values_goes_on(tmp_path, monkeypatch):
    grid = GRID + SEARCH.replace("trials: 8", "trials: 16")
    project = project_of(Unfit(), grid, tmp_path / "project", monkeypatch)
    real = SearchLog.append

    def append(self, event):
        if event.get("state") == "FAILED":
            raise Killed
        real(self, event)

    with monkeypatch.context() as killing:
        killing.setattr(SearchLog, "append", append)
        with pytest.raises(Killed):
            project.run()
    # it is given up after so many in a row alone
    monkeypatch.setattr(tuning, "MAX_UNFIT", 4)
    project.run()
    states = [one.state for one in project.open().tuning.arms["method=other"].log.ended()]
    assert len(states) == 16
    assert "FAILED" in states


def test_a_budget_ends_where_nothing_is_left_to_be_tried(tmp_path, monkeypatch):
    search = SEARCH.replace("trials: 8", "budget: 400").replace(
        "rate: {low: 1.0e-5, high: 1.0, log: true}", "noise: {choices: [0.1, 0.2]}"
    )
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    monkeypatch.setattr(tuning, "MAX_FREE", 10)
    project.run()
    for arm in project.open().tuning.arms.values():
        assert arm.is_finished
        tried = {json.dumps(one.values) for one in arm.log.ended()}
        assert len(tried) == math.prod(len(domain.values) for domain in arm.space.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("trials: 20", "trials: 5", marks=pytest.mark.long),
        ("budget: 90", "budget: 30"),
    ],
)
def test_trials_of_a_larger_budget_do_not_count(before, after, tmp_path, monkeypatch):
    """Else an arm that was there before is tuned longer than one that is added later."""
    grid = GRID.replace("seeds: 4", "seeds: 1")
    project = TunedProject(
        tmp_path / "project", monkeypatch, grid + SEARCH.replace("trials: 8", before)
    )
    project.run()
    grid = grid.replace("other: {method: other}", "other: {method: other}, third: {method: same}")
    project.grid.write_text(grid + SEARCH.replace("trials: 8", after))
    project.run()
    arms = project.open().folder.manifest().search["arms"]
    fresh = TunedProject(tmp_path / "fresh", monkeypatch, grid + SEARCH.replace("trials: 8", after))
    fresh.run()
    assert arms == fresh.open().folder.manifest().search["arms"]


class Switched(Tunable):
    """Mode counts where there is noise, the rate where the mode is the last of three."""

    def ignored(self, settings, keys):
        idle = {"mode"} if not settings.get("noise", 0.3) else set()
        idle |= {"rate"} if settings.get("mode") != "last" else set()
        return [key for key in keys if key in idle]


def test_a_setting_that_counts_anywhere_in_the_space_is_looked_for(tmp_path, monkeypatch):
    space = f"""
    mode: {{choices: [soft, hard, last]}}
    rate: {{low: 1.0e-5, high: 1.0, log: true}}
    noise: {{low: 0, high: 0.5}}
    epochs: {{choices: {list(range(2, 80))}}}
"""
    start, end = SEARCH.index("    rate"), SEARCH.index("  trials")
    grid = GRID + SEARCH[:start] + space[1:] + SEARCH[end:]
    project = project_of(Switched(), grid, tmp_path / "project", monkeypatch)
    keys = {"mode", "rate", "noise", "epochs"}
    assert set(project.open().tuning.arms["reference"].space) == keys


def test_fewer_trials_than_cells_are_from_all_over_the_grid(tmp_path, monkeypatch):
    search = SEARCH.replace("trials: 8", "trials: 8\n  sampler: grid").replace(
        "{low: 1.0e-5, high: 1.0, log: true}", "{low: 0.1, high: 2.0, step: 0.1}"
    )
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    project.run()
    ended = project.open().tuning.arms["method=other"].log.ended()
    assert {one.values["mode"] for one in ended} == {"soft", "hard"}
    assert max(one.values["rate"] for one in ended) > 1


def test_a_tuned_study_is_opened_again_without_judging_its_search_anew(tmp_path, monkeypatch):
    """That takes seconds, and a study is opened by each command."""
    project = TunedProject(tmp_path / "project", monkeypatch)
    project.run()
    found = project.open().folder.manifest().search
    monkeypatch.setattr(sampling, "importances", None)
    assert json.loads(json.dumps(project.open().manifest.search)) == found


def test_the_most_that_a_study_with_looks_may_take_is_that_of_tuned_arms(
    tmp_path, monkeypatch, capsys
):
    grid = GRID.replace("seeds: 4", "seeds: {start: 3, max: 8}") + SEARCH
    planned = TunedProject(tmp_path / "project", monkeypatch, grid).open()
    views.describe_plan(planned, 1)
    # two arms at 8 seeds and as they are at 3, which share three epochs
    n = 2 * 8 * 9 + 3 * (3 + 6 + 6)
    assert f"at most, with 8 seeds: 22 trials, {n} unique epochs" in capsys.readouterr().out


def test_a_tuned_arm_with_more_seeds_is_compared_with_its_untuned_one_on_the_same(
    tmp_path, monkeypatch
):
    """Seeds differ by several points, and untuned arms get those of the first look alone."""
    grid = GRID.replace("seeds: 4", "seeds: {start: 3, max: 8}\nsettings: {rate: 0.1}")
    grid = grid.replace("other: {method: other}", "other: {method: same}") + SEARCH
    project = TunedProject(
        tmp_path / "project", monkeypatch, grid.replace("trials: 8", "trials: 14"), reports=True
    )
    project.run()
    folder = project.open().folder
    results = load(folder, folder.manifest())
    (one,) = [one for one in tuned_arms(results) if one.arm == "method=other"]
    assert len(results.complete(one.arm)) > 3
    assert len(results.complete(one.twin)) == 3
    row = next(line for line in search.search_table(results).splitlines() if "=other`" in line)
    untuned, tuned = map(float, row.split("|")[-3].split("->"))
    assert tuned - untuned == pytest.approx(one.on_test.mean, abs=0.11)
    report = (project.root / "reports" / "tune" / "report.md").read_text()
    assert " (3 seeds) |" in report


def test_another_pruner_takes_no_pruned_trial_for_a_complete_one(tmp_path, monkeypatch):
    """Trials of both searches have the same names and keys, and those pruned have an outcome."""
    grid = GRID.replace("seeds: 4", "seeds: 1")
    unpruned = grid + SEARCH.replace("pruner: {name: hyperband, min_epochs: 2}", "pruner: none")
    project = TunedProject(tmp_path / "project", monkeypatch, grid + SEARCH)
    project.run()
    pruned = [one for events in project.events().values() for one in events if one.get("prune")]
    assert pruned
    project.grid.write_text(unpruned)
    project.run()
    fresh = TunedProject(tmp_path / "fresh", monkeypatch, unpruned)
    fresh.run()
    assert project.events() == fresh.events()


class Sparse(Tunable):
    """Measures its metric at every other epoch, and at the last."""

    def accuracy(self, settings, seed, epoch):
        is_measured = epoch % 2 == 0 or epoch == N_EPOCHS
        return super().accuracy(settings, seed, epoch) if is_measured else math.nan


def test_what_is_not_measured_at_a_rung_is_pruned_when_it_is(tmp_path, monkeypatch):
    """Else a search whose rungs fall between evaluations prunes nothing, and says nothing."""
    grid = GRID.replace("seeds: 4", "seeds: 1")
    search = SEARCH.replace("hyperband, min_epochs: 2", "successive-halving, min_epochs: 3")
    project = TunedProject(tmp_path / "project", monkeypatch, grid + search)
    project.subject = Sparse()
    project.workers.subject = project.subject
    project.run()
    steps = {
        one["step"] for events in project.events().values() for one in events if one.get("prune")
    }
    assert steps == {4}


def test_a_setting_that_an_arm_has_come_to_be_about_begins_its_search_anew(tmp_path, monkeypatch):
    """Its settings are what they were, as the level sets what had been the default."""
    project = TunedProject(tmp_path / "project", monkeypatch)
    before = project.open().tuning.arms
    about = "other: {method: other, rate: 0.001}"
    project.grid.write_text((GRID + SEARCH).replace("other: {method: other}", about))
    after = project.open().tuning.arms
    assert after["method=other"].config == before["method=other"].config
    assert [before[name].log.digest == after[name].log.digest for name in before] == [True, False]


def test_a_trial_costs_its_epochs_up_to_where_it_was_pruned_and_all_while_it_is_open(tmp_path):
    arm = SearchedStudy(tmp_path, budget="budget: 30").tuning().arms["reference"]
    arm.log.append({"ask": 0, "values": {"rate": 1}})
    assert arm.epochs_spent == N_PRETRAINING + N_TOY_EPOCHS
    arm.log.append({"step": 3, "of": 0, "value": 50.0, "prune": True})
    arm.log.append({"end": 0, "state": "PRUNED"})
    assert arm.epochs_spent == N_PRETRAINING + 3
    # what it shares with the first one costs nothing
    arm.log.append({"ask": 1, "values": {"rate": 2}})
    assert arm.epochs_spent == N_PRETRAINING + 3 + N_TOY_EPOCHS - N_WARMUP


def noted(arm, *trials):
    """Note trials of an arm's search: rate, state and value of each."""
    for number, (rate, state, *value) in enumerate(trials):
        arm.log.append({"ask": number, "values": {"rate": rate}})
        arm.log.append({"end": number, "state": state, **({"value": value[0]} if value else {})})


def test_what_was_found_is_of_the_trials_that_count_and_of_the_own_settings_if_completed(tmp_path):
    found = tuning.search_found(noted_study(tmp_path / "a", (1, "PRUNED")), {})["arms"]
    for arm in found.values():
        assert arm["counts"] == {"COMPLETE": 1, "PRUNED": 1, "FAILED": 1}
        assert [trial[0] for trial in arm["trials"]] == [0, 1, 2]
        assert (arm["number"], arm["value"], arm["best"]) == (1, 5.0, {"rate": 4})
        assert (arm["own"], arm["own_value"]) == ({"rate": 1}, None)
    found = tuning.search_found(noted_study(tmp_path / "b", (1, "COMPLETE", 4.0)), {})["arms"]
    assert {arm["own_value"] for arm in found.values()} == {4.0}


def noted_study(path, first):
    """A study whose arms have three trials that count, and two of a budget that was larger."""
    path.mkdir()
    searched = SearchedStudy(path).tuning()
    others = [(4, "COMPLETE", 5.0), (3, "FAILED"), (5, "COMPLETE", 9.0), (6, "COMPLETE", 8.0)]
    for arm in searched.arms.values():
        noted(arm, first, *others)
    return searched


@pytest.mark.parametrize(("own", "has_twin"), [(5.0, False), (4.0, True)])
def test_an_arm_whose_own_settings_were_best_or_as_good_has_no_untuned_twin(
    own, has_twin, tmp_path
):
    tuned = noted_study(tmp_path / "a", (1, "COMPLETE", own)).tuned()
    names = ["reference", "warmup=cold"]
    twins = [f"{name}.untuned" for name in names] if has_twin else []
    assert [variant.name for variant in tuned.variants] == names + twins
    rates = [variant.settings["rate"] for variant in tuned.variants]
    assert rates == ([4, 4, 1, 1] if has_twin else [1, 1])


def test_a_search_is_spent_with_its_last_cell_or_epoch_and_not_before(tmp_path):
    for name, budget in {
        "cells": "trials: 5\n  sampler: grid",
        "epochs": f"budget: {N_PRETRAINING + 2 * N_TOY_EPOCHS - N_WARMUP}",
    }.items():
        (tmp_path / name).mkdir()
        study = SearchedStudy(tmp_path / name, "{rate: {choices: [1, 2]}}", budget)
        arm = study.tuning().arms["reference"]
        noted(arm, (1, "COMPLETE", 1.0))
        assert not arm.is_spent
        arm.log.append({"ask": 1, "values": {"rate": 2}})
        assert arm.is_spent and not arm.is_finished
        arm.log.append({"end": 1, "state": "FAILED"})
        assert arm.is_finished


def test_the_search_of_other_code_is_another_search(tmp_path, monkeypatch):
    toy = SearchedStudy(tmp_path)
    before = toy.tuning().arms["reference"].log.digest
    assert toy.tuning().arms["reference"].log.digest == before
    real = toy.subject.chain
    monkeypatch.setattr(
        toy.subject,
        "chain",
        lambda *asked: [link._replace(key=f"new {link.key}") for link in real(*asked)],
    )
    assert toy.tuning().arms["reference"].log.digest != before


def test_a_budget_pays_for_the_trials_that_begin_before_it_is_spent(tmp_path):
    n_two = N_PRETRAINING + 2 * N_TOY_EPOCHS - N_WARMUP
    for name, budget, n in [("all", n_two, 2), ("more", n_two + 1, 3)]:
        (tmp_path / name).mkdir()
        arm = SearchedStudy(tmp_path / name, budget=f"budget: {budget}").tuning().arms["reference"]
        noted(arm, (1, "COMPLETE", 1.0), (2, "COMPLETE", 2.0))
        assert arm.n_counted == 2
        arm.log.append({"ask": 2, "values": {"rate": 3}})
        assert arm.n_counted == n


def test_what_trials_at_a_time_share_is_counted_once_whichever_ends_first(tmp_path):
    arm = SearchedStudy(tmp_path, budget="budget: 30\n  parallel: 2").tuning().arms["reference"]
    n = N_PRETRAINING + N_TOY_EPOCHS
    for number in (0, 1):
        arm.log.append({"ask": number, "values": {"rate": 1}})
        assert arm.epochs_spent == n
    arm.log.append({"end": 1, "state": "COMPLETE", "value": 1.0})
    assert arm.epochs_spent == n
    arm.log.append({"step": 3, "of": 0, "value": 0.5, "prune": True})
    arm.log.append({"end": 0, "state": "PRUNED"})
    assert arm.epochs_spent == n


def test_trials_that_count_and_reached_a_rung_with_the_metric_are_counted(tmp_path):
    arm = SearchedStudy(tmp_path, budget="trials: 2").tuning().arms["reference"]
    for number in range(3):
        arm.log.append({"ask": number, "values": {"rate": 1 + number}})
        if number:
            arm.log.append({"step": 1, "of": number, "value": 0.5, "prune": False})
        arm.log.append({"end": number, "state": "COMPLETE", "value": 0.5})
    assert arm.n_measured == 1


@pytest.mark.parametrize(
    ("errors", "state"),
    [
        (["Diverged"], "PRUNED"),
        (["NotFinite"], "PRUNED"),
        (["ValueError"], "FAILED"),
        (["Diverged", "NotFinite"], "PRUNED"),
        (["Diverged", "ValueError"], "FAILED"),
    ],
)
def test_a_trial_whose_settings_are_to_blame_is_pruned_and_another_failed(errors, state, tmp_path):
    seeds = list(range(100, 100 + len(errors)))
    searched = SearchedStudy(tmp_path, budget=f"trials: 2\n  seeds: {seeds}")
    grid = tmp_path / "grid.yaml"
    grid.write_text(grid.read_text().replace("pruner: hyperband", "pruner: none"))
    found = searched.tuning()
    planner = tuning.SearchPlanner(found, searched.store)
    plan = planner.grown(planner.begun())
    for seed, error in zip(seeds, errors, strict=True):
        assert not found.arms["reference"].log.ended()
        spec = plan.trials[f"reference--t000--s{seed}"].spec
        outcome = failure_of(spec, [], failure(error, "why"))
        found.folder.write_outcome(spec.trial, outcome)
        planner.grown(plan)
    assert [one.state for one in found.arms["reference"].log.ended()] == [state]
