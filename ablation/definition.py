"""What a study is, as the database that its hosts share holds it: enough for a host that has none of its files.

The texts of the files and of the command line, which the ordinary loader reads again, and what every host must find
to be the same. Data, checkpoints and the code to ablate are the hosts' own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Engine

from ablation.damage import checked
from ablation.errors import InputError, Problem
from ablation.runs import Manifest, write_atomically
from ablation.shared_database import STUDIES, changing, reaching_storage
from ablation.study import flat


@dataclass(frozen=True)
class Definition:
    """A study by its texts, and by what they came to where it was begun."""

    grid: str  # text of the file
    experiment: str  # its name
    experiment_text: str
    published: str  # text of the file of published results; "" where there is none
    overrides: list[str]  # key=value, as on the command line
    seeds: str | None
    metric: dict[str, str]
    config: dict[str, Any]
    facts: dict[str, Any]  # from Subject.describe
    keys: dict[str, str]  # trial -> key


def define(manifest: Manifest, grid: Path, experiment: Path, published: Path, overrides: list[str], seeds: str | None) -> Definition:
    texts = [path.read_text(encoding="utf-8") if path.is_file() else "" for path in (grid, experiment, published)]
    keys = {spec.trial: spec.key for spec in manifest.trials}
    found = Definition(
        texts[0], experiment.stem, texts[1], texts[2], overrides, seeds, manifest.metric, manifest.config, manifest.facts, keys,
    )  # fmt: skip
    return Definition(**json.loads(_text(found)))  # as others read it


def write_definition(engine: Engine, study: str, definition: Definition) -> None:
    """Raises StorageUnavailable."""
    with reaching_storage(str(engine.url)), changing(engine, study) as (connection, _):
        connection.execute(STUDIES.update().where(STUDIES.c.study == study).values(definition=_text(definition)))


def read_definition(engine: Engine, study: str) -> Definition | None:
    """None if nobody has begun the study. Raises StorageUnavailable, and InputError where what is there is no definition."""
    with reaching_storage(str(engine.url)), engine.connect() as connection:
        text = connection.execute(sqlalchemy.select(STUDIES.c.definition).where(STUDIES.c.study == study)).scalar_one_or_none()
    if not text:
        return None
    try:
        definition = Definition(**checked(Definition, json.loads(text)))
        if Path(definition.experiment).name != definition.experiment or definition.experiment.startswith("."):
            raise ValueError("its experiment's name is none")
    except (ValueError, RecursionError) as error:
        raise InputError([Problem("--study", study, f"its definition in the storage is damaged ({error}); `ablate run` writes it again")]) from None
    return definition


def known_studies(engine: Engine) -> list[str]:
    """The studies that have a definition. Raises StorageUnavailable."""
    with reaching_storage(str(engine.url)), engine.connect() as connection:
        defined = sqlalchemy.select(STUDIES.c.study).where(STUDIES.c.definition != "").order_by(STUDIES.c.study)
        return list(connection.execute(defined).scalars())


def unpack(definition: Definition, folder: Path) -> dict[str, Any]:
    """Write the files into `folder`; returns the options of `ablate run` that mean the study."""
    grid, experiment = folder / "grid.yaml", folder / "experiment" / f"{definition.experiment}.yaml"
    write_atomically(grid, definition.grid)
    write_atomically(experiment, definition.experiment_text)
    (folder / "published.yaml").unlink(missing_ok=True)
    if definition.published:
        write_atomically(folder / "published.yaml", definition.published)
    return {"grid": grid, "experiment": str(experiment), "overrides": definition.overrides, "seeds": definition.seeds}


def refuse_difference(theirs: Definition, mine: Definition, where: str) -> None:
    """Raise InputError if the trials that both have, or what is known of code, data and versions, are not the same, naming what differs."""
    common = theirs.keys.keys() & mine.keys.keys()
    if not common:
        raise InputError([Problem(where, "", "no trial of it is one of those that the others run")])
    if all(theirs.keys[trial] == mine.keys[trial] for trial in common) and theirs.facts == mine.facts:
        return
    before, now = (flat({**definition.facts, "settings": definition.config}) for definition in (theirs, mine))
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    problems = [Problem(where, key, f"{before.get(key)} where the study was begun, {now.get(key)} here") for key in differing]
    what = "this host would not compute what the others do"
    if not problems:
        problems = [Problem(where, "", f"{what}: its trials have other keys, though data, source, versions and settings are called the same")]
    else:
        problems.append(Problem(where, "", f"{what}; make these the same, or begin a study of its own with --as NAME"))
    raise InputError(problems)


def _text(definition: Definition) -> str:
    return json.dumps(asdict(definition), default=str)
