"""The forecast is the schedule run through: what is shared is waited for, what is there costs nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_forest import forests

from ablation.planning.forecast import SEGMENT, START, forecast, makespan
from ablation.planning.plan import Schedule
from ablation.storage.cache import DiskStore
from ablation.subject.protocol import Link

SECONDS = {"pretrain": 10.0, "joint": 4.0}


def chain(*epochs: str) -> list[Link]:
    """`p1 p2 ja3`: phase, arm and epoch; a key is all epochs so far."""
    phases = {"p": ("pretrain", 1.0), "j": ("joint", 0.5), "e": ("evaluate", 0.25)}
    return [
        Link(" ".join(epochs[: i + 1]), phases[name[0]][0], i + 1, phases[name[0]][1])
        for i, name in enumerate(epochs)
    ]


FORK = {"a": chain("p", "ja", "ja"), "b": chain("p", "jb", "jb")}


@pytest.fixture
def store(tmp_path) -> DiskStore:
    return DiskStore(tmp_path)


def test_one_worker_takes_the_sum_of_the_unique_epochs(store):
    assert forecast(FORK, store, SECONDS, jobs=1) == 10 + 4 * 4


def test_arms_that_part_wait_for_their_common_past_however_many_workers_there_are(store):
    assert (
        forecast(FORK, store, SECONDS, jobs=2)
        == forecast(FORK, store, SECONDS, jobs=9)
        == 10 + 2 * 4
    )


def test_every_worker_takes_its_time_to_start_and_every_later_segment_its_own(store):
    times = {**SECONDS, START: 3.0, SEGMENT: 0.5}
    assert forecast(FORK, store, times, jobs=1) == (3 + 10) + (0.5 + 8) + (0.5 + 8)
    assert forecast(FORK, store, times, jobs=2) == (3 + 10) + (
        3 + 8
    )  # the second worker starts when there is work for it


def test_what_is_there_costs_nothing(store):
    for link in FORK["a"]:
        store.save("record", link.key, b"{}")
    for key in ("p", "p ja ja"):
        store.save("state", key, b"")
    assert forecast(FORK, store, SECONDS, jobs=1) == 2 * 4


def test_an_interrupted_segment_goes_on_from_its_last_checkpoint(store):
    for key in ("p", "p ja"):
        store.save("record", key, b"{}")
        store.save("state", key, b"")
    assert forecast(FORK, store, SECONDS, jobs=1) == 3 * 4


def test_an_evicted_checkpoint_is_made_again(store):
    store.save("record", "p", b"{}")
    assert forecast(FORK, store, SECONDS, jobs=1) == 10 + 4 * 4


def test_a_phase_that_was_never_measured_is_scaled_from_those_that_were_by_planned_cost(store):
    chains = {"a": chain("p", "e")}
    assert forecast(chains, store, SECONDS, jobs=1) == 10 + 0.25 * 10


@pytest.mark.parametrize("known", [{}, {START: 3.0}, {"head": 1.0}])
def test_without_a_measured_epoch_there_is_no_forecast(store, known):
    assert forecast(FORK, store, known, jobs=1) is None


@given(forests(), st.integers(1, 4))
def test_no_schedule_is_shorter_than_its_longest_path_or_its_work_or_longer_than_both_together(
    trials, jobs
):
    schedule = Schedule(trials, True, lambda segment: False)
    cost = {
        end: sum(link.cost for link in segment.links) for end, segment in schedule.segments.items()
    }
    longest = max(segment.critical for segment in schedule.segments.values())
    span = makespan(schedule, cost.get, jobs, start=0.0, between=0.0)
    assert max(longest, sum(cost.values()) / jobs) <= span + 1e-9
    assert (
        span <= longest + sum(cost.values()) / jobs + 1e-9
    )  # Graham 1966: no worker is idle while a segment can run
