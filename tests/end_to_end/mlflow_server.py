"""An MLflow server of the test's own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import postgresql
from chains_project import WAIT_SECONDS


class MlflowServer:
    """Keeps everything in `folder`, so that a killed one can be started again with what it had, at the same `uri`."""

    def __init__(self, folder: Path, host: str = "127.0.0.1"):
        self.folder, self.host, self.port = folder, host, postgresql.free_port(host)
        self.uri = f"http://{host}:{self.port}"

    def __enter__(self) -> "MlflowServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port), "--workers", "1", "--allowed-hosts", "*",
            "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", f"{self.folder}/artifacts",
        ]  # fmt: skip
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + WAIT_SECONDS
        while "startup complete" not in (self.folder / "log").read_text():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.2)

    def kill(self) -> None:
        """It and its own workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
