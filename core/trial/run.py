"""Runs a trial's chain of epochs, from its last checkpoint, into the store."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from core.config.schema import Config
from core.data import sources
from core.data.sources import Dataset, Split
from core.device.chunks import most_chunks
from core.device.memory import is_out_of_memory, release
from core.method import metrics
from core.networks.encoders import load_checkpoint
from core.planning import trajectory
from core.planning.fingerprint import (
    data_fingerprint,
    digest,
    root_key,
    source_fingerprint,
    versions,
)
from core.planning.trajectory import DIFFUSION, EVALUATE, HEAD, JOINT, PRETRAIN, WARMUP, Link
from core.training import evaluation, state
from core.training.divergence import Diverged, require_finite, require_finite_modules
from core.training.encoding import (
    Latents,
    encode,
    encode_for_training,
    encode_views,
    fitting_batch,
    latents_from_bytes,
    latents_to_bytes,
)
from core.training.epochs import Trained, joint_epoch, warmup_epoch
from core.training.evaluation import Report, named
from core.training.learner import Learner
from core.training.pretraining import Pretraining
from core.training.staged import diffusion_epoch, head_epoch
from core.trial.checkpoints import Checkpoints, Store, last_checkpoints

# at most so much work is lost when a process dies
CHECKPOINT_SECONDS = 30.0


class PlanChanged(RuntimeError):
    """What a trial is to compute is not what was planned.

    The harness knows it by the class's name: it begins no more trials of that plan.
    """


def advance(
    config: Config,
    seed: int,
    until: str | None,
    store: Store,
    report: Callable[[str, dict[str, Any]], bool | None],
) -> None:
    """Run the trial from its last checkpoint to the link with key `until` (None: to its end).

    Stops before that where the chain turns out not to lead there, and where `report`, called with
    key and record of each finished link, answers True.

    Saves a record for each link, and a checkpoint at the last one, at the end of each phase, and
    every half minute. Where a GPU's memory does not suffice, it goes on from the
    last checkpoint with batches that pass through the encoder in chunks. In how many is no setting,
    and no key depends on it: the batch that a step learns from is the same (`core.device.chunks`
    says what is not), and records say it.
    """
    torch.set_num_threads(config.threads)

    def record_of(key: str) -> dict[str, Any] | None:
        data = store.load("record", key)
        return None if data is None else json.loads(data)

    links = trajectory.chain(config, seed, record_of)
    leads_there = any(link.key == until for link in links)
    if until is not None and not leads_there and trajectory.deciding_plateau(config) is None:
        raise PlanChanged(
            "the data, the checkpoint or the source changed while the study ran: its plan no longer"
            " holds; run it again"
        )
    start = last_checkpoints(links, until, store)
    done = start.done
    if done == len(links) or (done and links[done - 1].key == until):
        return
    n_chunks: dict[str, int] = {}
    for each in links:
        past = record_of(each.key)
        if past is None:
            break
        n_chunks[past["phase"]] = past.get("accumulation", 1)
    trial: Trial | None = None
    saved, unsaved_seconds = time.monotonic(), 0.0
    reported: set[str] = set()
    while done < len(links):
        if trial is None:
            trial = Trial(config, seed, store, links, start, n_chunks)
            saved, unsaved_seconds = time.monotonic(), 0.0
        link, started = links[done], time.perf_counter()
        found = None
        try:
            found = trial.run(link)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            n_chunks[link.phase] = _more_chunks(config, link, n_chunks.get(link.phase, 1), error)
        # Memory ran out. The trial and its recordings are dropped here, where no traceback keeps
        # the tensors of the failed step; the next turn makes it anew from the last checkpoint.
        if found is None:
            trial = None
            release()
            start = last_checkpoints(links, until, store)
            done = start.done
            continue
        seconds = time.perf_counter() - started
        record = {
            "phase": link.phase,
            "epoch": link.epoch,
            "seconds": seconds,
            "time": time.time(),
            "metrics": named(found.metrics, config),
            "vectors": named(found.vectors, config),
            **({"hits": found.hits} if found.hits else {}),
            **trial.marks(link.phase),
        }
        known = record_of(link.key)
        if known is not None and known.get("accumulation") == record.get("accumulation"):
            # Repeated from a checkpoint. Other trials may have the record, and a GPU does not give
            # the same bits twice.
            record = known
        else:
            store.save("record", link.key, json.dumps(record).encode(), seconds)
        is_to_stop = False
        # else memory ran out; its record is replaced in the store
        if link.key not in reported:
            is_to_stop = bool(report(link.key, record))
            reported.add(link.key)
        done += 1
        unsaved_seconds += seconds
        if trajectory.deciding_plateau(config) is not None and link.phase == WARMUP:
            links = trajectory.chain(config, seed, record_of)
        leads_on = not leads_there or any(later.key == until for later in links[done:])
        last = is_to_stop or done == len(links) or link.key == until or not leads_on
        if last or links[done].phase != link.phase or time.monotonic() - saved > CHECKPOINT_SECONDS:
            store.save("state", link.key, state.to_bytes(trial.state(link.phase)), unsaved_seconds)
            saved, unsaved_seconds = time.monotonic(), 0.0
        if last:
            return


def _more_chunks(config: Config, link: Link, n: int, error: RuntimeError) -> int:
    """Return twice as many chunks for the phase in which memory ran out.

    Raises torch.OutOfMemoryError, saying what was tried, where there is nothing left to split.
    """
    most = 1
    if link.phase == PRETRAIN:
        most = most_chunks(config.pretraining.batch_size, training=True)
    elif link.phase == JOINT:
        most = most_chunks(config.batch_size, config.batchnorm == "updating")
    where = f"out of memory in {link.phase} epoch {link.epoch}"
    if n >= most:
        how = "where no batch passes through the encoder that could be split"
        if most > 1:
            how = f"even with each batch split as finely as can be, in {most} chunks"
        said = " ".join(str(error).split())
        raise torch.OutOfMemoryError(f"{where}, {how}: {said}") from error
    n = min(2 * n, most)
    again = "again from the last checkpoint, batches in %d chunks"
    logging.getLogger("core").warning(f"{where}: {again}", n)
    return n


class Trial:
    """The modules of one trial, brought to where the chain stands."""

    def __init__(
        self,
        config: Config,
        seed: int,
        store: Store,
        links: list[Link],
        start: Checkpoints,
        n_chunks: dict[str, int] | None = None,
    ):
        """n_chunks: phase -> in how many chunks its batches pass through the encoder, if not 1."""
        self.config, self.seed, self.store = config, seed, store
        self.n_chunks = n_chunks or {}
        n_pretrain = sum(link.phase == PRETRAIN for link in links)
        pretrained_key = links[n_pretrain - 1].key if n_pretrain else None
        self.base_key = pretrained_key or digest("base", root_key(config, seed))
        n_channels, n_classes = self.dataset.train.images.shape[1], len(self.dataset.class_names)
        self.pretraining = Pretraining(
            config, seed, n_channels, n_classes, self.n_chunks.get(PRETRAIN, 1)
        )
        if config.encoder.checkpoint:
            head = load_checkpoint(config.encoder.checkpoint, self.pretraining.encoder)
            require_head(config, head, self.pretraining.head())
            self.pretrained_head = {name: t.to(config.device) for name, t in head.items()}
        else:
            self.pretrained_head = self.pretraining.head()
        if start.last is not None and start.done <= n_pretrain:
            self.pretraining.load(state.from_bytes(start.last))
        elif start.last is not None:
            if start.pretrained is not None:
                self.pretraining.load(state.from_bytes(start.pretrained))
            self.learner.load(state.from_bytes(start.last))

    @cached_property
    def dataset(self) -> Dataset:
        """The images, on the trial's device."""
        return load_dataset(self.config, self.seed, self.store)

    @cached_property
    def latents(self) -> Latents:
        """Of the pretrained encoder, training images as `staged.encoding` says.

        Must be asked for before the encoder thaws.
        """
        config, encoder, train = self.config, self.pretraining.encoder, self.dataset.train.images
        encoding = trajectory.encoding(config)
        key = self.base_key if encoding is None else digest("latents", self.base_key, encoding)
        data = self.store.load("latents", key)
        if data is None:
            started = time.perf_counter()
            if encoding is None:
                latents = encode(encoder, train, config)
            else:
                latents = encode_for_training(encoder, train, config, self.seed)
            test = encode(encoder, self.dataset.test.images, config)
            require_finite("the pretrained latent", torch.cat([latents, test]))
            data = latents_to_bytes(Latents(latents, test))
            self.store.save("latents", key, data, time.perf_counter() - started)
        return latents_from_bytes(data, config.device)

    @cached_property
    def learner(self) -> Learner:
        """Made when pre-training is over."""
        config, encoder, train = self.config, self.pretraining.encoder, self.dataset.train
        latents, views = self.latents.train, None
        learner = Learner(
            config, self.seed, encoder, self.pretrained_head, self.dataset.class_counts
        )
        learner.n_chunks = self.n_chunks.get(JOINT, 1)
        if config.method == "joint" and config.losses.radius_from == "views":
            views = encode_views(encoder, train.images, config, self.seed)
        learner.start(latents, train.labels, views)
        return learner

    def run(self, link: Link) -> Report:
        """Run one epoch; return what it reports. Raises Diverged."""
        try:
            return self._run(link)
        except Diverged as error:
            error.phase, error.epoch = link.phase, link.epoch
            raise

    def _run(self, link: Link) -> Report:
        config, phase, epoch = self.config, link.phase, link.epoch
        if phase == EVALUATE:
            return self._evaluate_pretrained()
        rates = trajectory.rates(config, phase, epoch)
        if phase == PRETRAIN:
            found = self.pretraining.epoch(self.dataset.train, epoch, rates["encoder"])
            require_finite_modules(encoder=self.pretraining.encoder, fc=self.pretraining.fc)
            return Report(found, {})
        learner, train, latents = self.learner, self.dataset.train, self.latents.train
        learner.set_rates(rates)
        if phase == DIFFUSION:
            found = diffusion_epoch(learner, latents, train.labels, epoch)
            require_finite_modules(denoiser=learner.denoiser)
            return Report(found, {})
        if phase == HEAD:
            first = config.diffusion_epochs + 1
            if config.staged.generation and epoch == first:
                learner.refresh_pool(epoch)
            found = head_epoch(learner, latents, train.labels, epoch - first + 1)
            return self._report(link, Trained(found, latents, train.labels))
        every = config.generation.every
        if config.losses.generated > 0 and epoch > every and (epoch - 1) % every == 0:
            learner.refresh_pool(epoch)
        if phase == WARMUP:
            trained = warmup_epoch(learner, latents, train.labels, epoch)
            learner.diffusion_loss_at_thaw = trained.metrics["train/diffusion_loss"]
        else:
            trained = joint_epoch(learner, train, epoch)
        return self._report(link, trained)

    def _report(self, link: Link, trained: Trained) -> Report:
        learner, test = self.learner, self.dataset.test
        require_finite_modules(**{name: getattr(learner, name) for name in learner.optimisers})
        scalars, vectors, hits = evaluation.latent_report(learner, trained.latents, trained.labels)
        if trajectory.evaluates(self.config, link.phase, link.epoch):
            latents = self.latents.test
            if link.phase == JOINT:
                latents = encode(learner.encoder, test.images, self.config)
            more = evaluation.test_report(learner, latents, test.labels, self.latents.test)
            scalars, vectors, hits = scalars | more.metrics, vectors | more.vectors, more.hits
            if learner.average is not None:
                latents = encode(learner.average.encoder, test.images, self.config)
                scalars |= evaluation.averaged_metrics(
                    learner.average, latents, test.labels, learner.class_counts
                )
        return Report(trained.metrics | scalars, vectors, hits)

    def _evaluate_pretrained(self) -> Report:
        """The pretrained encoder under its own linear head, nothing trained.

        For `ce-adjusted`, the log prior is subtracted from the logits.
        """
        head, labels = self.pretrained_head, self.dataset.test.labels
        logits = torch.nn.functional.linear(self.latents.test, head["weight"], head["bias"])
        require_finite("the pretrained encoder's logit", logits)
        class_counts: Tensor = self.dataset.class_counts.to(logits.device)
        left: Tensor | None = class_counts
        if self.config.method == "ce-adjusted":
            logits, left = metrics.compensate_label_shift(logits, class_counts), None
        scalars, vectors = metrics.evaluate(logits, labels, class_counts, left)
        return Report(scalars, vectors, metrics.packed_hits(logits, labels, len(class_counts)))

    def marks(self, phase: str) -> dict[str, int]:
        """How this trial makes do with little memory, for the record of an epoch."""
        found, n_chunks = {}, self.n_chunks.get(phase, 1)
        if n_chunks > 1:
            found["accumulation"] = n_chunks
        n_at_once = fitting_batch(self.pretraining.encoder)
        if n_at_once and phase != PRETRAIN:
            found["encoding_batch"] = n_at_once
        return found

    def state(self, phase: str) -> state.State:
        """What the keys up to an epoch of this phase determine; trials may differ in the rest."""
        if "learner" not in self.__dict__:
            return self.pretraining.state()
        without: tuple[str, ...] = ()
        if phase == DIFFUSION:
            without = ("head",)
        elif phase == HEAD and not self.config.diffusion_epochs:
            without = ("denoiser",)
        return self.learner.state(without)


def require_head(config: Config, head: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    """Raise ValueError if the trial needs the checkpoint's linear head and its shapes are wrong.

    head: the checkpoint's; like: one of the right shapes.
    """
    if config.method.startswith("ce"):
        needed_by = f"method {config.method}"
    elif config.head.start == "pretrained":
        needed_by = "head.start: pretrained"
    else:
        return
    shapes, wanted = ({name: t.shape for name, t in each.items()} for each in (head, like))
    if shapes != wanted:
        n_classes, n_latents = like["weight"].shape
        shape = f"fc.weight {n_classes} x {n_latents}, fc.bias {n_classes}"
        holds = f"holds no linear head for these classes ({shape})"
        raise ValueError(f"'{config.encoder.checkpoint}' {holds}, which {needed_by} needs")


def load_dataset(config: Config, seed: int, store: Store) -> Dataset:
    """The trial's data set on its device; decoded images are kept in store and process."""
    # What decoding depends on, and the draw where every seed has its own.
    drawn_by = [seed] if config.data.split == "seed" else []
    key = digest("images", data_fingerprint(config), source_fingerprint(), versions(), *drawn_by)
    if (key, config.device) not in _datasets:
        data, started = store.load("images", key), time.perf_counter()
        dataset = sources.from_bytes(data) if data is not None else sources.load(config.data, seed)
        if data is None and config.data.source != "digits":
            store.save("images", key, sources.to_bytes(dataset), time.perf_counter() - started)
        train, test = (
            Split(split.images.to(config.device), split.labels.to(config.device))
            for split in (dataset.train, dataset.test)
        )
        _datasets.clear()
        _datasets[key, config.device] = Dataset(train, test, dataset.class_names)
    return _datasets[key, config.device]


# The last data set used: worker processes serve many trials of one study.
_datasets: dict[tuple[str, str], Dataset] = {}
