"""Read published results, which reports show beside the measured ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablation.errors import InputError, Problem
from ablation.grid.strict_yaml import Section, read_yaml, show
from ablation.storage.runs import Manifest

FILE = "published.yaml"
KEYS = ("method", "top1", "protocol", "source")


def published(path: Path | str, dataset: str) -> list[dict[str, Any]]:
    """What `path` (experiments/published.yaml) has on a data set.

    Each a {method, top1 (percent), protocol, source}. Raises InputError if anything in the file is
    wrong, about other data sets too.
    """
    problems: list[Problem] = []
    file = Section(Path(path).name, "", read_yaml(path), problems)
    results = {name: [_result(section) for section in file.sections(name)] for name in file.values}
    if problems:
        raise InputError(problems)
    return results.get(dataset, [])


def published_now(manifest: Manifest) -> list[dict[str, Any]]:
    """What the file beside a study's grid has on its data set.

    Now, or where it is not there, when the study was run.
    """
    path = Path(manifest.asked["grid"]).parent / FILE if manifest.asked else None
    return published(path, manifest.dataset) if path and path.is_file() else manifest.published


def _result(section: Section) -> dict[str, Any]:
    section.allow(*KEYS)
    top1 = section.values.get("top1")
    if isinstance(top1, bool) or not isinstance(top1, int | float) or not 0 <= top1 <= 100:
        section.note("top1", f"{show(top1)} is not an accuracy in percent")
    return {key: top1 if key == "top1" else section.text(key) for key in KEYS}
