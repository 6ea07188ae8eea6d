"""A study's headline as Markdown tables, from the files of `reports/<study>/` alone: for READMEs, where runs/ is not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ablation import effects as judged
from ablation.claims_text import claims_table
from ablation.contrasts import difference_name
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import MISSING, label, table, value
from ablation.tables import effect_cell, mean_and_sd, seeds_cell

PARTS = ("arms", "claims")
_NAMES = ("arm", "state", "effect", "metric", "claim", "says", "contrast", "direction", "verdict", "claim_verdict", "level_by_level")


def headline_tables(reports: Path, study: str | None, parts: Sequence[str] = ()) -> str:
    """The table of arms, and that of claims where there are any. `parts` picks among `PARTS`.

    Args:
        study: may be None where there is only one

    Raises:
        InputError: no such study or part
    """
    known = known_studies(reports)
    study = known[0] if study is None and len(known) == 1 else study
    wrong = mistake(reports, study, parts)
    if wrong:
        raise InputError([Problem(str(reports), study or "", wrong)])
    folder = reports / study
    texts = []
    if not parts or "arms" in parts:
        texts.append(_arms_table(read_table(folder / "results.csv"), read_effects(folder / "effects.csv")))
    if (folder / "claims.csv").is_file() and (not parts or "claims" in parts):
        texts.append(claims_table(read_table(folder / "claims.csv").astype({"n_seeds": int})))
    return "\n\n".join(texts)


def known_studies(reports: Path) -> list[str]:
    return sorted(path.parent.name for path in reports.glob("*/results.csv"))


def mistake(reports: Path, study: str | None, parts: Sequence[str]) -> str:
    """What is wrong with the names of a study and its parts; "" if nothing."""
    known = known_studies(reports)
    if study not in known:
        return f"{'no such report' if study else 'name a study'}; {nearest(study or '', known) if known else 'there is none yet'}"
    for part in parts:
        if part not in PARTS:
            return f"no part of a report is called '{part}'; {nearest(part, PARTS)}"
    if "claims" in parts and not (reports / study / "claims.csv").is_file():
        return "the study has no claims"
    return ""


def _arms_table(trials: pd.DataFrame, effects: pd.DataFrame) -> str:
    """A row per arm and baseline: seeds, headline, difference to the reference, compensated and best where measured."""
    names = list(dict.fromkeys(trials["arm"]))
    headline = headline_of(trials, effects)
    differences = effects[(effects["metric"] == headline) & effects["effect"].str.contains(" - ", regex=False)].set_index("effect")
    reference = next((effect.partition(" - ")[2] for effect in differences.index), None)
    details = [name for name in ["test/top1_compensated", f"best/{headline}"] if name in trials and name != headline]

    def row(name: str) -> list[str]:
        own = trials[trials["arm"] == name]
        finished = own[own["state"] == "COMPLETE"]
        cells = [f"`{name}`", seeds_cell(own), value(*mean_and_sd(finished[headline]))]
        if reference is not None:
            cells.append("reference" if name == reference else _difference(differences, difference_name(name, reference)))
        return [*cells, *(value(*mean_and_sd(finished[metric]), show_sd=False) for metric in details)]

    header = ["arm", "seeds", f"{label(headline)} (mean ± std)"]
    header += [f"minus `{reference}` [95 %]"] if reference is not None else []
    header += map(label, details)
    return table(header, [row(name) for name in names], "l" + "r" * (len(header) - 1))


def headline_of(trials: pd.DataFrame, effects: pd.DataFrame) -> str:
    """The metric that effects.csv has first; without effects, the first column that can be no factor's."""
    if len(effects):
        return effects["metric"].iloc[0]
    after = list(trials.columns[trials.columns.get_loc("state") + 1 :])
    return next((name for name in after if "/" in name), after[0])


def _difference(differences: pd.DataFrame, name: str) -> str:
    return effect_cell(next(differences.loc[[name]].itertuples())) if name in differences.index else MISSING


def read_effects(path: Path) -> pd.DataFrame:
    return read_table(path) if path.is_file() else pd.DataFrame({name: pd.Series(dtype=object) for name in judged.CSV_COLUMNS})


def read_table(path: Path) -> pd.DataFrame:
    """A table with its floats to the bit, and names that read as numbers, or as nothing, left as they are.

    pandas' own reading of floats may be off by the last bit, which turns the rounding of a number that ends in 5 around.
    """
    written = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    return written.apply(lambda column: column if column.name in _NAMES else _numbers(column))


def _numbers(column: pd.Series) -> pd.Series:
    """Floats, NaN where a cell is empty; the column as it is where one is no number."""
    try:
        return column.map(lambda cell: float(cell or "nan")).astype(float)
    except ValueError:
        return column
