"""Serve MLflow's interface, and print the links of the studies in it."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablation.errors import InputError, Problem
from ablation.formatting import redacted
from ablation.storage.project import first_line, require_usable, sqlite_file
from ablation.storage.runs import studies
from ablation.tracking.mlflow_places import (
    TrackingUnavailable,
    default_uri,
    follow_folder,
    has_tables,
    is_server,
)
from ablation.tracking.mlflow_views import CURVES, NAMES, address_of, links

HOST = "127.0.0.1"
# MLflow's own; as many after it are tried where it is in use
PORT, MAX_TRIED = 5000, 100
MAX_LINKS = 10
# MLflow's jobs are for language models.
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
POLL_SECONDS = 0.2
GRACE_SECONDS = 10
# what ends the server: Ctrl-C, a request, a terminal that was closed
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(port: int | None = None) -> None:
    """Serve MLflow's interface until Ctrl-C or SIGTERM, or until the terminal is closed.

    As soon as it answers, its address and the studies' are printed: MLflow opens on its pages for
    language models, which show nothing of a study.

    port: default, 5000 or the next one that is free.

    Raises:
        InputError: the port is in use, or there is nothing to serve.
        TrackingUnavailable: the store cannot be read, or the server has ended and said why.
    """
    uri = default_uri()
    if is_server(uri):
        print(f"MLflow is already served at {redacted(uri)}")
        # Whether it answers is for a person to see.
        with suppress(TrackingUnavailable):
            print(*_links(uri, address_of(uri)), sep="\n")
        return
    port = _free_port(port)
    address = f"http://{HOST}:{port}"
    _require_store(uri)
    _require_usable(uri)
    # one process at a time may make MLflow's tables
    found = [] if has_tables(uri) else _links(uri, address)
    tunnel = _tunnel(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    with _ended_by_signals():
        process = subprocess.Popen(
            [*command, "--workers", "1", "--uvicorn-opts", "--log-level warning"],
            # The store is no argument: those can be read by every user of the machine.
            env={**QUIET, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri},
            # Errors go to stderr.
            stdout=subprocess.DEVNULL,
            # Its workers are ended with it, below.
            start_new_session=True,
        )
        try:
            # MLflow is imported here while the server does the same
            found = found or _links(uri, address)
            while process.poll() is None and not _answers(address):
                time.sleep(POLL_SECONDS)
            if process.returncode is None:
                served = f"MLflow is served at {address} (Ctrl-C ends it)"
                print(served, *found, *tunnel, sep="\n", flush=True)
            raise TrackingUnavailable(uri, f"its server ended with status {process.wait()}")
        except KeyboardInterrupt:
            pass
        finally:
            _end(process)


def _links(uri: str, address: str) -> list[str]:
    """A line for each study, newest first; of the newest, its other views, too."""
    from ablation.tracking.mlflow_store import experiments

    lines = []
    for experiment in experiments(uri, MAX_LINKS):
        (_, first), *others = links(address, experiment.experiment_id, experiment.tags).items()
        lines.append(f"  {experiment.name}: {first}")
        if len(lines) == 1:
            lines += [f"    {name.lower()}: {link}" for name, link in others]
            if NAMES[CURVES] in dict(others):
                lines.append("    (a reload of the curves loses their groups: open the link again)")
    return lines


def _tunnel(port: int) -> list[str]:
    """How the links open on the machine from which one is logged in here by SSH, if one is."""
    told = os.environ.get("SSH_CONNECTION", "").split()
    if len(told) != 4:
        return []
    *_, server, ssh_port = told
    other_port = "" if ssh_port == "22" else f" -p {ssh_port}"
    with suppress(OSError, KeyError):
        server = f"{getpass.getuser()}@{server}"
    return [
        "to open the links on your own machine, run there first:",
        f"  ssh -N -L {port}:{HOST}:{port}{other_port} {server}",
    ]


def _require_store(uri: str) -> None:
    """Raises InputError saying what to do where there is no database yet."""
    path = sqlite_file(uri)
    if path is None or path.exists():
        return
    known = studies(Path("runs"))
    then = "`ablate run --grid NAME` makes it; or change to the folder of your project"
    if known:
        then = f"`ablate sync {known[0]}` makes it from runs/"
    raise InputError([Problem("", str(path), f"there is no MLflow database here; {then}")])


def _require_usable(uri: str) -> None:
    """Raises TrackingUnavailable where the store cannot be used, without importing MLflow."""
    try:
        require_usable(uri)
        follow_folder(uri)
    except (sqlite3.Error, OSError) as error:
        raise TrackingUnavailable(uri, first_line(error)) from None


def _free_port(port: int | None) -> int:
    """The port if it is free; where none is asked for, the first free one from MLflow's own on.

    Raises InputError, naming a free one, if the port that was asked for is in use.
    """
    tried = range(PORT, PORT + MAX_TRIED) if port is None else range(port, port + 1)
    for one in tried:
        why = _why_taken(one)
        if not why:
            if port is None and one != PORT:
                print(f"port {PORT} is in use, {one} is free")
            return one
    choice = "choose another port"
    if port is not None:
        near = (one for one in range(port + 1, port + MAX_TRIED) if not _why_taken(one))
        free = next(near, None)
        choice = f"{choice}, e.g. {free}" if free else choice
    message = f"cannot serve at {HOST}:{tried[-1]}: {why}; {choice}"
    raise InputError([Problem("--port", "", message)])


def _why_taken(port: int) -> str:
    """Why nothing can be served at the port; "" if it is free."""
    with socket.socket() as probe:
        # A port that was closed just now is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1):
            return True
    except OSError:
        return False


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let each of ENDINGS raise KeyboardInterrupt; those that are ignored (nohup) stay so."""
    before = {each: signal.getsignal(each) for each in ENDINGS}
    heard = [each for each in ENDINGS if before[each] != signal.SIG_IGN]
    for each in heard:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each in heard:
            signal.signal(each, before[each])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers. A second signal does not keep it from that."""
    for each in ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    for order in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
            process.wait(GRACE_SECONDS)
        except ProcessLookupError:
            # all have ended
            return
        except subprocess.TimeoutExpired:
            continue
