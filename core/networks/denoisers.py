"""Denoisers d: (noisy latents (B, D), timesteps (B,) int64, labels (B,) int64) -> (B, D).

Where latents share conditions, as all of a class do at one step of a generation, each condition is
worked out once: timesteps and labels are then (K,), and a fourth argument `which` (B,) int64 names
each latent's.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t at geometrically spaced frequencies. (B,) int -> (B, width) float."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=t.device))
    # (B, half)
    angles = t[:, None] * frequencies[None]
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def _of_each(conditions: Tensor, which: Tensor | None) -> Tensor:
    return conditions if which is None else conditions[which]


class AdaptiveBlock(nn.Module):
    """Residual MLP block; the condition scales, shifts and gates it (adaLN-zero, DiT)."""

    def __init__(self, width: int):
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        # starts as the identity
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor, which: Tensor | None) -> Tensor:
        """(B, W) from x (B, W) and condition (B, W), or (K, W) and `which` (B,)."""
        shift, scale, gate = _of_each(self.modulation(condition), which).chunk(3, dim=1)
        h = F.layer_norm(x, x.shape[1:]) * (1 + scale) + shift
        change: Tensor = gate * self.down(F.silu(self.up(h)))
        return x + change


class MLPDenoiser(nn.Module):
    """Residual MLP with adaptive layer norm. Knows which dimension is which, unlike `UNet1D`."""

    def __init__(self, n_latents: int, n_classes: int, width: int, n_blocks: int):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(n_latents, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(n_classes, width)
        self.blocks = nn.ModuleList(AdaptiveBlock(width) for _ in range(n_blocks))
        self.leave = nn.Linear(width, n_latents)

    def forward(
        self, noisy: Tensor, t: Tensor, labels: Tensor, which: Tensor | None = None
    ) -> Tensor:
        """(B, D) from noisy latents (B, D), t and labels (B,), or (K,) and `which` (B,)."""
        condition = F.silu(self.time(timestep_embedding(t, self.width)) + self.label(labels))
        x = self.enter(noisy)
        for block in self.blocks:
            x = block(x, condition, which)
        denoised: Tensor = self.leave(F.layer_norm(x, x.shape[1:]))
        return denoised


class ConvBlock(nn.Module):
    """Two pointwise convolutions with group norm; the condition scales and shifts the first."""

    def __init__(self, n_in: int, n_out: int, n_condition: int):
        super().__init__()
        self.condition = nn.Linear(n_condition, 2 * n_out)
        self.conv1, self.norm1 = nn.Conv1d(n_in, n_out, 1), nn.GroupNorm(8, n_out)
        self.conv2, self.norm2 = nn.Conv1d(n_out, n_out, 1), nn.GroupNorm(8, n_out)
        self.skip = nn.Conv1d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, n_out, L) from x (B, n_in, L) and condition (B, n_condition)."""
        scale, shift = self.condition(F.silu(condition))[:, :, None].chunk(2, dim=1)
        h = F.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        skipped: Tensor = self.skip(x)
        return F.silu(self.norm2(self.conv2(h))) + skipped


class Attention(nn.Module):
    """Residual attention over positions after an RMS norm over channels.

    Softmax, or linear (Shen et al. 2021).
    """

    def __init__(self, n_channels: int, linear: bool, n_heads: int = 4, head_width: int = 32):
        super().__init__()
        self.linear, self.n_heads = linear, n_heads
        inner = n_heads * head_width
        self.norm = nn.Parameter(torch.ones(1, n_channels, 1))
        self.qkv = nn.Conv1d(n_channels, 3 * inner, 1, bias=False)
        self.out = nn.Conv1d(inner, n_channels, 1)
        self.out_norm = nn.Parameter(torch.ones(1, n_channels, 1)) if linear else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_channels, L) from x of the same shape."""
        qkv = self.qkv(_rms_norm(x, self.norm)).unflatten(1, (3, self.n_heads, -1))
        # (B, heads, width, L) each
        q, k, v = qkv.unbind(1)
        if self.linear:
            q = q.softmax(dim=2) * q.shape[2] ** -0.5
            # (B, heads, width, width)
            context = k.softmax(dim=3) @ v.transpose(2, 3)
            out = context.transpose(2, 3) @ q
        else:
            out = F.scaled_dot_product_attention(
                q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)
            ).transpose(2, 3)
        change: Tensor = self.out(out.flatten(1, 2))
        return x + (change if self.out_norm is None else _rms_norm(change, self.out_norm))


def _rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    direction: Tensor = F.normalize(x, dim=1)
    length: float = x.shape[1] ** 0.5
    return direction * gain * length


class UNet1D(nn.Module):
    """LDMLR's 1-D U-Net: the latent as one channel, convolutions of kernel 1, stride-2 slicing.

    Built so for comparison. With kernel 1 and no position embedding it is equivariant to permuting
    blocks of 8 dimensions: it cannot tell latent dimensions apart, so it cannot generate class
    means.
    """

    def __init__(self, n_latents: int, n_classes: int, multipliers: tuple[int, ...] = (1, 2, 4, 8)):
        super().__init__()
        self.shrink = 2 ** (len(multipliers) - 1)
        if n_latents % self.shrink:
            halves = f"the U-Net halves the latent {len(multipliers) - 1} times"
            raise ValueError(f"{halves}; {n_latents} is not a multiple of {self.shrink}")
        width, n_condition = n_latents, 4 * n_latents
        self.width = width
        self.time = nn.Sequential(
            nn.Linear(width, n_condition), nn.GELU(), nn.Linear(n_condition, n_condition)
        )
        self.label = nn.Embedding(n_classes, n_condition)
        self.enter = nn.Conv1d(1, width, 1)
        widths = [width, *(width * m for m in multipliers)]
        pairs = list(itertools.pairwise(widths))
        middle, last = widths[-1], len(pairs) - 1
        block = functools.partial(ConvBlock, n_condition=n_condition)

        def level(n_in: int, n_out: int) -> nn.ModuleList:
            blocks = block(n_in, n_out), block(n_in, n_out)
            return nn.ModuleList([*blocks, Attention(n_out, linear=True)])

        self.downs = nn.ModuleList(
            level(a, a).append(nn.Conv1d(a, b, 1, stride=1 if i == last else 2))
            for i, (a, b) in enumerate(pairs)
        )
        self.middle = nn.ModuleList(
            [block(middle, middle), Attention(middle, linear=False), block(middle, middle)]
        )
        self.ups = nn.ModuleList(
            level(b + a, b).append(nn.Conv1d(b, a, 1)) for a, b in reversed(pairs)
        )
        self.final = ConvBlock(2 * width, width, n_condition)
        self.leave = nn.Conv1d(width, 1, 1)

    def forward(
        self, noisy: Tensor, t: Tensor, labels: Tensor, which: Tensor | None = None
    ) -> Tensor:
        """(B, D) from noisy latents (B, D), t and labels (B,), or (K,) and `which` (B,)."""
        condition = _of_each(
            self.time(timestep_embedding(t, self.width)) + self.label(labels), which
        )
        # (B, width, D)
        x = first = self.enter(noisy[:, None])
        skips = []
        for level in self.downs:
            block1, block2, attention, down = level.children()
            x = block1(x, condition)
            skips.append(x)
            x = attention(block2(x, condition))
            skips.append(x)
            x = down(x)
        block1, attention, block2 = self.middle
        x = block2(attention(block1(x, condition)), condition)
        for i, level in enumerate(self.ups):
            block1, block2, attention, up = level.children()
            x = block1(torch.cat([x, skips.pop()], dim=1), condition)
            x = block2(torch.cat([x, skips.pop()], dim=1), condition)
            x = attention(x)
            if i < len(self.ups) - 1:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = up(x)
        denoised: Tensor = self.leave(self.final(torch.cat([x, first], dim=1), condition))
        return denoised[:, 0]


def build_denoiser(
    name: str, n_latents: int, n_classes: int, width: int, n_blocks: int
) -> nn.Module:
    """A denoiser by its config name."""
    if name == "unet1d":
        return UNet1D(n_latents, n_classes)
    return MLPDenoiser(n_latents, n_classes, width, n_blocks)
