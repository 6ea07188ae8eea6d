"""Gaussian diffusion over latents: schedules, three objectives, one update for DDPM and DDIM.

Notation of Ho et al. 2020 (DDPM) and Song et al. 2021 (DDIM): z_t = sqrt(alpha_bar_t) x0 + sqrt(1 -
alpha_bar_t) noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def alpha_bars(schedule: str, n_steps: int) -> Tensor:
    """Signal levels alpha_bar_t = prod(1 - beta), t = 0 .. n_steps - 1.

    `cosine`: Nichol & Dhariwal 2021, eq. 17, betas clipped at 0.999. `linear`: Ho et al. 2020,
    betas 1e-4 .. 2e-2 for 1000 steps, scaled for other numbers of steps.

    Returns: (n_steps,) float32, strictly falling, in (0, 1). Computed in float64: the cosine
    schedule ends near 2e-9, below what float32 products resolve.
    """
    if schedule == "cosine":
        offset = 0.008
        u = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
        level = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        betas = (1 - level[1:] / level[:-1]).clamp(0, 0.999)
    elif schedule == "linear":
        scale = 1000 / n_steps
        betas = torch.linspace(scale * 1e-4, min(scale * 2e-2, 0.999), n_steps, dtype=torch.float64)
    else:
        raise ValueError(f"unknown schedule {schedule!r}: cosine or linear")
    return torch.cumprod(1 - betas, dim=0).float()


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """z_t at signal level `alpha_bar`: (B, 1) float; x0, noise: (B, D) float."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def target(objective: str, x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What the denoiser is asked for: `x0`, `noise` or `v`.

    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0: Salimans & Ho 2022, appendix D.
    """
    if objective == "x0":
        return x0
    if objective == "noise":
        return noise
    if objective == "v":
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    raise ValueError(f"unknown objective {objective!r}: x0, noise or v")


def estimate_x0(objective: str, output: Tensor, noisy: Tensor, alpha_bar: Tensor) -> Tensor:
    """The x0 that a denoiser's output stands for; inverts `target` at a given z_t."""
    if objective == "x0":
        return output
    if objective == "noise":
        return (noisy - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if objective == "v":
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * output
    raise ValueError(f"unknown objective {objective!r}: x0, noise or v")


def loss_weights(weighting: str, objective: str, alpha_bar: Tensor) -> Tensor:
    """Weight of each timestep in the loss.

    `uniform`: 1. `snr`: the weight that makes every objective equal to the noise objective's plain
    MSE, snr for x0, 1 for noise, snr / (snr + 1) for v (the original LDMLR code's choice; with x0
    the first ten timesteps then carry most of the loss).
    """
    if weighting == "uniform":
        return torch.ones_like(alpha_bar)
    if weighting == "snr":
        snr = alpha_bar / (1 - alpha_bar)
        return {"x0": snr, "noise": torch.ones_like(snr), "v": snr / (snr + 1)}[objective]
    raise ValueError(f"unknown weighting {weighting!r}: uniform or snr")


def timesteps(n_steps: int, n_used: int) -> list[int]:
    """`n_used` timesteps spread evenly over n_steps - 1 .. 0, first and last included."""
    if n_used == 1:
        return [n_steps - 1]
    return [round((n_steps - 1) * (1 - i / (n_used - 1))) for i in range(n_used)]


def step(
    noisy: Tensor, x0: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor, eta: float, fresh: Tensor
) -> Tensor:
    """Step from signal level `alpha_bar` to the higher `alpha_bar_next`, Song et al. 2021, eq. 12.

    eta = 0 is DDIM (deterministic); eta = 1 over adjacent timesteps is the DDPM posterior of Ho et
    al. 2020, eq. 7. noisy, x0, fresh: (B, D) float; fresh is standard normal and unused at eta = 0.
    """
    noise = (noisy - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * variance.clamp(min=0).sqrt()
    direction = (1 - alpha_bar_next - sigma**2).clamp(min=0).sqrt()
    return alpha_bar_next.sqrt() * x0 + direction * noise + sigma * fresh


def generate(
    denoise: Callable[[Tensor, Tensor], Tensor],
    objective: str,
    levels: Tensor,
    start: Tensor,
    n_used: int,
    eta: float,
    generator: torch.Generator,
    limit: float | None = None,
) -> Tensor:
    """Latents from noise, by DDIM (eta = 0) or DDPM (eta = 1, n_used = len(levels)).

    denoise: (z_t (B, D), t (B,) int64) -> (B, D), in terms of `objective`. levels: (T,) from
    `alpha_bars`. start: (B, D) standard normal. limit: every x0 estimate is clamped to [-limit,
    limit]. Returns (B, D), the last x0 estimate.
    """
    noisy = start
    used = timesteps(len(levels), n_used)
    for i, t in enumerate(used):
        level = levels[t]
        output = denoise(noisy, torch.full((len(noisy),), t, device=noisy.device))
        x0 = estimate_x0(objective, output, noisy, level)
        if limit is not None:
            x0 = x0.clamp(-limit, limit)
        if i == len(used) - 1:
            return x0
        fresh = (
            torch.randn(noisy.shape, generator=generator, device=noisy.device)
            if eta > 0
            else torch.zeros_like(noisy)
        )
        noisy = step(noisy, x0, level, levels[used[i + 1]], eta, fresh)
    raise ValueError("generation needs at least one step")
