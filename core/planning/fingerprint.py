"""What a trajectory depends on besides settings: source, data, checkpoint, libraries. No torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config.parsing import Fault
from core.config.schema import Config, Data
from core.data.listing import Member, listed, sha256
from core.data.location import digits_file, locate, places
from core.planning.lookups import once
from core.planning.syntax import plain

PLANNING = (
    "config/",
    "data/location.py",
    "planning/",
    "subject.py",
    "trial/inputs.py",
    "trial/inspection.py",
)
"""Below `core`: modules that decide what to compute, not how. Their effect is in the settings."""


def digest(*parts: Any) -> str:
    """Hash of JSON-able values, 32 hex digits."""
    return digest_of_text(canonical(parts))


def canonical(value: Any) -> str:
    """A JSON-able value as text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def digest_of_text(text: str) -> str:
    """Hash of a text, 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def source_fingerprint() -> str:
    """Hash of the modules that compute an epoch, comments, docstrings and layout aside."""
    root = Path(__file__).parents[1]
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    computing = [
        name for name in names if not name.startswith(PLANNING) and not name.endswith("__init__.py")
    ]
    # The text of the list that `digest` would be given. File by file, less garbage is collected.
    texts = [canonical([name, _meaning(root / name)]) for name in computing]
    return digest_of_text(f"[[{','.join(texts)}]]")


def _meaning(path: Path) -> Any:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        # a docstring, or a string that stands for one
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
    return plain(tree)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the libraries whose arithmetic a trajectory depends on."""
    names = ("torch", "torchvision", "numpy", "scikit-learn", "pillow")
    return {name: importlib.metadata.version(name) for name in names}


def data_files(config: Config) -> list[Path]:
    """The files that the images come from, in a fixed order; of `folder`, folder or archive alone.

    Raises FileNotFoundError where there are none, and NotADirectoryError where something else is in
    their place, with a message fit for the user.
    """
    data = config.data
    if data.source == "digits":
        return [digits_file()]
    path = locate(data.required_path)
    if data.source == "folder":
        if not path.exists():
            looked_for = places(data.required_path)
            raise FileNotFoundError(f"'{data.path}' is not there; looked for {looked_for}")
        if not (path.is_file() or path.is_dir()):
            wanted = "an archive nor a folder with train/<class>/ and test/<class>/ images"
            raise NotADirectoryError(f"'{data.path}' is neither {wanted}")
        return [path]
    folder = path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[data.source]
    files = sorted(p for p in folder.glob("*") if p.suffix != ".html" and p.is_file())
    if not files and not data.download:
        fetched = "set data.download: true and torchvision fetches it there"
        raise FileNotFoundError(f"'{folder}' holds no {data.source}; {fetched}")
    return files


def data_fingerprint(config: Config) -> str:
    """Hash of the images by place and content, and of the settings that select from them.

    It is the same for a folder and for an archive of it. CIFAR's name stands for its files:
    torchvision checks their MD5 sums whenever it reads them, and a study that is to download them
    is planned before they are there. So does the path of files that are not there, in the plan of a
    study that cannot be run yet.
    """
    place = config.data.source, config.data.path
    content = once(("content", *place), lambda: canonical(_content(config)))
    # the text of what `digest` would be given
    return digest_of_text(f"[{canonical(_selection(config.data))},{content}]")


def _selection(data: Data) -> list[Any]:
    """The settings that select from the images; those that the source does not use at defaults."""
    return [
        data.source,
        data.imbalance_factor,
        data.n_max,
        data.n_test if data.source == "digits" else Data.n_test,
        data.validation,
        data.held_channels,
        data.flip_channels,
        data.size if data.source == "folder" else Data.size,
        data.mean,
        data.std,
        # a fixed split keeps the keys that it had before there was another one
        *([data.split] if data.split != "fixed" else []),
    ]


def _content(config: Config) -> list[Any]:
    if config.data.source.startswith("cifar"):
        return []
    try:
        files = data_files(config)
    except FileNotFoundError:
        return ["absent", config.data.path]
    if config.data.source == "digits":
        return [sha256(path) for path in files]
    images = listed(locate(config.data.required_path)).images.items()
    return [
        [str(place), file.sha256 if isinstance(file, Member) else sha256(file)]
        for place, file in images
    ]


def root_key(config: Config, seed: int) -> str:
    """The key before a trial's first epoch: all that every epoch depends on."""
    checkpoint = config.encoder.checkpoint
    content: str | list[str] | None = checkpoint
    if checkpoint:
        file = locate(checkpoint)
        content = sha256(file) if file.is_file() else ["absent", checkpoint]
    return digest(
        "root",
        seed,
        data_fingerprint(config),
        source_fingerprint(),
        content,
        _architecture_and_device(config),
        versions(),
    )


def root_settings(config: Config) -> list[Any]:
    """The settings behind a root key, and those that say where its files come from."""
    data = config.data
    files = {"digits": [], "folder": [data.path]}.get(data.source, [data.path, data.download])
    return [_selection(data), files, config.encoder.checkpoint, _architecture_and_device(config)]


def _architecture_and_device(config: Config) -> list[Any]:
    return [config.encoder.name, config.device, config.precision, config.threads]


def missing_inputs(config: Config) -> Iterator[Fault]:
    """Yield a fault for each file that the settings name and that is not there."""
    path = config.data.path or ""
    try:
        data_files(config)
    except FileNotFoundError as error:
        yield Fault("data.path", str(error), path)
    except NotADirectoryError as error:
        yield Fault("data.path", str(error))
    except OSError as error:
        yield Fault("data.path", f"'{path}' cannot be read: {error.strerror}")
    path = config.encoder.checkpoint or ""
    if path and not locate(path).exists():
        message = f"'{path}' is not there; looked for {places(path)}"
        yield Fault("encoder.checkpoint", message, path)
    elif path and not locate(path).is_file():
        yield Fault("encoder.checkpoint", f"'{path}' is not a file")
