"""What a study will compute, before it runs, while it grows, and when the cache no longer knows."""

import pytest
from toy_study import ToyStudy
from toy_subject import Toy

from ablation.planning.plan import expected


@pytest.fixture
def toy(tmp_path):
    return ToyStudy(tmp_path, Toy(settles_after={0: 1, 1: 2}))


def phases(plan) -> dict[str, str]:
    """Trial -> a letter an epoch."""
    return {
        name: "".join(link.phase[0] for link in trial.links) for name, trial in plan.trials.items()
    }


def test_a_chain_that_records_decide_is_planned_at_its_longest(toy):
    assert phases(toy.plan()) == {
        "reference--s0": "wwjj", "reference--s1": "wwjj", "warmup=settling--s0": "wwwj", "warmup=settling--s1": "wwwj",
        "rate=fast--s0": "wwjj", "rate=fast--s1": "wwjj", "warmup=settling+rate=fast--s0": "wwwj", "warmup=settling+rate=fast--s1": "wwwj",
    }  # fmt: skip


def test_naive_and_unique_epochs(toy):
    plan = toy.plan("[0]")
    assert plan.n_naive() == 4 * 4
    assert (
        len(plan.unique()) == 3 + 2 * 2 + 2
    )  # warm-up, two rates after two epochs of it, two after three


def test_a_finished_study_is_planned_as_it_went(toy, monkeypatch):
    went = toy.run(monkeypatch)
    assert (
        phases(went)["warmup=settling--s0"] == "wjjj"
        and phases(went)["warmup=settling--s1"] == "wwjj"
    )
    assert toy.plan() == went


def test_a_finished_study_is_planned_as_it_went_even_if_the_cache_has_been_cleared(
    toy, monkeypatch
):
    went = toy.run(monkeypatch)
    toy.store.clear()
    assert toy.plan() == went
    assert expected(toy.study(), toy.plan(), toy.store, toy.folder) == went
    assert not toy.plan().unfinished(toy.folder).trials


def test_a_new_seed_is_expected_to_go_as_a_finished_one_and_is_planned_at_its_longest(
    toy, monkeypatch
):
    toy.run(monkeypatch)
    plan = toy.plan("[0, 1, 2]")
    assert phases(plan)["warmup=settling--s2"] == "wwwj"
    alike = phases(expected(toy.study("[0, 1, 2]"), plan, toy.store, toy.folder))
    assert alike == {
        **phases(plan),
        "warmup=settling--s2": "wwjj",
        "warmup=settling+rate=fast--s2": "wwjj",
    }


def test_what_is_expected_changes_no_trial_s_identity(toy, monkeypatch):
    toy.run(monkeypatch)
    plan = toy.plan("[0, 1, 2]")
    alike = expected(toy.study("[0, 1, 2]"), plan, toy.store, toy.folder)
    assert [spec.key for spec in alike.specs] == [spec.key for spec in plan.specs]


def test_unfinished_trials_are_those_without_an_outcome_of_their_own(toy, monkeypatch):
    toy.run(monkeypatch)
    plan = toy.plan("[0, 1, 2]")
    assert set(plan.unfinished(toy.folder).trials) == {
        name for name in plan.trials if name.endswith("--s2")
    }
