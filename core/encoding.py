"""Latents of a whole data set, encoded once: eval mode, no augmentation."""

from __future__ import annotations

from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from core.config import Config
from core.data.augment import normalise

BATCH = {"cpu": 100, "cuda": 2000}  # images; on the CPU, few enough for its caches


class Latents(NamedTuple):
    """What the frozen encoder makes of the images."""

    train: Tensor  # (N, D) float
    test: Tensor  # (M, D) float


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, config: Config) -> Tensor:
    """(N, channels, H, W) uint8 -> (N, D) float32, in eval mode; the encoder's mode is put back."""
    was_training = encoder.training
    encoder.eval()
    with autocast(config):
        parts = [encoder(normalise(batch, config.data.mean, config.data.std)).float() for batch in images.split(BATCH[config.device])]
    encoder.train(was_training)
    return torch.cat(parts)


def autocast(config: Config) -> torch.autocast:
    """bfloat16 arithmetic of the encoder where the configuration asks for it.

    Cast weights are not kept: each is used once, and a recorded step must cast them anew.
    """
    return torch.autocast(config.device, dtype=torch.bfloat16, enabled=config.precision == "bfloat16", cache_enabled=False)


def latents_to_bytes(latents: Latents) -> bytes:
    return safetensors.torch.save({name: tensor.cpu() for name, tensor in latents._asdict().items()})


def latents_from_bytes(data: bytes, device: str) -> Latents:
    tensors = safetensors.torch.load(data)
    return Latents(tensors["train"].to(device), tensors["test"].to(device))
