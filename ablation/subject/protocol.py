"""The subject protocol: the interface between the harness and the code that it ablates.

A trial is a chain of *links* (epochs). A link's key is a hash over everything that can change what
the link computes, the key before it included, so equal keys mean equal results: two trials share
every link up to the first that differs, a restart finds its own last checkpoint, and a finished
trial is never run again. The harness plans with keys alone; only worker processes call `advance`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, NotRequired, Protocol, TypedDict


class ReportedEpoch(TypedDict):
    """The report of one epoch, of a training function that ran all its epochs as one link."""

    epoch: int
    metrics: dict[str, float]


History = dict[int, dict[str, float]]
"""Epoch -> what a function reported of it."""


class Record(TypedDict):
    """What one link reports, JSON-able; a line of metrics.jsonl.

    No key of a link depends on `accumulation` or `encoding_batch`: neither is a setting.
    """

    # e.g. pretrain, warmup, joint
    phase: str
    # from 1, counted on within the trial; pre-training has a count of its own
    epoch: int
    # that the link took
    seconds: float
    # name -> value; accuracies in percent
    metrics: dict[str, float]
    # name -> one value per class
    vectors: dict[str, list[float]]
    # when the link was finished, in seconds since 1970
    time: NotRequired[float]
    # which test images are right: a word per class, `36:ffff7fefe0`, its number of images and their
    # bits (first image first) in hexadecimal, filled up with zeros to whole bytes
    hits: NotRequired[str]
    # where a device had too little memory: in how many chunks the encoder met each batch of a phase
    # (gradients accumulated to the same effective batch; batch normalisation that trains took its
    # statistics chunk by chunk)
    accumulation: NotRequired[int]
    # where a device had too little memory: how many images were encoded at once for evaluation
    encoding_batch: NotRequired[int]
    # name -> how a command printed it, where that is not read: a text for messages; {} where
    # nothing of what it printed is read
    unread: NotRequired[dict[str, str]]
    # in the cache alone: the files of a trial have a record for each of these epochs
    history: NotRequired[list[ReportedEpoch]]


Report = Callable[[str, Record], bool | None]
"""Called with the key and record of each finished link; returns True to stop after it."""


class Link(NamedTuple):
    """One epoch of a trial, as planned."""

    # hex digest
    key: str
    phase: str
    epoch: int
    # relative to the other links of the study, for scheduling and estimates
    cost: float


def digest_of(parts: Sequence[Any]) -> str:
    """A key of these parts, which are JSON-able but for what stands for itself as text."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Fault(NamedTuple):
    """One mistake in a trial's settings."""

    # dotted, e.g. "optim.lr.encodre"
    key: str
    message: str
    # the path as the settings name it, where nothing is wrong but that a file is not on this
    # machine: the study can then be planned and not run
    absent: str = ""


class LinkLike(Protocol):
    """What the harness reads of a link. A subject may return `Link` or a class of its own."""

    @property
    def key(self) -> str:
        """Hex digest."""

    @property
    def phase(self) -> str:
        """Such as pretrain, warmup, joint."""

    @property
    def epoch(self) -> int:
        """From 1."""

    @property
    def cost(self) -> float:
        """Relative to the other links of the study."""


class FaultLike(Protocol):
    """What the harness reads of a fault. A subject may return `Fault` or a class of its own."""

    @property
    def key(self) -> str:
        """Dotted, of the setting."""

    @property
    def message(self) -> str:
        """What is wrong with its value."""

    @property
    def absent(self) -> str:
        """The path of a file that is not on this machine, else ""."""


class Store(Protocol):
    """Bytes under a key and a kind; what `load` returns is what was saved, whole, or None.

    `seconds` is what the data took to compute. A bounded store may lose anything but records, at
    any time, and loses first what saves the least time per byte.
    """

    def load(self, kind: str, key: str) -> bytes | None:
        """What was saved; None if it is absent, or damaged."""

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        """Replace what is there, whole or not at all."""

    def holds(self, kind: str, key: str) -> bool:
        """Whether there is an entry; `load` may still find it damaged."""


class Subject(Protocol):
    """Code that can be ablated. All but `advance` and `inspect` are cheap and import no torch.

    A subject may do without `metrics`, `alternatives`, `effective`, `ignored` with `counts_with`,
    and `reads_files` with `inspect`; then less can be told before anything runs. It may do without
    `unchanging`, too.
    """

    def check(self, settings: Mapping[str, Any]) -> Sequence[FaultLike]:
        """All that is wrong with a trial's settings (dotted key -> value); [] if nothing is."""

    def unchanging(self) -> AbstractContextManager[None]:
        """Within it the files that trials read are taken not to change.

        `check` and `chain`, asked once for each trial, need to look at a folder only once.
        """

    def reads_files(self, settings: Mapping[str, Any]) -> bool:
        """Whether a trial reads files that `check` has not read whole, such as images.

        Then `inspect` is asked, too.
        """

    def inspect(self, settings: Mapping[str, Any], store: Store) -> Sequence[FaultLike]:
        """All that is wrong with those files, for settings without fault.

        `store` may keep what trials need of them.
        """

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The full nested configuration, defaults filled in."""

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings of each baseline that a grid may name."""

    def metrics(self, settings: Mapping[str, Any]) -> Collection[str] | None:
        """Names of the metrics of a trial's last record, for settings without fault, if known."""

    def alternatives(self) -> Sequence[Collection[str]]:
        """Groups of dotted keys of which setting one (to anything but null) unsets the others."""

    def effective(self, settings: Mapping[str, Any]) -> Hashable:
        """The settings that can change a trial, as a value.

        Two trials of one seed compute the same where these are equal.
        """

    def ignored(self, settings: Mapping[str, Any], keys: Sequence[str]) -> Collection[str]:
        """Those of the keys that change nothing in a trial, whatever their values.

        All of them are set in these settings, which are without fault.
        """

    def counts_with(self, settings: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
        """A setting, and a value of it, with which an ignored key would change something.

        None if no single one is known.
        """

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Facts for the report's provenance: data fingerprint, class counts, versions, device.

        `warnings`, where there are any, are sentences on settings that make results look better
        than they are; plan, run and report show them.
        """

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: Callable[[str], Record | None]
    ) -> Sequence[LinkLike]:
        """The links of a trial, first to last.

        `records` looks up what finished links reported, for chains whose length depends on it (a
        warm-up that ends at a plateau); links past an undecided point are planned at their longest.
        """

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Store,
        report: Report,
    ) -> None:
        """Run the epochs from the last checkpoint in `store` up to and including the key `until`.

        None: all of it. Saves a record (kind "record", JSON) for each link and a checkpoint at the
        last; calls `report(key, record)` after each link, and if that answers True saves a
        checkpoint and returns: the study is being stopped. Returns, with a checkpoint, where the
        chain turns out not to lead to `until`. What it raises is the trial's failure; of exceptions
        called `Diverged`, the report counts them by arm, as a result.
        """
