"""Check the files that trials read, such as images and checkpoints, before anything is run.

What reads them may need what `ablation` never imports, so it is done in a process of its own:
`python -m ablation.study.inputs`, with a `Question` on standard input, a list of {key: message} for
each of the settings on standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

from ablation import INSTALLED_IN
from ablation.errors import InputError
from ablation.storage.cache import DiskStore
from ablation.storage.checks import warn_once
from ablation.study.opening import PlannedStudy
from ablation.subject.loading import load_subject


class Question(TypedDict):
    """Whose files are to be read, JSON-able."""

    # as the experiment names it
    subject: str
    # of each arm: dotted key -> value
    settings: list[dict[str, Any]]
    # folder of the store
    cache: str


def require_usable_inputs(planned: PlannedStudy) -> None:
    """Raise InputError with every problem of the files that trials would read. Nothing is run.

    An arm of which an epoch is known has read its files: keys follow from their content.
    """
    study, plan, store = planned.study, planned.plan, planned.store
    reads_files = getattr(study.subject, "reads_files", lambda settings: False)
    left = {spec.arm for spec in plan.unfinished(planned.folder).specs}
    begun = {
        trial.spec.arm
        for trial in plan.trials.values()
        if store.holds("record", trial.links[0].key)
    }
    new = [each for each in study.variants if each.name in left - begun]
    new = [each for each in new if reads_files(each.settings)]
    if not new:
        return
    settings = [variant.settings for variant in new]
    name, cache = study.experiment.subject, str(store.root)
    answers = _ask({"subject": name, "settings": settings, "cache": cache})
    problems = [
        study.located(variant, key, message)
        for variant, found in zip(new, answers, strict=False)
        for key, message in found.items()
    ]
    if problems:
        raise InputError(dict.fromkeys(problems))


def inspect(request: Question) -> list[dict[str, str]]:
    """Key -> message of the faults, for each of the settings."""
    subject, store = load_subject(request["subject"]), DiskStore(Path(request["cache"]))
    found = [subject.inspect(settings, store) for settings in request["settings"]]
    return [{fault.key: fault.message for fault in faults} for faults in found]


def _ask(request: Question) -> list[dict[str, str]]:
    """What `inspect` says in a process of its own; [] if that fails: then the trials will, too."""
    path = os.pathsep.join(filter(None, [str(INSTALLED_IN), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ablation.study.inputs"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        if done.returncode == 0:
            found: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
            return found
    except (IndexError, ValueError):
        # The subject has ended the process before it answered.
        pass
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    warn_once(f"images and checkpoints could not be looked at before the trials ({last})")
    return []


if __name__ == "__main__":
    # A line of its own, whatever libraries have printed.
    print("\n" + json.dumps(inspect(json.load(sys.stdin))))
