"""What a trajectory depends on besides its settings: source, data, checkpoint, numerical library. No torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.config import Config

PLANNING = {"config.py", "parsing.py", "fingerprint.py", "trajectory.py", "subject.py", "inputs.py", "__init__.py"}
"""Modules that decide what to compute, not how: their effect is in the settings that are hashed."""


def digest(*parts: Any) -> str:
    """Hash of JSON-able values, 32 hex digits."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def source_fingerprint() -> str:
    """Hash of the modules that compute an epoch, comments, docstrings and layout aside."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*.py") if path.name not in PLANNING)
    return digest([[path.relative_to(root).as_posix(), _meaning(path)] for path in files])


def _meaning(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:]  # a docstring, or a string that stands for one
    return ast.dump(tree)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the libraries whose arithmetic a trajectory depends on."""
    return {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn", "pillow")}


def file_hash(path: Path) -> str:
    """Hash of a file's bytes; remembered within the process for as long as size and time stay the same."""
    status = path.stat()
    return _file_hash(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _file_hash(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def data_files(config: Config) -> list[Path]:
    """The files that the images come from, in a fixed order.

    Raises FileNotFoundError with a message fit for the user.
    """
    data = config.data
    if data.source == "digits":
        spec = importlib.util.find_spec("sklearn")  # not imported: planning stays light
        return [Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"]
    path = Path(data.path).expanduser()
    if data.source == "folder":
        if path.is_file():
            return [path]
        files = sorted(p for p in path.glob("*/*/*") if p.is_file())
        if not files:
            raise FileNotFoundError(f"'{data.path}' is neither an archive nor a folder with train/<class>/ and test/<class>/ images")
        return files
    folder = path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[data.source]
    files = sorted(p for p in folder.glob("*") if p.suffix != ".html" and p.is_file())
    if not files and not data.download:
        raise FileNotFoundError(f"'{folder}' holds no {data.source}; set data.download: true to fetch it there")
    return files


def data_fingerprint(config: Config) -> str:
    """Hash of the images' files by relative name and content, and of the settings that select from them.

    CIFAR's name stands for its files: torchvision checks their MD5 sums whenever it reads them, and a study that
    is to download them is planned before they are there.
    """
    data = config.data
    files = [] if data.source.startswith("cifar") else data_files(config)
    selection = [data.source, data.imbalance_factor, data.n_max, data.n_test, data.validation, data.channels, data.flip_channels, data.size, data.mean, data.std]
    names = ["/".join(path.parts[-3:]) for path in files] if len(files) > 1 else []
    return digest(selection, names, [file_hash(path) for path in files])


def root_key(config: Config, seed: int) -> str:
    """The key before a trial's first epoch: all that every epoch depends on."""
    checkpoint = file_hash(Path(config.encoder.checkpoint).expanduser()) if config.encoder.checkpoint else None
    return digest(
        "root", seed, data_fingerprint(config), source_fingerprint(), config.encoder.name, checkpoint,
        config.device, config.precision, config.threads, versions(),
    )  # fmt: skip


def missing_inputs(config: Config) -> Iterable[tuple[str, str]]:
    """(key, message) for every file that the settings name and that is not there."""
    try:
        data_files(config)
    except FileNotFoundError as error:
        yield "data.path", str(error)
    checkpoint = config.encoder.checkpoint
    if checkpoint and not Path(checkpoint).expanduser().is_file():
        yield "encoder.checkpoint", f"'{checkpoint}' is not a file"
