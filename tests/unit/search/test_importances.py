"""Which settings matter in a search."""

import random

from ablation.grid.search import domain_of
from ablation.search.sampling import forest_caches, importances
from ablation.storage.asked import COMPLETE, AskedTrial

SPACE = {
    "rate": domain_of({"low": 1.0e-4, "high": 1.0, "log": True}),
    "idle": domain_of({"low": 0.0, "high": 1.0}),
}


def test_no_forest_is_left_in_memory():
    rng, trials = random.Random(0), []
    for number in range(20):
        values = {"rate": 10 ** rng.uniform(-4, 0), "idle": rng.random()}
        trials.append(AskedTrial(number, values, state=COMPLETE, value=values["rate"]))
    found = importances("maximize", SPACE, trials)
    assert list(found) == ["rate", "idle"] and found["rate"] > 0.9
    caches = forest_caches()
    # if Optuna has none of them any more, `forest_caches` can go
    assert caches and not any(cache.cache_info().currsize for cache in caches)
