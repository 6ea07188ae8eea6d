"""Check on a node that it would compute what was planned.

Run as `python -m ablation.execution.ray_cluster.check` in a copy of the project's code.

    -> a `Sample` as a JSON line
    <- nothing, or what is wrong

A key holds the fingerprints of settings, data and source: where it is the same, all of these are.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

from ablation import PACKAGE
from ablation.errors import InputError
from ablation.subject.loading import load_subject
from ablation.subject.protocol import Subject


class Sample(TypedDict):
    """A trial as planned, for a node to compare with what it has."""

    # as the experiment names it
    subject: str
    # dotted key -> value
    settings: dict[str, Any]
    seed: int
    # of the trial's first link
    key: str
    # see `versions`
    versions: dict[str, str]


def sample_of(
    name: str, subject: Subject, settings: Mapping[str, Any], seed: int, key: str
) -> Sample:
    """The trial of these settings under this seed, with the versions of this machine."""
    return {
        "subject": name,
        "settings": dict(settings),
        "seed": seed,
        "key": key,
        "versions": versions(subject, settings),
    }


def versions(subject: Subject, settings: Mapping[str, Any]) -> dict[str, str]:
    """Of Python, of ablate (a hash of its source), and of libraries that the subject names."""
    source = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        source.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    named = subject.describe(settings).get("versions", {})
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ablate": source.hexdigest()[:8],
        **named,
    }


def difference(sample: Sample) -> str | None:
    """What this machine has that is not as planned; None if nothing is."""
    settings, planned = sample["settings"], sample["versions"]
    try:
        subject = load_subject(sample["subject"])
        faults = subject.check(settings)
        if faults:
            return f"cannot run a trial: {faults[0].message}"
        here = versions(subject, settings)
        key = subject.chain(settings, sample["seed"], lambda _: None)[0].key
    except InputError as error:
        return f"cannot load the subject: {error}"
    except (OSError, ValueError) as error:
        # data that are not there, or not what they were
        return f"cannot read the data: {type(error).__name__}: {error}"
    others = [
        f"{name} {here.get(name, 'none')} where the plan has {planned.get(name, 'none')}"
        for name in {**planned, **here}
        if here.get(name) != planned.get(name)
    ]
    if others:
        return f"has other versions: {', '.join(others)}"
    if key != sample["key"]:
        return "has other data, or other source of what is ablated, than the plan"
    return None


if __name__ == "__main__":
    print(difference(json.load(sys.stdin)) or "")
