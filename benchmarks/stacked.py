"""Several encoders trained as one batched model, against as many one after the other.

    python benchmarks/stacked.py [--trials 1 4 12] [--encoder resnet32] [--batch 128]
        [--device cuda] [--precision bfloat16] [--steps 50]

A step is forward, backward and Adam on random images, each encoder with images of its own: what
trials of one shape would share if they were one process's batched model (`torch.func.vmap`, which
makes grouped convolutions of them). On a GPU the step is a CUDA graph, as in a trial. Printed is a
step's time, and its throughput against one encoder alone, where 1 is among `--trials`: to be
compared with `benchmarks/gpu.py --packed`, which packs processes. Before that, the batched
encoders' gradients are compared with those of each encoder alone.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

sys.path.insert(0, str(Path(__file__).parent.parent))

from core.device.repeated import Repeated, cuda_graph
from core.networks.encoders import build_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 4, 12])
    parser.add_argument("--encoder", default="resnet32")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    side = 8 if options.encoder == "small-cnn" else 32
    print(f"largest difference of gradients, relative: {difference(options.encoder, side):.1e}")
    print(f"{'encoders':>8} {'ms a step':>10} {'throughput':>11}")
    alone = math.nan
    for n in options.trials:
        images = torch.randn(n, options.batch, 3, side, side, device=options.device)
        step = training_step(encoders(n, options.encoder, options.device), options.precision)
        taken = seconds(step, images, options.steps)
        alone = taken if n == 1 else alone
        print(f"{n:8} {1000 * taken:10.2f} {n * alone / taken:11.2f}", flush=True)


def encoders(n: int, name: str, device: str = "cpu") -> list[nn.Module]:
    """Encoders with weights of their own, which normalise by the batch and track nothing."""
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        made.append(build_encoder(name, 3).to(device).train())
    for encoder in made:
        for norm in filter(lambda m: isinstance(m, nn.BatchNorm2d), encoder.modules()):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return made


def batched(models: list[nn.Module]) -> tuple[dict[str, Tensor], Callable[..., Tensor]]:
    """Stacked weights, and (weights, images (N, B, C, H, W)) -> latents (N, B, D)."""
    weights, _ = stack_module_state(models)
    return weights, vmap(lambda own, images: functional_call(models[0], own, (images,)))


def training_step(models: list[nn.Module], precision: str) -> Repeated:
    """One step of all encoders, recorded on a GPU."""
    weights, forward = batched(models)
    parameters = [w.detach().requires_grad_() for w in weights.values()]
    device = parameters[0].device.type
    optimiser = torch.optim.Adam(parameters, 1e-4, fused=True, capturable=device == "cuda")

    def step(images: Tensor) -> Tensor:
        named = dict(zip(weights, parameters, strict=True))
        with torch.autocast(device, torch.bfloat16, precision == "bfloat16", cache_enabled=False):
            loss = forward(named, images).float().square().mean((1, 2)).sum()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return Repeated(step, cuda_graph if device == "cuda" else None)


def difference(name: str, side: int, n: int = 3) -> float:
    """The largest relative difference of a batched encoder's gradient to that of it alone."""
    models, images = encoders(n, name), torch.randn(n, 16, 3, side, side)
    weights, forward = batched(models)
    together = torch.autograd.grad(
        forward(weights, images).square().mean((1, 2)).sum(), list(weights.values())
    )
    largest = 0.0
    for index, model in enumerate(models):
        own = torch.autograd.grad(model(images[index]).square().mean(), list(model.parameters()))
        for a, b in zip(together, own, strict=True):
            largest = max(largest, float((a[index] - b).norm() / b.norm().clamp(min=1e-6)))
    return largest


def seconds(step: Repeated, images: Tensor, n: int) -> float:
    """Median seconds of a step, in blocks of ten."""
    taken = []
    # the first block sets up, and records on a GPU
    for block in range(1 + max(3, n // 10)):
        started = time.perf_counter()
        for _ in range(10):
            last = step(images)
        float(last)
        if block:
            taken.append((time.perf_counter() - started) / 10)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
