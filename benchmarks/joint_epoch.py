"""What a joint epoch costs against its encoder alone, on the real CIFAR-10-LT images.

    python benchmarks/joint_epoch.py [--batches 8] [--rounds 5] [--threads 2] [--device cpu]
        [--precision float32]

Bare: forward, backward and Adam's step of the same ResNet-32 over the same batches, normalised
beforehand, channels last; no augmentation and no loss. Joint: the whole of
`core.training.epochs.joint_epoch`, with every diagnostic that a step takes; by routing rule, and
once with strong augmentation. The two run in turn; printed are the median seconds and the median
of the ratios round by round.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ablation.grid.load import experiment_settings
from core.config.parsing import parse
from core.config.schema import Config
from core.data.augment import normalise
from core.data.batches import batches
from core.data.sources import Dataset, Split, load
from core.device.memory import autocast
from core.method.routing import RULES
from core.networks.encoders import build_encoder, load_checkpoint
from core.randomness import generator
from core.subject import SUBJECT
from core.training.epochs import joint_epoch
from core.training.learner import Learner
from core.training.pool import Pool

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "cifar10-lt-if100.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = config_of({"device": options.device, "precision": options.precision})
    train = sample(load(config.data), options.batches * config.batch_size, options.device)
    print(
        f"{len(train.labels)} images, {options.batches} batches of {config.batch_size}, "
        f"{options.threads} threads, torch {torch.__version__}, {options.device}, "
        f"{options.precision}"
    )
    print(
        f"{'rule':12} {'bare s':>8} {'joint s':>8} {'ratio':>6}   "
        "(a whole epoch of 12,406 images at this rate: joint s)"
    )
    cases = {rule: replace(config, routing=rule) for rule in RULES}
    cases["strong"] = replace(config, data=replace(config.data, augmentation="strong"))
    for rule, case in cases.items():
        bare, joint = measure(case, train, options.rounds)
        ratio = statistics.median(j / b for b, j in zip(bare, joint, strict=True))
        whole = statistics.median(joint) * 12_406 / len(train.labels)
        print(
            f"{rule:12} {statistics.median(bare):8.3f} {statistics.median(joint):8.3f} "
            f"{ratio:6.3f}   {whole:6.1f}"
        )


def config_of(
    settings: Mapping[str, Any], experiment: Path = EXPERIMENT, overrides: Sequence[str] = ()
) -> Config:
    """The experiment's configuration with what `-S` overrides, then with these settings."""
    config, faults = parse(experiment_settings(experiment, overrides, SUBJECT) | settings)
    if faults:
        raise SystemExit("; ".join(f"{fault.key}: {fault.message}" for fault in faults))
    return config


def sample(dataset: Dataset, n: int, device: str) -> Split:
    """The long tail in small: every k-th training image."""
    chosen = torch.arange(0, len(dataset.train.labels), len(dataset.train.labels) // n)[:n]
    return Split(dataset.train.images[chosen].to(device), dataset.train.labels[chosen].to(device))


def measure(config: Config, train: Split, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, bare and joint in turn, after one warm-up round."""
    encoder = build_encoder(config.encoder.name, 3).to(
        config.device, memory_format=torch.channels_last
    )
    head = load_checkpoint(config.encoder.checkpoint, encoder)
    counts = torch.bincount(train.labels.cpu(), minlength=10).clamp(min=1)
    learner = Learner(config, 0, encoder, head, counts)
    latents = torch.randn(len(train.labels), encoder.n_latents, device=config.device)
    learner.start(latents, train.labels)
    learner.pool = Pool(
        torch.randn(4096, encoder.n_latents, device=config.device),
        torch.randint(10, (4096,), device=config.device),
    )
    order = batches(len(train.labels), config.batch_size, generator(0, "order", 1, config.device))
    inputs = [
        normalise(train.images[chosen], config.data.mean, config.data.std) for chosen in order
    ]
    bare, joint = [], []
    alone = functools.partial(encoder_alone, encoder, inputs, learner.optimisers["encoder"], config)
    for epoch in range(1, rounds + 2):
        whole = functools.partial(joint_epoch, learner, train, epoch)
        for seconds, work in ((bare, alone), (joint, whole)):
            start = time.perf_counter()
            work()
            if config.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return bare[1:], joint[1:]


def encoder_alone(
    encoder: torch.nn.Module,
    inputs: list[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    config: Config,
) -> None:
    encoder.train()
    for images in inputs:
        with autocast(config):
            latents = encoder(images)
        latents.float().sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
