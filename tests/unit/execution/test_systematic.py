"""When a study is given up because its trials all fail alike, and when it goes on."""

import pytest

from ablation.execution.systematic import Failures
from ablation.storage.runs import TrialSpec, failure


def spec(arm, seed=0, **levels):
    return TrialSpec(f"{arm}--s{seed}", arm, "arm", levels, seed, "", {}, 1, 1, 0)


PLANNED = [
    spec(f"{a}{b}", seed, a=a, b=b) for a in ("off", "on") for b in ("off", "on") for seed in (0, 1)
]
OFF, WITH_B, _, BOTH = PLANNED[::2]
WITH_A = PLANNED[5]


def verdict(*failed, ran=False):
    failures = Failures()
    for one, (type_, message) in failed:
        failures.failed(one if isinstance(one, list) else [one], failure(type_, message))
    if ran:
        failures.ran()
    return failures.are_systematic(PLANNED)


def alike(*specs, error=("CommandFailed", "exit code 2: no such flag --rate")):
    return [(one, error) for one in specs]


def test_three_failures_by_one_cause_under_both_levels_of_every_factor_are_systematic():
    assert verdict(*alike(OFF, WITH_B, WITH_A))
    assert not verdict(*alike(OFF, BOTH))
    assert not verdict(*alike(OFF, WITH_B, WITH_A), ran=True)


def test_what_failures_alone_have_in_common_may_be_their_cause():
    # all without a: with it, trials may run
    assert not verdict(*alike(OFF, WITH_B, *PLANNED[1:4:2]))
    # of one seed, of which a split may be damaged
    assert not verdict(*alike(*PLANNED[::2]))
    # of one arm
    assert not verdict(*alike(OFF, PLANNED[1], OFF))


def test_work_that_trials_share_fails_once():
    shared = PLANNED[::2]
    assert not verdict(*alike(shared, PLANNED[1::2]))
    assert verdict(*alike(shared, PLANNED[1::2], shared))


def test_the_numbers_and_the_trial_in_a_message_do_not_count_and_other_words_do():
    def said(one, rate):
        return one, ("CommandFailed", f"exit code 2: --rate {rate}; see runs/x/{one.trial}/log")

    assert verdict(said(OFF, 0.1), said(WITH_A, "1e-05"), said(WITH_B, 10))
    assert not verdict(said(OFF, 0.1), said(WITH_A, "adam"), said(WITH_B, 10))


@pytest.mark.parametrize("type_", ["Diverged", "NotFinite", "TimeLimit", "MemoryLimit"])
def test_results_do_not_count_and_show_that_trials_can_run(type_):
    assert not verdict(*alike(OFF, WITH_B, WITH_A, error=(type_, "so it ended")))
    assert not verdict((BOTH, (type_, "so it ended")), *alike(OFF, WITH_B, WITH_A))
