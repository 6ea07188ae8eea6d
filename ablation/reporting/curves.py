"""Small multiples with a panel per arm: learning curves, and class accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ablation.analysis.results import Results
from ablation.reporting.figure_style import (
    CONTEXT,
    GREY,
    INK,
    axis_label,
    colours,
    legend_of,
    panels,
    style,
    wrapped,
)
from ablation.reporting.ranges import MAX_ARMS, MAX_LINES, classes_averaged

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

N_COLUMNS = 4
# the most points of a curve that are marked one by one
MAX_MARKED = 15


def learning_curves(results: Results) -> Figure | None:
    """The primary metric over epochs, a panel per arm.

    Mean and range over seeds, the epoch in which the encoder thaws, the other arms in grey,
    baselines as horizontal lines.
    """
    curves = {
        arm: table for arm, table in by_epoch(results, results.primary).items() if len(table) > 1
    }
    if not curves:
        return None
    colour = colours(list(results.arms))
    with style():
        arms = shown_arms(results, list(curves))
        figure, grid = arm_panels(arms, "epoch", axis_label(results.primary))
        for arm, axes in grid.items():
            for other in curves.values():
                axes.plot(other["mean"], color=CONTEXT, lw=1, zorder=1)
            table = curves[arm]
            if (table["count"] > 1).any():
                ends = table["min"], table["max"]
                axes.fill_between(table.index, *ends, color=colour[arm], alpha=0.25, lw=0)
            dots = "o-" if len(table) <= MAX_MARKED else "-"
            axes.plot(table["mean"], dots, color=colour[arm], lw=2.2, ms=4, zorder=3)
            end = warmup_end(results, arm)
            if end is not None:
                axes.axvline(end, color=GREY, lw=1.2, ls=":", label="encoder thaws")
            _draw_baselines(axes, results)
        _legend_below(figure, grid)
    return figure


def per_class(results: Results) -> Figure | None:
    """Accuracy of each class against its number of training images.

    The reference baseline is in black. Lines are means over `classes_averaged` neighbours.
    """
    table = results.per_class.dropna(subset=["n_train"])
    n_averaged = classes_averaged(results)
    means = table.groupby(["arm", "class"])[["n_train", "accuracy"]].mean()
    lines = {
        arm: means.loc[arm].sort_values("n_train", kind="stable").set_index("n_train")["accuracy"]
        for arm in [*results.arms, *results.baselines]
        if arm in means.index
    }
    window: dict[str, Any] = {"min_periods": (n_averaged + 1) // 2, "center": True}
    # one point for classes of one size
    smooth = {
        arm: line.rolling(n_averaged, **window).mean().groupby(level=0).mean()
        for arm, line in lines.items()
    }
    arms = [arm for arm in results.arms if arm in lines]
    if not arms:
        return None
    reference = results.manifest.reference
    with style():
        labels = "training images of the class", "accuracy (%)"
        figure, grid = arm_panels(shown_arms(results, arms), *labels)
        # of all panels, which share it
        first = next(iter(grid.values()))
        first.set_xscale("log")
        first.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        for arm, axes in grid.items():
            for other in arms:
                axes.plot(smooth[other], color=CONTEXT, lw=1, zorder=1)
            if reference in lines:
                axes.plot(smooth[reference], color=INK, lw=1.2, label=reference, zorder=2)
            colour = colours(list(results.arms))[arm]
            axes.plot(smooth[arm], color=colour, lw=2, zorder=4)
            dots = {"alpha": 0.4, "mew": 0, "ms": 3.5} if n_averaged > 1 else {"ms": 4}
            axes.plot(lines[arm], "o", color=colour, zorder=3, **dots)
        _legend_below(figure, grid)
    return figure


def shown_arms(results: Results, arms: list[str], most: int = MAX_ARMS) -> list[str]:
    """The arms that a figure shows one by one, in the manifest's order.

    All, up to `most`; else the first arm, from which the others depart, and those with the best
    means.
    """
    if len(arms) <= most:
        return arms
    means = results.cells(results.primary)[arms[1:]].mean()
    best = means.sort_values(
        ascending=results.manifest.metric["goal"] == "minimize", kind="stable"
    ).index[: most - 1]
    return [arm for arm in arms if arm == arms[0] or arm in best]


def by_epoch(results: Results, metric: str) -> dict[str, pd.DataFrame]:
    """Arm -> mean, min, max and count of a metric over seeds, by epoch; arms that have any.

    Of complete trials: one that fails would bend the mean where it ends. Of an arm that has none,
    of all. Without pre-training, which counts its own epochs.
    """
    history, trials = results.history, results.trials
    if metric not in history:
        return {}
    complete = trials[trials["state"] == "COMPLETE"]
    counts = history["trial"].isin(complete["trial"]) | ~history["arm"].isin(complete["arm"])
    counted = history[counts & (history["phase"] != "pretrain")]
    rows = counted[["arm", "epoch", metric]].dropna()
    found = rows.groupby(["arm", "epoch"])[metric].agg(["mean", "min", "max", "count"])
    known = found.index.unique("arm")
    return {arm: found.loc[arm] for arm in results.arms if arm in known}


def warmup_end(results: Results, arm: str) -> int | None:
    """The last epoch with a frozen encoder, in the first seed.

    None for an arm whose encoder never thaws or was never frozen.
    """
    rows = results.history[results.history["arm"] == arm]
    frozen = rows[(rows["phase"] == "warmup") & (rows["seed"] == rows["seed"].min())]
    return int(frozen["epoch"].max()) if len(frozen) and (rows["phase"] == "joint").any() else None


def arm_panels(
    arms: list[str], x_label: str, y_label: str = "", size: tuple[float, float] = (2.9, 2.5)
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel per arm, and its axes. size: of a panel, in inches"""
    figure, grid = panels(len(arms), N_COLUMNS, size, 5, 0.8, sharex=True, sharey=True)
    for arm, axes in zip(arms, grid, strict=True):
        axes.set_title(wrapped(arm), fontweight="bold", size=10)
    for axes in grid[-N_COLUMNS:]:
        axes.set_xlabel(x_label)
        axes.tick_params(labelbottom=True)
    for axes in grid[::N_COLUMNS]:
        axes.set_ylabel(y_label)
    return figure, dict(zip(arms, grid, strict=True))


def _draw_baselines(axes: Axes, results: Results) -> None:
    """Their means as horizontal lines: the reference in black, the others thin and grey."""
    ends, reference = results.cells(results.primary).mean().dropna(), results.manifest.reference
    for baseline in results.baselines:
        if baseline in ends and baseline != reference:
            axes.axhline(
                ends[baseline], color=GREY, lw=0.8, ls="--", label="other baselines", zorder=2
            )
    if reference in results.baselines and reference in ends:
        axes.axhline(ends[reference], color=INK, lw=1.2, zorder=2, label=f"measured {reference}")


def _legend_below(figure: Figure, grid: dict[str, Axes]) -> None:
    n_columns = max(1, int(figure.get_figwidth() / 2.6))
    legend_of(figure, grid.values(), "outside lower center", n_columns)


MECHANISM = {
    "train/diffusion_loss": "diffusion loss",
    "grad/encoder": "gradient norm, encoder",
    "grad/real_at_latent": "gradient norm at the latents,\nclassification",
    "grad/semantic_at_latent": "gradient norm at the latents,\nsemantic losses",
    "grad/conflict_cosine": "cosine of the two\n(below 0 they conflict)",
    "grad/conflict_cosine_parameters": "the same at the\nencoder's parameters",
    "diag/latent_drift": "latent drift from the\npretrained encoder",
    "diag/effective_rank": "effective rank of latents",
    "diag/total_variance": "total variance of latents",
    "diag/radius_head": "mean radius, head classes",
    "diag/radius_tail": "mean radius, tail classes",
}

# of the mechanism figure, whose text is to be read at half its size
TEXT: dict[RcKeyType, object] = {
    **dict.fromkeys(["font.size", "axes.titlesize", "axes.labelsize"], 15),
    "xtick.labelsize": 14,
    "ytick.labelsize": 14,
    "legend.fontsize": 15,
}
N_WIDE_COLUMNS = 3
# width of a character in its legend, in inches
CHARACTER = 0.125


def mechanism(results: Results) -> Figure | None:
    """The mean over seeds of each diagnostic that was measured.

    Dotted lines and dots show where encoders thaw.
    """
    arms = list(results.arms)
    curves = {metric: by_epoch(results, metric) for metric in MECHANISM}
    curves = {
        metric: own
        for metric, own in curves.items()
        if any(len(table) > 1 for table in own.values())
    }
    if not curves:
        return None
    shown = shown_arms(results, arms, MAX_LINES)
    thaws = {arm: end for arm in arms if (end := warmup_end(results, arm)) is not None}
    with style(), rc_context(TEXT):
        figure, grid = panels(len(curves), N_WIDE_COLUMNS, (3.9, 3.1), 5, 1.2)
        for axes, (metric, tables) in zip(grid, curves.items(), strict=True):
            axes.set_title(MECHANISM[metric])
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            means = {arm: table["mean"] for arm, table in tables.items()}
            _draw(axes, means, shown, thaws)
        key = [
            Line2D([], [], **_look(arm, shown), label=f"{index + 1}  {arm}")
            for index, arm in enumerate(shown)
        ]
        columns = max(1, int(figure.get_figwidth() / (1 + CHARACTER * max(map(len, shown)))))
        figure.legend(
            handles=key,
            loc="outside lower center",
            ncols=columns,
            labelcolor="linecolor",
            handlelength=3,
        )
    return figure


def _draw(
    axes: Axes, lines: dict[str, pd.Series], shown: Sequence[str], thaws: dict[str, int]
) -> None:
    """lines: arm -> a metric by epoch; thaws: arm -> the epoch in which its encoder thaws."""
    for epoch in sorted({thaws[arm] for arm in shown if arm in thaws}):
        axes.axvline(epoch, color=GREY, lw=0.9, ls=":", zorder=1)
    for arm, line in lines.items():
        if arm not in shown:
            axes.plot(line, color=CONTEXT, lw=1, zorder=1)
            continue
        look, thaw = _look(arm, shown), thaws.get(arm)
        axes.plot(line, **look)
        if thaw is not None and thaw in line.index:
            axes.plot(thaw, line[thaw], "o", color=look["color"], ms=8, mec="white", zorder=4)
    axes.margins(y=0.08)
    ends = {arm: (line.index[-1], line.iloc[-1]) for arm, line in lines.items() if arm in shown}
    first, *others = lines.values()
    if len(ends) > 1 and all(line.equals(first) for line in others):
        axes.annotate(
            "all",
            next(iter(ends.values())),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
        )
    elif ends:
        _number_ends(axes, ends, shown)


def _look(arm: str, shown: Sequence[str]) -> dict[str, Any]:
    """The style of an arm's line; every second is dashed, so that equal lines are both seen."""
    dash = (0, (4, 1.5)) if shown.index(arm) % 2 else "-"
    return {"color": colours(shown)[arm], "lw": 2.4, "ls": dash}


# of a number beside a line, above which it would stand in the title
HIGHEST = 0.93


def _number_ends(axes: Axes, ends: dict[str, tuple[float, float]], arms: Sequence[str]) -> None:
    """Write each arm's number beside the end of its line.

    Numbers of lines that end at the same epoch stand in one column.
    """
    colour, (left, right), (low, high) = colours(arms), axes.get_xlim(), axes.get_ylim()
    last = max(epoch for epoch, _ in ends.values())
    for end in sorted({epoch for epoch, _ in ends.values()}):
        heights = {
            arm: (value - low) / (high - low)
            for arm, (epoch, value) in ends.items()
            if epoch == end
        }
        column = 1.06 if end == last else (end - left) / (right - left) + 0.07
        for arm, y in _apart(heights, min(0.13, HIGHEST / len(ends))).items():
            # From beside the number to the end itself, as Matplotlib is slow in cutting a
            # line off at them.
            whole = {"relpos": (-0.15, 0.5), "patchA": None, "shrinkA": 0, "shrinkB": 0}
            line = {"arrowstyle": "-", "color": colour[arm], "lw": 0.5, **whole}
            axes.annotate(
                str(arms.index(arm) + 1),
                ends[arm],
                xytext=(column, y),
                textcoords="axes fraction",
                color=colour[arm],
                va="center",
                fontweight="bold",
                arrowprops=line,
            )


def _apart(heights: dict[str, float], gap: float) -> dict[str, float]:
    """Arm -> height in 0 to HIGHEST, in the same order and at least `gap` from each other."""
    places: dict[str, float] = {}
    floor = 0.0
    for arm in sorted(heights, key=lambda name: heights[name]):
        places[arm] = floor = max(heights[arm], floor)
        floor += gap
    ceiling = HIGHEST
    for arm in reversed(places):
        places[arm] = min(places[arm], ceiling)
        ceiling = places[arm] - gap
    return places
