"""What Optuna is asked for each arm of a search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler

from ablation.grid.search import Choices, Range, Search
from ablation.search.sampling import ArmSearch
from ablation.storage.asked import COMPLETE, FAILED, PRUNED, SearchLog


def search_of(goal: str = "maximize", **others) -> Search:
    told = {
        "space": {"x": Range(0.0, 1.0), "y": Range(0.0, 1.0)},
        "metric": {"name": "value", "goal": goal},
        "trials": 20,
        "budget": 0,
        "sampler": "tpe",
        "pruner": "none",
        "min_epochs": 1,
        "seeds": (100,),
        "parallel": 1,
    }
    return Search(**(told | others))


def searched(search: Search, path: Path, n: int, end: Callable[..., tuple]) -> SearchLog:
    """An arm's search of n trials, each of which ends with a state and a value."""
    path.mkdir(exist_ok=True)
    log = SearchLog(path, "arm", "digest")
    arm = ArmSearch(search, search.space, log, None, 9)
    for _ in range(n):
        asked = arm.ask()
        arm.tell(asked.number, *end(**asked.values))
    return log


@pytest.mark.parametrize(
    ("goal", "state"),
    [("maximize", PRUNED), pytest.param("minimize", FAILED, marks=pytest.mark.long)],
)
def test_a_gaussian_process_leaves_what_was_not_completed(goal, state, tmp_path):
    """Optuna's sees complete trials alone, and asks for what diverges again and again."""
    sign = 1 if goal == "maximize" else -1
    numbers = itertools.count()

    def end(x: float, y: float) -> tuple:
        return (COMPLETE, sign * (x - y)) if next(numbers) < 10 else (state,)

    log = searched(search_of(goal, sampler="gp"), tmp_path, 13, end)
    late = [tuple(trial.values.values()) for trial in log.ended() if trial.number >= 10]
    assert all(math.dist(*two) > 1e-3 for two in itertools.combinations(late, 2))


def test_a_sampler_leaves_what_fails(tmp_path):
    """Optuna's hears nothing of failed trials: it took what fails for not tried yet."""
    space = {"x": Range(1e-5, 1.0, log=True), "y": Choices(("soft", "hard"))}

    def end(x: float, y: str) -> tuple:
        return (FAILED,) if y == "hard" and x > 0.01 else (COMPLETE, math.log10(x))

    log = searched(search_of(space=space), tmp_path, 40, end)
    assert sum(trial.state == FAILED for trial in log.ended() if trial.number >= 20) < 10


@pytest.mark.parametrize(("goal", "worst"), [("maximize", 3.0), ("minimize", 5.0)])
def test_a_gaussian_process_knows_of_open_trials_and_takes_bad_ones_for_the_worst(
    goal, worst, tmp_path, monkeypatch
):
    seen: list[dict] = []

    class Process(RandomSampler):
        def infer_relative_search_space(self, study, trial):
            others = study.get_trials()[:-1]
            seen.append({tuple(one.params.values()): (one.state.name, one.value) for one in others})
            return {}

    monkeypatch.setattr(optuna.samplers, "GPSampler", Process)
    search, own = search_of(goal, sampler="gp", parallel=2), {"x": 0.25, "y": 0.5}
    arm = ArmSearch(search, search.space, SearchLog(tmp_path, "arm", "digest"), own, 9)
    ends = [(PRUNED,), (COMPLETE, 5.0), (FAILED,), (COMPLETE, 3.0)]
    asked = [tuple(arm.ask().values.values()) for _ in ends]
    assert asked[0] == (0.25, 0.5)
    arm.tell(0, *ends[0])
    open_ = tuple(arm.ask().values.values())
    # as bad as what?
    assert set(seen[-1]) == set(asked[1:])
    for number, end in enumerate(ends[1:], 1):
        arm.tell(number, *end)
    arm.ask()
    values = dict(zip(asked, [worst, 5.0, worst, 3.0], strict=True))
    assert seen[-1] == {one: ("COMPLETE", value) for one, value in values.items()} | {
        open_: ("RUNNING", None)
    }


def rough(x: float, y: float) -> tuple:
    """A state and value with trials of every kind."""
    if x > 0.9:
        return (FAILED,)
    return (PRUNED,) if y > 0.9 else (COMPLETE, x - y)


@pytest.mark.parametrize("sampler", ["tpe", "random", pytest.param("gp", marks=pytest.mark.long)])
def test_what_is_asked_for_follows_from_the_events_and_the_seed_is_the_trials_number(
    sampler, tmp_path
):
    search = search_of(sampler=sampler)
    whole = searched(search, tmp_path / "whole", 14, rough)
    values = [trial.values for trial in whole.trials.values()]
    assert len({tuple(one.values()) for one in values}) == 14
    (tmp_path / "made again").mkdir()
    for number in range(14):
        log = SearchLog(tmp_path / "made again", "arm", "digest")
        asked = ArmSearch(search, search.space, log, None, 9).ask()
        assert asked.values == values[number]
        log = SearchLog(tmp_path / "made again", "arm", "digest")
        ArmSearch(search, search.space, log, None, 9).tell(number, *rough(**asked.values))
    assert log.events == whole.events


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize(
    ("sampler", "n"), [("tpe", 30), pytest.param("gp", 16, marks=pytest.mark.long)]
)
def test_a_sampler_goes_where_the_metric_is_better(sampler, n, goal, tmp_path):
    log = searched(search_of(goal, sampler=sampler), tmp_path, n, lambda x, y: (COMPLETE, x))
    late = [trial.values["x"] for trial in log.ended()[2 * n // 3 :]]
    mean = sum(late) / len(late)
    assert mean > 0.75 if goal == "maximize" else mean < 0.25


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize(
    ("pruner", "level", "ends"),
    [
        # below the median of complete trials, from min_epochs on and at each multiple of it
        ("median", 7.0, {3, 6}),
        # not of the best third that has come so far
        ("successive-halving", 8.5, {3, 9}),
        ("none", 7.0, set()),
    ],
)
def test_a_pruner_ends_bad_trials_at_its_rungs_and_no_good_one(pruner, level, ends, goal, tmp_path):
    sign = 1 if goal == "maximize" else -1
    search = search_of(goal, pruner=pruner, min_epochs=3)
    arm = ArmSearch(search, search.space, SearchLog(tmp_path, "arm", "digest"), None, 27)

    def run(values: dict[int, float]) -> int | None:
        """The step at which a trial with these values is ended."""
        number = arm.ask().number
        for step, value in values.items():
            if arm.report(number, step, sign * value):
                arm.tell(number, PRUNED)
                return step
        arm.tell(number, COMPLETE, sign * value)
        return None

    # those that have come first are the best so far, and grow
    for start in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        assert run({step: start + step for step in range(1, 10)}) is None
    flat = [dict.fromkeys(range(1, 10), value) for value in (0.5, level)]
    assert {run(values) for values in flat} - {None} == ends
    assert run(dict.fromkeys(range(1, 10), 20.0)) is None


def test_hyperband_has_the_same_brackets_for_each_arm(tmp_path):
    """They say when the trial of a number may be ended first."""
    search = search_of(pruner="hyperband", min_epochs=1)
    told = []
    for name in ("one", "other"):
        arm = ArmSearch(search, search.space, SearchLog(tmp_path, name, "digest"), None, 27)
        steps = []
        for number in range(16):
            arm.ask()
            # each worse than those before
            values = ((step, -number) for step in range(1, 28))
            steps.append(
                next((step for step, value in values if arm.report(number, step, value)), 0)
            )
            arm.tell(number, PRUNED if steps[-1] else COMPLETE, None if steps[-1] else -number)
        told.append(steps)
    assert told[0] == told[1]
    assert {1, 3, 9} <= set(told[0])


def test_rungs():
    def rungs(pruner: str, n: int) -> list[int]:
        search = search_of(pruner=pruner, min_epochs=2)
        arm = ArmSearch(search, search.space, SearchLog(Path(), "no such arm", ""), None, 27)
        found = [arm.rung_after(0)]
        while len(found) < n:
            found.append(arm.rung_after(found[-1]))
        assert all(arm.rung_after(rung - 1) == rung for rung in found)
        return found

    assert rungs("hyperband", 4) == rungs("successive-halving", 4) == [2, 6, 18, 54]
    assert rungs("median", 4) == [2, 4, 6, 8]


def test_a_grid_is_counted_out_in_an_order_that_is_the_same_for_each_arm(tmp_path):
    space = {"x": Range(0.0, 0.3, step=0.1), "y": Choices((None, "a", True))}
    search = search_of(sampler="grid", space=space)
    orders = [
        [trial.values for trial in searched(search, tmp_path / arm, 12, ended).trials.values()]
        for arm in ("one", "other")
    ]
    assert orders[0] == orders[1]
    cells = {tuple(values.values()) for values in orders[0]}
    assert cells == {(x, y) for x in (0.0, 0.1, 0.2, 0.3) for y in (None, "a", True)}


def ended(x: float, y: object) -> tuple:
    return (COMPLETE, x)
