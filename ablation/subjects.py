"""Finding the code to ablate by name, and adapting a plain training function to the subject protocol."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ablation import interruption
from ablation.errors import InputError, Problem
from ablation.imported import imported_names, library_versions, module_file, project_sources, taken_from
from ablation.subject import Fault, Link, Record, Report, Store, Subject

BUILT_IN = {"core": "core.subject:SUBJECT"}


def load_subject(name: str) -> Subject:
    """`core`, or `package.module:attribute` where the attribute is a subject or a training function.

    Modules may stand in the working directory. Raises InputError, naming what could not be found.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise InputError([Problem("", "subject", f"'{name}' is neither 'core' nor of the form package.module:function")])
    _search_here_last()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of the user's code, which may raise anything
        missing = error.name if isinstance(error, ImportError) else None
        _refuse_hidden([module_name, *([missing] if missing else [])])
        what = str(error) if isinstance(error, (ImportError, SyntaxError)) else f"{type(error).__name__}: {error}"
        if missing and f"{module_name}.".startswith(f"{missing}."):
            what += f"; looked for in {os.getcwd()} and among the installed packages"
        raise InputError([Problem("", "subject", f"cannot import '{module_name}': {what}")]) from None
    if name not in BUILT_IN:
        _refuse_hidden([module_name, *imported_names(project_sources(module_name))])
    found = getattr(module, attribute, None)
    if found is None:
        raise InputError([Problem("", "subject", f"module '{module_name}' has no '{attribute}'")])
    if inspect.isfunction(found):
        return FunctionSubject(found)
    if not all(hasattr(found, method) for method in ("check", "chain", "advance")):
        raise InputError([Problem("", "subject", f"'{name}' is neither a function nor a subject")])
    return found


def _search_here_last() -> None:
    """Put the working directory at the end of the import path, whether Python has put it first (`-m`) or nowhere.

    A project's own `core/` must not hide ours, in no process of a study.
    """
    here = os.getcwd()
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    try:
        importlib.import_module("core")  # now: an editable install of ours is searched after all of sys.path
    except ImportError:  # `here` is a checkout of ours, not installed
        pass
    sys.path.append(here)


def _refuse_hidden(names: Iterable[str]) -> None:
    """Raise InputError naming each module of the working directory in whose place Python takes one of the same name elsewhere."""
    hidden: dict[Path, Problem] = {}
    for name in names:
        own = module_file(name, Path.cwd())
        taken = taken_from(name) if own else None
        if taken is not None and own.resolve() != Path(taken).resolve():
            message = f"{own} is hidden by {taken}, which Python finds first; rename the first"
            hidden.setdefault(own, Problem("", "subject", message))
    if hidden:
        raise InputError(hidden.values())


class FunctionSubject:
    """A function `train(config, seed, report) -> metrics` as a subject whose chain has one link.

    config: dict, dotted keys as the experiment and the levels give them. report(epoch, metrics) may be called
    as training goes on; the returned metrics are the trial's result. Nothing is known of its settings, so
    none is refused. A change in the function's module, in those of the project that it imports, or of the version of
    a library that one of these imports makes its trials new (see `ablation.imported`). Data are not looked at.
    """

    def __init__(self, train: Callable[..., Mapping[str, float]]):
        self.train = train
        sources = project_sources(train.__module__)
        self.versions = library_versions(sources)
        named = [f"{train.__module__}:{train.__qualname__}", *(part for name, text in sources.items() for part in (name, hashlib.sha256(text).hexdigest()))]
        self.source_fingerprint = hashlib.sha256("\n".join(named).encode()).hexdigest()[:32]

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        return []

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return dict(settings)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    def metrics(self, settings: Mapping[str, Any]) -> None:
        return None

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"source_fingerprint": self.source_fingerprint, "versions": self.versions}

    def chain(self, settings: Mapping[str, Any], seed: int, records: Callable[[str], Record | None]) -> list[Link]:
        text = json.dumps([self.source_fingerprint, self.versions, dict(sorted(settings.items())), seed], default=str)
        return [Link(hashlib.sha256(text.encode()).hexdigest()[:32], "train", 1, 1.0)]

    def advance(
        self, settings: Mapping[str, Any], seed: int, until: str | None, store: Store, report: Report
    ) -> None:
        key = self.chain(settings, seed, lambda _: None)[0].key
        if store.holds("record", key):
            return
        started, history = time.perf_counter(), []

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            history.append({"epoch": int(epoch), "metrics": {name: float(value) for name, value in metrics.items()}})
            if interruption.requested():
                raise interruption.Interrupted  # what a function has computed cannot be kept

        metrics = {name: float(value) for name, value in self.train(dict(settings), seed, on_epoch).items()}
        record = {
            "phase": "train", "epoch": max((entry["epoch"] for entry in history), default=1), "time": time.time(),
            "seconds": time.perf_counter() - started, "metrics": metrics, "vectors": {}, "history": history,
        }  # fmt: skip
        store.save("record", key, json.dumps(record).encode(), record["seconds"])
        report(key, record)
