"""What all figures share: colours, sizes, names, and files that are the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from ablation.formatting import is_percent, label

# Paul Tol's "muted" scheme, distinct under the common kinds of colour blindness; its cyan darkened for thin lines.
PALETTE = ["#332288", "#CC6677", "#117733", "#AA4499", "#4FA8D8", "#999933", "#882255", "#44AA99"]
INK = "#222222"
GREY = "#888888"
CONTEXT = "#d5d5d5"  # lines that are there to compare with
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
DASHES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3))]

_STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.1,  # inches
    "svg.hashsalt": "ablate",  # ids inside the SVG: the same for the same figure
}

_METADATA = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}  # no dates, no versions


def style() -> rc_context:
    """The context that figures are made and saved in."""
    return rc_context(_STYLE)


def colours(arms: Sequence[str]) -> dict[str, str]:
    """One colour per arm, the same in every figure of a study; they repeat after eight."""
    return {arm: PALETTE[index % len(PALETTE)] for index, arm in enumerate(arms)}


def axis_label(metric: str) -> str:
    return f"{label(metric)} (%)" if is_percent(metric) else label(metric)


def wrapped(arm: str, width: int = 24) -> str:
    """An arm's name broken at its plus signs into lines of at most `width` characters, where that is possible."""
    lines = [""]
    for part in arm.split("+"):
        joined = f"{lines[-1]}+{part}" if lines[-1] else part
        if len(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines[-1] += "+"
            lines.append(part)
    return "\n".join(lines)


def save(figure: Figure | None, path: Path) -> None:
    """Write `path`.png and `path`.svg; remove them where there is no figure."""
    for suffix in _METADATA:
        file = path.with_name(path.name + suffix)
        if figure is None:
            file.unlink(missing_ok=True)
        else:
            save_as(figure, file)


def save_as(figure: Figure, file: Path) -> None:
    """Write one file, .png or .svg, the same bytes for the same figure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(file, dpi=150, metadata=_METADATA[file.suffix])
