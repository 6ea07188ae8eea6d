"""Figures draw what was measured, of each arm or of those that are named, and are the same bytes every time."""

import itertools
import math
import re
import xml.etree.ElementTree as xml
from dataclasses import replace

import pandas as pd
import pytest
from fabricate import FACTORS, arm_name, study
from PIL import Image

from ablation.analysis.claims import judge_claims
from ablation.analysis.effects import factor_pairs, judge
from ablation.analysis.factors import judged_intervals
from ablation.analysis.results import load
from ablation.reporting.curves import (
    HIGHEST,
    MECHANISM,
    _apart,
    by_epoch,
    learning_curves,
    mechanism,
    per_class,
    shown_arms,
)
from ablation.reporting.figure_style import PALETTE, save
from ablation.reporting.figures import accuracy, draw, effects_figure, interactions
from ablation.reporting.ranges import MAX_ARMS, MAX_LINES, classes_averaged, zoom
from ablation.reporting.report import render

TWO = {"lr_split": FACTORS["lr_split"], "warmup": FACTORS["warmup"]}
MANY = {"rate": {f"r{n}": {"rate": n} for n in range(MAX_ARMS + 4)}}


def texts(figure) -> list[str]:
    """All that is written in a figure."""
    found = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    return [text for text in dict.fromkeys(found) if text]


def by_hand(results, first: str, a: str, second: str, b: str) -> pd.Series:
    """The mean per seed of the finished arms with these two levels."""
    rows = results.trials[
        (results.trials["kind"] == "arm")
        & (results.trials[first] == a)
        & (results.trials[second] == b)
    ]
    return rows[rows["state"] == "COMPLETE"].groupby("seed")["test/top1"].mean()


def test_a_combination_s_mean_is_that_over_the_arms_that_have_it(tmp_path):
    results = load(study(tmp_path))
    found = {pair.factors: pair for pair in factor_pairs(results, "test/top1")}
    assert list(found) == [
        ("lr_split", "warmup"),
        ("lr_split", "gradient_decoupling"),
        ("warmup", "gradient_decoupling"),
    ]
    for (first, second), pair in found.items():
        assert set(pair.means) == {(a, b) for a in ("off", "on") for b in ("off", "on")}
        for (a, b), mean in pair.means.items():
            expected = by_hand(results, first, a, second, b)
            half = (
                4.302653 * expected.std() / math.sqrt(3)
            )  # Student's t at 97.5 %, 2 degrees of freedom
            assert (mean.mean, mean.low, mean.high) == pytest.approx(
                (expected.mean(), expected.mean() - half, expected.mean() + half)
            )


def test_the_difference_of_differences_of_the_means_is_the_interaction(tmp_path):
    results = load(
        study(tmp_path, state=lambda spec: "FAILED" if spec.arm == "warmup" else "COMPLETE")
    )
    effects = judge(results).query("metric == 'test/top1'").set_index("effect")["estimate"]
    for pair in factor_pairs(results, "test/top1"):
        mean = {levels: one.mean for levels, one in pair.means.items()}
        crossing = mean["on", "on"] - mean["off", "on"] - mean["on", "off"] + mean["off", "off"]
        assert crossing == pytest.approx(effects[pair.interactions[0]])


def test_an_arm_beside_the_design_belongs_to_no_combination(tmp_path):
    folder = study(tmp_path, factors=TWO, baselines=["ldmlr", "balanced-head"])
    manifest = folder.manifest()
    trials = [
        replace(spec, kind="arm", levels={}) if spec.arm == "balanced-head" else spec
        for spec in manifest.trials
    ]
    folder.write_manifest(replace(manifest, trials=trials, baselines=["ldmlr"]))
    results = load(folder)
    assert results.arms["balanced-head"] == {}
    (pair,) = factor_pairs(results, "test/top1")
    assert set(pair.means) == {(a, b) for a in ("off", "on") for b in ("off", "on")}
    drawn = draw(results, judge(results), tmp_path / "figures")
    assert {"accuracy", "effects", "interactions"} <= set(drawn)


def test_designs_without_interactions_have_no_interaction_plot(tmp_path):
    results = load(study(tmp_path, factors={"lr_split": FACTORS["lr_split"]}))
    assert (
        list(factor_pairs(results, "test/top1")) == []
        and interactions([], judge(results), "test/top1") is None
    )


def test_an_interaction_plot_has_a_line_per_level_and_tells_the_interaction(tmp_path):
    results = load(study(tmp_path, factors=TWO))
    figure = interactions(list(factor_pairs(results, "test/top1")), judge(results), "test/top1")
    written = texts(figure)
    assert {"warmup=off", "warmup=on", "lr_split", "off", "on"} <= set(written)
    assert any(
        text.startswith("lr_split x warmup\ninteraction ") and "[" in text for text in written
    )


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_is_the_same_bytes_every_time(tmp_path, kind):
    results = load(study(tmp_path / "runs", factors=TWO))
    for name in "ab":
        save(
            interactions(list(factor_pairs(results, "test/top1")), judge(results), "test/top1"),
            tmp_path / name,
        )
    first, again = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert first == again
    if kind == "svg":
        assert b"<dc:date>" not in first and xml.fromstring(first).tag.endswith("svg")
    else:
        assert Image.open(tmp_path / "a.png").size[0] > 600


def test_only_metrics_that_were_measured_have_a_mechanism_panel(tmp_path):
    folder = study(tmp_path, factors={"lr_split": FACTORS["lr_split"]}, detail=True)
    results = load(folder)
    titles = {axes.get_title() for axes in mechanism(results).axes} - {""}
    assert titles == {MECHANISM[name] for name in MECHANISM if name in results.history}
    assert len(titles) == len(MECHANISM) - 4  # the fabricated study has not measured everything
    results.history["grad/encoder"] = math.nan
    assert MECHANISM["grad/encoder"] not in {axes.get_title() for axes in mechanism(results).axes}


def test_a_curve_is_over_the_seeds_that_have_the_epoch_and_without_pretraining(tmp_path):
    results = load(study(tmp_path, factors=TWO, detail=True))
    history, metric = results.history, "diag/latent_drift"
    history.loc[(history["arm"] == "warmup") & (history["seed"] == 1), metric] = math.nan
    history.loc[history["arm"] == "lr_split", metric] = math.nan
    first = history["epoch"] == history["epoch"].min()
    history.loc[first & (history["arm"] == "reference"), "phase"] = "pretrain"
    found = by_epoch(results, metric)
    assert list(found) == [arm for arm in results.arms if arm != "lr_split"]
    for arm, table in found.items():
        rows = history[(history["arm"] == arm) & history[metric].notna()]
        rows = rows[rows["phase"] != "pretrain"]
        assert list(table.index) == sorted(set(rows["epoch"])) and len(table)
        for epoch, own in table.iterrows():
            values = rows[rows["epoch"] == epoch][metric]
            expected = [values.mean(), values.min(), values.max(), len(values)]
            assert list(own) == pytest.approx(expected)
    assert set(found["warmup"]["count"]) == {2} and by_epoch(results, "not/measured") == {}


def test_a_curve_has_no_failed_trials_unless_there_are_no_others(tmp_path):
    results = load(study(tmp_path, factors=TWO, detail=True))
    trials, metric = results.trials, "diag/latent_drift"
    before = by_epoch(results, metric)
    trials.loc[(trials["arm"] == "warmup") & (trials["seed"] == 1), "state"] = "FAILED"
    trials.loc[trials["arm"] == "lr_split", "state"] = "RUNNING"
    after = by_epoch(results, metric)
    (n,), (n_before,) = (set(one["warmup"]["count"]) for one in (after, before))
    assert n == n_before - 1
    assert after["lr_split"].equals(before["lr_split"])
    assert after["reference"].equals(before["reference"])


def test_as_many_arms_have_a_line_of_their_own_as_there_are_colours():
    assert len(PALETTE) == MAX_LINES


def test_places_without_a_panel_are_left_empty(tmp_path):
    results = load(study(tmp_path, detail=True))
    n_arms = len(results.arms)
    assert n_arms % 3 and len(learning_curves(results).axes) == n_arms
    inside = mechanism(results)
    assert len(inside.axes) % 3 and all(axes.get_title() for axes in inside.axes)


def test_the_thaw_is_marked_where_it_was(tmp_path):
    results = load(study(tmp_path, factors={"warmup": FACTORS["warmup"]}, detail=True))
    panels = {axes.get_title(): axes for axes in learning_curves(results).axes}
    thaws = {
        name: [line.get_xdata()[0] for line in axes.lines if line.get_label() == "encoder thaws"]
        for name, axes in panels.items()
    }
    assert thaws == {"reference": [2], "warmup": [5]}


def test_of_many_arms_the_first_and_the_best_are_shown_and_the_others_grey(tmp_path):
    last = len(MANY["rate"]) - 1
    results = load(
        study(
            tmp_path,
            factors=MANY,
            baselines=[],
            noise=0.01,
            top1=lambda levels: 50.0 + int(levels["rate"][1:]),
            detail=True,
            seeds=[0],
        )
    )
    arms = list(results.arms)
    shown = shown_arms(results, arms)
    assert shown == [
        arms[0],
        *(arm_name({"rate": f"r{n}"}) for n in range(last - MAX_ARMS + 2, last + 1)),
    ]
    figure = learning_curves(results)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == MAX_ARMS and all(len(axes.lines) >= len(arms) for axes in panels)
    assert shown_arms(results, arms[:MAX_ARMS]) == arms[:MAX_ARMS]
    inside = mechanism(results)
    keyed = [text for text in texts(inside) if re.match(r"\d+  ", text)]
    assert [text.split()[1] for text in keyed] == shown_arms(results, arms, MAX_LINES) and len(
        keyed
    ) == MAX_LINES
    assert f"Of {len(arms)} arms, the first and the {MAX_LINES - 1} with the best means" in render(
        results, judge(results), judge_claims(results, judge(results)), ["mechanism"]
    )


@pytest.mark.parametrize("n_classes, n_averaged", [(10, 1), (20, 1), (60, 6)])
def test_lines_of_many_classes_are_means_over_classes_of_like_size(tmp_path, n_classes, n_averaged):
    results = load(study(tmp_path, factors=TWO))
    sizes = [500 - 5 * n for n in range(n_classes)]
    rows = [
        {"trial": f"{arm}--s0", "arm": arm, "seed": 0, "class": f"c{n:02}", "n_train": size}
        | {"accuracy": float(size % 7 * 10)}
        for arm in [*results.arms, "ldmlr"]
        for n, size in enumerate(sizes)
    ]
    results = replace(results, per_class=pd.DataFrame(rows))
    assert classes_averaged(results) == n_averaged
    *_, reference, line, dots = per_class(results).axes[0].lines
    by_size = [float(size % 7 * 10) for size in sorted(sizes)]
    assert dots.get_ydata().tolist() == by_size and dots.get_xdata().tolist() == sorted(sizes)
    assert reference.get_ydata().tolist() == line.get_ydata().tolist()
    if n_averaged == 1:
        assert line.get_ydata().tolist() == by_size
    else:
        assert line.get_ydata()[3:-2].tolist() == pytest.approx(
            [sum(by_size[k : k + 6]) / 6 for k in range(n_classes - 5)]
        )
    said = render(results, judge(results), judge_claims(results, judge(results)), ["per_class"])
    assert ("Lines are means over 6 classes of like size" in said) == (n_averaged == 6)


def test_numbers_beside_lines_keep_their_order_and_their_distance():
    places = _apart({"a": 0.5, "b": 0.5, "c": 0.99, "d": 0.98}, 0.1)
    ordered = sorted(places, key=places.get)
    assert ordered == ["a", "b", "d", "c"] and max(places.values()) <= HIGHEST < 1
    assert all(
        places[after] - places[before] >= 0.1 - 1e-9
        for before, after in itertools.pairwise(ordered)
    )


def test_published_numbers_stand_as_rows_of_their_own(tmp_path):
    written = texts(accuracy(load(study(tmp_path, factors={}))))
    assert {"published LDMLR", "68.50", "published: best epoch on test", "measured ldmlr"} <= set(
        written
    )


def test_only_effects_that_are_separable_are_filled(tmp_path):
    effects = judge(
        load(
            study(
                tmp_path,
                factors=TWO,
                seeds=range(5),
                noise=0.3,
                top1=lambda levels: 60.0 + 9 * (levels["lr_split"] == "on"),
            )
        )
    )
    filled = [
        line.get_markerfacecolor() != "white"
        for line in effects_figure(effects, "test/top1").axes[0].lines
        if len(line.get_xdata()) == 1
    ]
    rows = effects[
        (effects["metric"] == "test/top1") & effects["kind"].isin(["main", "interaction"])
    ]
    assert (
        filled == list(rows["verdict"].isin(["higher", "lower"]))
        and True in filled
        and False in filled
    )


def collapsed(levels):
    return 66.0 - 50 * (levels["lr_split"] == "on" and levels["warmup"] == "on")


def test_arms_far_from_the_others_get_a_second_panel_for_the_others(tmp_path):
    results = load(study(tmp_path, factors=TWO, top1=collapsed))
    low, high = zoom(results)
    means = results.cells("test/top1").mean()
    outside = means.index[(means < low) | (means > high)]
    assert list(outside) == ["lr_split+warmup"] and high - low < 12
    figure = accuracy(results)
    whole, enlarged = figure.axes
    assert whole.get_xlim()[0] < means.min() and enlarged.get_xlim() == (low, high)
    assert enlarged.get_xlabel().startswith("enlarged: ")
    marks = [line for line in enlarged.lines if line.get_marker() in ("<", ">")]
    assert len(marks) == 1 and marks[0].get_ydata()[0] == list(means.index).index("lr_split+warmup")
    text = render(results, judge(results), judge_claims(results, judge(results)), ["accuracy"])
    assert "Left the whole range, right the part of it in which most rows lie" in text


def test_without_arms_far_from_the_others_there_is_one_panel(tmp_path):
    for name, folder in [
        ("alike", study(tmp_path / "a", factors=TWO)),
        ("single", study(tmp_path / "b", factors={}, baselines=[], published=[], seeds=[0])),
    ]:
        results = load(folder)
        assert zoom(results) is None, name
        assert len(accuracy(results).axes) == 1
    text = render(results, judge(results), judge_claims(results, judge(results)), ["accuracy"])
    assert "the whole range" not in text


@pytest.mark.parametrize("n_seeds", [1, 4])
def test_effects_many_times_smaller_than_others_get_a_second_panel(tmp_path, n_seeds):
    def broken(levels):
        split, warmup = (level == "on" for level in levels.values())
        return 60.0 + 40 * split + 0.5 * warmup

    results = load(study(tmp_path, factors=TWO, seeds=range(n_seeds), noise=0.1, top1=broken))
    effects = judge(results)
    rows = judged_intervals(results, effects[effects["metric"] == "test/top1"])
    figure = effects_figure(rows, "test/top1")
    whole, enlarged = figure.axes
    low, high = enlarged.get_xlim()
    assert -5 < low < 0 < high < 5 and whole.get_xlim()[1] > 40
    marks = [line for line in enlarged.lines if line.get_marker() in ("<", ">")]
    assert [mark.get_ydata()[0] for mark in marks] == [0]
    # with the same decimals, beside the right panel
    texts = [text.get_text() for text in enlarged.texts]
    decimals = {len(number) for text in texts for number in re.findall(r"\.(\d+)", text)}
    assert len(texts) == 3 and len(decimals) == 1
    text = render(results, effects, judge_claims(results, effects), ["effects"])
    assert "Left the whole range, right the smaller effects" in text


def test_effects_of_like_size_have_one_panel(tmp_path):
    results = load(study(tmp_path, factors=TWO, seeds=range(4), top1=lambda levels: 60.0))
    effects = judge(results)
    assert len(effects_figure(effects, "test/top1").axes) == 1
    text = render(results, effects, judge_claims(results, effects), ["effects"])
    assert "right the smaller effects" not in text


def test_effects_are_drawn_with_the_interval_that_their_verdict_goes_by(tmp_path):
    results = load(study(tmp_path, factors=TWO, seeds=range(4), noise=0.5))
    rows = judged_intervals(results, judge(results).query("metric == 'test/top1'"))
    figure = effects_figure(rows, "test/top1")
    drawn = [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    expected = rows[rows["kind"].isin(["main", "interaction"])][["low", "high"]].to_numpy()
    for interval in expected:
        assert any(ends == pytest.approx(list(interval)) for ends in drawn)
    assert "Holm's level" in figure.axes[0].get_xlabel()
