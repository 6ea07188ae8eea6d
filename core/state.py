"""A trial's state as a flat dict of tensors: modules, optimisers, buffers <-> safetensors bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import safetensors.torch
import torch
from torch import Tensor, nn

from core.config import Optim

State = dict[str, Tensor]


def module_state(prefix: str, module: nn.Module) -> State:
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in module.state_dict().items()}


def load_module(prefix: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    module.load_state_dict(part(prefix, state))


def part(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The entries below `prefix`, without it."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)
    }


def build_optimiser(optim: Optim, parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """One optimiser for one module, fused: fewer and larger steps of arithmetic, the same on every device.

    On a GPU the rate is a tensor, so that a recorded step (`core.repeated`) follows its changes.
    """
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda
    rate = torch.tensor(lr, device=parameters[0].device) if on_gpu else lr
    if optim.name == "sgd":
        return torch.optim.SGD(
            parameters, lr=rate, momentum=optim.momentum, weight_decay=optim.weight_decay, nesterov=optim.nesterov, fused=True
        )  # fmt: skip
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return cls(parameters, lr=rate, weight_decay=optim.weight_decay, fused=True, capturable=on_gpu)


def optimiser_state(prefix: str, optimiser: torch.optim.Optimizer) -> State:
    """Moments and step counts, by the position of their parameter."""
    return {
        f"{prefix}.{i}.{name}": value
        for i, parameter in enumerate(optimiser.param_groups[0]["params"])
        for name, value in optimiser.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimiser(
    prefix: str, optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    parameters = optimiser.param_groups[0]["params"]
    for name, value in part(prefix, state).items():
        i, entry = name.split(".", 1)
        parameter = parameters[int(i)]
        # a fused step pairs moments with their parameter by memory position, so they must lie in memory as it
        # does (channels last); step counts stay where the optimiser keeps them: on the parameter's device
        like = parameter.detach() if value.shape == parameter.shape else value.to(parameter.device)
        optimiser.state[parameter][entry] = torch.empty_like(like, dtype=value.dtype).copy_(value)


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def to_bytes(state: State) -> bytes:
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    )


def from_bytes(data: bytes) -> State:
    return safetensors.torch.load(data)
