"""From where a trial can go on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from core.planning.trajectory import PRETRAIN, Link


class Checkpoints(NamedTuple):
    """What a trial goes on from, read already: a bounded store may lose it at any time."""

    # links that need not be run
    done: int
    # the state after them
    last: bytes | None
    # the state at the end of pre-training, if that is before `last`
    pretrained: bytes | None


def last_checkpoints(links: list[Link], until: str | None, store: Store) -> Checkpoints:
    """The last whole checkpoint before which no record is missing.

    A trial that goes on after pre-training starts from that checkpoint and from the one at its end.
    """
    stop = next((i for i, link in enumerate(links) if link.key == until), len(links) - 1)
    n_pretrain = sum(link.phase == PRETRAIN for link in links)
    checkpoints = []
    for i, link in enumerate(links[: stop + 1]):
        # missing or damaged
        if store.load("record", link.key) is None:
            break
        if store.holds("state", link.key):
            checkpoints.append(i + 1)
    for done in reversed(checkpoints):
        needs_pretrained = 0 < n_pretrain < done <= stop
        # None: missing or damaged
        last = store.load("state", links[done - 1].key)
        pretrained = store.load("state", links[n_pretrain - 1].key) if needs_pretrained else None
        if last is not None and (pretrained is not None or not needs_pretrained):
            return Checkpoints(done, last, pretrained)
    return Checkpoints(0, None, None)


class Store(Protocol):
    """Bytes under a kind and a key; see `ablation.subject.protocol.Store`."""

    def load(self, kind: str, key: str) -> bytes | None:
        """Return what was saved, whole, or None."""

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        """Keep bytes that took `seconds` to compute."""

    def holds(self, kind: str, key: str) -> bool:
        """Whether there is something to load."""
