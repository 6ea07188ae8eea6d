"""Small multiples: learning curves and class accuracies with a panel per arm, mechanism with a panel per metric."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ablation.figures.style import CONTEXT, DASHES, GREY, INK, axis_label, colours, style, wrapped
from ablation.results import Results

MECHANISM = {
    "train/diffusion_loss": "diffusion loss",
    "grad/encoder": "gradient norm, encoder",
    "grad/conflict_cosine": "cosine of real and\nsemantic gradient",
    "diag/latent_drift": "latent drift from the\npretrained encoder",
    "diag/effective_rank": "effective rank of latents",
    "diag/radius_head": "mean radius, head classes",
    "diag/radius_tail": "mean radius, tail classes",
}


def learning_curves(results: Results) -> Figure | None:
    """The headline metric over epochs: mean and range over seeds, the thaw, the other arms in grey, baselines."""
    curves = {arm: curve(results, arm, results.headline) for arm in results.arms}
    curves = {arm: table for arm, table in curves.items() if len(table) > 1}
    if not curves:
        return None
    ends = results.cells(results.headline).mean()
    with style():
        figure, panels = _panels(list(curves), "epoch", axis_label(results.headline))
        for arm, axes in panels.items():
            for other in curves.values():
                axes.plot(other.mean(axis=1), color=CONTEXT, lw=1, zorder=1)
            table, colour = curves[arm], colours(list(results.arms))[arm]
            if table.shape[1] > 1:
                axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.25, lw=0)
            axes.plot(table.mean(axis=1), color=colour, lw=2.2, zorder=3)
            end = warmup_end(results, arm)
            if end is not None:
                axes.axvline(end, color=GREY, lw=1, ls=":", label="encoder thaws")
            for baseline, dash in zip(results.baselines, DASHES * len(results.baselines)):
                if math.isfinite(ends[baseline]):
                    axes.axhline(ends[baseline], color=INK, lw=1, ls=dash, zorder=2, label=baseline)
        handles = {text: handle for axes in panels.values() for handle, text in zip(*axes.get_legend_handles_labels())}
        if handles:
            figure.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=int(figure.get_figwidth() / 2.2)
            )
    return figure


def per_class(results: Results) -> Figure | None:
    """Accuracy of each class against its number of training images, the reference baseline in black."""
    table = results.per_class.dropna(subset=["n_train"])
    means = table.groupby(["arm", "class"], sort=True)[["n_train", "accuracy"]].mean()
    arms = [arm for arm in results.arms if arm in means.index]
    if not arms:
        return None
    reference = results.manifest.reference
    with style():
        figure, panels = _panels(arms, "training images of the class", "accuracy (%)")
        for arm, axes in panels.items():
            for other in arms:
                axes.plot(*_by_count(means.loc[other]), color=CONTEXT, lw=1, zorder=1)
            if reference in means.index:
                axes.plot(*_by_count(means.loc[reference]), color=INK, lw=1.2, label=reference, zorder=2)
            axes.plot(*_by_count(means.loc[arm]), "o-", color=colours(list(results.arms))[arm], lw=2, ms=4, zorder=3)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        handles, labels = next(iter(panels.values())).get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center")
    return figure


def mechanism(results: Results) -> Figure | None:
    """What happens inside, a panel per metric, the mean over seeds per arm; a dot at the last frozen epoch."""
    arms = list(results.arms)
    metrics = [name for name in MECHANISM if name in results.history and results.history[name].notna().any()]
    metrics = [name for name in metrics if any(len(curve(results, arm, name)) > 1 for arm in arms)]
    if not metrics:
        return None
    n_columns = min(4, len(metrics) + 1)
    n_rows = math.ceil((len(metrics) + 1) / n_columns)
    colour = colours(arms)
    with style():
        figure = Figure(figsize=(3.2 * n_columns, 2.7 * n_rows + 0.3), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, metric in zip(grid, metrics):
            ends = {}
            for arm, dash in zip(arms, ["-", (0, (4, 1.5))] * len(arms)):  # so that of two equal lines both are seen
                line = curve(results, arm, metric).mean(axis=1)
                if line.empty:
                    continue
                axes.plot(line, color=colour[arm], lw=1.8, ls=dash)
                ends[arm] = (line.index[-1], line.iloc[-1])
                end = warmup_end(results, arm)
                if end in line.index:
                    axes.plot(end, line[end], "o", color=colour[arm], ms=5, mec="white")
            axes.set_title(MECHANISM[metric])
            axes.set_xlabel("epoch")
            axes.margins(y=0.08)
            _number_ends(axes, ends, arms, colour)
        for axes in grid[len(metrics) :]:
            axes.set_axis_off()
        lines = [line for index, arm in enumerate(arms) for line in _key_lines(index, arm, colour[arm])]
        for place, (text, ink) in enumerate(lines):
            grid[len(metrics)].text(0, 1 - place / max(len(lines), 11), text, color=ink, va="top", size=10)
    return figure


def curve(results: Results, arm: str, metric: str) -> pd.DataFrame:
    """(epochs, seeds) of a metric in training proper: without pre-training, whose epochs have a count of their own."""
    history = results.history
    rows = history[(history["arm"] == arm) & (history["phase"] != "pretrain")]
    if metric not in history:
        return pd.DataFrame()
    return rows.dropna(subset=[metric]).pivot_table(index="epoch", columns="seed", values=metric)


def warmup_end(results: Results, arm: str) -> int | None:
    """The last epoch with a frozen encoder, in the first seed; None for an arm that never thaws or never froze."""
    rows = results.history[results.history["arm"] == arm]
    frozen = rows[(rows["phase"] == "warmup") & (rows["seed"] == rows["seed"].min())]
    return int(frozen["epoch"].max()) if len(frozen) and (rows["phase"] == "joint").any() else None


def _panels(arms: list[str], x_label: str, y_label: str) -> tuple[Figure, dict[str, Axes]]:
    n_columns = min(4, len(arms))
    n_rows = math.ceil(len(arms) / n_columns)
    figure = Figure(figsize=(max(2.9 * n_columns, 5), 2.5 * n_rows + 0.8), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(arms) :]:
        axes.set_axis_off()
    panels = dict(zip(arms, grid))
    for arm, axes in panels.items():
        axes.set_title(wrapped(arm), fontweight="bold", size=10)
    for axes in list(panels.values())[-n_columns:]:
        axes.set_xlabel(x_label)
        axes.tick_params(labelbottom=True)
    for axes in list(panels.values())[::n_columns]:
        axes.set_ylabel(y_label)
    return figure, panels


def _key_lines(index: int, arm: str, colour: str) -> list[tuple[str, str]]:
    first, *more = wrapped(arm, 27).split("\n")
    return [(f"{index + 1}  {first}", colour), *((f"    {line}", colour) for line in more)]


def _by_count(classes: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    ordered = classes.sort_values("n_train", kind="stable")
    return ordered["n_train"], ordered["accuracy"]


def _number_ends(axes: Axes, ends: dict[str, tuple[float, float]], arms: list[str], colour: dict[str, str]) -> None:
    """Write each arm's number beside the end of its line, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    gap = min(0.1, 1 / max(len(ends), 1))
    places: dict[str, float] = {}
    floor = 0.0
    for arm in sorted(ends, key=lambda name: ends[name][1]):
        places[arm] = floor = max((ends[arm][1] - low) / (high - low), floor)
        floor += gap
    ceiling = 1.0
    for arm in reversed(places):
        places[arm] = min(places[arm], ceiling)
        ceiling = places[arm] - gap
    for arm, y in places.items():
        axes.annotate(
            str(arms.index(arm) + 1),
            ends[arm],
            xytext=(1.06, y),
            textcoords="axes fraction",
            color=colour[arm],
            va="center",
            size=10,
            fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": colour[arm], "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
        )
