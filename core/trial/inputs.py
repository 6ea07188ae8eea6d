"""Whether a trial's images and checkpoint can be used: reads them whole before the first epoch."""

from __future__ import annotations

import dataclasses

import torch

from core.config.parsing import Fault
from core.config.schema import Config
from core.data.listing import DAMAGED
from core.networks.encoders import build_encoder, load_checkpoint
from core.trial.checkpoints import Store
from core.trial.run import load_dataset, require_head


def faults(config: Config, n_classes: int, store: Store) -> list[Fault]:
    """All that is wrong with them. Decoded images are kept in `store`, if all is well."""
    if config.encoder.checkpoint:
        encoder = build_encoder(config.encoder.name, 1 if config.data.channels == "gray" else 3)
        like = {"weight": torch.empty(n_classes, encoder.n_latents), "bias": torch.empty(n_classes)}
        try:
            require_head(config, load_checkpoint(config.encoder.checkpoint, encoder), like)
        except ValueError as error:
            return [Fault("encoder.checkpoint", str(error))]
    # left to the trials
    if config.data.download:
        return []
    try:
        # all files are read, whichever images a seed draws; the first of most studies is 0
        load_dataset(dataclasses.replace(config, device="cpu"), 0, store)
    except (ValueError, RuntimeError, *DAMAGED) as error:
        message = " ".join(str(error).split())
        # RuntimeError is torchvision's of what is not CIFAR.
        if not isinstance(error, ValueError):
            message = f"'{config.data.path}' cannot be read: {message}"
        return [Fault("data.path", message)]
    return []
