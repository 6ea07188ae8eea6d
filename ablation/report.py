"""`reports/<study>/` from `runs/<study>/`: the report, its tables as CSV, its figures.

A pure function of the run folder, of published.yaml, and of whether a process runs the study: the same gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from ablation import effects as judged
from ablation import figures, results, tables
from ablation.answer import answer, detectable, interacting, is_conditional, one_seed_limits
from ablation.claims import judge_claims
from ablation.claims_text import claim_texts, is_of_one_side
from ablation.figures.curves import MAX_ARMS
from ablation.figures.mechanism import MAX_LINES
from ablation.formatting import correlation, is_percent, label, p_value, points
from ablation.html import to_html
from ablation.results import Results
from ablation.runs import Manifest, RunFolder, write_atomically
from ablation.statistics import smallest_permutation_p


def write_report(
    folder: RunFolder, destination: Path, as_html: bool = False, changed: str = ""
) -> Path:
    """Write report.md, results.csv, history.csv, effects.csv, claims.csv and figures/ to `destination`, `reports/<study>/`.

    A study without claims has no claims.csv; one of an earlier state is removed. Works for unfinished studies: what is not known yet is said so.

    Args:
        changed: what has changed since the study was run, see `ablation.study.changes`; the results are those of before
        as_html: write report.html too, the whole report in one file; where there is one, it is kept up in any case

    Returns:
        the path of report.md, or of report.html where it was asked for

    Raises:
        FileNotFoundError: `folder` holds no study
    """
    study = results.load(folder)
    effects = judged.judge(study)
    claims = judge_claims(study, effects)
    results.write_csv(study.trials, destination / "results.csv")
    results.write_csv(study.history, destination / "history.csv")
    results.write_csv(effects[judged.CSV_COLUMNS], destination / "effects.csv")
    if claims.empty:
        (destination / "claims.csv").unlink(missing_ok=True)
    else:
        results.write_csv(claims, destination / "claims.csv")
    drawn = figures.draw(study, effects, destination / "figures")
    text, path, page = (
        render(study, effects, claims, drawn, changed),
        destination / "report.md",
        destination / "report.html",
    )
    write_atomically(path, text)
    if as_html or page.is_file():
        write_atomically(page, to_html(text, destination))
    return page if as_html else path


def render(
    study: Results, effects: pd.DataFrame, claims: pd.DataFrame, drawn: list[str], changed: str = ""
) -> str:
    """The report's text. `drawn` names the figures that there are, as in figures/<name>.png."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ablation"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.md.j2").render(
        _context(study, effects, claims, drawn), changed=changed
    )


def _context(
    study: Results, effects: pd.DataFrame, claims: pd.DataFrame, drawn: list[str]
) -> dict[str, Any]:
    manifest = study.manifest
    headline = effects[effects["metric"] == study.headline]
    main, differences = (
        headline[headline["kind"] == "main"],
        headline[headline["kind"] == "difference"],
    )
    facts = {
        name: fact
        for name, fact in manifest.facts.items()
        if name not in ("between_seeds", "class_counts", "versions")
    }
    versions = {**manifest.provenance.get("versions", {}), **manifest.facts.get("versions", {})}
    unfinished = study.trials[study.trials["state"].isin(["RUNNING", "WAITING"])]
    is_measured = (
        manifest.reference in study.baselines and not study.complete(manifest.reference).empty
    )
    return {
        "manifest": manifest,
        "reference": manifest.reference if is_measured else None,
        "answer": answer(study, effects, claims),
        "metric": label(study.headline),
        "percent": is_percent(study.headline),
        "points": points(study.headline),
        "between_seeds": manifest.facts.get("between_seeds", ""),
        "class_counts": manifest.facts.get("class_counts") or [],
        "epochs": _epochs(manifest),
        "correlations": _correlations(differences, manifest.reference),
        "accuracy_table": tables.accuracy_table(study, effects),
        "effects_table": tables.effects_table(effects, study.headline),
        "alone_table": tables.alone_table(headline, study.headline),
        "simple_effects_table": tables.simple_effects_table(
            interacting(study, headline), study.headline
        ),
        "claims": claim_texts(claims),
        "n_expectations": len(claims),
        "has_means": any(map(is_of_one_side, claims["direction"])),
        "has_margins": bool(claims["direction"].str.contains(" within ").any()),
        "published_table": tables.published_table(study),
        "factors_table": tables.factors_table(study),
        "baselines_table": tables.baselines_table(study),
        "divergence_table": tables.divergence_table(study),
        "failures_table": tables.failures_table(study),
        "split": tables.split_for_memory(study),
        "unfinished": list(unfinished[["trial", "state"]].itertuples(index=False)),
        "left_out": _left_out(study, main),
        "has_best": study.best in study.metrics,
        "has_compensated": "test/top1_compensated" in study.metrics,
        "renamed": study.renamed,
        "figures": drawn,
        "shown": _shown(len(study.arms), MAX_ARMS),
        "shown_inside": _shown(len(study.arms), MAX_LINES),
        "conditional": is_conditional(headline),
        "one_seed_limits": one_seed_limits(headline),
        "detectable_effect": detectable(
            main, n_tests := int(headline["kind"].isin(["main", "interaction"]).sum())
        ),
        "n_tests": n_tests,
        "smallest_p": p_value(headline["p"].min()) if headline["p"].notna().any() else "",
        "detectable_difference": detectable(differences),
        "permutation_p": smallest_permutation_p(len(manifest.seeds)),
        "facts": list(tables.flatten({**manifest.provenance, "versions": versions, **facts})),
    }


def _correlations(differences: pd.DataFrame, reference: str | None) -> str:
    """What pairing by seed had to work with; "" where two seeds or equal results tell nothing."""
    known = differences["correlation"].dropna()
    if known.empty:
        return ""
    ends = (
        f"{correlation(known.min())} to {correlation(known.max())} (median {correlation(known.median())})"
        if len(known) > 1
        else correlation(known.iloc[0])
    )
    return f"Correlation over seeds with `{reference}`: {ends}. Pairing narrows a difference where it is above 0, and buys nothing elsewhere."


def _left_out(study: Results, main: pd.DataFrame) -> str:
    """Arms that means over arms may do without, see `contrasts.Contrast.weights`; "" where there are none."""
    least = 2 if (main["n_seeds"] > 1).any() else 1
    arms = [f"`{arm}`" for arm in study.arms if len(study.complete(arm)) < least]
    which = "a finished trial" if least == 1 else "two finished trials"
    return f"Arms without {which} are left out of the means: {', '.join(arms)}." if arms else ""


def _shown(n_arms: int, most: int) -> str:
    """What a figure with too many arms leaves grey."""
    told = f" Of {n_arms} arms, the first and the {most - 1} with the best means are shown each for itself, the others in grey."
    return told if n_arms > most else ""


def _epochs(manifest: Manifest) -> str:
    """How long an arm is trained, in words."""
    if "epochs" in manifest.facts:
        before = manifest.facts.get("pretraining_epochs")
        return f"{manifest.facts['epochs']} epochs per arm" + (
            f" after {before} of pre-training, which all share" if before else ""
        )
    has_arms = any(spec.kind == "arm" for spec in manifest.trials)
    planned = sorted(
        {spec.epochs_planned for spec in manifest.trials if spec.kind == "arm" or not has_arms}
    )
    return (
        " to ".join(map(str, planned[:: len(planned) - 1 or 1]))
        + f" epochs planned per {'arm' if has_arms else 'baseline'}"
    )
