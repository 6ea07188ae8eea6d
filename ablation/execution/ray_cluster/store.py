"""The store of a worker on a node: local copies in front of the driver's store.

What the worker saves is at the driver before `save` returns. What it loads comes from there,
checked by its checksum; the node keeps checkpoints, latents and images, and uses what it has where
the driver has the same.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

from ablation.storage.cache import HEADER, DiskStore, unsealed
from ablation.storage.files import is_full

NODE_CACHE_BYTES = 20 * 10**9
# folder of what comes from the driver
ON_THE_WAY = "arriving"


class NodeStore:
    """See `ablation.subject.protocol.Store`. here: the node's own cache.

    ask: sends a question to the driver, and returns its answer; see `answer_of`.
    """

    def __init__(self, here: DiskStore, ask: Callable[[dict[str, Any]], dict[str, Any]]):
        self._here, self._ask = here, ask
        # which the node does not keep: the driver alone knows what was recorded
        self._records: dict[str, bytes] = {}
        self._here.trim(NODE_CACHE_BYTES)

    def holds(self, kind: str, key: str) -> bool:
        """Whether the driver has an entry."""
        answer = self._ask({"op": "holds", "kind": kind, "key": key})
        return bool(answer["holds"])

    def load(self, kind: str, key: str) -> bytes | None:
        """What is damaged on the way counts as absent."""
        if kind == "record" and key in self._records:
            return self._records[key]
        here = self._here.sealed(kind, key)
        have = here[: HEADER.size].hex() if here else ""
        into = self._here.root / ON_THE_WAY / f"{key}-{secrets.token_hex(4)}"
        question = {"op": "load", "kind": kind, "key": key, "have": have, "into": str(into)}
        answer = self._ask(question)
        if not answer["holds"]:
            return None
        if not answer["sent"]:
            return unsealed(here or b"")
        sealed = into.read_bytes()
        into.unlink()
        content = unsealed(sealed)
        if content is not None:
            self._keep(kind, key, sealed, content)
        return content

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        """Raises OSError if the node or the driver cannot take it."""
        self._here.save(kind, key, data, seconds)
        path = self._here.path(kind, key)
        answer = self._ask({"op": "save", "kind": kind, "key": key, "path": str(path)})
        if kind == "record":
            self._records[key] = data
            path.unlink()
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["file"])

    def _keep(self, kind: str, key: str, sealed: bytes, content: bytes) -> None:
        if kind == "record":
            self._records[key] = content
            return
        try:
            self._here.adopt(kind, key, sealed)
        except OSError as error:
            if not is_full(error):
                raise


def answer_of(
    store: DiskStore, question: dict[str, Any], payload: bytes | None
) -> tuple[dict[str, Any], bytes | None]:
    """What the driver answers, and an entry if one is to be sent.

    question: {"op": "holds" | "load" | "save", "kind", "key"}; of "load" also `have`, the header of
    the entry that the node has (hexadecimal, "" for none), of "save" the entry as `payload`.
    """
    op, kind, key = question["op"], question["kind"], question["key"]
    if op == "holds":
        return {"holds": store.holds(kind, key)}, None
    if op == "save":
        try:
            store.adopt(kind, key, payload or b"")
        except OSError as error:
            file = str(error.filename or store.path(kind, key))
            return {"errno": error.errno, "file": file}, None
        return {}, None
    sealed = store.sealed(kind, key)
    if sealed is None:
        # what is damaged goes
        store.load(kind, key)
        return {"holds": False}, None
    is_there = question["have"] == sealed[: HEADER.size].hex()
    return {"holds": True, "sent": not is_there}, None if is_there else sealed
