"""`reports/<study>/` from `runs/<study>/`: the report, its tables as CSV, its figures.

A pure function of the run folder, of published.yaml, and of whether a process runs the study: the
same give the same bytes. Its texts are the Jinja templates in `templates/`. `to_html` makes it one
page with its figures inside, which loads nothing from anywhere else.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from ablation.analysis import effects as judged
from ablation.analysis import results
from ablation.analysis.claims import claim_texts, is_of_one_side, judge_claims
from ablation.analysis.effects import detectable, is_conditional
from ablation.analysis.factors import judged_intervals
from ablation.analysis.first_plan import changed_seeds
from ablation.analysis.results import Results, with_warning
from ablation.analysis.statistics import N_RESAMPLES, smallest_permutation_p
from ablation.analysis.tuning import beside_untuned
from ablation.formatting import (
    correlation,
    is_percent,
    label,
    leaves,
    listed,
    p_value,
    points,
    span,
    two_digits,
)
from ablation.reporting import search, tables
from ablation.reporting.ranges import (
    MAX_ARMS,
    MAX_LINES,
    classes_averaged,
    effects_zoom,
    zoom,
)
from ablation.reporting.verdict import verdict
from ablation.storage.runs import RunFolder, write_atomically
from ablation.subject.loading import BUILT_IN, shown_subject
from ablation.subject.own import SOURCES


class WrittenReport(NamedTuple):
    """A report, and what it was made of."""

    # of report.md, or of report.html where it was asked for
    path: Path
    study: Results
    effects: pd.DataFrame
    claims: pd.DataFrame
    # names of its figures
    drawn: list[str]


def write_report(
    folder: RunFolder,
    destination: Path,
    as_html: bool = False,
    changed: str = "",
    drawn: list[str] | None = None,
) -> WrittenReport:
    """Write a study's report, its tables and its figures to `destination`, `reports/<study>/`.

    These are report.md, results.csv, history.csv, effects.csv, claims.csv and figures/. A study
    without claims has no claims.csv; one of an earlier state is removed. A study need not be
    finished: the report says what is not known yet.

    Args:
        as_html: write report.html too, the whole report in one file; where there is one, it is
            kept up in any case
        changed: what has changed since the study was run, see `ablation.study.opening.changes`;
            the results are those of before
        drawn: names of the figures, if those in `destination` are of these results; else they are
            drawn

    Raises:
        FileNotFoundError: `folder` holds no study
    """
    study = results.load(folder)
    effects = judged.judge(study)
    claims = judge_claims(study, effects)
    if study.manifest.search and not claims.empty:
        claims = beside_untuned(claims, study)
    results.write_csv(study.trials, destination / "results.csv")
    results.write_csv(study.history, destination / "history.csv")
    told = with_warning(effects[[*results.EFFECT_COLUMNS, results.OVER]], study)
    results.write_csv(told, destination / "effects.csv")
    if claims.empty:
        (destination / "claims.csv").unlink(missing_ok=True)
    else:
        results.write_csv(with_warning(claims, study), destination / "claims.csv")
    if drawn is None:
        # which loads Matplotlib
        from ablation.reporting import figures

        drawn = figures.draw(study, effects, destination / "figures")
    text = render(study, effects, claims, drawn, changed)
    path, page = destination / "report.md", destination / "report.html"
    write_atomically(path, text)
    if as_html or page.is_file():
        write_atomically(page, to_html(text, destination))
    return WrittenReport(page if as_html else path, study, effects, claims, drawn)


def render(
    study: Results, effects: pd.DataFrame, claims: pd.DataFrame, drawn: list[str], changed: str = ""
) -> str:
    """The report's text. `drawn` names the figures that there are, as in figures/<name>.png."""
    manifest = study.manifest
    unfinished = study.trials[study.trials["state"].isin(["RUNNING", "WAITING"])]
    primary = judged_intervals(study, effects[effects["metric"] == study.primary])
    of_kind = {kind: primary[primary["kind"] == kind] for kind in ("main", "difference")}
    family = primary[primary["kind"].isin(["main", "interaction"])]
    n_tests = len(family)
    kinds = [spec.kind for spec in manifest.trials]
    trained = "arm" if "arm" in kinds else "baseline"
    # means over arms do without those that have fewer, see `contrasts.Contrast.weights`
    least = 2 if (of_kind["main"]["n_seeds"] > 1).any() else 1
    versions = {**manifest.provenance.get("versions", {}), **manifest.facts.get("versions", {})}
    facts = {**manifest.provenance, "versions": {}, **manifest.facts}
    facts["versions"] = versions
    if facts.get("commit", "") is None:
        facts |= {"commit": "not under git"}
        facts.pop("dirty", None)
    return template("report.md.j2").render(
        manifest=manifest,
        facts=list(leaves({name: fact for name, fact in facts.items() if name != SOURCES})),
        reference=None if study.complete(manifest.reference or "").empty else manifest.reference,
        is_built_in=manifest.subject in BUILT_IN,
        subject=shown_subject(manifest.subject),
        verdict=verdict(study, effects, claims).lines,
        brackets=_brackets(study, primary, n_tests),
        changed=changed,
        metric=label(study.primary),
        percent=is_percent(study.primary),
        points=points(study.primary),
        trained=trained,
        epochs=span(s.epochs_planned for s in manifest.trials if s.kind == trained),
        correlations=of_kind["difference"]["correlation"].dropna(),
        accuracy_table=tables.accuracy_table(study, effects),
        effects_table=tables.effects_table(primary, study.primary),
        alone_table=tables.alone_table(primary, study.primary),
        simple_effects_table=tables.simple_effects_table(
            judged.level_by_level(study, primary), study.primary
        ),
        looks_table=tables.looks_table(study),
        are_seeds_changed=bool(changed_seeds(manifest)),
        claims=claim_texts(claims),
        untuned_claims=search.untuned_claims(claims),
        search_section=template("search.j2").render(**search.told(study), figures=drawn).strip()
        if manifest.search
        else "",
        warnings=[*manifest.facts.get("warnings", []), *manifest.search.get("warnings", [])],
        without_number=tables.without_number(study, claims["metric"].unique()),
        n_expectations=len(claims),
        has_means=any(map(is_of_one_side, claims["direction"])),
        has_margins=bool(claims["direction"].str.contains(" within ").any()),
        published_table=tables.published_table(study),
        factors_table=tables.factors_table(study),
        arms_table=tables.settings_table(study, "arm"),
        baselines_table=tables.settings_table(study, "baseline"),
        divergence_table=tables.divergence_table(study),
        failures_table=tables.failures_table(study),
        split=tables.split_for_memory(study),
        unfinished=unfinished[["trial", "state"]].to_numpy().tolist(),
        least=least,
        left_out=[f"`{arm}`" for arm in study.arms if len(study.complete(arm)) < least],
        columns=study.metrics,
        best=study.best,
        best_label=label(study.best),
        renamed=study.renamed,
        figures=drawn,
        is_zoomed="accuracy" in drawn and zoom(study) is not None,
        effects_are_zoomed="effects" in drawn and effects_zoom(family) is not None,
        n_arms=len(study.arms),
        max_arms=MAX_ARMS,
        max_lines=MAX_LINES,
        n_averaged=classes_averaged(study),
        conditional=is_conditional(primary),
        n_resamples=N_RESAMPLES,
        n_tests=n_tests,
        detectable_effect=detectable(of_kind["main"], n_tests, study.looks),
        detectable_difference=detectable(of_kind["difference"], looks=study.looks),
        smallest_p=primary["p"].min(),
        permutation_p=smallest_permutation_p(len(manifest.seeds)),
    )


def _brackets(study: Results, primary: pd.DataFrame, n_tests: int) -> str:
    """What the intervals of the answer are; "" where it has none."""
    if primary["low"].isna().all():
        return ""
    if is_conditional(primary):
        told = "95 % intervals over test images, of this one training run"
        together = f"; those of the {n_tests} main effects and interactions hold together"
        return told + together * (n_tests > 1)
    told = f"95 % intervals over seeds{', repeated (see Looks)' if study.looks else ''}"
    if n_tests < 2:
        return told
    return (
        f"{told}. Where a factor has one effect, its interval is at the level at which Holm's "
        f"correction over {n_tests} tests judged it; all others are not corrected"
    )


def to_html(text: str, folder: Path) -> str:
    """A page that needs no other file.

    It holds the figures `figures/<name>.png` of `folder`, as SVG where there is one.

    text: Markdown. HTML in it is shown as text, and pictures from elsewhere as their description.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    figures = {f"figures/{path.name}": path for path in (folder / "figures").glob("*.png")}

    def image(renderer: RendererHTML, tokens: Sequence[Token], index: int, *_: Any) -> str:
        """A picture whole, if it is one of the folder's, else as its description."""
        description = html.escape(tokens[index].content)
        path = figures.get(str(tokens[index].attrs["src"]))
        return f'<img alt="{description}" src="{_inlined(path)}">' if path else description

    markdown.add_render_rule("image", image)
    markdown.add_render_rule("table_open", lambda self, *_: '<div class="table"><table>\n')
    markdown.add_render_rule("table_close", lambda self, *_: "</table></div>\n")
    title = next(
        (line.removeprefix("# ") for line in text.split("\n") if line.startswith("# ")), "Report"
    )
    return template("page.html.j2").render(title=title, body=markdown.render(text))


def _inlined(path: Path) -> str:
    """A picture as a data URI; an SVG in it can neither run scripts nor load anything."""
    drawing = path.with_suffix(".svg")
    kind, file = ("svg+xml", drawing) if drawing.is_file() else ("png", path)
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"


def template(name: str) -> jinja2.Template:
    """A template of this package, with the filters of `ablation.formatting`."""
    return _environment().get_template(name)


@cache
def _environment() -> jinja2.Environment:
    """One for all templates, as it keeps those that it has compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ablation.reporting"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        listed=lambda names: listed(list(names)),
        code="`{}`".format,
        p_value=p_value,
        two_digits=two_digits,
        correlation=correlation,
    )
    return environment
