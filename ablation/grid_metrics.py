"""Metrics that a grid names and its trials do not report: better known before they train."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ablation.design import Arm
from ablation.errors import Problem, nearest
from ablation.grid_file import Grid


def unreported_metrics(
    grid: Grid, cells: Sequence[Arm], reported: Mapping[str, Collection[str]]
) -> Iterator[Problem]:
    """The headline metric where a trial's last record lacks it, and claims' metrics that cannot be compared.

    reported: arm or baseline -> names of its metrics, of those for which they are known.
    """
    headline = grid.metric["name"]
    lacking = [name for name, metrics in reported.items() if headline not in metrics]
    if lacking and headline:
        common = set.intersection(*map(set, reported.values()))
        who = "any trial" if len(lacking) == len(reported) else f"'{lacking[0]}'"
        yield Problem(
            grid.file,
            "metric.name",
            f"'{headline}' is not reported by {who} at its end; {nearest(headline, common)}",
        )
    for i, claim in enumerate(grid.claims):
        sides = [
            [reported[name] for name in names if name in reported]
            for names in _sides(claim["contrast"], cells)
        ]
        if not sides or not all(sides):
            continue
        comparable = set.intersection(*(set().union(*side) for side in sides)) | {
            f"best/{headline}"
        }
        for j, expectation in enumerate(claim["expects"]):
            metric = expectation["metric"]
            if metric and metric not in comparable:
                message = f"'{metric}' is not reported at the end of what is compared; {nearest(metric, comparable)}"
                yield Problem(grid.file, f"claims[{i}].expects[{j}].metric", message)


def _sides(contrast: Mapping[str, str | None], cells: Sequence[Arm]) -> list[list[str]]:
    """The arms and baselines on either side of a claim's contrast; none where the contrast is broken."""
    if not contrast or None in contrast.values():
        return []
    if "arm" in contrast:
        return [[contrast[side]] for side in ("arm", "minus") if side in contrast]
    levels = [contrast[side] for side in ("from", "to", "level") if side in contrast]
    return [
        [arm.name for arm in cells if arm.levels.get(contrast["factor"]) == level]
        for level in levels
    ]
