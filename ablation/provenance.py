"""Where results come from: commit, versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ablation.redaction import redacted

PACKAGES = ("ablate-lt", "torch", "torchvision", "mlflow", "optuna", "numpy", "scipy", "pandas")


def provenance() -> dict[str, Any]:
    """Facts for the report. `commit` is None outside a git checkout; `dirty` tells of uncommitted changes."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "dirty": bool(status) if commit else None,
        "versions": {
            "python": platform.python_version(),
            **{name: version for name in PACKAGES if (version := _version(name))},
        },
        "platform": f"{platform.system()} {platform.machine()}",
        "command": redacted(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _git(*arguments: str) -> str | None:
    """What git says of the code that runs, wherever it was started from."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
