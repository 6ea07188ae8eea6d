"""What is planted in training code comes back in the report: effects of known size, toggles that do nothing, divergence."""

import re
from pathlib import Path

import pandas as pd
import pytest
from test_study import ablate

PLANTED = """
import random


class Diverged(ArithmeticError):
    pass


def train(config, seed, report):
    step, mix = config["step"] == "on", config["mix"] == "on"  # `dead` is read by nobody
    if config.get("brittle") == "on" and seed > 0:
        raise Diverged("the loss is NaN at epoch 2")
    shared, own = random.Random(seed), random.Random(f"{seed}, {step}, {mix}")
    top1 = 60 + 6 * step - 3 * mix + 4 * (step and mix) + shared.gauss(0, 3) + own.gauss(0, 0.4)
    for epoch in (1, 2, 3):
        report(epoch, {"test/top1": top1 - 9 / epoch, "diag/latent_drift": 0.3 - 0.2 * step + own.gauss(0, 0.01)})
    return {"test/top1": top1, "diag/latent_drift": 0.3 - 0.2 * step + own.gauss(0, 0.01)}
"""
EXPERIMENT = "title: Planted effects\nsubject: planted:train\nsettings: {step: 'off', mix: 'off', dead: 'off', idle: 'off', brittle: 'off'}\n"
GRID = """
study: {name}
experiment: experiment
metric: test/top1
design: factorial
seeds: {seeds}
factors:
{factors}
claims:
  - {{id: up, says: It lifts., contrast: {{factor: {first}, from: off, to: on}}, expects: [{{metric: test/top1, direction: up}}, {{metric: diag/latent_drift, direction: down}}]}}
  - {{id: none, says: The dead one changes nothing., contrast: {{factor: dead, from: off, to: on}}, expects: [{{metric: test/top1, direction: none}}]}}
"""
TRUTH = {  # averaged over the other factors
    "step: off -> on": 8.0,
    "mix: off -> on": -1.0,
    "step x mix": 4.0,
    "step: off -> on (alone)": 6.0,
    "step: off -> on (added last)": 10.0,
    "mix: off -> on (alone)": -3.0,
    "mix: off -> on (added last)": 1.0,
}
DEAD = "no effect by construction"


def reported(
    folder: Path, *factors: str, seeds: int = 8, expect: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """`ablate run` on a grid of these factors: effects on top-1, claims, report.md."""
    (folder / "planted.py").write_text(PLANTED)
    (folder / "experiment.yaml").write_text(EXPERIMENT)
    levels = "\n".join(
        f"  {name}: {{off: {{{name}: 'off'}}, on: {{{name}: 'on'}}}}" for name in factors
    )
    (folder / "grid.yaml").write_text(
        GRID.format(name="planted", seeds=seeds, factors=levels, first=factors[0])
    )
    command = ("run", "--grid", "grid.yaml", "--jobs", "2", "--offline")
    ablate(folder, *command, expect=expect, draws=False)
    report = folder / "reports" / "planted"
    effects = pd.read_csv(report / "effects.csv").query("metric == 'test/top1'").set_index("effect")
    return effects, pd.read_csv(report / "claims.csv"), (report / "report.md").read_text()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return reported(tmp_path_factory.mktemp("planted"), "step", "mix", "dead")


def test_planted_effects_are_recovered_with_their_signs_and_intervals_that_cover_them(planted):
    effects, claims, text = planted
    for name, size in TRUTH.items():
        row = effects.loc[name]
        assert (
            row["low"] <= size <= row["high"] and row["estimate"] * size > 0 and row["n_seeds"] == 8
        ), name
    assert dict(effects.loc[list(TRUTH)[:3], "verdict"]) == {
        "step: off -> on": "higher",
        "mix: off -> on": "lower",
        "step x mix": "higher",
    }
    assert list(claims["claim_verdict"]) == ["supported"] * 3
    assert re.search(r"^- `step`: \+[\d.]+ points \[.+\] without `mix`, \+", text, re.M)


def test_a_toggle_that_nothing_reads_has_no_effect_by_construction(planted):
    effects, _, text = planted
    of_dead = {name for name in effects.index if re.match(r"dead: |\w+ x dead$", name)}
    assert {"dead: off -> on", "step x dead", "mix x dead"} < of_dead
    assert (
        set(effects.index[effects["verdict"] == DEAD]) == of_dead
        and (effects.loc[list(of_dead), "estimate"] == 0).all()
    )
    assert "`dead`: no effect by construction, the same bits with and without" in text
    assert re.search(r"\| `dead: off -> on` +\|[^\n]*\| no effect by construction", text)


@pytest.mark.long
def test_a_study_whose_arms_are_all_identical_is_reported_as_such(tmp_path):
    effects, claims, text = reported(tmp_path, "dead", "idle", seeds=3)
    of_arms = effects[~effects.index.str.contains(" - ")]
    assert set(of_arms["verdict"]) == {DEAD} and len(of_arms) >= 3
    assert list(claims["claim_verdict"]) == ["refuted", "refuted", "supported"]
    answer = text.partition("**Answer.**")[2].partition("## Accuracy")[0]
    assert (
        "no effect by construction" in answer
        and "no effect found" not in answer
        and "**+" not in text
        and "**-" not in text
    )
    assert "No arm can be called the best" in answer


@pytest.mark.long
def test_divergence_is_counted_per_arm_and_does_not_cost_the_others_their_intervals(tmp_path):
    effects, _, text = reported(tmp_path, "brittle", "step", "dead", seeds=3, expect=1)
    assert "| `brittle`" in text and text.count("1/3, 2 diverged") == 4
    assert "raining diverged in 2 of 3 trials of `brittle`, " in text
    assert (
        effects.loc["step: off -> on", "n_seeds"] == 3
        and effects.loc["brittle: off -> on", "n_seeds"] == 1
    )
    section = text.split("## Failed trials")[1].split("##")[0]
    assert (
        re.search(r"\| `brittle` +\| +2 \| +0 \|", section)
        and "Diverged: the loss is NaN at epoch 2" in section
    )
