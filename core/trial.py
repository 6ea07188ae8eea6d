"""Runs a trial's chain of epochs, from its last checkpoint, into the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core import evaluation, metrics, state, trajectory
from core.config import Config
from core.data import sources
from core.data.sources import Dataset, Split
from core.encoding import Latents, encode, encode_for_training, latents_from_bytes, latents_to_bytes
from core.epochs import Trained, joint_epoch, warmup_epoch
from core.fingerprint import data_fingerprint, digest, root_key, source_fingerprint, versions
from core.learner import Learner
from core.networks.encoders import load_checkpoint
from core.pretraining import Pretraining
from core.staged import diffusion_epoch, head_epoch
from core.trajectory import DIFFUSION, EVALUATE, HEAD, JOINT, PRETRAIN, WARMUP, Link

CHECKPOINT_SECONDS = 30.0  # at most so much work is lost when a process dies


class Store(Protocol):
    """Bytes under a kind and a key, and the seconds that they took; what `load` returns was saved, whole, or is None."""

    def load(self, kind: str, key: str) -> bytes | None: ...
    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None: ...
    def holds(self, kind: str, key: str) -> bool: ...


def advance(config: Config, seed: int, until: str | None, store: Store, report: Callable[[str, dict[str, Any]], bool | None]) -> None:
    """Run the trial from its last checkpoint to the link with key `until` (None: to its end).

    Stops before that where the chain turns out not to lead there, and where `report`, called with key and record of each
    finished link, answers True.

    Saves a record for each link, and a checkpoint at the last one, at the end of pre-training and of warm-up,
    and every half minute.
    """
    torch.set_num_threads(config.threads)

    def record_of(key: str) -> dict[str, Any] | None:
        data = store.load("record", key)
        return None if data is None else json.loads(data)

    links = trajectory.chain(config, seed, record_of)
    leads_there = any(link.key == until for link in links)
    if until is not None and not leads_there and config.warmup.plateau is None:
        raise RuntimeError("the data, the checkpoint or the source changed while the study ran: its plan no longer holds; run it again")
    start = last_checkpoints(links, until, store)
    done = start.done
    if done == len(links) or (done and links[done - 1].key == until):
        return
    trial = Trial(config, seed, store, links, start)
    saved, unsaved_seconds = time.monotonic(), 0.0
    while done < len(links):
        link, started = links[done], time.perf_counter()
        found = trial.run(link)
        seconds = time.perf_counter() - started
        record = {
            "phase": link.phase, "epoch": link.epoch, "seconds": seconds, "time": time.time(),
            "metrics": found.metrics, "vectors": found.vectors, **({"hits": found.hits} if found.hits else {}),
        }  # fmt: skip
        store.save("record", link.key, json.dumps(record).encode(), seconds)
        is_to_stop = report(link.key, record)
        done += 1
        unsaved_seconds += seconds
        if config.warmup.plateau is not None and link.phase == WARMUP:
            links = trajectory.chain(config, seed, record_of)
        last = is_to_stop or done == len(links) or link.key == until or (leads_there and all(later.key != until for later in links[done:]))
        if last or links[done].phase != link.phase or time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.save("state", link.key, state.to_bytes(trial.state(link.phase)), unsaved_seconds)
            saved, unsaved_seconds = time.monotonic(), 0.0
        if last:
            return


class Checkpoints(NamedTuple):
    """What a trial goes on from. The bytes are in hand: a bounded store may lose them at any time."""

    done: int  # links that need not be run
    last: bytes | None  # the state after them
    pretrained: bytes | None  # the state at the end of pre-training, if that is before `last`


def last_checkpoints(links: list[Link], until: str | None, store: Store) -> Checkpoints:
    """The last whole checkpoint before which no record is missing.

    A trial that goes on after pre-training starts from that checkpoint and from the one at its end.
    """
    stop = next((i for i, link in enumerate(links) if link.key == until), len(links) - 1)
    n_pretrain = sum(link.phase == PRETRAIN for link in links)
    checkpoints = []
    for i, link in enumerate(links[: stop + 1]):
        if store.load("record", link.key) is None:  # missing or damaged
            break
        if store.holds("state", link.key):
            checkpoints.append(i + 1)
    for done in reversed(checkpoints):
        needs_pretrained = 0 < n_pretrain < done <= stop
        last = store.load("state", links[done - 1].key)  # None: missing or damaged
        pretrained = store.load("state", links[n_pretrain - 1].key) if needs_pretrained else None
        if last is not None and (pretrained is not None or not needs_pretrained):
            return Checkpoints(done, last, pretrained)
    return Checkpoints(0, None, None)


class Trial:
    """The modules of one trial, brought to where the chain stands."""

    def __init__(self, config: Config, seed: int, store: Store, links: list[Link], start: Checkpoints):
        self.config, self.seed, self.store = config, seed, store
        self.first = sum(link.phase == PRETRAIN for link in links)  # links before the main phases
        self.base_key = links[self.first - 1].key if self.first else digest("base", root_key(config, seed))
        self.pretraining = Pretraining(config, seed, self.dataset.train.images.shape[1], len(self.dataset.class_names))
        self.checkpoint_head: dict[str, Tensor] = {}
        if config.encoder.checkpoint:
            head = load_checkpoint(config.encoder.checkpoint, self.pretraining.encoder)
            require_head(config, head, self.pretraining.head())
            self.checkpoint_head = {name: tensor.to(config.device) for name, tensor in head.items()}
        if start.last is not None and start.done <= self.first:
            self.pretraining.load(state.from_bytes(start.last))
        elif start.last is not None:
            if start.pretrained is not None:
                self.pretraining.load(state.from_bytes(start.pretrained))
            self.learner.load(state.from_bytes(start.last))

    @cached_property
    def dataset(self) -> Dataset:
        return load_dataset(self.config, self.store)

    @cached_property
    def latents(self) -> Latents:
        """Of the pretrained encoder, training images as `staged.encoding` says; must be asked for before the encoder thaws."""
        encoder, train, encoding = self.pretraining.encoder, self.dataset.train.images, trajectory.encoding(self.config)
        key = self.base_key if encoding is None else digest("latents", self.base_key, encoding)
        data = self.store.load("latents", key)
        if data is None:
            started = time.perf_counter()
            latents = encode(encoder, train, self.config) if encoding is None else encode_for_training(encoder, train, self.config, self.seed)
            data = latents_to_bytes(Latents(latents, encode(encoder, self.dataset.test.images, self.config)))
            self.store.save("latents", key, data, time.perf_counter() - started)
        return latents_from_bytes(data, self.config.device)

    @cached_property
    def learner(self) -> Learner:
        """Made when pre-training is over."""
        latents = self.latents
        learner = Learner(self.config, self.seed, self.pretraining.encoder, self.pretrained_head, self.dataset.class_counts)
        learner.start(latents.train, self.dataset.train.labels)
        return learner

    def run(self, link: Link) -> evaluation.Report:
        """One epoch; returns what it reports."""
        rates = trajectory.rates(self.config, link.phase, link.epoch) if link.phase != EVALUATE else {}
        if link.phase == PRETRAIN:
            return evaluation.Report(self.pretraining.epoch(self.dataset.train, link.epoch, rates["encoder"]), {})
        if link.phase == EVALUATE:
            return self._evaluate_pretrained()
        self.learner.set_rates(rates)
        train_labels = self.dataset.train.labels
        if link.phase == DIFFUSION:
            return evaluation.Report(diffusion_epoch(self.learner, self.latents.train, train_labels, link.epoch), {})
        if link.phase == HEAD:
            if self.config.staged.generation and link.epoch == self.config.diffusion_epochs + 1:
                self.learner.refresh_pool(link.epoch)
            epoch = link.epoch - self.config.diffusion_epochs
            trained = Trained(head_epoch(self.learner, self.latents.train, train_labels, epoch), self.latents.train, train_labels)
        else:
            every = self.config.generation.every
            if self.config.losses.generated > 0 and link.epoch > every and (link.epoch - 1) % every == 0:
                self.learner.refresh_pool(link.epoch)
            if link.phase == WARMUP:
                trained = warmup_epoch(self.learner, self.latents.train, train_labels, link.epoch)
                self.learner.diffusion_loss_at_thaw = trained.metrics["train/diffusion_loss"]
            else:
                trained = joint_epoch(self.learner, self.dataset.train, link.epoch)
        return self._report(link, trained)

    def _report(self, link: Link, trained: Trained) -> evaluation.Report:
        found = evaluation.latent_report(self.learner, trained.latents, trained.labels)
        if trajectory.evaluates(self.config, link.phase, link.epoch):
            test = self.dataset.test
            latents = encode(self.learner.encoder, test.images, self.config) if link.phase == JOINT else self.latents.test
            more = evaluation.test_report(self.learner, latents, test.labels, self.latents.test)
            found = evaluation.Report(found.metrics | more.metrics, found.vectors | more.vectors, more.hits)
        return found._replace(metrics=trained.metrics | found.metrics)

    def _evaluate_pretrained(self) -> evaluation.Report:
        """The pretrained encoder under its own linear head, nothing trained."""
        logits = torch.nn.functional.linear(self.latents.test, *(self.pretrained_head[name] for name in ("weight", "bias")))
        labels, class_counts = self.dataset.test.labels, self.dataset.class_counts.to(logits.device)
        scalars, vectors = metrics.evaluate(logits, labels, class_counts)
        return evaluation.Report(scalars, vectors, metrics.packed_hits(logits, labels, len(class_counts)))

    @property
    def pretrained_head(self) -> dict[str, Tensor]:
        """The linear head that was trained with the encoder, by our pre-training or in the checkpoint."""
        return self.pretraining.head() if self.first else self.checkpoint_head

    def state(self, phase: str) -> state.State:
        """What the keys up to an epoch of this phase determine; trials that share them differ in the rest."""
        if "learner" not in self.__dict__:
            return self.pretraining.state()
        untrained = {DIFFUSION: ("head",), HEAD: () if self.config.staged.generation else ("denoiser",)}
        return self.learner.state(without=untrained.get(phase, ()))


def require_head(config: Config, head: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    """Raise ValueError if the trial needs the checkpoint's linear head, and `head` is none of the shapes of `like`."""
    needed_by = "method ce" if config.method == "ce" else "head.start: pretrained" if config.head.start == "pretrained" else None
    if needed_by and {name: t.shape for name, t in head.items()} != {name: t.shape for name, t in like.items()}:
        n_classes, n_latents = like["weight"].shape
        shape = f"fc.weight {n_classes} x {n_latents}, fc.bias {n_classes}"
        raise ValueError(f"'{config.encoder.checkpoint}' holds no linear head for these classes ({shape}), which {needed_by} needs")


def load_dataset(config: Config, store: Store) -> Dataset:
    """The data set on the trial's device; decoded images are kept in the store, and in the process."""
    key = digest("images", data_fingerprint(config), source_fingerprint(), versions())  # what decoding depends on
    if _datasets.get("key") != (key, config.device):
        data, started = store.load("images", key), time.perf_counter()
        dataset = sources.from_bytes(data) if data is not None else sources.load(config.data)
        if data is None and config.data.source != "digits":
            store.save("images", key, sources.to_bytes(dataset), time.perf_counter() - started)
        parts = (Split(split.images.to(config.device), split.labels.to(config.device)) for split in (dataset.train, dataset.test))
        _datasets.update(key=(key, config.device), dataset=Dataset(*parts, dataset.class_names))
    return _datasets["dataset"]


_datasets: dict[str, Any] = {}  # the last data set used: worker processes serve many trials of one study
