"""Latents of a whole data set, encoded once: in eval mode, or as the original LDMLR code does."""

from __future__ import annotations

import copy
from typing import NamedTuple
from weakref import WeakKeyDictionary

import safetensors.torch
import torch
from torch import Tensor, nn

from core.config.schema import Config, Data
from core.data.augment import crop_and_flip, normalise
from core.data.batches import batches
from core.data.strong import RANGES, strong
from core.device.memory import autocast, is_out_of_memory, release
from core.networks.encoders import Encoder, drop_first_relu
from core.randomness import generator

# images; on the CPU, few enough for its caches
BATCH = {"cpu": 100, "cuda": 2000}
# images, on every device: few, since memory may be short
BATCH_OF_VIEWS = 100
# Images whose mean and variance batch normalisation takes in train mode; the original's loader.
BATCH_OF_STATISTICS = 64


class Latents(NamedTuple):
    """What the frozen encoder makes of the images."""

    # (N, D) float; as `staged.encoding` says, if that is not as they are
    train: Tensor
    # (M, D) float
    test: Tensor


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, config: Config) -> Tensor:
    """(N, channels, H, W) uint8 -> (N, D) float32, in eval mode; the encoder's mode is put back.

    Out of memory, it goes on with half as many images at a time, down to one, and keeps to that
    with this encoder. In eval mode no image depends on the others in its batch: this changes
    nothing but rounding.
    """
    was_training = encoder.training
    encoder.eval()
    parts: list[Tensor] = []
    while (done := sum(map(len, parts))) < len(images):
        n_at_once = fitting_batch(encoder) or BATCH[config.device]
        batch = images[done : done + n_at_once]
        try:
            with autocast(config):
                normal = normalise(batch, config.data.mean, config.data.std)
                parts.append(encoder(normal).float())
            continue
        except RuntimeError as error:
            if n_at_once == 1 or not is_out_of_memory(error):
                raise
        _fitting[encoder] = n_at_once // 2
        # here, where no traceback keeps the tensors of the failed pass
        release()
    encoder.train(was_training)
    return torch.cat(parts)


def fitting_batch(encoder: nn.Module) -> int | None:
    """How many images at once fit into memory; None where nothing ran out."""
    return _fitting.get(encoder)


_fitting: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@torch.no_grad()
def encode_for_training(encoder: Encoder, images: Tensor, config: Config, seed: int) -> Tensor:
    """Training images (N, channels, H, W) uint8 -> (N, D) float32, as `staged.encoding` says.

    Every image is met once, in shuffled batches, and so with other images of all classes. Works on
    a copy: in train mode an encoder's running statistics move.
    """
    encoding, device = config.staged.encoding, config.device
    encoder = copy.deepcopy(encoder).train(encoding.statistics == "batch")
    if not encoding.first_relu:
        drop_first_relu(encoder)
    augmentation = generator(seed, "encoding augmentation", 0, device)
    kind = config.data.augmentation if encoding.augmented else "none"
    order = generator(seed, "encoding order", 0, device)
    latents = torch.empty(len(images), encoder.n_latents, device=images.device)
    with autocast(config):
        for turn, chosen in enumerate(batches(len(images), BATCH_OF_STATISTICS, order)):
            batch = augmented(images[chosen], config, augmentation, kind, turn)
            latents[chosen] = encoder(batch).float()
    return latents


@torch.no_grad()
def encode_views(encoder: nn.Module, images: Tensor, config: Config, seed: int) -> Tensor:
    """(N, D) float32, of one strongly augmented view of each image, in eval mode."""
    gen = generator(seed, "views", 0, config.device)
    was_training = encoder.training
    encoder.eval()
    parts = []
    with autocast(config):
        for turn, batch in enumerate(images.split(BATCH_OF_VIEWS)):
            parts.append(encoder(augmented(batch, config, gen, "strong", turn)).float())
    encoder.train(was_training)
    return torch.cat(parts)


def augmented(
    images: Tensor, config: Config, gen: torch.Generator, kind: str | None = None, turn: int = 0
) -> Tensor:
    """uint8 images (B, channels, H, W) as the encoder's training input.

    kind: of augmentation; None: data.augmentation. turn: the batch's number in its epoch, see
    `core.data.strong`.
    """
    data = config.data
    kind = kind or data.augmentation
    if kind in RANGES:
        shares = grey(data, images.shape[1])
        images, kept = strong(images, data.padding, shares, gen, turn, RANGES[kind])
        return normalise(images, data.mean, data.std).mul_(kept)
    if kind != "none":
        images = crop_and_flip(images, data.padding, kind == "crop-flip", gen)
    return normalise(images, data.mean, data.std)


def grey(data: Data, n_channels: int) -> tuple[float, ...]:
    """Share of each channel in the grey of an image, as loaded (ITU-R BT.601)."""
    if n_channels == 1:
        return (1.0,)
    red, green, blue = 0.299, 0.587, 0.114
    is_bgr = (data.channels == "bgr") != data.flip_channels
    return (blue, green, red) if is_bgr else (red, green, blue)


def latents_to_bytes(latents: Latents) -> bytes:
    """The latents as safetensors."""
    return safetensors.torch.save({name: t.cpu() for name, t in latents._asdict().items()})


def latents_from_bytes(data: bytes, device: str) -> Latents:
    """Read what `latents_to_bytes` made."""
    return Latents(**{name: t.to(device) for name, t in safetensors.torch.load(data).items()})
