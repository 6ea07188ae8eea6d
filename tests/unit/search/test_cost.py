"""What a search costs at most is said before it begins: no course that it can take costs more."""

import random

import pytest
from toy_search import N_EPOCHS, N_PRETRAINING, SearchedStudy

from ablation.search.cost import arm_costs, study_at_most

SCALED = "{rate: {low: 1, high: 9}, scale: {choices: [1, 2, 3]}}"


def left(costs) -> dict:
    return {
        link.key: link
        for cost in costs.values()
        for links in cost.chains.values()
        for link in links
    }


def test_trials_share_pre_training_surely_and_nothing_else(tmp_path):
    costs = arm_costs(SearchedStudy(tmp_path).tuning())
    assert list(costs) == ["reference", "warmup=cold"]
    for cost in costs.values():
        assert (cost.settings, cost.n_trials, cost.n_ended) == (["rate"], 3, 0)
        assert cost.n_most == N_PRETRAINING + 3 * N_EPOCHS
    # of one seed, both arms have the same
    assert len(left(costs)) == N_PRETRAINING + 2 * 3 * N_EPOCHS


def test_pre_training_that_a_searched_setting_changes_is_shared_with_no_other(tmp_path):
    costs = arm_costs(SearchedStudy(tmp_path, SCALED).tuning())
    assert {cost.n_most for cost in costs.values()} == {3 * (N_PRETRAINING + N_EPOCHS)}
    assert len(left(costs)) == 2 * 3 * (N_PRETRAINING + N_EPOCHS)


def test_trials_are_as_long_as_any_of_the_space(tmp_path):
    space = "{rate: {low: 1, high: 9}, epochs: {choices: [3, 10, 6]}}"
    costs = arm_costs(SearchedStudy(tmp_path, space).tuning())
    assert {cost.n_most for cost in costs.values()} == {N_PRETRAINING + 3 * 10}


@pytest.mark.parametrize("space", ["{rate: {low: 1, high: 9}}", SCALED])
@pytest.mark.parametrize("budget", ["trials: 4", "budget: 1", "budget: 17", "budget: 40"])
def test_no_course_of_a_search_costs_more(tmp_path, space, budget):
    study = SearchedStudy(tmp_path, space, budget)
    tuning = study.tuning()
    costs = arm_costs(tuning)
    draw = random.Random(0)
    for _ in range(50):
        total: set[str] = set()
        for name, arm in tuning.arms.items():
            own: set[str] = set()
            n = 0
            while (
                n < tuning.search.trials
                if tuning.search.trials
                else len(own) < tuning.search.budget
            ):
                values = {"rate": draw.random(), "scale": draw.choice([1, 2, 3])}
                settings = {**arm.settings, **{key: values[key] for key in arm.space}}
                chain = study.subject.chain(settings, tuning.search.seeds[0], None)
                before = draw.choice([1, N_EPOCHS, N_EPOCHS])
                own |= {link.key for link in chain[: N_PRETRAINING + before]}
                n += 1
            assert len(own) <= costs[name].n_most
            total |= own
        assert len(total) <= len(left(costs))


def test_several_trials_at_a_time_and_seeds_cost_as_much_and_take_less_time(tmp_path):
    grid = SearchedStudy(tmp_path, budget="trials: 4\n  parallel: 2\n  seeds: [100, 101]")
    path = grid.root / "grid.yaml"
    path.write_text(path.read_text().replace("pruner: hyperband", "pruner: none"))
    cost = arm_costs(grid.tuning())["reference"]
    assert cost.n_most == 2 * (N_PRETRAINING + 4 * N_EPOCHS)
    assert len(cost.chains) == 2 * 2
    assert {len(links) for links in cost.chains.values()} == {N_PRETRAINING + 2 * N_EPOCHS}


def test_a_grid_has_as_many_trials_as_cells(tmp_path):
    study = SearchedStudy(tmp_path, "{rate: {choices: [1, 2]}}", "trials: 30\n  sampler: grid")
    cost = arm_costs(study.tuning())["reference"]
    assert (cost.n_trials, cost.n_most) == (2, N_PRETRAINING + 2 * N_EPOCHS)


@pytest.mark.parametrize(
    ("budget", "n_trials"),
    # the last trial begins with one epoch left, where the others were pruned
    [(1, 1), (3, 1), (4, 2), (9, 2), (10, 3)],
)
def test_a_budget_of_epochs_costs_as_many_trials_as_may_begin(tmp_path, budget, n_trials):
    cost = arm_costs(SearchedStudy(tmp_path, budget=f"budget: {budget}").tuning())["reference"]
    assert (cost.n_trials, cost.n_most) == (None, N_PRETRAINING + n_trials * N_EPOCHS)


def test_nothing_is_left_of_a_budget_that_is_spent(tmp_path):
    study = SearchedStudy(tmp_path, budget=f"budget: {N_PRETRAINING + N_EPOCHS}")
    log = study.tuning().arms["reference"].log
    log.append({"ask": 0, "values": {"rate": 1}})
    log.append({"end": 0, "state": "COMPLETE", "value": 50.0})
    cost = arm_costs(study.tuning())["reference"]
    assert (cost.n_most, cost.chains) == (N_PRETRAINING + N_EPOCHS, {})


def test_what_has_ended_is_not_left_and_what_is_open_is_as_far_as_it_is_not_recorded(tmp_path):
    study = SearchedStudy(tmp_path)
    arm = study.tuning().arms["reference"]
    arm.log.append({"ask": 0, "values": {"rate": 1}})
    arm.log.append({"end": 0, "state": "COMPLETE", "value": 50.0})
    arm.log.append({"ask": 1, "values": {"rate": 5}})
    cost = arm_costs(study.tuning())["reference"]
    # the two share pre-training and the warm-up
    assert cost.n_most == N_PRETRAINING + N_EPOCHS + (N_EPOCHS - 2) + N_EPOCHS
    assert (cost.n_ended, cost.n_trials) == (1, 3)
    keys = set(left({"": cost}))
    of_open = study.subject.chain({**arm.settings, "rate": 5}, 100, None)
    assert {link.key for link in of_open} < keys
    assert len(keys) == len(of_open) + N_EPOCHS


def test_after_its_search_a_study_has_tuned_and_untuned_arms_that_share_pre_training(tmp_path):
    toy = SearchedStudy(tmp_path)
    planned = toy.planned()
    study, plan = study_at_most(toy.tuning(), planned.plan)
    names = ["reference", "warmup=cold", "reference.untuned", "warmup=cold.untuned"]
    assert [variant.name for variant in study.variants] == names
    assert list(plan.trials) == [f"{name}--s{seed}" for name in names for seed in (0, 1)]
    kinds = {spec.arm: spec.kind for spec in plan.specs}
    assert list(kinds.values()) == ["arm", "arm", "untuned", "untuned"]
    untuned = plan.trials["reference.untuned--s0"]
    assert untuned.links == planned.plan.trials["reference--s0"].links
    # tuned: all but pre-training; untuned: the arms share an epoch of warm-up
    assert len(plan.unique()) == 2 * (N_PRETRAINING + 2 * N_EPOCHS + 2 * N_EPOCHS - 1)
    assert sum(spec.epochs_trained for spec in plan.specs) == len(plan.unique())
