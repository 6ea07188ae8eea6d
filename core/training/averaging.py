"""An exponential moving average of encoder and head over the steps of joint epochs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """Copies of encoder and head that follow the trained ones.

    Each step: average = decay average + (1 - decay) weights.

    They start as the copied modules are. Running statistics are averaged as weights are: averaged
    weights put out other latents than any that the encoder's own statistics are of.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder, self.head = (
            copy.deepcopy(module).requires_grad_(False).eval() for module in (encoder, head)
        )

    @torch.no_grad()
    def follow(self, encoder: nn.Module, head: nn.Module, decay: float) -> None:
        """Take in the weights after a step, in place."""
        averages = [*tensors(self.encoder), *tensors(self.head)]
        torch._foreach_lerp_(averages, [*tensors(encoder), *tensors(head)], 1 - decay)


def tensors(module: nn.Module) -> list[Tensor]:
    """All weights and running statistics; not the count of batches, on which nothing depends."""
    return [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
