"""What is said at the end of a run agrees with the report."""

import pytest
from fabricate import FACTORS, study

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import judge
from ablation.analysis.results import load
from ablation.reporting.conclusion import conclusion
from ablation.reporting.report import answer


def both(folder) -> tuple[list[str], str]:
    """The lines, and the report's answer."""
    results = load(folder)
    effects = judge(results)
    claims = judge_claims(results, effects)
    return conclusion(results, effects, claims), answer(results, effects, claims)


def test_three_lines_say_what_is_decided_the_best_arm_and_what_is_not_decided(tmp_path):
    claim = {
        "id": "split-helps",
        "says": "Splitting helps.",
        "contrast": {"factor": "lr_split", "from": "off", "to": "on"},
        "expects": [{"metric": "test/top1", "direction": "up"}],
    }
    folder = study(tmp_path, factors=FACTORS, seeds=range(5), claims=[claim])
    (decided, best, undecided), told = both(folder)
    assert decided.startswith("decided: lr_split: off -> on raises top-1 by ")
    assert decided.removeprefix("decided: ").split("; ")[0] in told.replace("`", "")
    assert best.startswith("best arm: none can be called so; ") and "not separable from" in best
    assert "No arm can be called the best" in told
    assert undecided == (
        "undecided: gradient_decoupling: off -> on; Of 1 claim: 1 supported (split-helps)"
    )


def test_the_best_arm_is_named_where_it_is_separable(tmp_path):
    only = {"lr_split": FACTORS["lr_split"]}
    lines, told = both(study(tmp_path, factors=only, seeds=range(5), noise=0.1))
    assert "The best arm is `lr_split`" in told
    assert lines[1].startswith("best arm: lr_split (") and lines[1].endswith(
        "), separable from all others that finished"
    )
    # nothing is undecided
    assert len(lines) == 2


def test_where_effects_do_not_add_up_they_are_told_level_by_level(tmp_path):
    def top1(levels):
        return 60.0 + 20.0 * (levels.get("lr_split") == levels.get("warmup") == "on")

    factors = {name: FACTORS[name] for name in ("lr_split", "warmup")}
    (decided, _, undecided), told = both(
        study(tmp_path, factors=factors, seeds=range(5), top1=top1)
    )
    assert "Level by level" in told
    found = decided.removeprefix("decided on top-1: ").split("; ")
    assert [text.partition("=on ")[0] for text in found] == [
        "lr_split: off -> on at warmup",
        "warmup: off -> on at lr_split",
    ]
    assert all(text in told.replace("`", "") for text in found)
    assert undecided == (
        "undecided: lr_split: off -> on at warmup=off, warmup: off -> on at lr_split=off"
    )


@pytest.mark.parametrize("baselines", [(), ("ce", "ldmlr")])
def test_one_seed_decides_nothing(tmp_path, baselines):
    lines, _ = both(study(tmp_path, seeds=[0], baselines=baselines))
    assert lines[0] == "decided on one seed: no effect of a factor is separable from 0"
    assert lines[1].startswith("best arm: one seed can call none so; ")


def test_a_study_of_which_nothing_has_finished_says_nothing_wrong(tmp_path):
    lines, _ = both(study(tmp_path, state=lambda spec: "FAILED"))
    assert not any(line.startswith("best arm") for line in lines)
