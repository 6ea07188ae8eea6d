"""Finding the code to ablate by name, and adapting a plain training function to the subject protocol."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ablation import interruption
from ablation.errors import InputError, Problem
from ablation.exits import contained, describe_exit
from ablation.imported import (
    imported_names,
    library_versions,
    module_file,
    project_sources,
    taken_from,
)
from ablation.reported import plain_epoch, plain_metrics
from ablation.subject import Fault, Link, Record, Report, Store, Subject

BUILT_IN = {"core": "core.subject:SUBJECT"}


def load_subject(name: str) -> Subject:
    """`core`, or `package.module:attribute` where the attribute is a subject or a training function.

    Modules may stand in the working directory. Raises InputError, naming what could not be found.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise InputError(
            [
                Problem(
                    "",
                    "subject",
                    f"'{name}' is neither 'core' nor of the form package.module:function",
                )
            ]
        )
    _search_here_last()
    module = _imported(module_name)
    if name not in BUILT_IN:
        _refuse_hidden([module_name, *imported_names(project_sources(module_name))])
    found = getattr(module, attribute, None)
    if found is None:
        raise InputError([Problem("", "subject", f"module '{module_name}' has no '{attribute}'")])
    fault = _fault(found)
    if fault:
        raise InputError([Problem("", "subject", f"'{name}' {fault}")])
    return FunctionSubject(found) if inspect.isfunction(found) else found


def _imported(name: str) -> ModuleType:
    """The user's module, which may do anything at its import."""
    try:
        with contained(name), _interrupts() as interrupts:
            return importlib.import_module(name)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and interrupts:
            raise
        missing = error.name if isinstance(error, ImportError) else None
        _refuse_hidden([name, *([missing] if missing else [])])
        what = str(error) if isinstance(error, Exception) else describe_exit(error)
        named = (
            what
            if isinstance(error, (ImportError, SyntaxError))
            else f"{type(error).__name__}: {what}"
        )
        if missing and f"{name}.".startswith(f"{missing}."):
            named += f"; looked for in {os.getcwd()} and among the installed packages"
        raise InputError([Problem("", "subject", f"cannot import '{name}': {named}")]) from None


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The SIGINTs of a terminal meanwhile: code that raises KeyboardInterrupt of its own is told from Ctrl-C."""
    heard: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield heard
    finally:
        if is_ours and signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _fault(found: Any) -> str:
    """Why an attribute can be no subject, as far as that is known without calling it."""
    if inspect.isclass(found):
        return "is a class; name a function, or an instance that is a subject"
    if not inspect.isfunction(found):
        is_subject = all(hasattr(found, method) for method in ("check", "chain", "advance"))
        return "" if is_subject else "is neither a function nor a subject"
    if inspect.iscoroutinefunction(found):
        return "is an async function, which returns no metrics when it is called; call asyncio.run in a plain one"
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        return "is a generator function: it yields, and returns no metrics when it is called; call report(epoch, metrics) instead"
    signature = inspect.signature(
        found, follow_wrapped=False
    )  # of what is called: a decorator may pass on other arguments
    try:
        signature.bind({}, 0, None)
    except TypeError:
        parameters = [
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in signature.parameters.values()
        ]
        return f"is called with (config, seed, report), and takes {inspect.Signature(parameters)}"
    return ""


def _search_here_last() -> None:
    """Put the working directory at the end of the import path, whether Python has put it first (`-m`) or nowhere.

    A project's own `core/` must not hide ours, in no process of a study.
    """
    here = os.getcwd()
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    try:
        importlib.import_module(
            "core"
        )  # now: an editable install of ours is searched after all of sys.path
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
    as training goes on, several times for one epoch: of each metric the last value counts. The returned metrics are the
    trial's result, and those of its last epoch that it does not return, too. Nothing is known of its settings, so
    none is refused. A change in the function's module, in those of the project that it imports, or of the version of
    a library that one of these imports makes its trials new (see `ablation.imported`). Data are not looked at.
    """

    def __init__(self, train: Callable[..., Mapping[str, float]]):
        self.train = train
        sources = project_sources(train.__module__)
        self.versions = library_versions(sources)
        named = [
            f"{train.__module__}:{train.__qualname__}",
            *(
                part
                for name, text in sources.items()
                for part in (name, hashlib.sha256(text).hexdigest())
            ),
        ]
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

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: Callable[[str], Record | None]
    ) -> list[Link]:
        text = json.dumps(
            [self.source_fingerprint, self.versions, dict(sorted(settings.items())), seed],
            default=str,
        )
        return [Link(hashlib.sha256(text.encode()).hexdigest()[:32], "train", 1, 1.0)]

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Store,
        report: Report,
    ) -> None:
        key = self.chain(settings, seed, lambda _: None)[0].key
        if store.holds("record", key):
            return
        started, process = time.perf_counter(), os.getpid()
        history: dict[int, dict[str, float]] = {}
        is_running, is_interrupted = True, False

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal is_interrupted
            if not is_running or os.getpid() != process:
                raise RuntimeError(
                    "report can be called while the function runs, and in its process alone"
                )
            own = history.setdefault(plain_epoch(epoch), {})
            own |= plain_metrics(metrics, f"for epoch {epoch}, report got")
            if interruption.requested():
                is_interrupted = True
                raise interruption.Interrupted  # what a function has computed cannot be kept

        on_epoch.__qualname__ = "report"  # as messages of wrong calls name it
        returned = self.train(dict(settings), seed, on_epoch)
        is_running = False
        if os.getpid() != process:  # one that it has forked, and that has returned, too
            raise SystemExit(0)
        if is_interrupted or interruption.is_known_to_training():
            raise interruption.Interrupted  # it may have returned early
        metrics = plain_metrics(returned, f"{self.train.__name__} returned")
        last = max(history, default=1)
        record = {
            "phase": "train", "epoch": last, "time": time.time(), "seconds": time.perf_counter() - started,
            "metrics": history.get(last, {}) | metrics, "vectors": {},
            "history": [{"epoch": epoch, "metrics": history[epoch]} for epoch in sorted(history)],
        }  # fmt: skip
        store.save("record", key, json.dumps(record).encode(), record["seconds"])
        report(key, record)
