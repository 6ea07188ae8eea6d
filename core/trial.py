"""Runs a trial's chain of epochs, from its last checkpoint, into the store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from core import evaluation, metrics, state, trajectory
from core.checkpoints import Checkpoints, Store, last_checkpoints
from core.config import Config
from core.data import sources
from core.data.sources import Dataset, Split
from core.divergence import Diverged, require_finite, require_finite_modules
from core.encoding import (
    Latents,
    encode,
    encode_for_training,
    encode_views,
    fitting_batch,
    latents_from_bytes,
    latents_to_bytes,
)
from core.epochs import Trained, joint_epoch, warmup_epoch
from core.fingerprint import data_fingerprint, digest, root_key, source_fingerprint, versions
from core.learner import Learner
from core.memory import release
from core.networks.encoders import load_checkpoint
from core.pretraining import Pretraining
from core.splitting import Splitting
from core.staged import diffusion_epoch, head_epoch
from core.trajectory import DIFFUSION, EVALUATE, HEAD, JOINT, PRETRAIN, WARMUP, Link

CHECKPOINT_SECONDS = 30.0  # at most so much work is lost when a process dies


class PlanChanged(RuntimeError):
    """What a trial is to compute is not what was planned. The harness takes it, by the class's name, for the machine's fault and not the trial's."""


def advance(
    config: Config,
    seed: int,
    until: str | None,
    store: Store,
    report: Callable[[str, dict[str, Any]], bool | None],
) -> None:
    """Run the trial from its last checkpoint to the link with key `until` (None: to its end).

    Stops before that where the chain turns out not to lead there, and where `report`, called with key and record of each
    finished link, answers True.

    Saves a record for each link, and a checkpoint at the last one, at the end of pre-training and of warm-up,
    and every half minute. Out of the device's memory, goes on from the last checkpoint, batches in chunks (`core.splitting`).
    """
    torch.set_num_threads(config.threads)

    def record_of(key: str) -> dict[str, Any] | None:
        data = store.load("record", key)
        return None if data is None else json.loads(data)

    links = trajectory.chain(config, seed, record_of)
    leads_there = any(link.key == until for link in links)
    if until is not None and not leads_there and config.warmup.plateau is None:
        raise PlanChanged(
            "the data, the checkpoint or the source changed while the study ran: its plan no longer holds; run it again"
        )
    start = last_checkpoints(links, until, store)
    done = start.done
    if done == len(links) or (done and links[done - 1].key == until):
        return
    splitting = Splitting(
        config,
        takewhile(lambda record: record is not None, (record_of(link.key) for link in links)),
    )
    trial: Trial | None = Trial(config, seed, store, links, start, splitting.n_chunks)
    saved, unsaved_seconds, reported = time.monotonic(), 0.0, set()
    while done < len(links):
        link, started = links[done], time.perf_counter()
        found = splitting.run(trial, link)
        if found is None:
            trial = None  # and with it its recordings
            release()
            start = last_checkpoints(links, until, store)
            done, trial = start.done, Trial(config, seed, store, links, start, splitting.n_chunks)
            saved, unsaved_seconds = time.monotonic(), 0.0
            continue
        seconds = time.perf_counter() - started
        record = {
            "phase": link.phase, "epoch": link.epoch, "seconds": seconds, "time": time.time(),
            "metrics": found.metrics, "vectors": found.vectors, **({"hits": found.hits} if found.hits else {}), **trial.marks(link.phase),
        }  # fmt: skip
        known = record_of(link.key)
        if known is not None and known.get("accumulation") == record.get("accumulation"):
            record = known  # repeated from a checkpoint; others may have it, and a GPU does not give the same bits twice
        else:
            store.save("record", link.key, json.dumps(record).encode(), seconds)
        is_to_stop = False
        if (
            link.key not in reported
        ):  # one that was, before memory ran out, is replaced in the store
            is_to_stop = report(link.key, record)
            reported.add(link.key)
        done += 1
        unsaved_seconds += seconds
        if config.warmup.plateau is not None and link.phase == WARMUP:
            links = trajectory.chain(config, seed, record_of)
        last = (
            is_to_stop
            or done == len(links)
            or link.key == until
            or (leads_there and all(later.key != until for later in links[done:]))
        )
        if last or links[done].phase != link.phase or time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.save("state", link.key, state.to_bytes(trial.state(link.phase)), unsaved_seconds)
            saved, unsaved_seconds = time.monotonic(), 0.0
        if last:
            return


class Trial:
    """The modules of one trial, brought to where the chain stands."""

    def __init__(
        self,
        config: Config,
        seed: int,
        store: Store,
        links: list[Link],
        start: Checkpoints,
        n_chunks: Mapping[str, int] | None = None,
    ):
        """n_chunks: phase -> in how many chunks its batches pass through the encoder, where that is not 1."""
        self.config, self.seed, self.store, self.n_chunks = (
            config,
            seed,
            store,
            dict(n_chunks or {}),
        )
        self.first = sum(link.phase == PRETRAIN for link in links)  # links before the main phases
        self.base_key = (
            links[self.first - 1].key if self.first else digest("base", root_key(config, seed))
        )
        self.pretraining = Pretraining(
            config,
            seed,
            self.dataset.train.images.shape[1],
            len(self.dataset.class_names),
            self.n_chunks.get(PRETRAIN, 1),
        )
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
        encoder, train, encoding = (
            self.pretraining.encoder,
            self.dataset.train.images,
            trajectory.encoding(self.config),
        )
        key = self.base_key if encoding is None else digest("latents", self.base_key, encoding)
        data = self.store.load("latents", key)
        if data is None:
            started = time.perf_counter()
            latents = (
                encode(encoder, train, self.config)
                if encoding is None
                else encode_for_training(encoder, train, self.config, self.seed)
            )
            test = encode(encoder, self.dataset.test.images, self.config)
            require_finite("the pretrained latent", torch.cat([latents, test]))
            data = latents_to_bytes(Latents(latents, test))
            self.store.save("latents", key, data, time.perf_counter() - started)
        return latents_from_bytes(data, self.config.device)

    @cached_property
    def learner(self) -> Learner:
        """Made when pre-training is over."""
        latents = self.latents
        learner = Learner(
            self.config,
            self.seed,
            self.pretraining.encoder,
            self.pretrained_head,
            self.dataset.class_counts,
        )
        learner.n_chunks = self.n_chunks.get(JOINT, 1)
        learner.start(latents.train, self.dataset.train.labels, self.views)
        return learner

    @property
    def views(self) -> Tensor | None:
        """Latents of strongly augmented training images, where radii are taken from these."""
        config, encoder = self.config, self.pretraining.encoder
        if config.method != "joint" or config.losses.radius_from != "views":
            return None
        return encode_views(encoder, self.dataset.train.images, config, self.seed)

    def run(self, link: Link) -> evaluation.Report:
        """One epoch; returns what it reports. Raises Diverged."""
        try:
            return self._run(link)
        except Diverged as error:
            error.phase, error.epoch = link.phase, link.epoch
            raise

    def _run(self, link: Link) -> evaluation.Report:
        rates = (
            trajectory.rates(self.config, link.phase, link.epoch) if link.phase != EVALUATE else {}
        )
        if link.phase == PRETRAIN:
            found = self.pretraining.epoch(self.dataset.train, link.epoch, rates["encoder"])
            require_finite_modules(encoder=self.pretraining.encoder, fc=self.pretraining.fc)
            return evaluation.Report(found, {})
        if link.phase == EVALUATE:
            return self._evaluate_pretrained()
        self.learner.set_rates(rates)
        train_labels = self.dataset.train.labels
        if link.phase == DIFFUSION:
            found = diffusion_epoch(self.learner, self.latents.train, train_labels, link.epoch)
            require_finite_modules(denoiser=self.learner.denoiser)
            return evaluation.Report(found, {})
        if link.phase == HEAD:
            if self.config.staged.generation and link.epoch == self.config.diffusion_epochs + 1:
                self.learner.refresh_pool(link.epoch)
            epoch = link.epoch - self.config.diffusion_epochs
            trained = Trained(
                head_epoch(self.learner, self.latents.train, train_labels, epoch),
                self.latents.train,
                train_labels,
            )
        else:
            every = self.config.generation.every
            if (
                self.config.losses.generated > 0
                and link.epoch > every
                and (link.epoch - 1) % every == 0
            ):
                self.learner.refresh_pool(link.epoch)
            if link.phase == WARMUP:
                trained = warmup_epoch(self.learner, self.latents.train, train_labels, link.epoch)
                self.learner.diffusion_loss_at_thaw = trained.metrics["train/diffusion_loss"]
            else:
                trained = joint_epoch(self.learner, self.dataset.train, link.epoch)
        return self._report(link, trained)

    def _report(self, link: Link, trained: Trained) -> evaluation.Report:
        learner = self.learner
        require_finite_modules(**{name: getattr(learner, name) for name in learner.optimisers})
        found = evaluation.latent_report(learner, trained.latents, trained.labels)
        if trajectory.evaluates(self.config, link.phase, link.epoch):
            test = self.dataset.test
            latents = (
                encode(learner.encoder, test.images, self.config)
                if link.phase == JOINT
                else self.latents.test
            )
            more = evaluation.test_report(learner, latents, test.labels, self.latents.test)
            found = evaluation.Report(
                found.metrics | more.metrics, found.vectors | more.vectors, more.hits
            )
            if learner.average is not None:
                latents = encode(learner.average.encoder, test.images, self.config)
                averaged = evaluation.averaged_metrics(
                    learner.average, latents, test.labels, learner.class_counts
                )
                found = found._replace(metrics=found.metrics | averaged)
        return found._replace(metrics=trained.metrics | found.metrics)

    def _evaluate_pretrained(self) -> evaluation.Report:
        """The pretrained encoder under its own linear head, nothing trained; for `ce-adjusted`, log prior subtracted."""
        logits = torch.nn.functional.linear(
            self.latents.test, *(self.pretrained_head[name] for name in ("weight", "bias"))
        )
        require_finite("the pretrained encoder's logit", logits)
        labels, class_counts = self.dataset.test.labels, self.dataset.class_counts.to(logits.device)
        if self.config.method == "ce-adjusted":
            logits = metrics.compensate_label_shift(logits, class_counts)
        left = None if self.config.method == "ce-adjusted" else class_counts
        scalars, vectors = metrics.evaluate(logits, labels, class_counts, left)
        return evaluation.Report(
            scalars, vectors, metrics.packed_hits(logits, labels, len(class_counts))
        )

    @property
    def pretrained_head(self) -> dict[str, Tensor]:
        """The linear head that was trained with the encoder, by our pre-training or in the checkpoint."""
        return self.pretraining.head() if self.first else self.checkpoint_head

    def marks(self, phase: str) -> dict[str, int]:
        """How this trial makes do with the memory that there is, for the record of an epoch; {} where it need not."""
        n_chunks, n_at_once = self.n_chunks.get(phase, 1), fitting_batch(self.pretraining.encoder)
        return ({"accumulation": n_chunks} if n_chunks > 1 else {}) | (
            {"encoding_batch": n_at_once} if n_at_once and phase != PRETRAIN else {}
        )

    def state(self, phase: str) -> state.State:
        """What the keys up to an epoch of this phase determine; trials that share them differ in the rest."""
        if "learner" not in self.__dict__:
            return self.pretraining.state()
        untrained = {
            DIFFUSION: ("head",),
            HEAD: () if self.config.diffusion_epochs else ("denoiser",),
        }
        return self.learner.state(without=untrained.get(phase, ()))


def require_head(config: Config, head: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    """Raise ValueError if the trial needs the checkpoint's linear head, and `head` is none of the shapes of `like`."""
    needed_by = (
        f"method {config.method}"
        if config.method.startswith("ce")
        else "head.start: pretrained"
        if config.head.start == "pretrained"
        else None
    )
    if needed_by and {name: t.shape for name, t in head.items()} != {
        name: t.shape for name, t in like.items()
    }:
        n_classes, n_latents = like["weight"].shape
        shape = f"fc.weight {n_classes} x {n_latents}, fc.bias {n_classes}"
        raise ValueError(
            f"'{config.encoder.checkpoint}' holds no linear head for these classes ({shape}), which {needed_by} needs"
        )


def load_dataset(config: Config, store: Store) -> Dataset:
    """The data set on the trial's device; decoded images are kept in the store, and in the process."""
    key = digest(
        "images", data_fingerprint(config), source_fingerprint(), versions()
    )  # what decoding depends on
    if _datasets.get("key") != (key, config.device):
        data, started = store.load("images", key), time.perf_counter()
        dataset = sources.from_bytes(data) if data is not None else sources.load(config.data)
        if data is None and config.data.source != "digits":
            store.save("images", key, sources.to_bytes(dataset), time.perf_counter() - started)
        parts = (
            Split(split.images.to(config.device), split.labels.to(config.device))
            for split in (dataset.train, dataset.test)
        )
        _datasets.update(key=(key, config.device), dataset=Dataset(*parts, dataset.class_names))
    return _datasets["dataset"]


_datasets: dict[
    str, Any
] = {}  # the last data set used: worker processes serve many trials of one study
