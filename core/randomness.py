"""Every random number of an epoch comes from (seed, purpose, epoch), never from what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


def seed_of(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed; equal for all arms, so that they meet the same batches, crops and noise."""
    return (
        int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()[:8], "big")
        >> 1
    )


def generator(
    seed: int, purpose: str, epoch: int = 0, device: str | torch.device = "cpu"
) -> torch.Generator:
    """A generator of its own for one purpose in one epoch."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, purpose, epoch))


def mixing_shares(alpha: float, n: int, seed: int, purpose: str, epoch: int) -> torch.Tensor:
    """(n,) float in [0, 1] from Beta(alpha, alpha): the shares of mixup (Zhang et al. 2018)."""
    return torch.from_numpy(
        np.random.default_rng(seed_of(seed, purpose, epoch)).beta(alpha, alpha, n)
    ).float()


def initialised(build: Callable[[], T], seed: int, purpose: str) -> T:
    """Build a module with initial weights from (seed, purpose); the global generator stays."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which seeds the generators of other devices, too, and keeps a
        # traceback for each that has not been used yet
        torch.default_generator.manual_seed(seed_of(seed, f"initial {purpose}"))
        return build()
