"""A command line as a subject: any script, as it is.

    subject:
      command: python train.py --lr {optim.lr} --seed {seed} --out {folder}
      env: {WANDB_MODE: offline}
      metrics: stdout
      pattern: Acc@1 (?P<acc>[0-9.]+)
      keep: ["*.pt"]

The command is split into arguments as a shell does, and then each `{placeholder}` is replaced, so
that a value never becomes more than one argument; no shell runs it. `{optim.lr}` is a setting. A
list that is an argument of its own stands for as many arguments. `{seed}` is the trial's seed,
`{folder}` an empty folder that is there while the trial runs, and of which `keep` names the files
that stay, `{trial}` the trial's name, and `{settings}` a JSON file with all settings.

Metrics are read from what it prints and writes, see `ablation.subject.measured`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import string
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from ablation.errors import InputError, Problem, nearest
from ablation.subject.imported import is_library, library_versions, script_sources, source_digests
from ablation.subject.measured import EPOCH, READER
from ablation.subject.own import OwnCode, Place, record_of
from ablation.subject.protocol import Fault, Record, Store, digest_of
from ablation.subject.spawned import spawn

# What placeholders stand for, beside settings.
SEED, FOLDER, TRIAL, SETTINGS = "seed", "folder", "trial", "settings"
GIVEN = (SEED, FOLDER, TRIAL, SETTINGS)
KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
# Where metrics are read from; the default is what is printed to stdout, and the two kinds of files.
SOURCES = ("stdout", "stderr", "jsonl", "csv", "mlflow")
# those of which lines are read
PRINTED = ("", "stdout", "stderr")
# arguments that mean something to a shell alone
OF_SHELLS = re.compile(r"\|\|?|&&?|;|\d?>>?(&\d)?|<")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
# a text that gives an option
FLAG = re.compile(r"--?[A-Za-z].*", re.DOTALL)
# of a file that is an argument: a larger one counts as data
MAX_BYTES = 1_000_000


class Piece(NamedTuple):
    """A part of an argument: text, and the placeholder that follows it, if any."""

    text: str
    name: str | None


@dataclass(frozen=True)
class Command:
    """A command line, as the experiment file has it."""

    command: str
    # variable -> value, in which placeholders may stand
    env: Mapping[str, str] = field(default_factory=dict)
    # one of SOURCES; "": the default
    metrics: str = ""
    # regular expressions of what it prints; a named group is the metric of its name
    pattern: Sequence[str] = ()
    # patterns of the files in its folder that stay when a trial is complete
    keep: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The command as the name of a subject; `of` reads it."""
        told = {key: value for key, value in dataclasses.asdict(self).items() if value}
        return json.dumps(told)

    @staticmethod
    def is_one(name: str) -> bool:
        """Whether a subject's name is that of a command."""
        return name.startswith("{")

    @classmethod
    def of(cls, name: str) -> Command:
        """The command of that name. Raises InputError if it is none."""
        try:
            return cls(**json.loads(name))
        except (TypeError, ValueError):
            raise _refused(f"'{name}' is no command") from None

    @property
    def arguments(self) -> list[list[Piece]]:
        """The arguments, in pieces."""
        return [pieces(argument) for argument in shlex.split(self.command)]

    @property
    def variables(self) -> dict[str, list[Piece]]:
        """The values of environment variables, in pieces."""
        return {name: pieces(value) for name, value in self.env.items()}

    @property
    def placeholders(self) -> set[str]:
        """The names of all placeholders."""
        parts = [*self.arguments, *self.variables.values()]
        return {piece.name for part in parts for piece in part if piece.name is not None}

    def faults(self) -> Iterator[str]:
        """What is wrong with it, whatever the settings are."""
        try:
            arguments, names = self.arguments, self.placeholders
        except ValueError as error:
            yield str(error)
            return
        if not arguments:
            yield "is empty"
            return
        first = shlex.split(self.command)[0]
        if ASSIGNMENT.fullmatch(first):
            yield f"begins with '{first}'; variables of the environment stand under `env:`"
        for argument in shlex.split(self.command):
            if OF_SHELLS.fullmatch(argument):
                yield f"has '{argument}', and no shell runs it; put this into a script"
        if SEED not in names and SETTINGS not in names:
            remedy = "write {seed} into the command, or `env: {SEED: '{seed}'}`"
            yield f"does not mention {{seed}}, so that all seeds would do the same; {remedy}"
        if self.metrics in ("jsonl", "csv") and FOLDER not in names:
            file = f"{{folder}}/metrics.{self.metrics}"
            yield f"does not mention {{folder}}, and metrics would be read from {file}"
        if self.keep and FOLDER not in names:
            yield "does not mention {folder}, of which `keep` names files"


def compiled(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """The patterns of a command. Raises ValueError for one by which no metric can be read."""
    found = []
    for text in patterns:
        try:
            found.append(re.compile(text))
        except re.error as error:
            raise ValueError(f"'{text}' is no regular expression: {error}") from None
        if not found[-1].groupindex.keys() - {EPOCH}:
            remedy = r"a group names one, as in 'Acc@1 (?P<acc>[\d.]+)'"
            raise ValueError(f"'{text}' names no metric; {remedy}")
    return found


def pieces(text: str) -> list[Piece]:
    """The pieces of an argument. Raises ValueError for braces that are no placeholder."""
    found = []
    try:
        for literal, name, form, conversion in string.Formatter().parse(text):
            if name is not None and (form or conversion or not KEY.fullmatch(name)):
                raise ValueError
            found.append(Piece(literal, name))
    except ValueError:
        remedy = "a placeholder is {key}, and braces that are meant are written {{ and }}"
        raise ValueError(f"cannot read '{text}': {remedy}") from None
    return found


class CommandSubject(OwnCode):
    """A command line as a subject whose chain has one link.

    A change of the command, of the settings that it mentions, of a script or another small file
    that is an argument, or of the project's modules that the script imports makes its trials new.
    Raises InputError for a program or script that is not there.
    """

    def __init__(self, command: Command):
        self.command = command
        self.keep = command.keep
        self.placeholders = command.placeholders
        self.uses_all = SETTINGS in self.placeholders
        self._alone = _alone(command.arguments)
        literals = [_literal(argument) for argument in command.arguments]
        _require_there(literals)
        files = _files(literals)
        scripts = {path: text for path, text in files.items() if path.endswith(".py")}
        sources = script_sources(scripts, _module(literals))
        self.versions = library_versions(sources)
        self.sources = source_digests(sources) | {
            name: hashlib.sha256(text).hexdigest()
            for name, text in files.items()
            if name not in sources
        }
        self.source_fingerprint = digest_of([command.name, self.sources])
        self.reader = READER if command.metrics in PRINTED else 0

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        """Settings that the command does not mention, and placeholders without a setting."""
        faults = []
        unmet = self.placeholders - set(GIVEN) - settings.keys()
        for name in sorted(unmet):
            choices = [*settings, *GIVEN]
            faults.append(
                Fault(
                    name,
                    f"the command mentions {{{name}}}; no such setting: {nearest(name, choices)}",
                )
            )
        for key, value in settings.items():
            if key in GIVEN:
                message = f"{{{key}}} is what `ablate` gives the command; rename the setting"
                faults.append(Fault(key, message))
            elif "\0" in str(value):
                faults.append(Fault(key, "holds a NUL character, which no argument can"))
            elif value == "" and key in self._alone:
                what = f"{{{key}}} would be an empty argument, and not none"
                remedy = "write an on/off flag as the lists [] and [--flag]"
                faults.append(Fault(key, f"{what}; {remedy} (['']: if it is meant)"))
            elif key not in self.placeholders and not self.uses_all:
                hint = f"; {nearest(key, unmet)}" if unmet else ""
                what = "the command does not mention it, so that it would change nothing"
                remedy = f"write {{{key}}} into the command, or {{settings}}, a file of all"
                faults.append(Fault(key, f"{what}: {remedy}{hint}"))
        return faults

    def empty_flag(self, key: str, values: Collection[Any]) -> str:
        """What is wrong with "" for a setting that is an on/off flag by its other values; else "".

        As in `--verbose {flag}` with "" and "--augment"; of an option with a value, "" may be one.

        values: all that the setting has in a study
        """
        flags = [one for one in values if isinstance(one, str) and FLAG.fullmatch(one)]
        is_argument = [Piece("", key)] in self.command.arguments
        if not (is_argument and flags and "" in values):
            return ""
        what = f"{{{key}}} would be an empty argument, and not none"
        return (
            f"{what}; write the on/off flag as the lists [] and [{flags[0]}] (['']: if it is meant)"
        )

    def used(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that the command mentions."""
        return {
            key: value
            for key, value in settings.items()
            if self.uses_all or key in self.placeholders
        }

    def run(
        self, settings: Mapping[str, Any], seed: int, key: str, store: Store, place: Place
    ) -> Record:
        """Run the command. Raises Interrupted if asked to stop meanwhile, and CommandFailed."""
        begun = time.perf_counter()
        # what a trial that was broken off has left could be taken for one's own
        shutil.rmtree(place.folder, ignore_errors=True)
        place.folder.mkdir(parents=True)
        arguments, variables = self._filled(settings, seed, place)
        patterns = compiled(self.command.pattern)
        measured = spawn(arguments, variables, self.command.metrics, patterns, place)
        record = record_of(measured.history, measured.last, time.perf_counter() - begun)
        if measured.unread or (self.reader and not record["metrics"]):
            record["unread"] = measured.unread
        return record

    def _filled(
        self, settings: Mapping[str, Any], seed: int, place: Place
    ) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment variables; writes the file of settings if they name it."""
        file = place.folder.with_name("settings.json")
        given = {SEED: seed, TRIAL: place.trial, FOLDER: str(place.folder), SETTINGS: str(file)}
        values = {**settings, **given}
        if self.uses_all:
            file.write_text(json.dumps(_nested(settings), indent=1) + "\n", encoding="utf-8")
        command = self.command
        arguments = [each for parts in command.arguments for each in _filled_in(parts, values)]
        variables = {
            name: "".join(_filled_in(parts, values)) for name, parts in command.variables.items()
        }
        return arguments, variables


def _filled_in(parts: Sequence[Piece], values: Mapping[str, Any]) -> list[str]:
    """The arguments that an argument's pieces stand for: one, or those of a list."""
    first = values.get(parts[0].name or "") if parts else None
    if len(parts) == 1 and not parts[0].text and isinstance(first, list):
        return [_shown(value) for value in first]
    told = (part.text + ("" if part.name is None else _shown(values[part.name])) for part in parts)
    return ["".join(told)]


def _shown(value: Any) -> str:
    """As Python writes it (`True`, `None`, `1e-05`); lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings in mappings."""
    whole: dict[str, Any] = {}
    for key, value in settings.items():
        *above, name = key.split(".")
        inner = whole
        for part in above:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return whole


def _alone(arguments: Sequence[Sequence[Piece]]) -> set[str]:
    """Placeholders that are an argument, and not the value of an option, as in `--tag {tag}`."""
    found = set()
    for before, parts in itertools.pairwise(arguments):
        option = "".join(part.text for part in before)
        is_value = option.startswith("-") and "=" not in option
        if len(parts) == 1 and not parts[0].text and parts[0].name and not is_value:
            found.add(parts[0].name)
    return found


def _literal(parts: Sequence[Piece]) -> str | None:
    """An argument without placeholders."""
    if any(part.name is not None for part in parts):
        return None
    return "".join(part.text for part in parts)


def _require_there(literals: Sequence[str | None]) -> None:
    """Raise InputError if the program is not there, or the Python script that it is to run."""
    program, *others = literals
    if program is None:
        return
    if shutil.which(program) is None:
        where = "it cannot be executed" if "/" in program else "none of that name is on the PATH"
        raise _refused(f"there is no program '{program}': {where}")
    script = next((each for each in others if each is None or not each.startswith("-")), None)
    is_python = Path(program).name.startswith("python")
    if is_python and script and script.endswith(".py") and not Path(script).is_file():
        hint = _near_script(Path(script))
        raise _refused(f"there is no file '{script}' in {os.getcwd()}; {hint}")


def _near_script(script: Path) -> str:
    """A hint towards a script that is there: in the folder named, or the working directory."""
    # name -> path; those of the folder named come last, and are taken
    known = {
        path.name: path.as_posix()
        for folder in (Path(), script.parent)
        for path in folder.glob("*.py")
    }
    if not known:
        return "neither its folder nor this one has Python files"
    # of another folder no more than the name is like it
    close = get_close_matches(script.name, known, n=1)
    return nearest(known[close[0]] if close else script, known.values())


def _files(literals: Sequence[str | None]) -> dict[str, bytes]:
    """Path -> content of the arguments that are files of the project, and not large."""
    found = {}
    for i, literal in enumerate(literals):
        is_path = literal is not None and (i > 0 or "/" in literal)
        # OSError: too long to be a path; ValueError: it holds a NUL
        with contextlib.suppress(OSError, ValueError):
            path = Path(literal or "")
            if is_path and path.is_file() and path.stat().st_size <= MAX_BYTES:
                found[path.as_posix()] = path.read_bytes()
    return {path: text for path, text in found.items() if not is_library(Path(path).resolve())}


def _module(literals: Sequence[str | None]) -> str | None:
    """The module that `python -m` runs."""
    if literals[0] is None or not Path(literals[0]).name.startswith("python"):
        return None
    return literals[literals.index("-m") + 1] if "-m" in literals[1:-1] else None


def _refused(message: str) -> InputError:
    return InputError([Problem("", "subject.command", message)])
