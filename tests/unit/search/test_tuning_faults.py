"""Searches that are pruned, killed, edited or started twice in ways that once went wrong."""

from __future__ import annotations

import math

import pytest
from test_tuning import Killed, kill_after
from tunable import GRID, SEARCH, Tunable, TunedProject

from ablation.errors import InputError
from ablation.storage.files import only_one
from ablation.study import running


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


@pytest.mark.parametrize("pruner", ["hyperband", "successive-halving"])
def test_a_killed_search_prunes_alike_where_not_every_rung_is_measured(
    pruner, tmp_path, monkeypatch
):
    grid = GRID.replace("seeds: 4", "seeds: 4\nsettings: {epochs: 27}") + SEARCH.replace(
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
    with only_one(project.root / "runs" / "tune.search"):
        with pytest.raises(InputError, match="another process"):
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
