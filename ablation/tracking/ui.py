"""MLflow's web interface on this machine, for the store that the tracker writes to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from ablation.errors import InputError, Problem
from ablation.redaction import redacted
from ablation.tracking.mlflow_store import (
    TrackingUnavailable,
    default_uri,
    experiments,
    follow_folder,
    is_server,
    reaching,
)

MAX_LINKS = 10
# MLflow's jobs are for language models.
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
POLL_SECONDS = 0.2
GRACE_SECONDS = 10


def serve(tracking_uri: str | None = None, host: str = "127.0.0.1", port: int = 5000) -> None:
    """Serve MLflow's interface until Ctrl-C or SIGTERM.

    As soon as it answers, its address and the studies' are printed: MLflow opens on its pages for
    language models, which show nothing of a study.

    Raises:
        InputError: the port is in use.
        TrackingUnavailable: the store cannot be read, or the server has ended and said why.
    """
    uri, address = tracking_uri or default_uri(), f"http://{host}:{port}"
    if is_server(uri):
        print(f"MLflow is already served at {redacted(uri)}")
        return
    _require_free(host, port)
    with reaching(uri):
        follow_folder(uri)
    links = [
        f"  {name}: {address}/#/experiments/{id_}/runs?workflowType=machine_learning"
        for id_, name in experiments(uri, MAX_LINKS)
    ]
    # By default, SIGTERM would leave the server running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
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
        while process.poll() is None and not _answers(address):
            time.sleep(POLL_SECONDS)
        if process.returncode is None:
            print(f"MLflow is served at {address} (Ctrl-C ends it)", *links, sep="\n", flush=True)
        raise TrackingUnavailable(uri, f"its server ended with status {process.wait()}")
    except KeyboardInterrupt:
        pass
    finally:
        _end(process)


def _require_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        # A port that was closed just now is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            message = f"cannot serve at {host}:{port}: {error.strerror}; choose another port"
            raise InputError([Problem("--port", "", message)]) from None


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
            process.wait(GRACE_SECONDS)
        except ProcessLookupError:
            # all have ended
            return
        except subprocess.TimeoutExpired:
            continue
