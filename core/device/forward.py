"""An encoder's pass in training: its precision, its weights' casts, and its compilation."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.config.schema import Config
from core.device.compiler import has_compiler
from core.device.memory import autocast

Compute = Callable[[Tensor, list[Tensor]], Tensor]
"""(images, copies of the weights or none) -> latents."""
# devices on which all weights are cast by one call; a CPU gains nothing by it
CAST_AT_ONCE = ("cuda",)


class Forward:
    """The encoder on a batch, for training; computed as its settings say.

    `begin` goes before the passes of a step, `collect` after each backward pass: where weights are
    cast at once, the passes see bfloat16 copies of them, and gradients arrive there. Results are
    those of autocast to the bit, which casts each weight by itself, where it is used.
    """

    def __init__(self, encoder: nn.Module, config: Config):
        self.encoder, self.config = encoder, config
        self.weights: dict[str, nn.Parameter] = {}
        if config.precision == "bfloat16" and config.device in CAST_AT_ONCE:
            # what autocast casts: convolutions' and linear layers', not those of normalisation
            self.weights = {name: p for name, p in encoder.named_parameters() if p.dim() > 1}
        self.copies = [
            torch.empty_like(p, dtype=torch.bfloat16).requires_grad_()
            for p in self.weights.values()
        ]
        # not a method of this object's: a cycle would keep its memory on the device
        self.compute: Compute = functools.partial(_latents, encoder, config, list(self.weights))
        if config.compile and not has_compiler():
            missing = "there is no C++ compiler here (g++, clang++, CXX)"
            logging.getLogger("core").warning(f"compile: {missing}; encoders run uncompiled")
        elif config.compile:
            from torch._functorch import config as compilation

            # Some steps go backward through one pass twice, once for each loss.
            compilation.donated_buffer = False
            self.compute = torch.compile(self.compute, dynamic=False)

    def begin(self) -> None:
        """Cast the weights as they are now."""
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, list(self.weights.values()))

    def __call__(self, images: Tensor) -> Tensor:
        """Latents (B, D), in the precision of the settings, of images (B, channels, H, W)."""
        return self.compute(images, self.copies)

    def collect(self) -> None:
        """Add the copies' gradients to those of the weights."""
        pairs = [
            (weight, copy.grad)
            for weight, copy in zip(self.weights.values(), self.copies, strict=True)
            if copy.grad is not None
        ]
        if not pairs:
            return
        found = [torch.empty_like(weight) for weight, _ in pairs]
        with torch.no_grad():
            torch._foreach_copy_(found, [gradient for _, gradient in pairs])
        for (weight, _), gradient in zip(pairs, found, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)
        for copy in self.copies:
            copy.grad = None


def _latents(
    encoder: nn.Module, config: Config, names: list[str], images: Tensor, copies: list[Tensor]
) -> Tensor:
    with autocast(config):
        if not copies:
            latents: Tensor = encoder(images)
        else:
            latents = functional_call(encoder, dict(zip(names, copies, strict=True)), (images,))
    return latents
