"""A study at a glance: accuracy by arm, and the effect of each fix."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from ablation.effects import HIGHER, LOWER
from ablation.figures.style import CONTEXT, DASHES, GREY, INK, axis_label, colours, style
from ablation.formatting import effect, label, points, value
from ablation.results import Results


def accuracy(results: Results) -> Figure | None:
    """A dot per seed and a bar at the mean, per arm and baseline; the reference and published values as lines."""
    cells = results.cells(results.headline).dropna(axis="columns", how="all")
    if cells.empty:
        return None
    colour, reference = colours(list(results.arms)), results.manifest.reference
    places = {name: index + 0.6 * (name not in colour) for index, name in enumerate(cells.columns)}
    with style():
        figure = Figure(figsize=(10, 1.5 + 0.36 * len(places)), layout="constrained")
        axes = figure.add_subplot()
        for name, y in places.items():
            dots = cells[name].dropna()
            axes.plot(dots, [y] * len(dots), "o", ms=7, alpha=0.55, mew=0, color=colour.get(name, GREY))
            axes.plot(dots.mean(), y, "|", ms=17, mew=3, color=colour.get(name, INK))
            axes.annotate(
                value(dots.mean(), dots.std()),
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
                family="DejaVu Sans Mono",
                size=10,
            )
        if reference in cells:
            axes.axvline(cells[reference].mean(), color=INK, lw=1.2, zorder=0, label=f"measured {reference}")
        published = results.manifest.published if results.headline == "test/top1" else []
        for entry, dash in zip(published, DASHES[1:] * len(published)):
            text = f"published {entry['method']} ({entry.get('protocol', 'protocol unknown')})"
            axes.axvline(entry["top1"], color=GREY, lw=1.4, ls=dash, zorder=0, label=text)
        axes.set_yticks(list(places.values()), list(places))
        axes.set_ylim(max(places.values()) + 0.6, -0.6)
        axes.grid(axis="y", color=CONTEXT, lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{axis_label(results.headline)}: a dot per seed, a bar at the mean")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=2)
    return figure


def effects_figure(effects: pd.DataFrame, metric: str) -> Figure | None:
    """Point and 95 % interval per main effect and interaction; filled where separable from 0."""
    rows = effects[(effects["metric"] == metric) & effects["kind"].isin(["main", "interaction"])]
    rows = rows[rows["estimate"].notna()]
    if rows.empty:
        return None
    n_main = (rows["kind"] == "main").sum()
    places = [position + (0.7 if position >= n_main else 0) for position in range(len(rows))]
    with style():
        figure = Figure(figsize=(10, 1.1 + 0.42 * (len(rows) + 0.7)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=1)
        for y, row in zip(places, rows.itertuples()):
            colour = INK if row.kind == "main" else "#117733"
            separable = row.verdict in (HIGHER, LOWER)
            if math.isfinite(row.low):
                axes.plot([row.low, row.high], [y, y], "-", color=colour, lw=2, solid_capstyle="butt")
            axes.plot(row.estimate, y, "o", ms=9, color=colour, mfc=colour if separable else "white", mew=2)
            axes.annotate(
                effect(row.estimate, row.low, row.high),
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
                family="DejaVu Sans Mono",
                size=10,
            )
        axes.set_yticks(places, rows["effect"])
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        unit = points(metric).strip()
        has_intervals = rows["low"].notna().any()
        axes.set_xlabel(
            f"effect on {label(metric)}{f' ({unit})' if unit else ''}"
            + (", 95 % interval; filled: separable from 0" if has_intervals else "; no interval can be given")
        )
    return figure
