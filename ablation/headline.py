"""A study's headline as Markdown tables, from the files of its report alone: for READMEs, where runs/ is not at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ablation.claims_text import claims_table
from ablation.columns import column_of, metric_of
from ablation.contrasts import difference_name
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import MISSING, label, table, value
from ablation.report_tables import Reported, read_claims, read_effects, read_trials
from ablation.tables import effect_cell, mean_and_sd, seeds_cell

PARTS = ("arms", "claims")


def headline_tables(folders: Sequence[Path], study: str | None, parts: Sequence[str] = ()) -> str:
    """The table of arms, and that of claims where there are any. `parts` picks among `PARTS`.

    Args:
        folders: that hold reports, a folder a study; of two reports of one study, that in the first folder is taken
        study: may be None where there is only one

    Raises:
        InputError: no such study or part, or a table that cannot be read
    """
    known = known_reports(folders)
    study = next(iter(known)) if study is None and len(known) == 1 else study
    wrong = mistake(known, study, parts)
    if wrong:
        raise InputError([Problem(" and ".join(map(str, folders)), study or "", wrong)])
    folder = known[study]
    texts = []
    if not parts or "arms" in parts:
        effects = read_effects(folder)
        texts.append(_arms_table(read_trials(folder, effects), effects))
    if (folder / "claims.csv").is_file() and (not parts or "claims" in parts):
        texts.append(claims_table(read_claims(folder)))
    return "\n\n".join(texts)


def known_reports(folders: Sequence[Path]) -> dict[str, Path]:
    """Study -> the folder of its report; of two, that in the first of the folders."""
    found = {
        path.parent.name: path.parent
        for folder in reversed(folders)
        for path in folder.glob("*/results.csv")
    }
    return dict(sorted(found.items()))


def mistake(known: Mapping[str, Path], study: str | None, parts: Sequence[str]) -> str:
    """What is wrong with the names of a study and its parts; "" if nothing. known: from `known_reports`."""
    if study not in known:
        return f"{'no such report' if study else 'name a study'}; {nearest(study or '', known) if known else 'there is none yet'}"
    for part in parts:
        if part not in PARTS:
            return f"no part of a report is called '{part}'; {nearest(part, PARTS)}"
    if "claims" in parts and not (known[study] / "claims.csv").is_file():
        return "the study has no claims"
    return ""


def _arms_table(reported: Reported, effects: pd.DataFrame) -> str:
    """A row per arm and baseline: seeds, headline, difference to the reference, compensated and best where measured."""
    trials, headline, factors, metrics = reported
    names = list(dict.fromkeys(trials["arm"]))
    best = column_of(f"best/{metric_of(headline, factors)}", factors)
    differences = effects[
        (effects["metric"] == headline) & effects["effect"].str.contains(" - ", regex=False)
    ].set_index("effect")
    reference = next((effect.partition(" - ")[2] for effect in differences.index), None)
    details = [
        name for name in ["test/top1_compensated", best] if name in metrics and name != headline
    ]

    def row(name: str) -> list[str]:
        own = trials[trials["arm"] == name]
        finished = own[own["state"] == "COMPLETE"]
        cells = [f"`{name}`", seeds_cell(own), value(*mean_and_sd(finished[headline]))]
        if reference is not None:
            cells.append(
                "reference"
                if name == reference
                else _difference(differences, difference_name(name, reference))
            )
        return [
            *cells,
            *(value(*mean_and_sd(finished[metric]), show_sd=False) for metric in details),
        ]

    header = ["arm", "seeds", f"{label(headline)} (mean ± std)"]
    header += [f"minus `{reference}` [95 %]"] if reference is not None else []
    header += map(label, details)
    return table(header, [row(name) for name in names], "l" + "r" * (len(header) - 1))


def _difference(differences: pd.DataFrame, name: str) -> str:
    return (
        effect_cell(next(differences.loc[[name]].itertuples()))
        if name in differences.index
        else MISSING
    )
