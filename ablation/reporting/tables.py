"""The tables of a report, as Markdown; and a study's arms and claims as tables for READMEs.

Tables for READMEs (`study_tables`) are made of the files of a report alone, since runs/ is not
at hand there. A file holds them between markers, and `refresh_file` keeps them up with the reports:

    <!-- ablate table fixes claims -->
    (generated: what `ablate table fixes claims` prints)
    <!-- /ablate table -->

A marker stands alone on its line, at its beginning; the rest of the file is kept byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis import effects as judged
from ablation.analysis.claims import claims_replay, claims_table
from ablation.analysis.contrasts import difference_name
from ablation.analysis.results import (
    CLASS_GROUPS,
    Results,
    column_of,
    diverged,
    identities,
    known_reports,
    metric_of,
    read_claims,
    read_effects,
    read_trials,
    warning_of,
)
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import (
    MISSING,
    correlation,
    durations,
    effect,
    effects_decimals,
    label,
    leaves,
    listed,
    means_decimals,
    over_seeds,
    p_cell,
    points,
    table,
)
from ablation.reporting.search import untuned_means
from ablation.storage.files import replace
from ablation.storage.runs import UNTUNED

# Shown beside the primary metric, where measured, of the images that it is measured on.
DETAILS = [*CLASS_GROUPS, "top1_compensated"]


def accuracy_table(results: Results, effects: pd.DataFrame) -> str:
    """A row per arm, then per baseline.

    Levels, seeds, primary metric, difference to the reference, details, time.
    """
    names = {name: " / ".join(levels.values()) for name, levels in results.arms.items()}
    names |= dict.fromkeys(results.baselines, "")
    part = "validation" if results.primary.startswith("validation/") else "test"
    details = [f"{part}/{name}" for name in DETAILS]
    header, rows = arms_rows(
        results.trials,
        list(names),
        results.primary,
        results.manifest.reference,
        [name for name in [*details, results.best] if name in results.metrics],
        effects,
    )
    if results.manifest.search:
        # after name, seeds and primary metric
        header.insert(3, UNTUNED)
        untuned = untuned_means(results)
        for name, row in zip(names, rows, strict=True):
            row.insert(3, untuned[name])
    header = [header[0], " / ".join(results.factors) or "levels", *header[1:], "time per trial"]
    times = durations([results.complete(name)["wall_seconds"].mean() for name in names])
    rows = [
        [arm, levels, *row, time]
        for levels, (arm, *row), time in zip(names.values(), rows, times, strict=True)
    ]
    if results.arms and results.baselines:
        blank = [""] * (len(header) - 1)
        rows.insert(len(results.arms), ["*baselines*", *blank])
        rows.insert(0, ["*arms*", *blank])
    return table(header, rows, "ll" + "r" * (len(header) - 2))


def arms_rows(
    trials: pd.DataFrame,
    names: Sequence[str],
    primary: str,
    reference: str | None,
    details: Sequence[str],
    effects: pd.DataFrame,
) -> tuple[list[str], list[list[str]]]:
    """The header, and a row per arm or baseline.

    Name, seeds, primary metric, difference to the reference, means of `details`. All numbers of a
    column have the same decimals.

    trials, effects: as results.csv and effects.csv have them
    """
    details = [name for name in details if name != primary]
    header = ["arm", "seeds", f"{label(primary)} (mean ± std)"]
    header += [f"minus `{reference}` [95 %]"] if reference else []
    rows = effects[effects["metric"] == primary]
    rows = rows[rows["effect"].isin([difference_name(name, reference or "") for name in names])]
    differences = dict(zip(rows["effect"], effect_cells(rows), strict=True))
    finished = trials[trials["state"] == "COMPLETE"]
    own = {name: finished[finished["arm"] == name] for name in names}
    columns = [
        means_of([own[name][metric] for name in names], show_sd=metric == primary)
        for metric in [primary, *details]
    ]

    def row(name: str, mean: str, *others: str) -> list[str]:
        cells = [f"`{name}`", seeds_cell(trials[trials["arm"] == name]), mean]
        if reference == name:
            cells.append("reference")
        elif reference:
            cells.append(differences.get(difference_name(name, reference), MISSING))
        return [*cells, *others]

    return [*header, *map(label, details)], list(map(row, names, *columns))


def means_of(columns: Sequence[pd.Series], show_sd: bool = True) -> list[str]:
    """A column of a table: the mean of each over seeds, all with the same decimals."""
    places = means_decimals(columns)
    return [over_seeds(own, show_sd, places) or MISSING for own in columns]


def effect_cells(rows: pd.DataFrame) -> list[str]:
    """A column of a table: `effect_cell` of each row, all with the same decimals."""
    places = effects_decimals(zip(rows["estimate"], rows["low"], rows["high"], strict=True))
    return [effect_cell(row, places) for row in rows.itertuples()]


def effects_table(rows: pd.DataFrame, metric: str) -> str:
    """Main effects and interactions; "" where the design has none.

    rows: of one metric, from `factors.judged_intervals`
    """
    rows = rows[rows["kind"].isin(["main", "interaction"])]
    interval = "at Holm's level" if rows["p_holm"].count() > 1 else "95 %"
    if judged.is_conditional(rows) and len(rows) > 1:
        interval += " together"
    header = ["effect", f"on {_in_points(metric)} [{interval}]", "p", "p (Holm)", "seeds"]
    cells = [
        [
            f"`{row.effect}`",
            size,
            p_cell(row.p),
            p_cell(row.p_holm),
            str(row.n_seeds),
            correlation(row.correlation),
            "; ".join(filter(None, [row.verdict, row.over])),
        ]
        for row, size in zip(rows.itertuples(), effect_cells(rows), strict=True)
    ]
    return table([*header, "pair correlation", "verdict"], cells, "lrrrrrl")


def simple_effects_table(rows: pd.DataFrame, metric: str) -> str:
    """Effects level by level, for factors that interact. rows: from `effects.level_by_level`."""
    header = ["effect", f"on {_in_points(metric)} [95 %]", "p", "seeds"]
    cells = [
        [f"`{row.effect}`", size, p_cell(row.p), str(row.n_seeds)]
        for row, size in zip(rows.itertuples(), effect_cells(rows), strict=True)
    ]
    return table(header, cells, "lrrr")


def alone_table(rows: pd.DataFrame, metric: str) -> str:
    """A row per level of a factor: its effect alone, and added last; "" where there is neither.

    rows: of one metric, from `effects.judge`; their names end in what they are, in parentheses.
    """
    found: dict[str, dict[str, list[str]]] = {}
    kinds = ("add-one-in", "leave-one-out")
    # all that are alone first
    for kind in kinds:
        own = rows[rows["kind"] == kind]
        for row, size in zip(own.itertuples(), effect_cells(own), strict=True):
            name = row.effect.rpartition(" (")[0]
            found.setdefault(name, {})[kind] = [size, p_cell(row.p)]
    last = f"added last{points(metric) and ', points'} [95 %]"
    header = ["effect", f"alone, on {_in_points(metric)} [95 %]", "p", last, "p"]
    cells = [
        [f"`{name}`", *(cell for kind in kinds for cell in own.get(kind, [MISSING, MISSING]))]
        for name, own in found.items()
    ]
    return table(header, cells, "lrrrr")


def looks_table(results: Results) -> str:
    """A row per look: what was decided, and which arms got more seeds; "" where there is none."""
    replays = {"claims": claims_replay(results).looks} if results.manifest.claims else {}
    if results.manifest.decides_effects:
        replays["main effects"] = judged.effects_replay(results).looks
    sizes = sorted({look.n_seeds for looks in replays.values() for look in looks})
    rows = []
    for n in sizes:
        decided, going_on = [], set[str]()
        for looks in replays.values():
            # Questions that are all decided have no further looks; of an interrupted study, some
            # questions may have had none.
            until_now = [look for look in looks if look.n_seeds <= n]
            if not until_now:
                decided.append(MISSING)
                continue
            last = until_now[-1]
            decided.append(f"{last.n_decided} of {last.n_asked}")
            going_on |= last.going_on if last.n_seeds == n else set()
        names = [f"`{arm}`" for arm in [*results.arms, *results.baselines] if arm in going_on]
        rows.append([str(n), *decided, ", ".join(names) or "none"])
    header = [
        "after seeds",
        *(f"{what} decided" for what in replays),
        "arms of what is not decided",
    ]
    return table(header, rows, "r" * (1 + len(replays)) + "l")


def published_table(results: Results) -> str:
    """Published numbers for the same dataset, with protocol and source; "" where there are none."""
    rows = [
        [
            entry["method"],
            f"{entry['top1']:.2f}",
            entry.get("protocol", ""),
            entry.get("source", ""),
        ]
        for entry in results.manifest.published
    ]
    return table(["method", "top-1", "protocol", "source"], rows, "lrll")


def factors_table(results: Results) -> str:
    """What each level of each factor sets."""
    rows = [
        [f"`{factor}`", f"{level}{' (reference)' if position == 0 else ''}", _settings(overrides)]
        for factor, levels in results.manifest.factors.items()
        for position, (level, overrides) in enumerate(levels.items())
    ]
    return table(["factor", "level", "settings"], rows, "lll")


def settings_table(results: Results, kind: str) -> str:
    """In which settings each arm beside the design, or each baseline, differs from the experiment.

    Of an arm also those that it has in common with the experiment alone, and not with the first arm
    of the design: it is compared with that. "" where none is known.

    Args:
        kind: "arm" or "baseline"
    """
    common = dict(leaves(results.manifest.config))
    specs = {spec.arm: spec for spec in results.manifest.trials if spec.kind == kind}
    first = next((spec for spec in specs.values() if spec.levels and kind == "arm"), None)
    compared = [common] + ([first.settings] if first is not None else [])
    rows = []
    searched = results.manifest.search.get("arms", {})
    for name, spec in specs.items():
        # the levels of the others stand in the table of factors
        if spec.levels:
            continue
        # what was found for it stands with the search
        found = searched[name]["space"] if name in searched else {}
        own = {
            key: to
            for key, to in spec.settings.items()
            if key not in found and any(key not in one or one[key] != to for one in compared)
        }
        rows.append([f"`{name}`", _settings(own)])
    is_known = common or any(spec.settings for spec in specs.values())
    others = "the experiment's" + (f" or those of `{first.arm}`" if first is not None else "")
    return table([kind, f"settings other than {others}"], rows if is_known else [], "ll")


def without_number(results: Results, metrics: Iterable[str]) -> list[str]:
    """For each metric, which complete trials have no finite number of it.

    Arms that never have one are left out: they do not measure it.
    """
    told = []
    for metric in metrics:
        if metric not in results.trials:
            continue
        is_complete = results.trials["state"] == "COMPLETE"
        trials = results.trials[is_complete & results.trials["kind"].isin(["arm", "baseline"])]
        is_finite = np.isfinite(trials[metric].astype(float))
        is_measured = is_finite.groupby(trials["arm"]).transform("any")
        lacking = trials[is_measured & ~is_finite]
        if len(lacking):
            seeds = sorted(lacking["seed"].unique())
            of = f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in seeds])}"
            told.append(f"{label(metric)} in {len(lacking)} of {len(trials)} ({of})")
    return told


def divergence_table(results: Results) -> str:
    """How many trials of each arm and baseline diverged, and how many failed otherwise.

    "" where none diverged.
    """
    trials, is_failed = results.trials, results.trials["state"] == "FAILED"
    counts = trials.assign(diverged=diverged(trials), failed=is_failed)
    counts = counts.groupby("arm", sort=False)[["diverged", "failed"]].sum()
    rows = [
        [f"`{arm}`", str(n), str(failed - n)] for arm, n, failed in counts.itertuples() if failed
    ]
    header = ["arm", "diverged", "failed otherwise"]
    return table(header, rows if counts["diverged"].any() else [], "lrr")


def failures_table(results: Results) -> str:
    """Each failed trial with its reason; "" where none failed."""
    failed = results.trials[results.trials["state"] == "FAILED"]
    rows = [[f"`{row.trial}`", row.error] for row in identities(failed.fillna({"error": MISSING}))]
    return table(["trial", "reason"], rows, "ll")


def split_for_memory(results: Results) -> list[tuple[str, str, int]]:
    """The trials that ran out of memory: trial, phase, and the most chunks per batch."""
    history = results.history
    if "accumulation" not in history:
        return []
    most = history.groupby(["trial", "phase"], sort=False)["accumulation"].max().dropna()
    return [(trial, phase, int(n)) for (trial, phase), n in most.items()]


def seeds_cell(trials: pd.DataFrame) -> str:
    """How many of an arm's planned trials have finished, and how many diverged.

    E.g. `2/3` or `2/3, 1 diverged`. trials: of that arm
    """
    n = int(diverged(trials).sum())
    return f"{(trials['state'] == 'COMPLETE').sum()}/{len(trials)}{f', {n} diverged' * (n > 0)}"


def effect_cell(row: Any, places: int | None = None) -> str:
    """An effect, bold where it is separable from 0, with the reason where it has no interval.

    places: decimals, as of `formatting.effect`
    """
    text = effect(row.estimate, row.low, row.high, places)
    if row.verdict in (judged.HIGHER, judged.LOWER):
        return f"**{text}**"
    reasons = {judged.ONE_SEED: "one seed", judged.NO_SPREAD: "seeds agree"}
    return f"{text} ({reasons[row.verdict]})" if row.verdict in reasons else text


def _in_points(metric: str) -> str:
    """What a column of differences is about: `top-1, points`."""
    return f"{label(metric)}{points(metric) and ', points'}"


def _settings(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key}: {leaf}`" for key, leaf in leaves(overrides)) or "defaults"


PARTS = ("arms", "claims")
_OPEN = re.compile(r"<!-- ablate table\b(.*)-->\s*")
_CLOSE = re.compile(r"<!-- /ablate table -->\s*")
UNCLOSED = "the block is not closed; end it with <!-- /ablate table -->"


def study_tables(folders: Sequence[Path], study: str | None, parts: Sequence[str] = ()) -> str:
    """The table of arms, and that of claims where there are any. `parts` picks among `PARTS`.

    A warning follows where the study's plan was changed after results were seen.

    Args:
        folders: that hold reports, a folder a study; of two reports of one study, that in the
            first folder is taken
        study: may be None where there is only one

    Raises:
        InputError: no such study or part, or a table that cannot be read
    """
    folder, texts, warnings = _report_of(folders, study, parts), [], []
    if not parts or "arms" in parts:
        found = _arms_table(folder)
        texts.append(table(found.header, found.rows, "l" + "r" * (len(found.header) - 1)))
        warnings.append(found.warning)
    if (folder / "claims.csv").is_file() and (not parts or "claims" in parts):
        claims = read_claims(folder)
        texts.append(claims_table(claims))
        warnings.append(warning_of(claims))
    texts += [f"**Warning:** {text}." for text in dict.fromkeys(warnings) if text]
    return "\n\n".join(texts)


def _report_of(folders: Sequence[Path], study: str | None, parts: Sequence[str] = ()) -> Path:
    """The folder of a study's report, see `study_tables`."""
    known = known_reports(folders)
    if study is None:
        study = next(iter(known)) if len(known) == 1 else ""
    wrong = _mistake(known, study, parts)
    if wrong:
        raise InputError([Problem(" and ".join(map(str, folders)), study, wrong)])
    return known[study]


def _mistake(known: Mapping[str, Path], study: str, parts: Sequence[str]) -> str:
    """What is wrong with the names of a study and its parts; "" if nothing. study: "" for none."""
    if study not in known:
        hint = nearest(study, known) if known else "there is none yet"
        return f"{'no such report' if study else 'name a study'}; {hint}"
    for part in parts:
        if part not in PARTS:
            return f"no part of a report is called '{part}'; {nearest(part, PARTS)}"
    if "claims" in parts and not (known[study] / "claims.csv").is_file():
        return "the study has no claims"
    return ""


def latex_table(folders: Sequence[Path], study: str | None) -> str:
    """The table of arms for a LaTeX document that uses the package booktabs.

    Escaped, with caption and label; arguments and errors as of `study_tables`.
    """
    folder = _report_of(folders, study)
    found = _arms_table(folder)
    name = latex(folder.name)
    metric = label(found.primary)
    caption = [f"{latex(metric[:1].upper() + metric[1:])} in the study {name}"]
    if any("±" in row[2] for row in found.rows):
        caption.append(r"mean $\pm$ standard deviation over seeds")
    if found.reference:
        caption.append(
            f"difference to \\texttt{{{latex(found.reference)}}} with its 95\\,\\% interval, "
            "bold where that excludes 0"
        )
    if found.warning:
        caption.append(f"warning: {latex(found.warning)}")
    header, *rows = [
        " & ".join(map(latex, cells)) + r" \\" for cells in [found.header, *found.rows]
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{'; '.join(caption)}.}}",
        rf"\label{{tab:{_LABEL.sub('-', folder.name)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(found.header) - 1)}}}",
        r"\toprule",
        header,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([f"% ablate table {name} --format latex", *lines])


# what a label may not hold
_LABEL = re.compile(r"[^\w.:+-]", re.ASCII)
_ESCAPED = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    MISSING: "--",
}
_BOLD = re.compile(r"\*\*(.*)\*\*")
_CODE = re.compile(r"`([^`]*)`")
_SIGNED = re.compile(r"(?<![\w}+-])([+-])(?=\d)")


def latex(cell: str) -> str:
    """A cell of a Markdown table as LaTeX: bold, names in backquotes, signs, special characters.

    >>> latex("**-0.5 [-0.8, -0.2]**")
    '\\\\textbf{$-$0.5 [$-$0.8, $-$0.2]}'
    >>> latex("`lr_split`")
    '\\\\texttt{lr\\\\_split}'
    """
    if bold := _BOLD.fullmatch(cell):
        return rf"\textbf{{{latex(bold[1])}}}"
    parts = []
    # every second part is a name
    for k, part in enumerate(_CODE.split(cell)):
        text = "".join(_ESCAPED.get(character, character) for character in part)
        parts.append(rf"\texttt{{{text}}}" if k % 2 else _SIGNED.sub(r"$\1$", text))
    return "".join(parts)


class _ArmsTable(NamedTuple):
    """The table of arms, as cells in Markdown."""

    header: list[str]
    rows: list[list[str]]
    primary: str
    reference: str | None
    # see `warning_of`
    warning: str


def _arms_table(folder: Path) -> _ArmsTable:
    """A row per arm and baseline.

    Seeds, primary metric, difference to the reference, and compensated and best where measured.
    """
    effects = read_effects(folder)
    trials, primary, factors, metrics = read_trials(folder, effects)
    if "kind" in trials:
        trials = trials[trials["kind"] != UNTUNED]
    best = column_of(f"best/{metric_of(primary, factors)}", factors)
    of_primary = effects.loc[effects["metric"] == primary, "effect"]
    references = (name.partition(" - ")[2] for name in of_primary if " - " in name)
    reference = next(references, None)
    header, rows = arms_rows(
        trials,
        list(dict.fromkeys(trials["arm"])),
        primary,
        reference,
        [name for name in ["test/top1_compensated", best] if name in metrics],
        effects,
    )
    # without a reference, it has no interval
    warning = warning_of(effects) if reference else ""
    return _ArmsTable(header, rows, primary, reference, warning)


class _Block(NamedTuple):
    """A block of a text that has been opened and not yet closed."""

    # of the marker, from 1
    line: int
    # that the marker names; "" where it names none
    study: str
    parts: list[str]
    # how many pieces of the text stand before the block's content
    position: int


class Refreshed(NamedTuple):
    """A text with all its tables up to date."""

    text: str
    n_blocks: int
    # lines, from 1, of the markers whose table has changed
    stale: list[int]


def refresh_file(path: Path, folders: Sequence[Path], check: bool = False) -> Refreshed:
    """Renew every table of a file; either all of them or none.

    Args:
        folders: that hold reports
        check: only find which tables are stale

    Raises:
        InputError: the file cannot be used, or a block is unclosed or names no study; nothing has
            been written
    """
    try:
        before = path.read_bytes().decode()
        after = refresh(before, str(path), folders)
        if after.text != before and not check:
            replace(path.resolve(), after.text.encode())
    except OSError as error:
        why = f"cannot be read or written: {error.strerror or error}"
        raise InputError([Problem("", str(path), why)]) from error
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text (byte {error.start})"
        raise InputError([Problem("", str(path), why)]) from error
    return after


def refresh(text: str, file: str, folders: Sequence[Path]) -> Refreshed:
    """A text with every table generated anew. `file` is its name, for messages.

    Raises:
        InputError: naming each line that is wrong
    """
    known, problems = known_reports(folders), []
    done: list[str] = []
    n_blocks, stale = 0, []
    opened: _Block | None = None

    def wrong(line: int, message: str) -> None:
        problems.append(Problem(file, f"line {line}", message))

    for number, line in enumerate(re.findall(r"[^\n]*\n|[^\n]+", text), 1):
        opens, closes = _OPEN.fullmatch(line), _CLOSE.fullmatch(line)
        if opens and opened:
            wrong(opened.line, UNCLOSED)
        elif closes and opened:
            start, study, parts, position = opened
            n_blocks += 1
            mistake = _mistake(known, study, parts)
            if mistake:
                wrong(start, f"{study}: {mistake}" if study else mistake)
            elif not problems:
                body = f"\n{study_tables(folders, study, parts)}\n\n"
                if done[position - 1].endswith("\r\n"):
                    body = body.replace("\n", "\r\n")
                if "".join(done[position:]) != body:
                    stale.append(start)
                done[position:] = [body]
            opened = None
        elif closes:
            wrong(number, "closes a block that was not opened")
        done.append(line)
        if opens:
            study, *parts = opens[1].split() or [""]
            opened = _Block(number, study, parts, len(done))
    if opened:
        wrong(opened.line, UNCLOSED)
    if problems:
        raise InputError(problems)
    return Refreshed("".join(done), n_blocks, stale)
