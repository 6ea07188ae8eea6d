"""A pass over a study: every epoch once, whatever the cache loses meanwhile; or every trial alone, leaving nothing."""

import shutil
from collections import Counter

import pytest
from toy_study import ToyStudy
from toy_subject import Toy

from ablation.execution import executor as execution
from ablation.execution.executor import Execution
from ablation.execution.workers import Limits, Task
from ablation.planning.forecast import Listener
from ablation.storage.cache import DiskStore

ARMS = ("reference", "warmup=settling", "rate=fast", "warmup=settling+rate=fast")
TRIALS = [f"{arm}--s{seed}" for arm in ARMS for seed in (0, 1)]


@pytest.fixture
def toy(tmp_path):
    return ToyStudy(tmp_path, Toy(settles_after={0: 1, 1: 2}))


def outcomes(toy) -> dict[str, str]:
    """Trial -> what became of it."""
    found = {trial: toy.folder.outcome(trial) for trial in TRIALS}
    return {
        trial: outcome.state if outcome.error is None else outcome.error["type"]
        for trial, outcome in found.items()
    }


COMPLETE = dict.fromkeys(TRIALS, "COMPLETE")


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_epoch_is_trained_once(toy, monkeypatch, jobs):
    plan = toy.run(monkeypatch, jobs)
    assert sorted(key for _, key in toy.ran) == sorted(plan.unique())
    assert outcomes(toy) == COMPLETE


def test_a_checkpoint_that_another_study_evicts_at_once_fails_no_trial(toy, monkeypatch):
    toy.run(monkeypatch, after=lambda request: toy.store.trim(0))
    assert outcomes(toy) == COMPLETE
    assert not any(entry.kind == "state" for entry in toy.store.entries())
    assert [record["metrics"]["top1"] for record in toy.folder.records("rate=fast--s1")] == [
        11.0,
        21.0,
        31.0,
        41.0,
    ]


def test_what_another_study_finishes_between_two_looks_is_taken_over(toy, monkeypatch):
    """Its last records come when trials have been looked through and before their segments are."""
    toy.run(monkeypatch)
    shutil.rmtree(toy.folder.path)
    look, looks = Execution._complete_if_whole, Counter()

    def late(execution, name):
        looks[name] += 1
        return looks[name] > 2 and look(execution, name)

    monkeypatch.setattr(Execution, "_complete_if_whole", late)
    toy.ran.clear()
    toy.run(monkeypatch)
    assert outcomes(toy) == COMPLETE and toy.ran == []


def test_a_worker_that_does_not_leave_what_was_planned_fails_its_trials(toy, monkeypatch):
    def lose_records(request):
        for entry in toy.store.entries():
            if entry.path.name.startswith("seed0 ww1"):
                entry.path.unlink()

    toy.run(monkeypatch, after=lose_records)
    assert outcomes(toy) == COMPLETE | {"reference--s0": "PlanChanged"}


def test_without_sharing_every_trial_runs_all_its_epochs_and_leaves_no_store(toy, monkeypatch):
    plan = toy.run(monkeypatch, share=False)
    assert (
        Counter(trial for trial, _ in toy.ran)
        == {name: len(trial.links) for name, trial in plan.trials.items()}
        == dict.fromkeys(TRIALS, 4)
    )
    assert outcomes(toy) == COMPLETE
    assert [path for path in toy.store.root.rglob("*") if path.is_file()] == []


def test_with_and_without_sharing_trials_leave_the_same_files(toy, tmp_path_factory, monkeypatch):
    alone = ToyStudy(tmp_path_factory.mktemp("alone"), toy.subject)
    toy.run(monkeypatch)
    alone.run(monkeypatch, share=False)
    for trial in TRIALS:
        assert toy.folder.records(trial) == alone.folder.records(trial)
        assert toy.folder.outcome(trial) == alone.folder.outcome(trial)


def test_a_trial_that_fails_alone_keeps_its_store_to_be_tried_again_from(toy, monkeypatch):
    def diverge(settings, seed, until, store, report, whole=toy.subject.advance):
        if (
            settings == {"warmup": 2, "rate": 2}
            and seed == 1
            and not store.holds("state", "seed1 ww")
        ):
            whole(settings, seed, "seed1 ww", store, report)
            raise ArithmeticError("it diverged")
        whole(settings, seed, until, store, report)

    monkeypatch.setattr(toy.subject, "advance", diverge)
    toy.run(monkeypatch, share=False)
    assert outcomes(toy) == COMPLETE | {"rate=fast--s1": "ArithmeticError"}
    left = {entry.path.name for entry in DiskStore(toy.store.root).entries()}
    assert left == {"seed1 w", "seed1 ww"}
    (toy.folder.trial_path("rate=fast--s1") / "outcome.json").unlink()
    toy.ran.clear()
    toy.run(monkeypatch, share=False)
    assert toy.ran == [("rate=fast--s1", "seed1 ww2"), ("rate=fast--s1", "seed1 ww22")]
    assert outcomes(toy) == COMPLETE and not list(toy.store.entries())


def test_trials_of_one_name_in_two_studies_run_alone_at_once_in_stores_of_their_own(toy):
    first, second = (toy.store.alone(study, "reference--s0") for study in ("toy", "other"))
    first.save("record", "a" * 32, b"{}")
    assert not second.holds("record", "a" * 32)
    second.clear()
    assert first.holds("record", "a" * 32)


def test_a_listener_hears_what_a_segment_took_apart_from_its_epochs_and_whether_a_worker_was_started_for_it(
    toy, monkeypatch
):
    heard = []

    class Ear(Listener):
        def ran(self, is_first, seconds):
            heard.append((is_first, seconds))

    toy.run(monkeypatch, jobs=2, listener=Ear())
    assert sum(is_first for is_first, _ in heard) == 2
    assert all(
        seconds < 0 for _, seconds in heard
    )  # a toy's epoch says that it took an hour, and took none


@pytest.mark.parametrize("share", [True, False])
def test_a_time_limit_counts_the_epochs_before_and_those_up_to_the_last_checkpoint(
    toy, monkeypatch, share
):
    """An epoch of the toy says that it took an hour."""
    hours = []

    def noting(segment, trial, is_first, seconds_before):
        hours.append(seconds_before / 3600)
        return Task(segment, trial, is_first, seconds_before)

    monkeypatch.setattr(execution, "Task", noting)
    toy.work_here(monkeypatch)
    limits = Limits(seconds=1e9)
    Execution(toy.study(), toy.plan(), toy.store, toy.folder, Listener(), share, limits).run(1)
    assert outcomes(toy) == COMPLETE
    assert set(hours) == {0.0, 1.0, 2.0}
