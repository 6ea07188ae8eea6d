"""The order in which segments are handed out."""

from ablation.planning.plan import Schedule
from ablation.subject.protocol import Link


def links(*keys: str, cost: float = 1.0) -> list[Link]:
    return [Link(key, "train", i + 1, cost) for i, key in enumerate(keys)]


CHAINS = {
    "short": links("a", "b", "s1"),
    "long": links("a", "b", "l1", "l2", "l3"),
    "other": links("x", "y"),
}


def drained(schedule: Schedule) -> list[str]:
    """Ends in the order in which one worker would run them."""
    order = []
    while (segment := schedule.next()) is not None:
        order.append(segment.end)
        schedule.done(segment.end)
    return order


def test_a_shared_prefix_runs_once_and_first_and_the_longest_path_goes_before_the_others():
    assert drained(Schedule(CHAINS, True, lambda segment: False)) == ["b", "l3", "y", "s1"]


def test_children_wait_for_their_parent():
    schedule = Schedule(CHAINS, True, lambda segment: False)
    assert [schedule.next().end, schedule.next().end] == ["b", "y"]
    assert schedule.next() is None
    schedule.done("b")
    assert [schedule.next().end, schedule.next().end] == ["l3", "s1"]


def test_what_is_there_is_passed_over():
    assert drained(Schedule(CHAINS, True, lambda segment: segment.end in ("b", "y"))) == [
        "l3",
        "s1",
    ]


def test_children_of_what_was_there_before_its_worker_said_so_are_handed_out_once():
    schedule = Schedule(CHAINS, True, lambda segment: segment.end == "b")
    first = schedule.next().end
    schedule.done("b")
    assert [first, *drained(schedule)] == ["l3", "y", "s1"]


def test_segments_that_overlap_what_is_being_run_wait():
    schedule = Schedule(
        {"long": CHAINS["long"], "other": CHAINS["other"]}, True, lambda segment: False, busy=["b"]
    )
    assert drained(schedule) == [
        "y"
    ]  # "long" is one segment now, and its links a and b are in another worker's hands


def test_without_sharing_every_trial_is_a_segment_of_its_own():
    assert drained(Schedule(CHAINS, False, lambda segment: False)) == ["long", "short", "other"]
    assert drained(Schedule(CHAINS, False, lambda segment: False, busy=["long"])) == [
        "short",
        "other",
    ]


def test_ten_thousand_trials_are_handed_out_each_once():
    chains = {str(i): links("root", f"leaf{i}") for i in range(10_000)}
    assert sorted(drained(Schedule(chains, True, lambda segment: False))) == sorted(
        ["root", *(f"leaf{i}" for i in range(10_000))]
    )
