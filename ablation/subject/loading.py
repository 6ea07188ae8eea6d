"""Finding the code to ablate by name, and adapting a plain function to the subject protocol."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import json
import numbers
import os
import reprlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ablation import interruption
from ablation.errors import InputError, Problem
from ablation.subject.imported import (
    contained,
    describe_exit,
    imported_names,
    library_versions,
    module_file,
    project_sources,
    taken_from,
)
from ablation.subject.protocol import Fault, Link, Record, Report, Store, Subject

BUILT_IN = {"core": "core.subject:SUBJECT"}


def load_subject(name: str) -> Subject:
    """`core`, or `package.module:attribute` of a subject or a training function.

    Modules may stand in the working directory. Raises InputError, naming what could not be found.
    """
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise _refused(f"'{name}' is neither 'core' nor of the form package.module:function")
    _search_here_last()
    module = _imported(module_name)
    if name not in BUILT_IN:
        _refuse_hidden([module_name, *imported_names(project_sources(module_name))])
    found = getattr(module, attribute, None)
    if found is None:
        raise _refused(f"module '{module_name}' has no '{attribute}'")
    if fault := _fault(found):
        raise _refused(f"'{name}' {fault}")
    return cast(Subject, FunctionSubject(found) if inspect.isfunction(found) else found)


def _refused(message: str) -> InputError:
    return InputError([Problem("", "subject", message)])


def _imported(name: str) -> ModuleType:
    """The user's module, which may do anything at its import."""
    try:
        with contained(name):
            return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ImportError) else None
        _refuse_hidden([name, *([missing] if missing else [])])
        what = str(error) if isinstance(error, Exception) else describe_exit(error)
        if not isinstance(error, ImportError | SyntaxError):
            what = f"{type(error).__name__}: {what}"
        if missing and f"{name}.".startswith(f"{missing}."):
            what += f"; looked for in {os.getcwd()} and among the installed packages"
        raise _refused(f"cannot import '{name}': {what}") from None


def _fault(found: Any) -> str:
    """Why an attribute can be no subject, as far as that is known without calling it."""
    if inspect.isclass(found):
        return "is a class; name a function, or an instance that is a subject"
    if not inspect.isfunction(found):
        is_subject = all(hasattr(found, method) for method in ("check", "chain", "advance"))
        return "" if is_subject else "is neither a function nor a subject"
    no_metrics = "returns no metrics when it is called"
    if inspect.iscoroutinefunction(found):
        return f"is an async function, which {no_metrics}; call asyncio.run in a plain one"
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        remedy = "call report(epoch, metrics) instead"
        return f"is a generator function: it yields, and {no_metrics}; {remedy}"
    # of what is called: a decorator may pass on other arguments
    signature = inspect.signature(found, follow_wrapped=False)
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
    """Put the working directory at the end of the import path, wherever Python has put it.

    A project's own `core/` must not hide ours, in no process of a study.
    """
    here = os.getcwd()
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    # now: an editable install of ours is searched after all of sys.path
    with contextlib.suppress(ImportError):
        # it fails where `here` is a checkout of ours, not installed
        importlib.import_module("core")
    sys.path.append(here)


def _refuse_hidden(names: Iterable[str]) -> None:
    """Raise InputError for modules of the working directory in whose place Python takes others."""
    hidden: dict[Path, str] = {}
    for name in names:
        own = module_file(name, Path.cwd())
        taken = taken_from(name) if own else None
        if own and taken is not None and own.resolve() != Path(taken).resolve():
            remedy = "which Python finds first; rename the first"
            hidden.setdefault(own, f"{own} is hidden by {taken}, {remedy}")
    if hidden:
        raise InputError(Problem("", "subject", message) for message in hidden.values())


class FunctionSubject:
    """A function `train(config, seed, report) -> metrics` as a subject whose chain has one link.

    config: dict, dotted keys as the experiment and the levels give them. report(epoch, metrics) may
    be called as training goes on, several times for one epoch: of each metric the last value
    counts. The returned metrics are the trial's result, and those of its last epoch that it does
    not return, too. Nothing is known of its settings, so none is refused. A change in the
    function's module, in those of the project that it imports, or of the version of a library that
    one of these imports makes its trials new (see `ablation.subject.imported`). Data are not
    looked at.
    """

    def __init__(self, train: Callable[..., Mapping[str, float]]):
        self.train = train
        sources = project_sources(train.__module__)
        self.versions = library_versions(sources)
        texts = {name: hashlib.sha256(text).hexdigest() for name, text in sources.items()}
        self.source_fingerprint = _digest([train.__module__, train.__qualname__, texts])

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        """No fault: what the function does with its settings is not known."""
        return []

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as they are: the function's own defaults are not known."""
        return dict(settings)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """None are built in."""
        return {}

    def metrics(self, settings: Mapping[str, Any]) -> None:
        """None: which metrics it returns is known once it has run."""

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Fingerprint of the source, and versions of the libraries that it imports."""
        return {"source_fingerprint": self.source_fingerprint, "versions": self.versions}

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: Callable[[str], Record | None]
    ) -> list[Link]:
        """One link, whose key holds source, versions, settings and seed."""
        key = _digest([self.source_fingerprint, self.versions, dict(settings), seed])
        return [Link(key, "train", 1, 1.0)]

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Store,
        report: Report,
    ) -> None:
        """Call the function, unless its record is in the store.

        Raises Interrupted if it was asked to stop meanwhile, and what the function raises.
        """
        key = self.chain(settings, seed, lambda _: None)[0].key
        if store.holds("record", key):
            return
        started, process = time.perf_counter(), os.getpid()
        history: dict[int, dict[str, float]] = {}
        is_running, is_interrupted = True, False

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal is_interrupted
            if not is_running or os.getpid() != process:
                where = "while the function runs, and in its process alone"
                raise RuntimeError(f"report can be called {where}")
            own = history.setdefault(plain_epoch(epoch), {})
            own |= plain_metrics(metrics, f"for epoch {epoch}, report got")
            if interruption.requested():
                is_interrupted = True
                # what a function has computed cannot be kept
                raise interruption.Interrupted

        # as messages of wrong calls name it
        on_epoch.__qualname__ = "report"
        returned = self.train(dict(settings), seed, on_epoch)
        is_running = False
        if os.getpid() != process:
            # one that it has forked, and that has returned, too
            raise SystemExit(0)
        if is_interrupted or interruption.is_known_to_training():
            # it may have returned early
            raise interruption.Interrupted
        metrics = plain_metrics(returned, f"{self.train.__name__} returned")
        last = max(history, default=1)
        seconds = time.perf_counter() - started
        record: Record = {
            "phase": "train",
            "epoch": last,
            "time": time.time(),
            "seconds": seconds,
            "metrics": history.get(last, {}) | metrics,
            "vectors": {},
            "history": [{"epoch": epoch, "metrics": history[epoch]} for epoch in sorted(history)],
        }
        store.save("record", key, json.dumps(record).encode(), seconds)
        report(key, record)


def _digest(parts: list[Any]) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# up to which floats, too, tell one whole number from the next
MAX_EPOCH = 2**53


def plain_metrics(metrics: Any, source: str) -> dict[str, float]:
    """Name -> number. NumPy and PyTorch scalars are taken, and tensors of one element.

    source: where they are from, e.g. `train returned`. Raises TypeError that names the metric.
    """
    if not isinstance(metrics, Mapping):
        if inspect.iscoroutine(metrics):
            # else it warns that it was never awaited
            metrics.close()
        what = "None" if metrics is None else f"{_shown(metrics)} ({_kind(metrics)})"
        raise TypeError(f"{source} {what}; metrics are a dict, name -> number")
    for name in metrics:
        if not isinstance(name, str):
            raise TypeError(f"{source} a metric called {name!r} ({_kind(name)}); names are text")
    return {name: _number(value, f"{source} '{name}'") for name, value in metrics.items()}


def plain_epoch(epoch: Any) -> int:
    """Raises ValueError for what is no whole number from 0."""
    value = _scalar(epoch)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= MAX_EPOCH and value == int(value)):
        what = f"{_shown(epoch)} ({_kind(epoch)})"
        raise ValueError(f"report got epoch {what}; epochs are whole numbers from 0")
    return int(value)


def _number(value: Any, source: str) -> float:
    plain = _scalar(value)
    try:
        if isinstance(plain, (str, bytes, bytearray)) or not hasattr(plain, "__float__"):
            raise TypeError
        return float(plain)
    except (TypeError, ValueError, OverflowError):
        what = f"{_shown(value)} ({_kind(value)})"
        raise TypeError(f"{source} = {what}; a metric is one number") from None


def _scalar(value: Any) -> Any:
    """The number in a scalar, array or tensor of another library; else the value as it is."""
    if not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError):
        # it has several elements, or none
        return value


def _shown(value: Any) -> str:
    """A value in a few words, on one line."""
    return " ".join(reprlib.repr(value).split())


def _kind(value: Any) -> str:
    return type(value).__name__
