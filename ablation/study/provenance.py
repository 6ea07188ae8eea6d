"""Where results come from: commit, versions, machine, command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ablation.redaction import redacted

PACKAGES = ("ablate-lt", "torch", "torchvision", "mlflow", "optuna", "numpy", "scipy", "pandas")


def provenance() -> dict[str, Any]:
    """Facts for the report. `commit` is None outside a git checkout; `dirty`: with changes."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "commit": commit,
        "dirty": bool(status) if commit else None,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "command": redacted(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the code that runs, wherever it was started from."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
