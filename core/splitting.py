"""Trials for which a GPU's memory does not suffice: run again, each batch passing through the encoder in chunks.

In how many is no setting, and no key depends on it: the batch that a step learns from is the same (`core.chunks` says
what is not). Records of epochs that were run so say it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from core.chunks import most_chunks
from core.config import Config
from core.evaluation import Report
from core.memory import is_out_of_memory
from core.trajectory import JOINT, PRETRAIN, Link


class Runs(Protocol):
    def run(self, link: Link) -> Report: ...


class Splitting:
    """In how many chunks the phases of a trial walk their batches; twice as many each time that memory runs out."""

    def __init__(self, config: Config, records: Iterable[Mapping[str, Any]]):
        """records: what the trial has reported, in order; a phase goes on as it stopped."""
        self.config = config
        self.n_chunks: dict[str, int] = {
            record["phase"]: record.get("accumulation", 1) for record in records
        }

    def run(self, trial: Runs, link: Link) -> Report | None:
        """What the epoch reports; None if memory ran out and more chunks are to be tried, by another trial from a checkpoint.

        Raises torch.OutOfMemoryError, saying what was tried, where there is nothing left to split.
        """
        try:
            return trial.run(link)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            n, most = self.of(link.phase), _most(self.config, link.phase)
            if n >= most:
                raise torch.OutOfMemoryError(in_vain(link, most, error)) from error
            self.n_chunks[link.phase] = min(2 * n, most)
            message = (
                "out of memory in %s epoch %d: again from the last checkpoint, batches in %d chunks"
            )
            logging.getLogger("core").warning(message, link.phase, link.epoch, self.of(link.phase))
        return None  # here, where no traceback keeps the tensors of the failed step

    def of(self, phase: str) -> int:
        return self.n_chunks.get(phase, 1)


def in_vain(link: Link, most: int, error: BaseException) -> str:
    """What was tried, and what the device said to the last of it."""
    how = "where no batch passes through the encoder that could be split"
    if most > 1:
        how = f"even with each batch split as finely as can be, in {most} chunks"
    return (
        f"out of memory in {link.phase} epoch {link.epoch}, {how}: {' '.join(str(error).split())}"
    )


def _most(config: Config, phase: str) -> int:
    if phase == PRETRAIN:
        return most_chunks(config.pretraining.batch_size, training=True)
    return most_chunks(config.batch_size, config.batchnorm == "updating") if phase == JOINT else 1
