"""How close each stage of a CIFAR-10-LT trial comes to the machine's matrix products.

    python benchmarks/rates.py [--rounds 5] [--threads 1] [--images 1024] [--device cpu]
        [--precision float32]

The floor of a stage is its floating-point operations (convolutions and matrix products, forward
and backward, as PyTorch's own counter counts them) at the rate of a large square matrix product,
measured beside it in every round. Printed are medians over the rounds. Latents are random: no
stage takes a different path for what they hold.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from joint_epoch import config_of, encoder_alone
from torch.utils.flop_counter import FlopCounterMode

from core.config.schema import Config
from core.data.augment import normalise
from core.data.batches import batches
from core.data.sources import Split
from core.networks.encoders import build_encoder
from core.randomness import generator
from core.training.encoding import encode
from core.training.epochs import joint_epoch, warmup_epoch
from core.training.learner import Learner
from core.training.pool import draw
from core.training.priors import quota
from core.training.staged import diffusion_epoch, head_epoch

CLASS_COUNTS = torch.tensor((5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50))
# rows of the square matrices
SIDE = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--images", type=int, default=1024, help="of the stages that run the encoder"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = config_of({"device": options.device, "precision": options.precision})
    print(
        f"torch {torch.__version__}, {options.device}, {options.precision}, "
        f"{options.threads} threads; median of {options.rounds} rounds"
    )
    print(f"{'stage':34} {'GFLOP':>9} {'seconds':>9} {'GFLOP/s':>9} {'of matmul':>10}")
    for name, work in stages(config, options.images).items():
        with FlopCounterMode(display=False) as counter:
            work()
        n_flops = counter.get_total_flops()
        rates, ratios, taken = [], [], []
        for _ in range(options.rounds):
            ceiling = 2 * SIDE**3 / seconds(matrix_product(config), config)
            taken.append(seconds(work, config))
            rates.append(n_flops / taken[-1])
            ratios.append(rates[-1] / ceiling)
        row = [
            n_flops / 1e9,
            statistics.median(taken),
            statistics.median(rates) / 1e9,
            statistics.median(ratios),
        ]
        print(f"{name:34} {row[0]:9.1f} {row[1]:9.3f} {row[2]:9.1f} {row[3]:10.2f}", flush=True)


def stages(config: Config, n_images: int) -> dict[str, Callable[[], object]]:
    """Name -> one pass of the stage, over all 12,406 latents or over `n_images` images."""
    labels = torch.repeat_interleave(torch.arange(10), CLASS_COUNTS).to(config.device)
    images = torch.randint(0, 256, (n_images, 3, 32, 32), dtype=torch.uint8, device=config.device)
    some = Split(images, labels[torch.linspace(0, len(labels) - 1, n_images).long()])
    encoder = build_encoder(config.encoder.name, 3).to(
        config.device, memory_format=torch.channels_last
    )
    latents = torch.randn(len(labels), encoder.n_latents, device=config.device)

    def learner(config: Config) -> Learner:
        made = Learner(config, 0, encoder, {}, CLASS_COUNTS)
        made.start(latents, labels)
        made.refresh_pool(1)
        return made

    joint = learner(replace(config, generation=replace(config.generation, steps=1)))
    staged = learner(
        replace(
            config,
            head=replace(config.head, name="linear"),
            generation=replace(config.generation, quota="ldmlr"),
        )
    )
    counts_drawn = torch.tensor(quota(config.generation.quota, CLASS_COUNTS.tolist()))
    order = batches(n_images, config.batch_size, generator(0, "order", 1, config.device))
    inputs = [normalise(some.images[chosen], config.data.mean, config.data.std) for chosen in order]

    def generate() -> None:
        draw(
            joint.denoiser,
            config.diffusion,
            config.generation,
            joint.levels,
            counts_drawn,
            joint.n_latents,
            generator(0, "pool", 1, config.device),
            joint.farthest,
        )

    return {
        f"matrix product, {SIDE} square": matrix_product(config),
        f"encode {n_images} images": lambda: encode(encoder, images, config),
        f"bare encoder step, {n_images} images": lambda: encoder_alone(
            encoder, inputs, joint.optimisers["encoder"], config
        ),
        f"joint epoch, {n_images} images": lambda: joint_epoch(joint, some, 1),
        "warm-up epoch": lambda: warmup_epoch(joint, latents, labels, 1),
        "diffusion epoch (staged)": lambda: diffusion_epoch(staged, latents, labels, 1),
        "head epoch (staged)": lambda: head_epoch(staged, latents, labels, 1),
        f"generate {int(counts_drawn.sum())}, {config.generation.steps} steps": generate,
    }


def matrix_product(config: Config) -> Callable[[], object]:
    kind = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    a, b = torch.randn(2, SIDE, SIDE, device=config.device).to(kind)
    return lambda: a @ b


def seconds(work: Callable[[], object], config: Config) -> float:
    """Of one call, after the device has finished."""
    wait = torch.cuda.synchronize if config.device == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
