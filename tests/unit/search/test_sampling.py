"""What Optuna is asked for each arm of a search."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from ablation.grid.search import Range, Search
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


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("state", [PRUNED, FAILED])
def test_a_gaussian_process_leaves_what_was_not_completed(goal, state, tmp_path):
    """Optuna's sees complete trials alone, and asks for what diverges again and again."""
    sign = 1 if goal == "maximize" else -1

    def end(x: float, y: float) -> tuple:
        return (state,) if x > 0.7 else (COMPLETE, sign * (x - (y - 0.5) ** 2))

    log = searched(search_of(goal, sampler="gp"), tmp_path, 16, end)
    late = [trial for trial in log.ended() if trial.number >= 11]
    assert any(trial.state == COMPLETE for trial in late)
    assert all(
        math.dist(one.values.values(), other.values.values()) > 1e-3
        for one, other in pairwise(late)
    )
