"""Where the files that settings name are on this machine. Imports no torch."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

VARIABLE = "ABLATE_DATA"


def data_root() -> Path:
    """The folder of data sets and encoders: `ABLATE_DATA`, else the working directory."""
    return Path(os.environ.get(VARIABLE, "").strip() or ".").expanduser()


def locate(path: str) -> Path:
    """The file or folder that a setting names: below `data_root`, else the working directory.

    The file need not exist: one that is in neither place is taken to belong below `data_root`.
    """
    given = Path(path).expanduser()
    below_root = data_root() / given
    return given if given.exists() and not below_root.exists() else below_root


def places(path: str) -> str:
    """Where `locate` looks, as a message says it."""
    given = Path(path).expanduser()
    if given.is_absolute():
        return f"'{given}'"
    root, here = data_root(), Path.cwd()
    looked = [f"'{here / given}'"]
    if root.resolve() != here:
        looked.insert(0, f"'{root / given}' ({VARIABLE})")
    return " and ".join(looked)


def digits_file() -> Path:
    """The digits that come with scikit-learn: a line of 64 pixels and a label for each image.

    scikit-learn is not imported: planning and a worker's start stay light.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
