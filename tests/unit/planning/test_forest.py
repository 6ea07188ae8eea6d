"""Chains cut into segments where trials part: what runs once, what must run before, what is most urgent."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.planning.plan import PlannedTrial, segments, separate, with_ownership
from ablation.storage.runs import TrialSpec
from ablation.subject.protocol import Link


def chain(path, cost=lambda key: 1.0):
    """A letter is a choice; a link's key is all choices so far, as a trial's keys are."""
    return [Link(path[: i + 1], "train", i + 1, cost(path[: i + 1])) for i in range(len(path))]


def chains(**paths):
    return {name: chain(path) for name, path in paths.items()}


def cut(found):
    """end -> (its keys, parent, trials), in order."""
    return {end: ([link.key for link in s.links], s.parent, s.trials) for end, s in found.items()}


def ownership(trials):
    """Trial -> (links that no earlier trial has, links that it shares with one)."""
    spec = TrialSpec("", "", "arm", {}, 0, "", {}, 0, 0, 0)
    plan = with_ownership({name: PlannedTrial(spec, trials[name], False) for name in trials})
    counts = {name: trial.spec for name, trial in plan.trials.items()}
    return {name: (spec.epochs_trained, spec.epochs_shared) for name, spec in counts.items()}


def test_a_trial_alone_is_one_segment():
    assert cut(segments(chains(a="xyz"))) == {"xyz": (["x", "xy", "xyz"], None, ["a"])}


def test_trials_that_part_share_the_segment_before():
    assert cut(segments(chains(a="xxaa", b="xxbb"))) == {
        "xx": (["x", "xx"], None, ["a", "b"]),
        "xxaa": (["xxa", "xxaa"], "xx", ["a"]),
        "xxbb": (["xxb", "xxbb"], "xx", ["b"]),
    }


def test_a_trial_that_ends_within_another_cuts_it():
    for paths in ({"short": "xy", "long": "xyz"}, {"long": "xyz", "short": "xy"}):
        found = segments(chains(**paths))
        assert [link.key for link in found["xy"].links] == ["x", "xy"]
        assert found["xyz"].parent == "xy" and found["xyz"].trials == ["long"]
        assert found["xy"].trials == list(paths)


def test_equal_trials_are_one_segment():
    assert cut(segments(chains(a="xyz", b="xyz"))) == {
        "xyz": (["x", "xy", "xyz"], None, ["a", "b"])
    }


def test_nothing_in_common_and_nothing_at_all():
    assert list(segments(chains(a="xx", b="yy"))) == ["xx", "yy"]
    assert segments({}) == {}


def test_the_critical_path_is_the_longest_way_to_an_end():
    found = segments(
        {"a": chain("xaaa"), "b": chain("xb", cost=lambda key: {"x": 1.0, "xb": 5.0}[key])}
    )
    assert found["x"].critical == 6.0  # through b, whose one epoch is worth five
    assert (found["xaaa"].critical, found["xb"].critical) == (3.0, 5.0)


def test_without_sharing_every_trial_is_a_segment_of_its_own():
    found = separate(chains(a="xx", b="xy"))
    assert cut(found) == {"a": (["x", "xx"], None, ["a"]), "b": (["x", "xy"], None, ["b"])}
    assert [s.critical for s in found.values()] == [2.0, 2.0]


def test_a_shared_epoch_is_trained_by_the_first_trial_in_plan_order():
    assert ownership(chains(a="xxa", b="xxb", c="xxb", d="y")) == {
        "a": (3, 0),
        "b": (1, 2),
        "c": (0, 3),
        "d": (1, 0),
    }


PATHS = st.lists(st.text("ab", min_size=1, max_size=7), min_size=1, max_size=8)
COSTS = st.integers(1, 9)


@st.composite
def forests(draw):
    """Chains that share prefixes, some of them equal, some ending within another; whole costs add up exactly."""
    costs = {}

    def cost(key):
        if key not in costs:
            costs[key] = float(draw(COSTS))
        return costs[key]

    return {f"trial {i}": chain(path, cost) for i, path in enumerate(draw(PATHS))}


def path_to(found, end):
    """The segments from a root to `end`."""
    path = []
    while end is not None:
        path.insert(0, found[end])
        end = found[end].parent
    return path


@given(forests())
def test_segments_partition_the_links_of_every_chain(trials):
    found = segments(trials)
    for name, links in trials.items():
        path = path_to(found, links[-1].key)
        assert [link for segment in path for link in segment.links] == links
        assert all(name in segment.trials for segment in path)
        assert sum(name in segment.trials for segment in found.values()) == len(
            path
        )  # it passes through no other
    keys = [link.key for segment in found.values() for link in segment.links]
    assert sorted(keys) == sorted(
        {link.key for links in trials.values() for link in links}
    )  # each link once


@given(forests())
def test_segments_end_exactly_where_trials_part_or_end(trials):
    through = {}
    for name, links in trials.items():
        for link in links:
            through.setdefault(link.key, []).append(name)
    ends = {links[-1].key for links in trials.values()}
    parts = {
        a.key
        for links in trials.values()
        for a, b in itertools.pairwise(links)
        if through[a.key] != through[b.key]
    }
    found = segments(trials)
    assert set(found) == ends | parts
    for end, segment in found.items():
        assert segment.end == end == segment.links[-1].key
        assert segment.trials == through[end]  # in plan order


@given(forests())
def test_parents_stand_before_their_children(trials):
    found = segments(trials)
    order = list(found)
    for end, segment in found.items():
        if segment.parent is not None:
            assert order.index(segment.parent) < order.index(end)
            assert segment.parent == segment.links[0].key[:-1]  # the link right before
        assert segment.children == [child for child in order if found[child].parent == end]


@given(forests())
def test_the_critical_path_equals_that_of_every_trial_followed_to_its_end(trials):
    for segment in segments(trials).values():
        first = segment.links[0].epoch
        assert segment.critical == max(
            sum(link.cost for link in trials[name] if link.epoch >= first)
            for name in segment.trials
        )


@given(forests())
def test_every_link_is_owned_once(trials):
    owned = ownership(trials)
    assert sum(new for new, _ in owned.values()) == len(
        {link.key for links in trials.values() for link in links}
    )
    assert all(new + shared == len(trials[name]) for name, (new, shared) in owned.items())


@pytest.mark.parametrize("cut_off", [segments, separate])
def test_all_links_are_there_whether_shared_or_not(cut_off):
    trials = chains(a="xxa", b="xxb", c="y")
    keys = [link.key for segment in cut_off(trials).values() for link in segment.links]
    assert set(keys) == {link.key for links in trials.values() for link in links}
    assert len(keys) == (5 if cut_off is segments else 7)
