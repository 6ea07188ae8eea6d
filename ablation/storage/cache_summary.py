"""The cache as a user sees it: how large, worth what, and kept within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablation.errors import InputError, Problem
from ablation.formatting import duration
from ablation.limits import show_size
from ablation.storage.cache import KINDS, DiskStore, Entry
from ablation.storage.lock import being_run

DEFAULT_SIZE = "20GB"
MEANING = {
    "record": "what epochs reported; never evicted",
    "state": "checkpoints",
    "latents": "data sets encoded by a pretrained encoder",
    "images": "decoded data sets",
}


def describe_entries(entries: Sequence[Entry]) -> str:
    """`12 entries, 1.5 GB`."""
    return f"{len(entries)} entries, {show_size(sum(entry.n_bytes for entry in entries))}"


def describe_cache(store: DiskStore) -> str:
    """Entries, bytes and the seconds that they save, by kind."""
    entries = list(store.entries())
    lines = [f"{store.root}", f"{'kind':8} {'entries':>8} {'size':>9} {'took':>10}"]
    for kind in KINDS:
        found = [entry for entry in entries if entry.kind == kind]
        size, seconds = sum(entry.n_bytes for entry in found), sum(entry.seconds for entry in found)
        lines.append(
            f"{kind:8} {len(found):8} {show_size(size):>9} {seconds:8.0f} s  {MEANING[kind]}"
        )
    size = sum(entry.n_bytes for entry in entries)
    return "\n".join([*lines, f"{'all':8} {len(entries):8} {show_size(size):>9}"])


def describe_clearing(store: DiskStore, runs: Path) -> str:
    """What clearing the cache would remove."""
    entries = list(store.entries())
    # A checkpoint took what its epochs' records did.
    seconds = sum(entry.seconds for entry in entries if entry.kind != "state")
    return (
        f"{describe_entries(entries)}, {duration(seconds)} of work; "
        f"finished trials keep their results in {runs}/, all others will begin anew"
    )


def require_idle(store: DiskStore, runs: Path) -> None:
    """Raises InputError while a study in `runs` is being run: it counts on its epochs."""
    running = being_run(runs)
    if running:
        message = f"cannot be cleared while a study is being run: {', '.join(running)}"
        raise InputError([Problem(str(store.root), "", message)])
