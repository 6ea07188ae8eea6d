"""`reports/<study>/` from `runs/<study>/`: the report, its tables as CSV, its figures.

A pure function of the run folder, of published.yaml, and of whether a process runs the study: the
same give the same bytes. Its texts are the Jinja templates in `templates/`. `to_html` makes it one
page with its figures inside, which loads nothing from anywhere else.
"""

from __future__ import annotations

import base64
import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from ablation.analysis import effects as judged
from ablation.analysis import results
from ablation.analysis.claims import claim_texts, claims_counted, is_of_one_side, judge_claims
from ablation.analysis.contrasts import difference_name
from ablation.analysis.effects import detectable, is_conditional
from ablation.analysis.results import Results, diverged
from ablation.analysis.statistics import N_RESAMPLES, smallest_permutation_p
from ablation.analysis.tuning import beside_untuned
from ablation.formatting import (
    correlation,
    effect,
    is_percent,
    label,
    leaves,
    listed,
    over_seeds,
    p_value,
    points,
    span,
)
from ablation.reporting import figures, search, tables
from ablation.reporting.curves import MAX_ARMS, MAX_LINES
from ablation.storage.runs import UNTUNED, RunFolder, write_atomically


class WrittenReport(NamedTuple):
    """A report, and what it was made of."""

    # of report.md, or of report.html where it was asked for
    path: Path
    study: Results
    effects: pd.DataFrame
    claims: pd.DataFrame


def write_report(
    folder: RunFolder, destination: Path, as_html: bool = False, changed: str = ""
) -> Path:
    """As `write_judged`; returns the path alone."""
    return write_judged(folder, destination, as_html, changed).path


def write_judged(
    folder: RunFolder, destination: Path, as_html: bool = False, changed: str = ""
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
    results.write_csv(effects[results.EFFECT_COLUMNS], destination / "effects.csv")
    if claims.empty:
        (destination / "claims.csv").unlink(missing_ok=True)
    else:
        results.write_csv(claims, destination / "claims.csv")
    drawn = figures.draw(study, effects, destination / "figures")
    text = render(study, effects, claims, drawn, changed)
    path, page = destination / "report.md", destination / "report.html"
    write_atomically(path, text)
    if as_html or page.is_file():
        write_atomically(page, to_html(text, destination))
    return WrittenReport(page if as_html else path, study, effects, claims)


def render(
    study: Results, effects: pd.DataFrame, claims: pd.DataFrame, drawn: list[str], changed: str = ""
) -> str:
    """The report's text. `drawn` names the figures that there are, as in figures/<name>.png."""
    manifest = study.manifest
    unfinished = study.trials[study.trials["state"].isin(["RUNNING", "WAITING"])]
    headline = effects[effects["metric"] == study.headline]
    of_kind = {kind: headline[headline["kind"] == kind] for kind in ("main", "difference")}
    n_tests = int(headline["kind"].isin(["main", "interaction"]).sum())
    kinds = [spec.kind for spec in manifest.trials]
    trained = "arm" if "arm" in kinds else "baseline"
    # means over arms do without those that have fewer, see `contrasts.Contrast.weights`
    least = 2 if (of_kind["main"]["n_seeds"] > 1).any() else 1
    versions = {**manifest.provenance.get("versions", {}), **manifest.facts.get("versions", {})}
    facts = {**manifest.provenance, "versions": {}, **manifest.facts}
    facts["versions"] = versions
    return template("report.md.j2").render(
        manifest=manifest,
        facts=list(leaves(facts)),
        reference=manifest.reference if _is_measured(study) else None,
        answer=answer(study, effects, claims),
        changed=changed,
        metric=label(study.headline),
        percent=is_percent(study.headline),
        points=points(study.headline),
        trained=trained,
        epochs=span(s.epochs_planned for s in manifest.trials if s.kind == trained),
        correlations=of_kind["difference"]["correlation"].dropna(),
        accuracy_table=tables.accuracy_table(study, effects),
        effects_table=tables.effects_table(headline, study.headline),
        alone_table=tables.alone_table(headline, study.headline),
        simple_effects_table=tables.simple_effects_table(
            judged.level_by_level(study, headline), study.headline
        ),
        looks_table=tables.looks_table(study),
        claims=claim_texts(claims),
        untuned_claims=search.untuned_claims(claims),
        search_section=_search_section(study, drawn) if manifest.search else "",
        warnings=[*manifest.facts.get("warnings", []), *manifest.search.get("warnings", [])],
        n_expectations=len(claims),
        has_means=any(map(is_of_one_side, claims["direction"])),
        has_margins=bool(claims["direction"].str.contains(" within ").any()),
        published_table=tables.published_table(study),
        factors_table=tables.factors_table(study),
        baselines_table=tables.baselines_table(study),
        divergence_table=tables.divergence_table(study),
        failures_table=tables.failures_table(study),
        split=tables.split_for_memory(study),
        unfinished=unfinished[["trial", "state"]].to_numpy().tolist(),
        least=least,
        left_out=[f"`{arm}`" for arm in study.arms if len(study.complete(arm)) < least],
        columns=study.metrics,
        best=study.best,
        renamed=study.renamed,
        figures=drawn,
        n_arms=len(study.arms),
        max_arms=MAX_ARMS,
        max_lines=MAX_LINES,
        conditional=is_conditional(headline),
        n_resamples=N_RESAMPLES,
        n_tests=n_tests,
        detectable_effect=detectable(of_kind["main"], n_tests, study.looks),
        detectable_difference=detectable(of_kind["difference"], looks=study.looks),
        smallest_p=headline["p"].min(),
        permutation_p=smallest_permutation_p(len(manifest.seeds)),
    )


def _search_section(study: Results, drawn: list[str]) -> str:
    """How the arms were tuned, and what that gained. The study was tuned."""
    return template("search.j2").render(**search.told(study), figures=drawn).strip()


def answer(results: Results, effects: pd.DataFrame, claims: pd.DataFrame) -> str:
    """One paragraph, written from the numbers: what matters, by how much, how sure.

    effects, claims: from `effects.judge` and `claims.judge_claims`.
    """
    headline = effects[effects["metric"] == results.headline]
    main = headline[headline["kind"] == "main"]
    cells, states = results.cells(results.headline), results.trials["state"].value_counts()
    reference = results.manifest.reference

    def sizes(rows: pd.DataFrame, pattern: str) -> list[str]:
        return [
            pattern % (row.effect, effect(row.estimate, row.low, row.high))
            for row in rows.itertuples()
        ]

    def found(kind: str, verdict: str) -> list[str]:
        rows = headline[(headline["kind"] == kind) & (headline["verdict"] == verdict)]
        return sizes(rows, "`%s` (%s)")

    def mean(name: str) -> str:
        return over_seeds(cells[name])

    ranking = judged.rank(results, list(results.arms))
    strongest = judged.rank(results, results.baselines) if ranking else None
    if ranking and strongest and strongest.best != reference:
        (beats,) = judged.minus_others(results, ranking.best, [strongest.best])
    else:
        strongest, beats = None, None
    designed = results.trials[results.trials["kind"] != UNTUNED]
    broken = diverged(designed).groupby(designed["arm"], sort=False)
    text = template("answer.j2").render(
        verdicts=judged,
        found=found,
        mean=mean,
        metric=label(results.headline),
        points=points(results.headline),
        states=", ".join(f"{n} {state.lower()}" for state, n in states.sort_index().items()),
        n_complete=states.get("COMPLETE", 0),
        n_trials=len(results.trials),
        n_seeds=len(cells),
        conditional=is_conditional(headline),
        diverged=[
            f"{own.sum()} of {len(own)} trials of `{arm}`" for arm, own in broken if own.any()
        ],
        seeds=span(n for n in main["n_seeds"] if n > 1),
        moved=moved(main, results.headline),
        level_by_level=sizes(judged.level_by_level(results, headline), "`%s` %s"),
        reference=reference,
        compared=_compared(results, headline),
        ranking=ranking,
        n_of_best=cells[ranking.best].count() if ranking else 0,
        n_finished=cells[list(results.arms)].notna().any().sum(),
        has_hits=bool(results.hits),
        strongest=strongest,
        beats=effect(*beats[:3]) if beats else "",
        has_arms=bool(results.arms),
        baselines=[f"`{b}` {mean(b)}" for b in results.baselines if cells[b].notna().any()],
        power=detectable(main, looks=results.looks),
        n_main=len(main),
        claims_counted=claims_counted(claims),
    )
    return " ".join(line for line in text.split("\n") if line)


def moved(main: pd.DataFrame, metric: str) -> list[str]:
    """What the main effects that are separable from 0 do, those that raise the metric first."""
    told = []
    for verdict, verb in [(judged.HIGHER, "raises"), (judged.LOWER, "lowers")]:
        for row in main[main["verdict"] == verdict].itertuples():
            # the verb has told the direction
            bounds = (row.low, row.high) if row.estimate > 0 else (-row.high, -row.low)
            size = effect(abs(row.estimate), *bounds).lstrip("+")
            told.append(f"`{row.effect}` {verb} {label(metric)} by {size}{points(metric)}")
    return told


def _compared(results: Results, headline: pd.DataFrame) -> Counter[str]:
    """Verdict -> how many arms differ so from the reference.

    Verdicts on one training run count as those over seeds.
    """
    names = [difference_name(arm, results.manifest.reference or "") for arm in results.arms]
    rows = headline[headline["effect"].isin(names)]
    ends = rows["estimate"].gt(0).map({True: judged.HIGHER, False: judged.LOWER})
    verdicts = rows["verdict"].replace(judged.NOT_SEPARABLE_ON_RUN, judged.NOT_SEPARABLE)
    verdicts = verdicts.mask(verdicts == judged.SEPARABLE_ON_RUN, ends)
    return Counter(verdicts[verdicts != judged.NO_SEED])


def _is_measured(study: Results) -> bool:
    """Whether the reference baseline has a finished trial."""
    reference = study.manifest.reference
    return reference in study.baselines and not study.complete(reference).empty


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
        correlation=correlation,
    )
    return environment.get_template(name)
