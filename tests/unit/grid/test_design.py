"""Which arms each design has, in which order, under which names."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.grid.design import DESIGNS, Arm, Factor, Level, arms, n_cells


def factor(name, *levels):
    return Factor(name, tuple(Level(level, {name: level}) for level in levels))


LR, WARMUP, ROUTING = (
    factor("lr", "off", "on"),
    factor("warmup", "off", "plateau", "on"),
    factor("routing", "sum", "stop", "pc"),
)
TOGGLES = [factor(name, "off", "on") for name in "abc"]


def names(factors, *designs):
    return [arm.name for arm in arms(factors, designs)]


def test_factorial_goes_from_the_reference_over_single_fixes_to_the_full_arm():
    assert names(TOGGLES, "factorial") == ["reference", "a", "b", "c", "a+b", "a+c", "b+c", "a+b+c"]


def test_leave_one_out_is_the_full_arm_and_each_factor_taken_back():
    assert names(TOGGLES, "leave-one-out") == ["b+c", "a+c", "a+b", "a+b+c"]
    assert (
        names([LR, WARMUP, ROUTING], "leave-one-out")[-1] == "lr+warmup+routing=stop"
    )  # full: `on`, else the second level


def test_add_one_in_is_the_reference_and_each_factor_alone():
    assert names([LR, WARMUP, ROUTING], "add-one-in") == [
        "reference",
        "lr",
        "warmup",
        "routing=stop",
    ]


def test_one_factor_visits_every_level_alone():
    assert names([LR, WARMUP, ROUTING], "one-factor") == [
        "reference",
        "lr",
        "warmup=plateau",
        "warmup",
        "routing=stop",
        "routing=pc",
    ]


def test_designs_are_united_without_repetition():
    assert names(TOGGLES, "add-one-in", "leave-one-out") == [
        "reference",
        "a",
        "b",
        "c",
        "b+c",
        "a+c",
        "a+b",
        "a+b+c",
    ]
    assert names(TOGGLES[:2], "leave-one-out", "add-one-in", "factorial") == [
        "reference",
        "b",
        "a",
        "a+b",
    ]


def test_full_is_the_second_level_where_on_is_the_reference():
    assert factor("prototype", "on", "off", "half").full.name == "off"
    assert names([factor("prototype", "on", "off")], "leave-one-out") == [
        "reference",
        "prototype=off",
    ]


def test_an_arm_knows_all_its_levels_and_overrides_in_the_order_of_factors():
    assert arms([LR, ROUTING], ["factorial"])[1] == Arm(
        "lr", {"lr": "on", "routing": "sum"}, {"lr": "on", "routing": "sum"}
    )
    assert list(arms([LR, ROUTING], ["factorial"])[-1].overrides) == ["lr", "routing"]


def test_extra_arms_come_last_as_they_are():
    extra = Arm("mine", {}, {"lr": 5})
    assert arms([LR], ["factorial"], [extra])[2:] == [extra]


def test_an_unknown_design_is_refused():
    with pytest.raises(ValueError, match="unknown design 'grid'"):
        arms([LR], ["grid"])


@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.sampled_from(DESIGNS))
def test_every_design_has_distinct_arms_as_many_as_announced(sizes, design):
    factors = [factor(f"f{i}", *(f"l{j}" for j in range(size))) for i, size in enumerate(sizes)]
    found = arms(factors, [design])
    assert len(found) == n_cells(factors, design)
    assert (
        len({arm.name for arm in found})
        == len({tuple(arm.levels.items()) for arm in found})
        == len(found)
    )
    if design == "factorial":
        everything = itertools.product(*([level.name for level in f.levels] for f in factors))
        assert {tuple(arm.levels.values()) for arm in found} == set(everything)
