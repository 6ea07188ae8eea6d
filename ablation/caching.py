"""The cache as a user sees it: how large, worth what, and kept within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablation.errors import InputError, Problem
from ablation.formatting import duration
from ablation.limits import show_size
from ablation.lock import being_run
from ablation.store import KINDS, DiskStore, Entry

DEFAULT_SIZE = "20GB"
MEANING = {
    "record": "what epochs reported; never evicted",
    "state": "checkpoints",
    "latents": "data sets encoded by a pretrained encoder",
    "images": "decoded data sets",
}


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
    return "\n".join(
        [
            *lines,
            f"{'all':8} {len(entries):8} {show_size(sum(entry.n_bytes for entry in entries)):>9}",
        ]
    )


def trim_cache(store: DiskStore, limit: int) -> str:
    """Evict down to `limit` bytes, and say what went."""
    gone = store.trim(limit)
    return f"evicted {_counted(gone)}, which took {duration(sum(entry.seconds for entry in gone))} to compute"


def describe_clearing(store: DiskStore, runs: Path) -> str:
    """What `clear_cache` would remove. Raises InputError while a study in `runs` is being run."""
    _require_idle(store, runs)
    entries = list(store.entries())
    seconds = sum(
        entry.seconds for entry in entries if entry.kind != "state"
    )  # a checkpoint took what its epochs' records did
    return f"{_counted(entries)}, {duration(seconds)} of work; finished trials keep their results in {runs}/, all others will begin anew"


def clear_cache(store: DiskStore, runs: Path) -> str:
    """Remove everything, records too, and say what went. Raises InputError while a study in `runs` is being run."""
    _require_idle(store, runs)  # again: one may have been started while the user was asked
    return f"removed {_counted(store.clear())}"


def _require_idle(store: DiskStore, runs: Path) -> None:
    """A study that is being run would lose epochs that it counts on."""
    running = being_run(runs)
    if running:
        raise InputError(
            [
                Problem(
                    str(store.root),
                    "",
                    f"cannot be cleared while a study is being run: {', '.join(running)}",
                )
            ]
        )


def _counted(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} entries, {show_size(sum(entry.n_bytes for entry in entries))}"
