"""The last checkpoint of a training function, with the epochs that led to it."""

from __future__ import annotations

import json
import os
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from ablation.subject.protocol import History, Store, digest_of

KIND = "state"


class Checkpoint(NamedTuple):
    """What a function has saved, and what it had reported until then."""

    history: History
    # that these epochs took
    seconds: float
    data: bytes
    # of a file, the end of its name (`.pt`); None where the function gave bytes
    suffix: str | None

    def save(self, store: Store, key: str) -> None:
        """Replace the checkpoint of the link with this key."""
        history = [[epoch, metrics] for epoch, metrics in sorted(self.history.items())]
        head = {"history": history, "seconds": self.seconds, "suffix": self.suffix}
        content = json.dumps(head).encode() + b"\n" + self.data
        store.save(KIND, _key(key), content, self.seconds)

    def given(self, folder: Path) -> bytes | Path:
        """What the function gets: its bytes, or the path of a copy of its file in `folder`."""
        if self.suffix is None:
            return self.data
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"checkpoint{self.suffix}"
        path.write_bytes(self.data)
        return path


def load_checkpoint(store: Store, key: str) -> Checkpoint | None:
    """The last checkpoint of the link with this key; None if there is none."""
    content = store.load(KIND, _key(key))
    if not content:
        return None
    head, _, data = content.partition(b"\n")
    told = json.loads(head)
    history = {int(epoch): dict(metrics) for epoch, metrics in told["history"]}
    return Checkpoint(history, float(told["seconds"]), data, told["suffix"])


def forget_checkpoint(store: Store, key: str) -> None:
    """Free its space: the link is finished."""
    if store.holds(KIND, _key(key)):
        store.save(KIND, _key(key), b"")


def content_of(checkpoint: Any) -> tuple[bytes, str | None]:
    """Bytes, and the end of the file's name of a checkpoint that is a path.

    Raises TypeError for what is neither bytes nor the path of a file.
    """
    if isinstance(checkpoint, bytes | bytearray | memoryview):
        return bytes(checkpoint), None
    if isinstance(checkpoint, str | os.PathLike):
        path = Path(checkpoint)
        if path.is_file():
            return path.read_bytes(), path.suffix
        what = f"'{path}', which is not a file"
    else:
        what = f"{' '.join(reprlib.repr(checkpoint).split())} ({type(checkpoint).__name__})"
    raise TypeError(f"report got checkpoint {what}; a checkpoint is bytes, or the path of a file")


def _key(key: str) -> str:
    # not the link's own: a checkpoint of that kind would stand for its end
    return digest_of([key, "checkpoint"])
