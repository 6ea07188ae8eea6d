"""The cache on disk: bytes under a kind and a key, whole or not at all.

A file holds a magic word, the SHA-256 of the content, and the content. It is written beside its place and
renamed, so that readers see all of it or nothing; what fails its checksum is removed and counts as absent,
and is computed again. Keys are content hashes: two writers of one key write the same thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from ablation.subject import Record

MAGIC = b"ablate-1"
KINDS = ("record", "state", "latents", "images")


class DiskStore:
    """`<root>/<kind>/<first two digits>/<key>`; see `ablation.subject.Store`."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def holds(self, kind: str, key: str) -> bool:
        return self.path(kind, key).is_file()

    def load(self, kind: str, key: str) -> bytes | None:
        path = self.path(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        start = len(MAGIC) + hashlib.sha256().digest_size
        content = data[start:]
        if data[:start] != MAGIC + hashlib.sha256(content).digest():
            path.unlink(missing_ok=True)
            return None
        return content

    def save(self, kind: str, key: str, data: bytes) -> None:
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(MAGIC + hashlib.sha256(data).digest())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def record(self, key: str) -> Record | None:
        """The record of a finished link."""
        data = self.load("record", key)
        return None if data is None else json.loads(data)
