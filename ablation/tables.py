"""The tables of a report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ablation import effects as judged
from ablation.contrasts import difference_name
from ablation.formatting import (
    MISSING,
    correlation,
    duration,
    effect,
    label,
    p_value,
    points,
    table,
    value,
)
from ablation.results import Results, diverged, identities

# Shown beside the headline, where measured.
DETAILS = ["test/many", "test/medium", "test/few", "test/top1_compensated"]


def accuracy_table(results: Results, effects: pd.DataFrame) -> str:
    """A row per arm, then per baseline: levels, seeds, headline, difference to the reference, details, cost."""
    factors, reference, headline = (
        results.manifest.factors,
        results.manifest.reference,
        results.headline,
    )
    differences = effects[
        (effects["metric"] == headline) & (effects["kind"] == "difference")
    ].set_index("effect")
    details = [
        name for name in [*DETAILS, results.best] if name in results.metrics and name != headline
    ]
    header = ["arm", " / ".join(factors) or "levels", "seeds", f"{label(headline)} (mean ± std)"]
    header += [f"minus `{reference}` [95 %]"] if reference else []
    header += [*map(label, details), "time per trial"]

    def row(name: str, levels: dict[str, str]) -> list[str]:
        finished = results.complete(name)
        cells = [
            f"`{name}`",
            " / ".join(levels.values()),
            seeds_cell(results.trials[results.trials["arm"] == name]),
        ]
        cells.append(value(*mean_and_sd(finished[headline])))
        if reference:
            found = (
                differences.loc[[difference_name(name, reference)]] if name != reference else None
            )
            cells.append(
                effect_cell(next(found.itertuples())) if found is not None else "reference"
            )
        cells += [value(*mean_and_sd(finished[metric]), show_sd=False) for metric in details]
        return [*cells, duration(finished["wall_seconds"].mean())]

    arms = [row(name, levels) for name, levels in results.arms.items()]
    baselines = [row(name, {}) for name in results.baselines]
    blank = [""] * (len(header) - 1)
    groups = (
        [["*arms*", *blank], *arms, ["*baselines*", *blank], *baselines]
        if arms and baselines
        else arms + baselines
    )
    return table(header, groups, "ll" + "r" * (len(header) - 2))


def effects_table(effects: pd.DataFrame, metric: str) -> str:
    """Main effects and interactions on a metric; "" where the design has none."""
    rows = effects[(effects["metric"] == metric) & effects["kind"].isin(["main", "interaction"])]
    if rows.empty:
        return ""
    header = [
        "effect",
        f"on {label(metric)}{points(metric) and ', points'} [95 %]",
        "p",
        "p (Holm)",
        "seeds",
    ]
    header += ["pair correlation", "verdict"]
    cells = [
        [
            f"`{row.effect}`",
            effect_cell(row),
            p_value(row.p),
            p_value(row.p_holm),
            str(row.n_seeds),
            correlation(row.correlation),
            row.verdict,
        ]
        for row in rows.itertuples()
    ]
    return table(header, cells, "lrrrrrl")


def simple_effects_table(pairs: list[pd.DataFrame], metric: str) -> str:
    """Effects level by level, for factors that interact; "" where none do."""
    header = ["effect", f"on {label(metric)}{points(metric) and ', points'} [95 %]", "p", "seeds"]
    cells = [
        [f"`{row.effect}`", effect_cell(row), p_value(row.p), str(row.n_seeds)]
        for rows in pairs
        for row in rows.itertuples()
    ]
    return table(header, cells, "lrrr") if cells else ""


def alone_table(rows: pd.DataFrame, metric: str) -> str:
    """A row per level of a factor: its effect alone, and added last; "" where the study has neither.

    rows: of one metric, from `effects.judge`; their names end in what they are, in parentheses.
    """
    sides = [rows[rows["kind"] == kind] for kind in ("add-one-in", "leave-one-out")]
    found = [{row.effect.rpartition(" (")[0]: row for row in side.itertuples()} for side in sides]

    def cells(name: str) -> list[str]:
        each = [side.get(name) for side in found]
        return [
            cell
            for row in each
            for cell in ((effect_cell(row), p_value(row.p)) if row else (MISSING, MISSING))
        ]

    unit = points(metric) and ", points"
    header = [
        "effect",
        f"alone, on {label(metric)}{unit} [95 %]",
        "p",
        f"added last{unit} [95 %]",
        "p",
    ]
    names = dict.fromkeys(name for side in found for name in side)
    return table(header, [[f"`{name}`", *cells(name)] for name in names], "lrrrr") if names else ""


def published_table(results: Results) -> str:
    """Published numbers for the same dataset, each with its protocol and source; "" where there are none."""
    rows = [
        [
            entry["method"],
            f"{entry['top1']:.2f}",
            entry.get("protocol", ""),
            entry.get("source", ""),
        ]
        for entry in results.manifest.published
    ]
    return table(["method", "top-1", "protocol", "source"], rows, "lrll") if rows else ""


def factors_table(results: Results) -> str:
    """What each level of each factor sets."""
    rows = [
        [f"`{factor}`", f"{level}{' (reference)' if position == 0 else ''}", _settings(overrides)]
        for factor, levels in results.manifest.factors.items()
        for position, (level, overrides) in enumerate(levels.items())
    ]
    return table(["factor", "level", "settings"], rows, "lll") if rows else ""


def baselines_table(results: Results) -> str:
    """In which settings each baseline differs from the experiment that the arms vary; "" where none is known."""
    common = dict(flatten(results.manifest.config))
    specs = {
        spec.arm: spec for spec in results.manifest.trials if spec.kind == "baseline" and common
    }
    rows = []
    for name, spec in specs.items():
        own = {
            key: setting
            for key, setting in spec.settings.items()
            if key in common and common[key] != setting
        }
        rows.append([f"`{name}`", _settings(own)])
    return table(["baseline", "settings other than the experiment's"], rows, "ll") if rows else ""


def divergence_table(results: Results) -> str:
    """Per arm and baseline how many trials diverged, and how many failed for other reasons; "" where none diverged."""
    trials = results.trials.assign(
        diverged=diverged(results.trials), failed=results.trials["state"] == "FAILED"
    )
    counts = trials.groupby("arm", sort=False)[["diverged", "failed"]].sum()
    counts = counts[counts["failed"] > 0]
    rows = [[f"`{arm}`", str(n), str(failed - n)] for arm, n, failed in counts.itertuples()]
    return (
        table(["arm", "diverged", "failed otherwise"], rows, "lrr")
        if counts["diverged"].any()
        else ""
    )


def failures_table(results: Results) -> str:
    """Each failed trial with its reason; "" where none failed."""
    failed = results.trials[results.trials["state"] == "FAILED"]
    rows = [
        [f"`{row.trial}`", row.error if isinstance(row.error, str) else MISSING]
        for row in identities(failed)
    ]
    return table(["trial", "reason"], rows, "ll") if rows else ""


def split_for_memory(results: Results) -> list[tuple[str, str, int]]:
    """Trial, phase, and in how many chunks at most its batches were split, of those that ran out of memory."""
    history = results.history
    if "accumulation" not in history:
        return []
    most = history.groupby(["trial", "phase"], sort=False)["accumulation"].max().dropna()
    return [(trial, phase, int(n)) for (trial, phase), n in most.items()]


def seeds_cell(trials: pd.DataFrame) -> str:
    """Of one arm's trials, how many of those planned have finished, and how many diverged: `2/3`, `2/3, 1 diverged`."""
    n = int(diverged(trials).sum())
    return f"{(trials['state'] == 'COMPLETE').sum()}/{len(trials)}{f', {n} diverged' * (n > 0)}"


def effect_cell(row: tuple) -> str:
    """An effect, bold where it is separable from 0, with the reason where it has no interval."""
    text = effect(row.estimate, row.low, row.high)
    if row.verdict in (judged.HIGHER, judged.LOWER):
        return f"**{text}**"
    reasons = {judged.ONE_SEED: "one seed", judged.NO_SPREAD: "seeds agree"}
    return f"{text} ({reasons[row.verdict]})" if row.verdict in reasons else text


def mean_and_sd(values: pd.Series) -> tuple[float, float]:
    """Over seeds; NaN where there are none, or one."""
    return float(values.mean()), float(values.std())


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of each leaf of a nested mapping, in its order."""
    for key, leaf in tree.items():
        if isinstance(leaf, dict) and leaf:
            yield from flatten(leaf, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", leaf


def _settings(overrides: dict) -> str:
    return ", ".join(f"`{key}: {leaf}`" for key, leaf in flatten(overrides)) or "defaults"
