"""Which settings matter in a search."""

import random
from dataclasses import replace

from ablation.grid.search import domain_of
from ablation.search import sampling
from ablation.search.sampling import forest_caches, importances
from ablation.storage.asked import COMPLETE, PRUNED, AskedTrial

SPACE = {
    "rate": domain_of({"low": 1.0e-4, "high": 1.0, "log": True}),
    "idle": domain_of({"low": 0.0, "high": 1.0}),
}


def complete(n: int) -> list[AskedTrial]:
    """Trials whose metric is their rate."""
    rng, trials = random.Random(0), []
    for number in range(n):
        values = {"rate": 10 ** rng.uniform(-4, 0), "idle": rng.random()}
        trials.append(AskedTrial(number, values, state=COMPLETE, value=values["rate"]))
    return trials


def test_where_nothing_can_be_told_there_are_no_importances():
    trials, rate = complete(4), {"rate": SPACE["rate"]}
    pruned = AskedTrial(4, trials[0].values, state=PRUNED)
    alike = [replace(trial, value=1.0) for trial in trials]
    assert set(importances("maximize", SPACE, trials)) == {"rate", "idle"}
    assert importances("maximize", SPACE, [*trials[:3], pruned]) == {}
    assert importances("maximize", SPACE, alike) == {}
    one = [replace(trial, values={"rate": trial.values["rate"]}) for trial in trials]
    assert importances("maximize", rate, one) == {}


def test_importances_of_many_trials_are_those_of_some(monkeypatch):
    trials = complete(12)
    some = random.Random(0).sample(trials, 8)
    told = importances("maximize", SPACE, some)
    assert importances("maximize", SPACE, trials) != told
    monkeypatch.setattr(sampling, "MOST_IMPORTANCES", 8)
    assert importances("maximize", SPACE, trials) == told


def test_no_forest_is_left_in_memory():
    found = importances("maximize", SPACE, complete(20))
    assert list(found) == ["rate", "idle"] and found["rate"] > 0.9
    caches = forest_caches()
    # if Optuna has none of them any more, `forest_caches` can go
    assert caches and not any(cache.cache_info().currsize for cache in caches)
