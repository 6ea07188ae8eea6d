"""Paths and databases of a project, all below the folder in which `ablate` is started."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ablation.errors import InputError, Problem
from ablation.storage.cache import DiskStore
from ablation.storage.runs import RunFolder
from ablation.storage.sqlite import sqlite_url

# as SQLAlchemy's text() finds them
BOUND = re.compile(r"(?<![:\w\\]):[\w$]+(?![:\w$])")
FOLDERS = ("runs", ".ablate", "reports")


@dataclass(frozen=True)
class ProjectPaths:
    """Folders and databases of a project. Optuna and MLflow have separate databases."""

    root: Path = Path(".")
    # URL of the team's database that holds the ledger; None: it is a file of the project.
    storage: str | None = None

    @property
    def store(self) -> DiskStore:
        """The cache of epochs, which all studies of the project share."""
        return DiskStore(self.root / ".ablate" / "cache")

    @property
    def ledger_url(self) -> str:
        """URL of Optuna's database; makes the folder of a file."""
        if self.storage:
            return self.storage
        (self.root / ".ablate").mkdir(parents=True, exist_ok=True)
        return sqlite_url(self.root / ".ablate" / "optuna.db")

    @property
    def timings(self) -> Path:
        """File of how long epochs took, for forecasts."""
        return self.root / ".ablate" / "timings.json"

    def progress(self, study: str) -> Path:
        """The note in which a running study keeps its forecast, for `ablate status`."""
        return self.root / ".ablate" / "progress" / f"{study}.json"

    def runs(self, study: str) -> RunFolder:
        """The files of a study's trials."""
        return RunFolder(self.root / "runs" / study)

    def report(self, study: str) -> Path:
        """The folder of a study's report."""
        return self.root / "reports" / study

    @property
    def report_folders(self) -> list[Path]:
        """Folders of reports: of own runs, and those that are committed as evidence."""
        return [self.root / "reports", self.root / "docs" / "results"]

    def require_writable(self, *folders: str) -> None:
        """Make the folders (default: all of `FOLDERS`), and write to each.

        Raises InputError naming those that refuse.
        """
        problems = []
        for folder in folders or FOLDERS:
            path = self.root / folder
            try:
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-") as probe:
                    probe.write(b"0")
            except OSError as error:
                cause = f"cannot be written: {error.strerror or error}"
                if path.is_file():
                    cause = "is a file, and a folder is needed"
                problems.append(Problem("", str(path), cause))
        if problems:
            raise InputError(problems)


def tracking_uri() -> str | None:
    """MLFLOW_TRACKING_URI; None where it is not set, or blank."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def require_usable_name(root: Path) -> None:
    """Raises InputError if MLflow cannot keep its records below a folder of this name.

    It writes the path into SQL as Python's repr() has it, where `:word` stands for a value.
    """
    path = str(root.absolute())
    bound = BOUND.search(path)
    if path != path.encode(errors="ignore").decode():
        why = "is not UTF-8"
    elif {"'", '"'} <= set(path):
        why = "has both kinds of quotes"
    elif bound:
        why = f"has '{bound[0]}', which MLflow takes for a placeholder"
    else:
        return
    message = f"the project cannot be kept here: the folder's name {why}; rename the folder"
    raise InputError([Problem("", ascii(path), message)])


def report_files(folder: Path) -> list[Path]:
    """The files of the report in `reports/<study>/`."""
    patterns = ("*.md", "*.html", "*.csv", "figures/*")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
