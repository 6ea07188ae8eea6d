"""A batch's way through the encoder in chunks, where a GPU's memory is too small for the whole.

The effective batch is the same: losses are means over it, and one step is taken with the sum of its
chunks' gradients. With frozen batch normalisation that is the gradient of the whole batch, up to
rounding. In training mode each chunk is normalised by its own mean and variance ("ghost" batch
normalisation, Hoffer et al. 2017), as with any gradient accumulation: the whole batch's would need
all activations at once in the backward pass, and to hold them constant there instead lets weights
grow without bound (Ioffe & Szegedy 2015, section 2). Running statistics are updated once a batch,
by the mean of its chunks' statistics.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.device.forward import Forward

# images of which batch normalisation can take a variance
FEWEST = 2


class Chunk(NamedTuple):
    """Neighbouring images of a batch."""

    rows: slice
    # share of the batch's images
    share: float
    # share of the batch's images that come after it
    later: float


def chunks(n: int, batch_size: int, n_chunks: int, training: bool) -> list[Chunk]:
    """Split a batch of n images as evenly as can be.

    No chunk is larger than those of `n_chunks` to a batch of `batch_size`. training: of an encoder
    in training mode; no chunk is then of one image, where that can be helped.
    """
    if n_chunks > 1:
        n_chunks = math.ceil(n / math.ceil(batch_size / n_chunks))
        n_chunks = min(n_chunks, max(1, n // FEWEST)) if training else n_chunks
    bounds = [n * i // n_chunks for i in range(n_chunks + 1)]
    return [
        Chunk(slice(start, end), (end - start) / n, (n - end) / n)
        for start, end in itertools.pairwise(bounds)
    ]


def most_chunks(batch_size: int, training: bool) -> int:
    """The most chunks that a batch can be split into."""
    return max(1, batch_size // FEWEST if training else batch_size)


class Passes:
    """The encoder's forward pass over a batch, and the backward pass from gradients at the latents.

    Of several chunks, the forward pass keeps the latents alone and is run again, chunk by chunk,
    for the backward one.
    """

    def __init__(self, forward: Forward, images: Tensor, n_chunks: int):
        self.forward, self.images = forward, images
        encoder, batch_size = forward.encoder, forward.config.batch_size
        self.chunks = chunks(len(images), batch_size, n_chunks, encoder.training)
        forward.begin()
        # (B, D), of the precision that the encoder computes in
        if len(self.chunks) == 1:
            self.latents = forward(images)
            return
        parts = []
        for chunk in self.chunks:
            with torch.no_grad(), one_update(encoder, chunk):
                parts.append(forward(images[chunk.rows]))
        self.latents = torch.cat(parts)

    def backward(self, gradient: Tensor, keep: bool = False) -> None:
        """Add to the parameters' gradients. gradient: (B, D); keep: for a further backward pass."""
        gradient = gradient.to(self.latents.dtype)
        if len(self.chunks) == 1:
            self.latents.backward(gradient, retain_graph=keep)
            self.forward.collect()
            return
        with no_update(self.forward.encoder):
            for chunk in self.chunks:
                self.forward(self.images[chunk.rows]).backward(gradient[chunk.rows])
                self.forward.collect()

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        """Return the parameters' gradients, in order; none is left in `grad`. gradient: (B, D)."""
        self.backward(gradient, keep=True)
        encoder = self.forward.encoder
        found = [p.grad for p in encoder.parameters() if p.grad is not None]
        encoder.zero_grad(set_to_none=True)
        return found


@contextmanager
def one_update(encoder: nn.Module, chunk: Chunk) -> Iterator[None]:
    """Let the passes of all chunks move running statistics as one pass of the batch would.

    With momentum m, a chunk of share w of which a share v comes after takes m w / (1 - m v): what
    the later ones leave of it is m w.
    """
    momenta: dict[_BatchNorm, float] = {}
    for norm in _tracking(encoder):
        # None would be a cumulative average, which no encoder here has
        assert norm.momentum is not None
        momenta[norm] = norm.momentum
    for norm, m in momenta.items():
        norm.momentum = m * chunk.share / (1 - m * chunk.later)
    try:
        yield
    finally:
        for norm, m in momenta.items():
            norm.momentum = m
            if chunk.later and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)


@contextmanager
def no_update(encoder: nn.Module) -> Iterator[None]:
    """Let passes normalise as they did, and leave running statistics alone."""
    norms = _tracking(encoder)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _tracking(encoder: nn.Module) -> list[_BatchNorm]:
    norms = (module for module in encoder.modules() if isinstance(module, _BatchNorm))
    return [norm for norm in norms if norm.training and norm.track_running_stats]
