"""The figures of a report.

They draw numbers that are already there; no statistics are computed here.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ablation.analysis.effects import factor_pairs
from ablation.analysis.results import Results
from ablation.reporting.figures.curves import learning_curves, mechanism, per_class
from ablation.reporting.figures.style import save
from ablation.reporting.figures.summary import accuracy, effects_figure, interactions


def draw(results: Results, effects: pd.DataFrame, destination: Path) -> list[str]:
    """Draw every figure that the study has data for, as `<name>.png` and `<name>.svg`.

    Files of figures that can no longer be drawn are removed from `destination`.

    Args:
        effects: from `ablation.analysis.effects.judge`

    Returns:
        the names drawn, in the order of the report
    """
    figures = {
        "accuracy": accuracy(results),
        "effects": effects_figure(effects, results.headline),
        "interactions": interactions(
            list(factor_pairs(results, results.headline)), effects, results.headline
        ),
        "learning_curves": learning_curves(results),
        "mechanism": mechanism(results),
        "per_class": per_class(results),
    }
    for name, figure in figures.items():
        save(figure, destination / name)
    return [name for name, figure in figures.items() if figure is not None]
