"""Mistakes in `search:` of a grid: each is named with its place, before anything runs."""

from __future__ import annotations

import pytest
from tunable import GRID, SEARCH, TunedProject

from ablation.errors import InputError
from ablation.grid.search import Choices, Range, domain_of
from ablation.subject.protocol import Fault
from ablation.tracking.ledger import distribution

RATE, MODE = "{low: 1.0e-5, high: 1.0, log: true}", "{choices: [soft, hard]}"
# what is replaced in SEARCH, by what, the messages
BROKEN = {
    "no space": (
        f"  space:\n    rate: {RATE}\n    mode: {MODE}\n",
        "",
        ["search.space: is missing; it must map settings to {low, high, log or step} or {choices}"],
    ),
    "empty space": (
        f"  space:\n    rate: {RATE}\n    mode: {MODE}\n",
        "  space: {}\n",
        ["search.space: is empty; it must map settings to {low, high, log or step} or {choices}"],
    ),
    "inverted": (RATE, "{low: 1, high: 0.1}", ["search.space.rate.high: 0.1 is not above low, 1"]),
    "as many cells as nobody trains": (
        f"    rate: {RATE}\n    mode: {MODE}\n  trials: 8\n",
        "    noise: {low: 0, high: 1000000000}\n  trials: 8\n  sampler: grid\n",
        [
            "search.space: has 1000000001 combinations, more than 10000 of sampler: grid; "
            "name fewer values, or sampler: random"
        ],
    ),
    "a level among its settings": (
        "{validation: 1}",
        "{validation: 1, method: same}",
        ["search.settings.method: 'reference' sets it itself: what is tuned would be another arm"],
    ),
    "what is looked for among its settings": (
        "{validation: 1}",
        "{validation: 1, rate: 0.01}",
        ["search.settings.rate: is looked for (search.space.rate)"],
    ),
    "no high": (
        RATE,
        "{low: 1}",
        ["search.space.rate.high: is missing; it must be a finite number"],
    ),
    "log of 0": (
        RATE,
        "{low: 0, high: 1, log: true}",
        ["search.space.rate.low: 0 has no logarithm; with log: true it must be above 0"],
    ),
    "log and step": (
        RATE,
        "{low: 1, high: 3, log: true, step: 1}",
        ["search.space.rate.step: does not go with log: true"],
    ),
    "step of 0": (
        RATE,
        "{low: 1, high: 3, step: 0}",
        ["search.space.rate.step: 0 is not above 0 and at most 2"],
    ),
    "a level": (RATE, "0.1", ["search.space.rate: 0.1 is neither {low, high} nor {choices}"]),
    "nothing": (
        RATE,
        "{}",
        [
            "search.space.rate.low: is missing; it must be a finite number",
            "search.space.rate.high: is missing; it must be a finite number",
        ],
    ),
    "unknown kind": (
        RATE,
        "{lo: 1, high: 3}",
        [
            "search.space.rate.lo: unknown key 'lo'; did you mean 'low'?",
            "search.space.rate.low: is missing; it must be a finite number",
        ],
    ),
    "one choice": (
        MODE,
        "{choices: [soft]}",
        ["search.space.mode.choices: needs two values or more"],
    ),
    "choice twice": (
        MODE,
        "{choices: [soft, soft, hard]}",
        ["search.space.mode.choices[1]: 'soft' is there twice"],
    ),
    "choices and low": (
        MODE,
        "{choices: [soft, hard], low: 1}",
        ["search.space.mode.low: does not go with choices"],
    ),
    "unknown setting": (
        "    mode:",
        "    mood:",
        ["search.space.mood: unknown setting 'mood'"],
    ),
    "value that is refused": (
        RATE,
        "{low: -1, high: 1}",
        ["search.space.rate: -1 is no value for it: -1 is not above 0"],
    ),
    "a factor's own key": (
        "    mode:",
        "    method:",
        [
            "search.space.method: is set by every arm and baseline itself: nothing is left to look for"
        ],
    ),
    "test metric": (
        "validation/top1",
        "test/top1",
        [
            "search.metric: 'test/top1' is of the test set, on which nothing is chosen; "
            "name validation/top1"
        ],
    ),
    "best on test": (
        "validation/top1",
        "{name: best/test/top1}",
        [
            "search.metric.name: 'best/test/top1' is of the test set, on which nothing is chosen; "
            "name validation/test/top1"
        ],
    ),
    "metric whose goal is not known": (
        "validation/top1",
        "val_loss",
        [
            "search.metric: 'val_loss' may have another goal than the study's 'test/top1', maximize; "
            "write metric: {name: val_loss, goal: maximize or minimize}"
        ],
    ),
    "metric by name alone": (
        "validation/top1",
        "{name: validation/loss}",
        [
            "search.metric.name: 'validation/loss' may have another goal than the study's "
            "'test/top1', maximize; write metric: {name: validation/loss, goal: maximize or minimize}"
        ],
    ),
    "whole ends of a number": (
        RATE,
        "{low: 1, high: 10}",
        [
            "search.space.rate: looks for whole numbers alone, as both ends are, and 'reference' "
            "has 0.001; write 1.0 and 10.0 for any number"
        ],
    ),
    "no metric": (
        "  metric: validation/top1\n",
        "",
        [
            "search.metric: is missing; it must be a metric's name, such as test/top1 "
            "(letters, digits, '_', '.', '/', '@', '-')"
        ],
    ),
    "metric that is not reported": (
        "  settings: {validation: 1}\n",
        "",
        [
            "search.metric: 'validation/top1' is not reported by 'reference'; choose from "
            "test/top1; search.settings: {data.validation: 0.2} holds images out"
        ],
    ),
    "no budget": (
        "  trials: 8\n",
        "",
        ["search.trials: is missing; it must be trials of each arm, or budget: epochs"],
    ),
    "no trials": (
        "trials: 8",
        "trials: 0",
        ["search.trials: 0 is not a whole number from 1 to 10000; the nearest is 1"],
    ),
    "budget below a trial": (
        "trials: 8",
        "budget: 0",
        ["search.budget: 0 is not a whole number from 1 to 10000000; the nearest is 1"],
    ),
    "both budgets": (
        "trials: 8",
        "trials: 8\n  budget: 90",
        ["search.budget: does not go with trials; one of them is the budget of an arm"],
    ),
    "unknown sampler": (
        "trials: 8",
        "trials: 8\n  sampler: tpee",
        ["search.sampler: 'tpee' is not allowed; did you mean 'tpe'?"],
    ),
    "grid of numbers without a step": (
        "trials: 8",
        "trials: 8\n  sampler: grid",
        ["search.space.rate: has no countable values, as sampler: grid needs; add a step"],
    ),
    "unknown pruner": (
        "name: hyperband",
        "name: hyperbnd",
        ["search.pruner.name: 'hyperbnd' is not allowed; did you mean 'hyperband'?"],
    ),
    "no epochs before pruning": (
        "min_epochs: 2",
        "min_epochs: 0",
        ["search.pruner.min_epochs: 0 is not a whole number from 1 to 10000000; the nearest is 1"],
    ),
    "more epochs before pruning than a trial has": (
        "min_epochs: 2",
        "min_epochs: 9",
        [
            "search.pruner: 'hyperband' would prune nothing: no trial has more than 9 epochs, "
            "and min_epochs is 9; write pruner: none"
        ],
    ),
    "a seed of the study": (
        "trials: 8",
        "trials: 8\n  seeds: [3]",
        ["search.seeds[0]: 3 is a seed of the study; 100 is not"],
    ),
    "no seed": (
        "trials: 8",
        "trials: 8\n  seeds: []",
        ["search.seeds: is an empty list; one seed is enough"],
    ),
    "two seeds with a pruner": (
        "trials: 8",
        "trials: 8\n  seeds: [100, 101]",
        [
            "search.seeds: a pruner decides about a trial by one seed; "
            "name one seed, or pruner: none"
        ],
    ),
    "settings that are refused": (
        "{validation: 1}",
        "{validation: 1, mod: 2}",
        ["search.settings.mod: unknown setting 'mod'"],
    ),
    "unknown key": (
        "trials: 8",
        "trails: 8",
        [
            "search.trails: unknown key 'trails'; did you mean 'trials'?",
            "search.trials: is missing; it must be trials of each arm, or budget: epochs",
        ],
    ),
}


@pytest.mark.parametrize(("old", "new", "messages"), BROKEN.values(), ids=BROKEN)
def test_a_broken_search_is_refused_with_its_message(old, new, messages, tmp_path, monkeypatch):
    assert old in SEARCH
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + SEARCH.replace(old, new))
    with pytest.raises(InputError) as refused:
        project.open()
    assert [str(problem) for problem in refused.value.problems] == [
        f"grid.yaml: {message}" for message in messages
    ]


@pytest.mark.parametrize(
    ("told", "goal"),
    [("validation/top1", "maximize"), ("{name: validation/top1, goal: minimize}", "minimize")],
)
def test_the_goal_of_a_metric_is_that_of_the_study_unless_it_is_told(
    told, goal, tmp_path, monkeypatch
):
    search = SEARCH.replace("validation/top1", told)
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    assert project.open().study.grid.search.metric["goal"] == goal


@pytest.mark.parametrize("own", ["0.5", "2"])
def test_whole_ends_are_refused_by_the_own_value_of_any_arm(own, tmp_path, monkeypatch):
    grid = GRID.replace("seeds: 4", f"seeds: 4\nsettings: {{rate: {own}}}")
    search = SEARCH.replace(RATE, "{low: 1, high: 10}")
    project = TunedProject(tmp_path / "project", monkeypatch, grid + search)
    if own == "2":
        assert project.open()
    else:
        with pytest.raises(InputError, match=r"'reference' has 0\.5; write 1\.0 and 10\.0"):
            project.open()


@pytest.mark.parametrize("told", ["{low: 2.0, high: 20.0}", "{low: 2, high: 20, step: 0.5}"])
def test_a_range_of_fractions_is_refused_where_whole_numbers_alone_are_allowed(
    told, tmp_path, monkeypatch
):
    """Its ends are whole numbers, and all but a few of its other values would fail."""
    search = SEARCH.replace(f"rate: {RATE}", f"epochs: {told}")
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    monkeypatch.setattr(type(project.subject), "check", whole_epochs(type(project.subject).check))
    with pytest.raises(
        InputError, match=r"search\.space\.epochs: \d+\.\d+ is no value for it.*whole"
    ):
        project.open()


def whole_epochs(real):
    def check(self, settings):
        epochs = settings.get("epochs", 9)
        is_whole = float(epochs).is_integer()
        return real(self, settings) + [Fault("epochs", "is not a whole number")] * (not is_whole)

    return check


@pytest.mark.parametrize("own", [None, 100])
def test_the_first_seeds_of_a_plan_are_searched_as_all_of_them_are(own, tmp_path, monkeypatch):
    """Else its search is begun anew when the other seeds are added, or has one of them."""
    search = SEARCH if own is None else SEARCH.replace("trials: 8", f"trials: 8\n  seeds: [{own}]")
    project = TunedProject(
        tmp_path / "project", monkeypatch, GRID.replace("seeds: 4", "seeds: 102") + search
    )
    if own is None:
        assert project.open(seeds="3").study.grid.search.seeds == (102,)
    else:
        with pytest.raises(InputError, match="100 is a seed of the study"):
            project.open(seeds="3")


def test_a_pruner_may_end_trials_that_are_longer_than_with_the_arms_own_settings(
    tmp_path, monkeypatch
):
    search = SEARCH.replace(f"rate: {RATE}", "epochs: {low: 2, high: 40}")
    project = TunedProject(
        tmp_path / "project", monkeypatch, GRID + search.replace("min_epochs: 2", "min_epochs: 12")
    )
    assert project.open()


def test_a_study_may_not_be_called_like_the_search_of_one(tmp_path, monkeypatch):
    project = TunedProject(tmp_path / "project", monkeypatch)
    with pytest.raises(InputError, match=r"--as: tune\.search.*choose another name"):
        project.open(alias="tune.search")


def test_a_search_of_nested_settings_is_read_as_settings_are(tmp_path, monkeypatch):
    search = SEARCH.replace(f"    rate: {RATE}\n    mode: {MODE}\n", f"    optim: {{lr: {RATE}}}\n")
    project = TunedProject(tmp_path / "project", monkeypatch, GRID + search)
    with pytest.raises(InputError, match=r"search\.space\.optim\.lr: unknown setting"):
        project.open()


def test_domains_are_read_back_as_they_were_written():
    for told, domain in [
        ({"values": [1, "a", None]}, Choices((1, "a", None))),
        ({"low": 1, "high": 5, "log": False, "step": 2}, Range(1, 5, step=2)),
    ]:
        assert domain_of(told) == domain


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Range(1, 5), [1, 3, 5, 3.0], [0, 6, 2.5, True, "3", None]),
        (Range(0.1, 0.5, step=0.2), [0.1, 0.3, 0.5], [0.2, 0.6]),
        (Range(1e-5, 1.0, log=True), [1e-5, 0.3, 1.0], [0, 2]),
        (Choices((1, "a", None, True)), [1, 1.0, "a", None, True], [2, "b", False]),
        (Choices((0, 0.5)), [0, 0.0, 0.5], [False, None, "0"]),
    ],
)
def test_what_a_domain_holds(domain, inside, outside):
    assert all(domain.holds(value) for value in inside)
    assert not any(domain.holds(value) for value in outside)


def test_the_values_of_a_range_are_those_that_optuna_reaches():
    assert Range(1, 6, step=2).values == (1, 3, 5)
    assert Range(1, 3).values == (1, 2, 3)
    assert Range(0.1, 0.5, step=0.2).values == pytest.approx((0.1, 0.3, 0.5))
    assert Range(0.1, 0.5).values is None


@pytest.mark.parametrize(
    ("low", "high", "step", "values"),
    [
        # 3 * 0.1 is more than 0.3, and 3 * 0.3 less than 0.9
        (0.0, 0.3, 0.1, (0.0, 0.1, 0.2, 0.3)),
        (0.0, 0.9, 0.3, (0.0, 0.3, 0.6, 0.9)),
        (0.01, 0.07, 0.01, (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07)),
        (0.0, 1.0, 0.3, (0.0, 0.3, 0.6, 0.9)),
        (0, 1, 0.25, (0.0, 0.25, 0.5, 0.75, 1.0)),
        (1, 6, 2, (1, 3, 5)),
    ],
)
def test_a_range_with_a_step_has_the_values_as_they_are_written(low, high, step, values):
    """Else an arm's own value is no cell of a grid, or the highest one is never tried."""
    domain = Range(low, high, step=step)
    assert domain.values == values and domain.n_values == len(values)
    assert [type(value) for value in domain.values] == [type(value) for value in values]
    reached = distribution(domain)
    assert (reached.low, reached.high) == (values[0], values[-1])
    assert all(reached._contains(value) and domain.holds(value) for value in values)
