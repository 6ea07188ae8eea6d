"""The staged baseline (LDMLR) as we compute it, against the original's network and sampler.

    python benchmarks/staged.py [--threads 2] [--steps 5 10 20 50] [--diffusion-epochs 201]
        [--head-epochs 400]

Ours: the whole `ldmlr` baseline on CIFAR-10-LT by `core.trial.run.advance`, from images to
accuracy, stage by stage. Original: its 1-D U-Net (`denoiser.name: unet1d`) in our code, a few
training steps and a few sampling steps timed and multiplied by their number (201 epochs; 1000
steps for the same latents). Everything runs in this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from dataclasses import replace

import torch
from joint_epoch import config_of
from rates import CLASS_COUNTS

from core.config.schema import BASELINES, Config
from core.method.diffusion import alpha_bars
from core.networks.denoisers import build_denoiser
from core.networks.encoders import build_encoder
from core.randomness import generator
from core.training.learner import Learner
from core.training.pool import draw
from core.training.priors import quota
from core.training.staged import diffusion_epoch
from core.trial.run import advance

ORIGINAL_EPOCHS, ORIGINAL_STEPS = 201, 1000
# largest coordinate of a real latent, which estimates from predicted noise are clamped to
FARTHEST = 7.0


class Memory:
    """A store that is forgotten with the process."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], bytes] = {}

    def load(self, kind: str, key: str) -> bytes | None:
        return self.entries.get((kind, key))

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        self.entries[kind, key] = data

    def holds(self, kind: str, key: str) -> bool:
        return (kind, key) in self.entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--diffusion-epochs", type=int, default=ORIGINAL_EPOCHS)
    parser.add_argument("--head-epochs", type=int, default=400)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = config_of(
        {
            **BASELINES["ldmlr"],
            "device": options.device,
            "threads": options.threads,
            "staged.diffusion_epochs": options.diffusion_epochs,
            "staged.head_epochs": options.head_epochs,
            "evaluate_every": 50,
        }
    )
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads")
    ours = staged_baseline(config)
    unet = replace(
        config,
        denoiser=replace(config.denoiser, name="unet1d"),
        diffusion=replace(config.diffusion, weighting="snr"),
    )
    epoch = original_epoch(unet)
    n_latents = sum(quota("ldmlr", CLASS_COUNTS.tolist()))
    sampling = original_sampling(unet)
    print(
        f"original U-Net: {epoch:.1f} s an epoch, {sampling / 60:.1f} min to sample {n_latents} "
        f"latents in {ORIGINAL_STEPS} steps"
    )
    whole = ORIGINAL_EPOCHS * epoch + sampling
    print(
        f"its {ORIGINAL_EPOCHS} epochs and sampling: {whole / 3600:.2f} h, "
        f"{whole / ours:.0f} times our whole baseline"
    )
    for steps in options.steps:
        taken = statistics.median(generation(config, steps) for _ in range(5))
        print(
            f"DDIM, {steps:4} steps, MLP: {taken:7.3f} s, "
            f"{sampling / taken:7.0f} times faster than the original's"
        )


def staged_baseline(config: Config) -> float:
    """Run it, print its stages, return its seconds."""
    stages: dict[str, float] = defaultdict(float)
    last: dict[str, float] = {}

    def report(_: str, record: dict) -> None:
        stages[record["phase"]] += record["seconds"]
        last.update(record["metrics"])

    start = time.perf_counter()
    advance(config, 0, None, Memory(), report)
    whole = time.perf_counter() - start
    others = whole - sum(stages.values())
    print(
        f"ldmlr baseline: {whole:.1f} s; "
        + ", ".join(f"{name} {taken:.1f} s" for name, taken in stages.items())
        + f", reading and checkpoints {others:.1f} s"
    )
    print(
        f"top-1 after the last epoch {last['test/top1']:.2f}, "
        f"compensated {last['test/top1_compensated']:.2f}"
    )
    return whole


def original_epoch(config: Config, n_batches: int = 4) -> float:
    """Seconds of a diffusion epoch with the U-Net, from a few of its batches."""
    n = n_batches * config.batch_size
    learner = Learner(config, 0, build_encoder(config.encoder.name, 3), _no_head(), CLASS_COUNTS)
    labels = torch.arange(n, device=config.device) % 10
    learner.start(torch.randn(n, learner.n_latents, device=config.device), labels)
    latents = torch.randn(n, learner.n_latents, device=config.device)
    diffusion_epoch(learner, latents, labels, 1)
    start = time.perf_counter()
    diffusion_epoch(learner, latents, labels, 2)
    return (time.perf_counter() - start) * int(CLASS_COUNTS.sum()) / n


def original_sampling(config: Config, n_steps: int = 3) -> float:
    """Seconds of ancestral sampling with the U-Net, from a few of its steps."""
    return generation(config, n_steps) / n_steps * ORIGINAL_STEPS


def generation(config: Config, n_steps: int) -> float:
    """Seconds that the quota's latents take in `n_steps` steps."""
    denoiser = build_denoiser(
        config.denoiser.name, 64, 10, config.denoiser.width, config.denoiser.blocks
    ).to(config.device)
    levels = alpha_bars(config.diffusion.schedule, config.diffusion.steps).to(config.device)
    start = time.perf_counter()
    generation = replace(config.generation, steps=n_steps)
    draw(
        denoiser,
        config.diffusion,
        generation,
        levels,
        torch.tensor(quota("ldmlr", CLASS_COUNTS.tolist())),
        64,
        generator(0, "pool", 1, config.device),
        FARTHEST,
    )
    return time.perf_counter() - start


def _no_head() -> dict[str, torch.Tensor]:
    return {"weight": torch.zeros(10, 64), "bias": torch.zeros(10)}


if __name__ == "__main__":
    main()
