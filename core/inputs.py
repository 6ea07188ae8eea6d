"""Whether a trial's images and checkpoint can be used, by reading them whole: before the first epoch, not in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from core.config import Config
from core.data.listing import DAMAGED
from core.networks.encoders import build_encoder, load_checkpoint
from core.parsing import Fault
from core.trial import load_dataset, require_head


def faults(config: Config, n_classes: int, store: Any) -> list[Fault]:
    """All that is wrong with them. Decoded images are kept in `store` for the trials, if all is well."""
    found = []
    if config.encoder.checkpoint:
        encoder = build_encoder(config.encoder.name, 1 if config.data.channels == "gray" else 3)
        like = {"weight": torch.empty(n_classes, encoder.n_latents), "bias": torch.empty(n_classes)}
        try:
            require_head(config, load_checkpoint(config.encoder.checkpoint, encoder), like)
        except ValueError as error:
            found.append(Fault("encoder.checkpoint", str(error)))
    if not (found or config.data.download):  # what is to be downloaded is left to the trials
        try:
            load_dataset(dataclasses.replace(config, device="cpu"), store)
        except ValueError as error:
            found.append(Fault("data.path", " ".join(str(error).split())))
        except (
            RuntimeError,
            *DAMAGED,
        ) as error:  # RuntimeError: torchvision's of what is not CIFAR
            found.append(
                Fault(
                    "data.path",
                    f"'{config.data.path}' cannot be read: {' '.join(str(error).split())}",
                )
            )
    return found
