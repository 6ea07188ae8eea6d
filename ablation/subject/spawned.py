"""The process of a command: started, read while it runs, and ended with all that it has started."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from ablation import INSTALLED_IN, interruption
from ablation.subject.measured import (
    CSV,
    JSON_LINES,
    MLFLOW_FOLDER,
    Measured,
    read_csv,
    read_json_lines,
    read_mlflow,
)
from ablation.subject.own import Place
from ablation.subject.protocol import History

# Between looks at whether the process lives, and whether the study is to stop.
LOOK_SECONDS = 0.1
# Between looks at the files that it writes.
FILE_SECONDS = 2.0
# For a process that was asked to end.
END_SECONDS = 3.0
# Of standard error, that a failure quotes.
MAX_LINES = 20
# Of a line of output, in bytes: what is longer is no line.
MAX_LINE = 1 << 20
# More than a pipe holds, so that one look at it takes all.
PIPE_BYTES = 1 << 20
# of files of metrics: some programs put a mark before the text
ENCODING = "utf-8-sig"
LINE_END = re.compile(rb"[\r\n]+")
OUTPUT, ERRORS = 1, 2
# A run that the command logs is one of its own, in the trial's folder.
MLFLOW_VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


class CommandFailed(Exception):
    """The command ended otherwise than with exit code 0.

    details: the last lines that it wrote to standard error.
    """

    def __init__(self, message: str, details: str):
        super().__init__(message)
        self.details = details


def spawn(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    metrics: str,
    patterns: Sequence[re.Pattern[str]],
    place: Place,
) -> Measured:
    """Run a command to its end; returns what it has measured.

    metrics, patterns: see `ablation.subject.command.Command`.
    What it prints goes to the output of this process, too. Raises CommandFailed, and Interrupted if
    this process was asked to stop meanwhile.
    """
    output = _Output(metrics, patterns, place)
    process = subprocess.Popen(
        arguments,
        env=_environment(variables, place.folder, metrics),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    try:
        output.follow(process)
    finally:
        _end(process)
    if process.returncode:
        errors = list(output.errors)
        raise CommandFailed(_said(process.returncode, errors, place.log), "\n".join(errors))
    return output.measured()


class _Output:
    """What a command prints and writes, read as it comes."""

    def __init__(self, metrics: str, patterns: Sequence[re.Pattern[str]], place: Place):
        self.errors: deque[str] = deque(maxlen=MAX_LINES)
        self._metrics, self._folder, self._place = metrics, place.folder, place
        # the stream whose lines are read, if one is
        self._stream = {"": OUTPUT, "stdout": OUTPUT, "stderr": ERRORS}.get(metrics)
        self._printed = Measured(patterns=patterns)
        self._unfinished = {OUTPUT: b"", ERRORS: b""}
        # epoch -> what the study was told of it
        self._told: dict[int, dict[str, float]] = {}
        # file -> its text when it was read last, and what that said
        self._seen: dict[Path, tuple[str, Measured]] = {}
        # epoch -> what files say of it, and those of which the study is to be told that
        self._found: History = {}
        self._due: set[int] = set()
        self._looked = time.monotonic()

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Read until the process has ended. Raises Interrupted if it is to be stopped."""
        selector = selectors.DefaultSelector()
        streams: dict[IO[bytes] | None, int] = {process.stdout: OUTPUT, process.stderr: ERRORS}
        for stream, number in streams.items():
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, number)
        with selector:
            has_ended = False
            while not has_ended:
                if not selector.get_map():
                    time.sleep(LOOK_SECONDS)
                # before the pipes are read, so that all is read that it had to say: what it has
                # started may keep them open
                has_ended = process.poll() is not None
                for key, _ in selector.select(0 if has_ended else LOOK_SECONDS):
                    if not self._read(key.fd, key.data):
                        selector.unregister(key.fileobj)
                if interruption.requested():
                    raise interruption.Interrupted
                if time.monotonic() - self._looked > FILE_SECONDS:
                    self._looked = time.monotonic()
                    self._look()
        for number, rest in self._unfinished.items():
            self._take(number, rest)

    def measured(self) -> Measured:
        """All that was printed, and in its place what the files say."""
        whole = Measured()
        if self._stream is not None:
            whole.merge(self._printed)
        for path, read in self._files().items():
            measured = Measured()
            read(path.read_text(encoding=ENCODING), measured)
            whole.merge(measured)
        if self._metrics == "mlflow":
            whole.merge(read_mlflow(self._folder / MLFLOW_FOLDER))
        return whole

    def _files(self) -> dict[Path, Callable[[str, Measured], None]]:
        """The files of metrics that are there; the last of them wins."""
        readers = {"csv": (CSV, read_csv), "jsonl": (JSON_LINES, read_json_lines)}
        return {
            self._folder / name: read
            for source, (name, read) in readers.items()
            if self._metrics in ("", source) and (self._folder / name).is_file()
        }

    def _read(self, descriptor: int, number: int) -> bool:
        """Take what a pipe holds; False at its end."""
        data = rest = os.read(descriptor, PIPE_BYTES)
        while rest:
            rest = rest[os.write(number, rest) :]
        *lines, unfinished = LINE_END.split(self._unfinished[number] + data)
        for line in lines:
            self._take(number, line)
        self._unfinished[number] = unfinished if len(unfinished) <= MAX_LINE else b""
        return bool(data)

    def _take(self, number: int, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if number == ERRORS and text:
            self.errors.append(text)
        if number == self._stream:
            epoch = self._printed.add_line(text)
            if epoch is not None:
                if epoch not in self._told:
                    # those before it count once it is told
                    self._look(before=epoch)
                known = self._printed.with_short_names(self._printed.history[epoch])
                self._tell(epoch, known, self._printed.withdrawn)
                # what files say of an epoch counts, also where that was told before
                self._due |= {epoch} & self._found.keys()

    def _look(self, before: int | None = None) -> None:
        """Tell the study of epochs that are new in the files, only of those `before` one if given.

        That is one that was printed: those from it on may be printed yet, with other metrics.
        """
        for path, read in self._files().items():
            # what is wrong with it fails the trial at the end
            with contextlib.suppress(ValueError):
                text = path.read_text(encoding=ENCODING)
                # the last line is being written
                text = text[: text.rfind("\n") + 1]
                seen, measured = self._seen.get(path, ("", Measured()))
                new = text.removeprefix(seen)
                if new == text:
                    # it was written anew
                    measured = Measured()
                elif read is read_csv:
                    new = text[: text.find("\n") + 1] + new
                read(new, measured)
                self._seen[path] = text, measured
                self._find(measured.history)
                measured.history.clear()
        if self._metrics == "mlflow":
            with contextlib.suppress(ValueError):
                self._find(read_mlflow(self._folder / MLFLOW_FOLDER).history)
        for epoch in sorted(self._due):
            if before is None or epoch < before:
                self._due.remove(epoch)
                self._tell(epoch, self._found[epoch])

    def _find(self, history: History) -> None:
        for epoch, metrics in history.items():
            self._found.setdefault(epoch, {}).update(metrics)
            self._due.add(epoch)

    def _tell(
        self, epoch: int, metrics: Mapping[str, float], withdrawn: Collection[str] = ()
    ) -> None:
        before = self._told.get(epoch, {})
        now = {n: v for n, v in (before | dict(metrics)).items() if n not in withdrawn}
        if now != before:
            self._told[epoch] = now
            self._place.on_epoch({"epoch": epoch, "metrics": self._told[epoch]}, False)


def _environment(variables: Mapping[str, str], folder: Path, metrics: str) -> dict[str, str]:
    """The environment of this process as it was before it became a worker, and `variables`."""
    found = {"PYTHONUNBUFFERED": "1", **os.environ}
    paths = [path for path in found.pop("PYTHONPATH", "").split(os.pathsep) if path]
    if str(INSTALLED_IN) in paths:
        # the worker's own, see `ablation.execution.workers`
        paths.remove(str(INSTALLED_IN))
    if paths:
        found["PYTHONPATH"] = os.pathsep.join(paths)
    if metrics == "mlflow":
        found = {name: text for name, text in found.items() if name not in MLFLOW_VARIABLES}
        found["MLFLOW_TRACKING_URI"] = (folder / MLFLOW_FOLDER).as_uri()
        # newer versions refuse files without it
        found["MLFLOW_ALLOW_FILE_STORE"] = "true"
    return found | dict(variables)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process if it still runs, and kill all that is left in its group."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    _signal(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _signal(group: int, number: int) -> None:
    # no process is left; macOS says PermissionError of those that have ended
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _said(code: int, errors: Sequence[str], log: str) -> str:
    """How the process ended, the last line that it wrote to standard error, and the log."""
    how = f"exit code {code}"
    if code < 0:
        how = f"killed by signal {-code} ({signal.strsignal(-code)})"
    cause = f": {errors[-1]}" if errors else ""
    return f"{how}{cause}; see {log}"
