"""A trial's state as a flat dict of tensors: modules, optimisers, buffers <-> safetensors bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.config.schema import Optim

State = dict[str, Tensor]


def nested(prefix: str, tensors: NamedTuple) -> State:
    """The fields of a named tuple of tensors, below `prefix`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors._asdict().items()}


def module_state(prefix: str, module: nn.Module) -> State:
    """A module's weights and buffers, below `prefix`."""
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in module.state_dict().items()}


def part(prefix: str, state: Mapping[str, Tensor]) -> State:
    """Return the entries below `prefix`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}


def build_optimiser(optim: Optim, parameters: Iterable[Tensor], lr: float) -> Optimizer:
    """Build one optimiser for one module, fused: fewer and larger steps of arithmetic.

    On a GPU the rate is a tensor, so that a recorded step (`core.device.repeated`) follows its
    changes.
    """
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda
    rate = torch.tensor(lr, device=parameters[0].device) if on_gpu else lr
    weight_decay = optim.weight_decay
    if optim.name == "sgd":
        return torch.optim.SGD(
            parameters,
            rate,
            momentum=optim.momentum,
            weight_decay=weight_decay,
            nesterov=optim.nesterov,
            fused=True,
        )
    adam = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    return adam(parameters, rate, weight_decay=weight_decay, capturable=on_gpu, fused=True)


def optimiser_state(prefix: str, optimiser: Optimizer) -> State:
    """Moments and step counts, by the position of their parameter."""
    return {
        f"{prefix}.{i}.{name}": value
        for i, parameter in enumerate(optimiser.param_groups[0]["params"])
        for name, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimiser(prefix: str, optimiser: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Go on with the moments and step counts of a state."""
    parameters = optimiser.param_groups[0]["params"]
    for name, value in part(prefix, state).items():
        i, entry = name.split(".", 1)
        parameter = parameters[int(i)]
        # A fused step pairs moments with their parameter by memory position, so they must lie in
        # memory as it does (channels last); step counts stay on the parameter's device.
        like = parameter.detach() if value.shape == parameter.shape else value.to(parameter.device)
        optimiser.state[parameter][entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def set_rate(optimiser: Optimizer, lr: float) -> None:
    """Set the learning rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def to_bytes(state: State) -> bytes:
    """The state as safetensors."""
    return safetensors.torch.save({n: t.detach().cpu().contiguous() for n, t in state.items()})


def from_bytes(data: bytes) -> State:
    """Read what `to_bytes` made."""
    return safetensors.torch.load(data)
