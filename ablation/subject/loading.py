"""Finding the code to ablate by name, and adapting a plain function to the subject protocol."""

from __future__ import annotations

import importlib
import inspect
import numbers
import os
import reprlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ablation import INSTALLED_IN, interruption
from ablation.errors import InputError, Problem
from ablation.subject.checkpoint import Checkpoint, content_of, load_checkpoint
from ablation.subject.command import Command, CommandSubject
from ablation.subject.imported import (
    contained,
    describe_exit,
    imported_names,
    library_versions,
    module_file,
    project_sources,
    source_digests,
    taken_from,
)
from ablation.subject.measured import MAX_EPOCH
from ablation.subject.own import OwnCode, Place, PlanChanged, record_of
from ablation.subject.protocol import Record, Store, Subject, digest_of

BUILT_IN = {"core": "core.subject:SUBJECT"}
RESUME_FROM = "resume_from"


def load_subject(name: str) -> Subject:
    """`core`, `package.module:attribute` of a subject or a training function, or a command.

    Modules may stand in the working directory; of a command, see `ablation.subject.command`. Raises
    InputError, naming what could not be found.
    """
    _search_here_last()
    if Command.is_one(name):
        return cast(Subject, CommandSubject(Command.of(name)))
    module_name, _, attribute = BUILT_IN.get(name, name).partition(":")
    if not attribute:
        raise _refused(f"'{name}' is neither 'core' nor of the form package.module:function")
    if module_name == "__main__":
        remedy = "write it to a file, in a notebook by %%writefile training.py"
        where = "of a notebook or of a script that runs"
        raise _refused(f"'{name}' is {where}, which workers cannot import; {remedy}")
    module = _imported(module_name)
    if name not in BUILT_IN:
        _refuse_hidden([module_name, *imported_names(project_sources(module_name))])
    found = getattr(module, attribute, None)
    if found is None:
        raise _refused(f"module '{module_name}' has no '{attribute}'")
    if fault := _fault(found):
        raise _refused(f"'{name}' {fault}")
    return cast(Subject, FunctionSubject(found) if inspect.isfunction(found) else found)


def shown_subject(name: str) -> str:
    """A subject's name, as a person reads it: of a command, the command line."""
    return Command.of(name).command if Command.is_one(name) else name


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Of what is called: a decorator may pass on other arguments."""
    return inspect.signature(function, follow_wrapped=False).parameters


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
            if missing.partition(".")[0] in {path.stem for path in Path("src").glob("*")}:
                what += "; it is in src/: run with PYTHONPATH=src"
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
    signature = inspect.Signature(list(_parameters(found).values()))
    resuming = {RESUME_FROM: None} if RESUME_FROM in signature.parameters else {}
    try:
        signature.bind({}, 0, None, **resuming)
    except TypeError:
        parameters = [
            parameter.replace(annotation=inspect.Parameter.empty)
            for parameter in signature.parameters.values()
        ]
        return f"is called with (config, seed, report), and takes {inspect.Signature(parameters)}"
    return ""


def _search_here_last() -> None:
    """Put the working directory at the end of the import path, wherever Python has put it.

    A project's own `core/` must not hide ours, in no process of a study. Ours is the one beside
    this package, whichever others are installed: one study is of one checkout.
    """
    here, ours = os.getcwd(), str(INSTALLED_IN)
    sys.path[:] = [ours, *(folder for folder in sys.path if os.path.abspath(folder) != here)]
    importlib.import_module("core")
    del sys.path[0]
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


class FunctionSubject(OwnCode):
    """A function `train(config, seed, report) -> metrics` as a subject whose chain has one link.

    config: dict, dotted keys as the experiment and the levels give them. report(epoch, metrics) may
    be called as training goes on, several times for one epoch: of each metric the last value
    counts. The returned metrics are the trial's result, and those of its last epoch that it does
    not return, too; one that has reported may return None.
    A function that has a parameter `resume_from` may give a checkpoint, bytes or
    the path of a file, with what it reports: `report(epoch, metrics, checkpoint=...)`. If the trial
    is broken off, the function is called again with the last one as `resume_from`, and else with
    None. Nothing is known of its settings, so none is refused. A change in the function's module,
    in those of the project that it imports, or of the version of a library that one of these
    imports makes its trials new (see `ablation.subject.imported`). Data are not looked at.
    """

    def __init__(self, train: Callable[..., Mapping[str, float]]):
        self.train = train
        self.is_resumable = RESUME_FROM in _parameters(train)
        sources = project_sources(train.__module__)
        self.versions = library_versions(sources)
        self.sources = source_digests(sources)
        self.source_fingerprint = digest_of([train.__module__, train.__qualname__, self.sources])

    def run(
        self, settings: Mapping[str, Any], seed: int, key: str, store: Store, place: Place
    ) -> Record:
        """Call the function, from its last checkpoint if it can go on from one.

        Raises Interrupted if it was asked to stop meanwhile, and what the function raises.
        """
        started, process = time.perf_counter(), os.getpid()
        last = load_checkpoint(store, key) if self.is_resumable else None
        history = dict(last.history) if last else {}
        seconds_before = last.seconds if last else 0.0
        for epoch in sorted(history):
            place.on_epoch({"epoch": epoch, "metrics": history[epoch]}, False)
        is_running, is_interrupted = True, False

        def seconds() -> float:
            return seconds_before + time.perf_counter() - started

        def on_epoch(epoch: int, metrics: Mapping[str, float], checkpoint: Any = None) -> None:
            nonlocal is_interrupted
            if not is_running or os.getpid() != process:
                where = "while the function runs, and in its process alone"
                raise RuntimeError(f"report can be called {where}")
            number = plain_epoch(epoch)
            own = history.setdefault(number, {})
            own |= plain_metrics(metrics, f"for epoch {epoch}, report got")
            if checkpoint is not None:
                if not self.is_resumable:
                    remedy = f"the function has no parameter {RESUME_FROM} to go on from it"
                    raise TypeError(f"report got a checkpoint, but {remedy}")
                Checkpoint(history, seconds(), *content_of(checkpoint)).save(store, key)
            place.on_epoch({"epoch": number, "metrics": own}, checkpoint is not None)
            if interruption.requested():
                is_interrupted = True
                # what a function has computed since its last checkpoint cannot be kept
                raise interruption.Interrupted

        # as messages of wrong calls name it
        on_epoch.__qualname__ = "report"
        given: dict[str, Any] = {}
        if self.is_resumable:
            given[RESUME_FROM] = last.given(place.folder) if last else None
        imported = set(sys.modules)
        returned = self.train(dict(settings), seed, on_epoch, **given)
        is_running = False
        if os.getpid() != process:
            # one that it has forked, and that has returned, too
            raise SystemExit(0)
        if is_interrupted or interruption.is_known_to_training():
            # it may have returned early
            raise interruption.Interrupted
        if returned is None and history:
            # all is reported
            returned = {}
        self._require_unchanged(self.sources.keys() & (sys.modules.keys() - imported))
        metrics = plain_metrics(returned, f"{self.train.__name__} returned")
        return record_of(history, metrics, seconds())

    def _require_unchanged(self, late: Collection[str]) -> None:
        """Raise PlanChanged if modules have changed that were imported while the function ran."""
        if late:
            now = source_digests(project_sources(self.train.__module__))
            if any(now.get(name) != self.sources[name] for name in late):
                raise PlanChanged("a module that was imported while the function ran has changed")


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
