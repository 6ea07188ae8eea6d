"""A host of a study that several share, run by the command line."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from chains_project import WAIT_SECONDS, Project


class Host(Project):
    """A project folder of its own, in which a study is begun or helped with."""

    def __init__(self, root: Path, prefix: list[str], storage: str, tracking: str, **options):
        super().__init__(root, **options)
        self.prefix, self.storage, self.tracking, self.jobs = prefix, storage, tracking, "2"
        self.started: list[subprocess.Popen] = []

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"MLFLOW_TRACKING_URI": self.tracking, "ABLATE_STORAGE": self.storage}

    def start(self, *arguments: str, study: str | None = None) -> subprocess.Popen:
        grid = self.root / f"{self.study}.grid.yaml"
        which = ["run", "--grid", grid.name] if grid.exists() else ["worker", "--study", study or self.study]
        command = [*self.prefix, sys.executable, "-P", "-m", "ablation", *which, "--jobs", self.jobs, *arguments]
        log = (self.root / "said.txt").open("w")
        self.started.append(
            subprocess.Popen(command, cwd=self.root, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        )  # fmt: skip
        return self.started[-1]

    def run(self, *arguments: str, expect: int = 0, study: str | None = None) -> str:
        return self.end(self.start(*arguments, study=study), expect)

    def end(self, process: subprocess.Popen, expect: int = 0) -> str:
        code = process.wait(timeout=2 * WAIT_SECONDS)
        assert code == expect, self.said
        return self.said

    def clear(self) -> None:
        """End what a test that failed has left running: it would wait for its storage for ever."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def said(self) -> str:
        return (self.root / "said.txt").read_text()

    def trained(self) -> list[str]:
        """Keys of the epochs that this host's workers have trained, in no particular order."""
        logs = (self.root / "runs" / self.study).glob("*/stdout.log")
        return [line.split()[1] for log in logs for line in log.read_text().splitlines() if line.startswith("trained ")]


def twice(*hosts: Host) -> set[str]:
    """Keys of the epochs that were trained more than once."""
    return {key for key, n in Counter(key for host in hosts for key in host.trained()).items() if n > 1}
