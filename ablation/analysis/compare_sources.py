"""What can be compared: studies, their arms, and published numbers.

A study is read from runs/ or, where it is not there, from the tables in reports/.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ablation.analysis import results
from ablation.analysis.results import (
    known_reports,
    metric_of,
    read_claims,
    read_effects,
    read_trials,
    warning_of,
)
from ablation.errors import InputError, Problem, nearest
from ablation.formatting import leaves
from ablation.grid.file import published
from ablation.storage.asked import SUFFIX
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import UNTUNED, RunFolder, studies

# what stands before a method's name
PUBLISHED = "published:"
PUBLISHED_FILE = Path("experiments", "published.yaml")


@dataclass(frozen=True)
class Source:
    """One study."""

    study: str
    primary: str
    # the table that results.csv holds
    trials: pd.DataFrame
    # metric -> its column in `trials`
    columns: Mapping[str, str]
    # arm -> dotted key -> value; from reports/ alone, the levels of its factors
    settings: Callable[[str], Mapping[str, Any]]
    # whether `settings` are not levels alone
    knows_settings: bool
    # fingerprints and other facts, as far as they are known
    facts: Mapping[str, Any]
    # "" where not known
    dataset: str
    # numbers of others on the same dataset
    published: list[dict[str, Any]]
    # trial -> which test images it is right about; reports/ do not tell
    hits: Mapping[str, str] = field(default_factory=dict)
    # whether it looked at its results to add seeds
    has_looks: bool = False
    # what of its plan was changed after results were seen
    warnings: Sequence[str] = ()

    @property
    def arms(self) -> list[str]:
        """Arms and baselines, and the untuned twins of those that were tuned."""
        return list(dict.fromkeys(self.trials["arm"]))

    @property
    def design_arms(self) -> list[str]:
        """Arms and baselines without the untuned twins of those that were tuned."""
        if "kind" not in self.trials:
            return self.arms
        return list(dict.fromkeys(self.trials.loc[self.trials["kind"] != UNTUNED, "arm"]))

    def finished(self, arm: str) -> pd.DataFrame:
        """Finished trials of an arm, by seed."""
        own = self.trials[(self.trials["arm"] == arm) & (self.trials["state"] == "COMPLETE")]
        return own.set_index("seed").sort_index()


class StudyArm(NamedTuple):
    """One arm or baseline of a study."""

    name: str
    study: Source
    arm: str

    def values(self, metric: str) -> pd.Series:
        """The metric of the arm's finished trials that have it, by seed."""
        if metric not in self.study.columns:
            return pd.Series(dtype=float)
        return self.study.finished(self.arm)[self.study.columns[metric]].dropna()


class WholeStudy(NamedTuple):
    """All arms and baselines of a study."""

    name: str
    study: Source


class PublishedNumber(NamedTuple):
    """A published accuracy of a method."""

    name: str
    # {method, top1, protocol, source}
    entry: dict[str, Any]

    def values(self, metric: str) -> pd.Series:
        """The number, whatever the metric, under `PUBLISHED` in place of a seed."""
        return pd.Series([float(self.entry["top1"])], index=[PUBLISHED])


Measured = StudyArm | WholeStudy
Side = Measured | PublishedNumber


def find_sides(names: Sequence[str], study: str | None, places: ProjectPaths) -> list[Side]:
    """Find what two names stand for.

    Each is a STUDY, STUDY:ARM, published:METHOD or, with `study` or where there is one study only,
    an ARM of that study. Committed studies count only where there are none of one's own.

    Raises:
        InputError: naming each that is not there
    """
    problems: list[Problem] = []
    in_runs = [name for name in studies(places.root / "runs") if not name.endswith(SUFFIX)]
    own = sorted({*in_runs, *known_reports(places.report_folders[:1])})
    known = sorted({*own, *known_reports(places.report_folders)})
    at_hand = own or known
    load = cache(lambda name: _source(places, name))

    def arms_of(name: str) -> list[str]:
        """None of a study that cannot be read, for hints do without it."""
        try:
            return load(name).arms
        except InputError:
            return []

    def elsewhere(arm: str) -> str | None:
        """A hint towards the studies that have this arm; None if none has."""
        whose = [f"'{name}:{arm}'" for name in known if arm in arms_of(name)]
        return f"say {' or '.join(whose)}" if whose else None

    def meant(text: str) -> str | None:
        """A hint towards the study or the arm that was meant; None if none is like it."""
        arms = {arm: f"{name}:{arm}" for name in at_hand for arm in arms_of(name)}
        close = difflib.get_close_matches(text, [*known, *arms], n=1)
        return f"did you mean '{arms.get(close[0], close[0])}'?" if close else None

    def measured(text: str) -> Measured | None:
        name, colon, arm = text.partition(":")
        if not colon and (study is not None or (text not in known and len(at_hand) == 1)):
            name, arm = study or at_hand[0], text
        if name not in known:
            hint = None if colon else elsewhere(text) or meant(text)
            problems.append(_no_study(text, name, known, hint))
            return None
        found = load(name)
        if arm and arm not in found.arms:
            hint = None if colon or study is not None else elsewhere(arm) or meant(arm)
            message = f"{name} has no arm '{arm}'; {hint or nearest(arm, found.arms)}"
            problems.append(Problem("", text, message))
            return None
        return StudyArm(f"{name}:{arm}", found, arm) if arm else WholeStudy(name, found)

    if study is not None and study not in known:
        raise InputError([_no_study("--study", study, known)])
    known_sides = {text: measured(text) for text in names if not text.startswith(PUBLISHED)}
    sides: dict[str, Side | None] = {**known_sides}
    beside = next(iter(known_sides.values()), None)
    if not sides:
        problems.append(Problem("", names[0], "is compared with a STUDY or STUDY:ARM"))
    if beside is not None:
        for text in names:
            if text not in sides:
                sides[text] = _published(text, beside.study, problems)
    if problems:
        raise InputError(problems)
    return [side for text in names if (side := sides[text]) is not None]


def _no_study(key: str, name: str, known: list[str], hint: str | None = None) -> Problem:
    hint = hint or (nearest(name, known) if known else "there is none yet")
    return Problem("", key, f"no study '{name}' in runs/, reports/ or docs/results/; {hint}")


def _published(text: str, other: Source, problems: list[Problem]) -> PublishedNumber | None:
    method = text.removeprefix(PUBLISHED).strip().strip("\"'")
    entries = {entry["method"].lower(): entry for entry in other.published}
    found = entries.get(method.lower())
    if found is None:
        where = f"on {other.dataset or 'the data set of ' + other.study}"
        names = [entry["method"] for entry in other.published]
        hint = nearest(method, names) if names else "there is none yet"
        problems.append(Problem("", text, f"nothing published {where} by '{method}'; {hint}"))
        return None
    return PublishedNumber(f"published {found['method']}", found)


def _source(places: ProjectPaths, study: str) -> Source:
    """From runs/ where it is there, else from its report."""
    folder, report = places.runs(study), known_reports(places.report_folders).get(study)
    if report and not folder.exists():
        return _from_report(places.root / PUBLISHED_FILE, report)
    return _from_runs(folder)


def _from_runs(folder: RunFolder) -> Source:
    study = results.load(folder)
    manifest = study.manifest
    specs = {spec.arm: spec for spec in manifest.trials}

    def settings(arm: str) -> Mapping[str, Any]:
        file = folder.trial_path(specs[arm].trial) / "config.yaml"
        # the trial may not have begun
        if not file.is_file():
            return dict(leaves(manifest.config)) | specs[arm].settings
        return dict(leaves(yaml.safe_load(file.read_text(encoding="utf-8"))["config"]))

    return Source(
        manifest.study,
        manifest.metric["name"],
        study.trials,
        {metric_of(column, manifest.factors): column for column in study.metrics},
        settings,
        True,
        manifest.facts,
        manifest.dataset,
        manifest.published,
        study.hits,
        bool(study.looks),
        study.plan_warnings,
    )


def _told_in(folder: Path, effects: pd.DataFrame) -> list[str]:
    """What a report's plan is warned of; its effects.csv and claims.csv say the same."""
    has_claims = effects.empty and (folder / "claims.csv").is_file()
    warning = warning_of(read_claims(folder) if has_claims else effects)
    return [warning] if warning else []


def _from_report(published_file: Path, folder: Path) -> Source:
    effects = read_effects(folder)
    trials, primary, factors, metrics = read_trials(folder, effects)
    levels = trials.drop_duplicates("arm").set_index("arm")[factors]
    file = folder / "report.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    dataset = re.search(r"^Experiment `[^`]*` on `([^`]*)`", text, re.M)
    name = dataset[1] if dataset else ""
    return Source(
        folder.name,
        metric_of(primary, factors),
        trials,
        {metric_of(column, factors): column for column in metrics},
        lambda arm: {factor: level for factor, level in levels.loc[arm].items() if level},
        False,
        dict(re.findall(r"^- (\w+_fingerprint|checkpoint): (.*)$", text, re.M)),
        name,
        published(published_file, name) if published_file.is_file() else [],
        has_looks="\n## Looks\n" in text,
        warnings=_told_in(folder, effects),
    )
