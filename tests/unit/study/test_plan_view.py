"""What `ablate plan` shows: where epochs are shared, where arms part, and how long it will take."""

import io
import re
from dataclasses import replace

import pytest
from fabricate import study
from rich.console import Console
from toy_study import ToyStudy
from toy_subject import Toy

from ablation.planning.forecast import START
from ablation.study.views import show_plan


@pytest.fixture
def toy(tmp_path):
    return ToyStudy(tmp_path, Toy(settles_after={0: 1, 1: 2}))


def shown(toy, seeds=None, known=None, jobs=2) -> str:
    console = Console(file=io.StringIO(), width=120)
    show_plan(console, toy.planned(seeds), known or {}, jobs)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def test_epochs_by_phase_naive_unique_the_factor_between_and_what_is_left(toy):
    text = shown(toy, "[0]")
    assert row(text, "warmup") == [
        "warmup",
        "10",
        "3",
        "3.3",
        "3",
    ]  # two arms of two epochs and two of three, one past
    assert row(text, "joint") == ["joint", "6", "6", "1.0", "6"]
    assert "4 trials: 16 epochs one by one, 9 unique (1.8 times fewer), 9 left to train" in text


def test_the_forest_forks_at_the_first_epoch_that_differs(toy):
    lines = shown(toy).splitlines()
    top = lines.index("epochs of seed 0")
    assert [re.sub(r"[│├└─ ]*", "", line, count=1) for line in lines[top + 1 : top + 8]] == [
        "warmup 1–2",
        "joint 3–4: reference",
        "warmup 3",
        "joint 4: warmup=settling",
        "joint 4: warmup=settling+rate=fast",
        "joint 3–4: rate=fast",
        "",
    ]
    assert (
        lines[top + 4].index("joint")
        > lines[top + 3].index("warmup")
        > lines[top + 1].index("warmup")
    )  # below what they start from


def test_arms_that_come_to_the_same_end_there_together(toy, monkeypatch):
    toy.run(monkeypatch)
    assert "joint 3–4: rate=fast, warmup=settling+rate=fast" in shown(
        toy, "[1]"
    )  # settled after two epochs: the fixed warm-up


def test_a_study_that_shares_nothing_is_shown_without_forest(toy):
    (toy.root / "grid.yaml").write_text(
        (toy.root / "grid.yaml").read_text().replace("rate: 2}", "rate: 2}, other: {rate: 3}")
    )
    toy.subject.chain = lambda settings, seed, records: Toy.chain(
        toy.subject, {"warmup": 0, "rate": f"{settings}"}, seed, records
    )[:2]
    text = shown(toy)
    assert "epochs of seed" not in text and "(1.0 times fewer)" in text


def test_finished_trials_are_not_left_to_train_whatever_the_cache_holds(toy, monkeypatch):
    toy.run(monkeypatch)
    toy.store.clear()
    text = shown(toy)
    assert (
        "0 left to train" in text and "nothing is left to train" in text and "plateau" not in text
    )
    assert row(text, "joint")[-1] == "0"


def test_the_forecast_counts_workers_and_what_has_been_measured(toy):
    assert "cost: about 18 epochs of pre-training; in seconds, once" in shown(toy)
    known = {"warmup": 10.0, "joint": 20.0, START: 1.0}
    text = shown(toy, "[0]", known, jobs=2)
    # one: 1 + 3 x 10 + 6 x 20 s; two: 1 + 2 x 10 of common past, then 40 + 20 beside 1 + 10 + 40 + 20
    assert "forecast: 1.5 min of training with 2 jobs, 2.5 min with one" in text
    assert "planned as long as in a seed that is finished, else at their longest" in text


def test_the_plan_ends_with_what_its_seeds_can_find(toy):
    text = " ".join(shown(toy).split())
    assert (
        "power: 2 seeds find a difference of 12 points" in text
        and "correction over 3 tests" in text
    )  # two main effects, one interaction
    assert "a guess of 1 point" in text and "lack of a finished study of nothing" in text
    assert "one seed gives no interval over seeds" in " ".join(shown(toy, "[0]").split())


def test_the_spread_is_that_of_an_earlier_study_of_the_same_experiment(toy):
    folder = study(
        toy.root / "runs" / "earlier",
        study="earlier",
        experiment="nothing",
        metric={"name": "top1", "goal": "maximize"},
    )
    for spec in folder.manifest().trials:
        outcome = folder.outcome(spec.trial)
        folder.write_outcome(
            spec.trial, replace(outcome, metrics={"top1": outcome.metrics["test/top1"]})
        )
    text = " ".join(shown(toy).split())
    assert (
        "as measured in study earlier (differences to ldmlr, 22 degrees of freedom)" in text
        and "guess" not in text
    )
