"""What there is to compare: studies, from runs/ or else from the tables in reports/, their arms, published numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ablation import results
from ablation.columns import metric_of
from ablation.errors import InputError, Problem, nearest
from ablation.headline import known_reports
from ablation.places import Places
from ablation.published import published
from ablation.report_tables import read_effects, read_trials
from ablation.runs import RunFolder, studies
from ablation.tables import flatten

PUBLISHED = "published:"  # before the name of a method
PUBLISHED_FILE = Path("experiments", "published.yaml")


@dataclass(frozen=True)
class Source:
    """One study."""

    study: str
    headline: str
    trials: pd.DataFrame  # as results.csv
    columns: Mapping[str, str]  # metric -> its column in `trials`
    settings: Callable[
        [str], Mapping[str, Any]
    ]  # arm -> dotted key -> value; from reports/ alone, the levels of its factors
    facts: Mapping[str, Any]  # fingerprints and more; those that are known
    dataset: str  # "" where not known
    published: list[dict[str, Any]]  # numbers of others on the same dataset
    hits: Mapping[str, str] = field(
        default_factory=dict
    )  # trial -> which test images it is right about; reports/ do not tell

    @property
    def arms(self) -> list[str]:
        """Arms and baselines."""
        return list(dict.fromkeys(self.trials["arm"]))

    def values(self, arm: str) -> pd.DataFrame:
        """Finished trials of an arm, by seed."""
        own = self.trials[(self.trials["arm"] == arm) & (self.trials["state"] == "COMPLETE")]
        return own.set_index("seed").sort_index()

    def metric(self, arm: str, metric: str) -> pd.Series:
        """Values of a metric by seed, of an arm's finished trials that have it."""
        return (
            self.values(arm)[self.columns[metric]].dropna()
            if metric in self.columns
            else pd.Series(dtype=float)
        )

    def n_planned(self, arm: str) -> int:
        return int((self.trials["arm"] == arm).sum())


class Side(NamedTuple):
    """An arm, all arms of a study (`arm` None), or a published number."""

    name: str
    study: Source | None = None
    arm: str | None = None
    published: dict[str, Any] | None = None


def find_sides(left: str, right: str, study: str | None, places: Places) -> list[Side]:
    """What two names stand for: each a STUDY, STUDY:ARM, published:METHOD, or, with `study`, an ARM of it.

    Raises:
        InputError: naming each that is not there
    """
    problems: list[Problem] = []
    names, loaded = known_names(places), {}
    if study is not None and study not in names:
        raise InputError(
            [
                Problem(
                    "",
                    "--study",
                    f"no study '{study}' in runs/, reports/ or docs/results/; {_nearest(study, names)}",
                )
            ]
        )

    def load(name: str) -> Source:
        loaded[name] = loaded.get(name) or source(places, name)
        return loaded[name]

    sides = [
        None if text.startswith(PUBLISHED) else _measured(text, study, names, load, problems)
        for text in (left, right)
    ]
    for index, text in enumerate((left, right)):
        if text.startswith(PUBLISHED):
            other = sides[1 - index]
            if other is None and not problems:
                problems.append(Problem("", text, "is compared with a STUDY or STUDY:ARM"))
            sides[index] = _published(text, other.study, problems) if other else None
    if problems:
        raise InputError(problems)
    return sides


def known_names(places: Places) -> list[str]:
    """Names of the studies in runs/, reports/ and docs/results/."""
    return sorted({*studies(places.root / "runs"), *known_reports(places.report_folders)})


def source(places: Places, study: str) -> Source:
    """A study that is among `known_names`: from runs/ where it is there, else from its report."""
    folder, report = places.runs(study), known_reports(places.report_folders).get(study)
    return (
        _from_report(places.root, report) if report and not folder.exists() else _from_runs(folder)
    )


def _from_runs(folder: RunFolder) -> Source:
    study = results.load(folder)
    manifest = study.manifest
    specs = {spec.arm: spec for spec in manifest.trials}

    def settings(arm: str) -> Mapping[str, Any]:
        file = folder.trial_path(specs[arm].trial) / "config.yaml"
        if not file.is_file():  # the trial has not begun
            return dict(flatten(manifest.config)) | specs[arm].settings
        return dict(flatten(yaml.safe_load(file.read_text(encoding="utf-8"))["config"]))

    columns = {metric_of(column, manifest.factors): column for column in study.metrics}
    return Source(
        manifest.study,
        manifest.metric["name"],
        study.trials,
        columns,
        settings,
        manifest.facts,
        manifest.dataset,
        manifest.published,
        study.hits,
    )


def _from_report(root: Path, folder: Path) -> Source:
    trials, headline, factors, metrics = read_trials(folder, read_effects(folder))
    columns = {metric_of(column, factors): column for column in metrics}
    levels = trials.drop_duplicates("arm").set_index("arm")[factors].to_dict("index")
    text = (
        (folder / "report.md").read_text(encoding="utf-8")
        if (folder / "report.md").is_file()
        else ""
    )
    facts = dict(re.findall(r"^- (\w+_fingerprint|checkpoint): (.*)$", text, re.M))
    dataset = (re.findall(r"^Experiment `[^`]*` on `([^`]*)`", text, re.M) or [""])[0]
    file = root / PUBLISHED_FILE
    settings = {
        arm: {factor: level for factor, level in own.items() if level}
        for arm, own in levels.items()
    }
    return Source(
        folder.name,
        metric_of(headline, factors),
        trials,
        columns,
        settings.__getitem__,
        facts,
        dataset,
        published(file, dataset) if file.is_file() else [],
    )


def _measured(
    text: str,
    study: str | None,
    names: list[str],
    load: Callable[[str], Source],
    problems: list[Problem],
) -> Side | None:
    name, colon, arm = text.partition(":")
    if not colon and (study is not None or (text not in names and len(names) == 1)):
        name, arm = study or names[0], text
    if name not in names:
        whose = (
            [] if colon else [f"'{study}:{text}'" for study in names if text in load(study).arms]
        )
        hint = f"say {' or '.join(whose)}" if whose else _nearest(name, names)
        problems.append(
            Problem("", text, f"no study '{name}' in runs/, reports/ or docs/results/; {hint}")
        )
        return None
    found = load(name)
    if arm and arm not in found.arms:
        problems.append(Problem("", text, f"{name} has no arm '{arm}'; {nearest(arm, found.arms)}"))
        return None
    return Side(f"{name}:{arm}" if arm else name, found, arm or None)


def _published(text: str, other: Source, problems: list[Problem]) -> Side | None:
    method = text.removeprefix(PUBLISHED).strip().strip("\"'")
    entries = {entry["method"]: entry for entry in other.published}
    found = entries.get(method) or next(
        (entry for name, entry in entries.items() if name.lower() == method.lower()), None
    )
    if found is None:
        where = f"on {other.dataset or 'the data set of ' + other.study}"
        problems.append(
            Problem(
                "", text, f"nothing published {where} by '{method}'; {_nearest(method, entries)}"
            )
        )
        return None
    return Side(f"published {found['method']}", published=found)


def _nearest(name: str, choices: Collection[str]) -> str:
    return nearest(name, choices) if choices else "there is none yet"
