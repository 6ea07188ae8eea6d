"""Encoders f: images (B, channels, H, W) float, normalised -> latents (B, D) float."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.data.location import locate


class Encoder(nn.Module):
    """A network from images (B, channels, H, W) to latents (B, n_latents)."""

    n_latents: int


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free shortcut (option A): slicing and zero channels."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.n_padded = n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / stride, W / stride) from x (B, n_in, H, W)."""
        # in place: no backward needs what batch normalisation puts out, and it is most of the
        # memory of a step
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.n_padded:
            before = self.n_padded // 2
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride],
                (0, 0, 0, 0, before, self.n_padded - before),
            )
        return F.relu(out.add_(x), inplace=True)


class CifarResNet(Encoder):
    """ResNet for 32x32 images (He et al. 2016, section 4.2): depth 6n + 2, 64-d latents."""

    n_latents = 64

    def __init__(self, depth: int, n_channels: int):
        super().__init__()
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(n_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.first_relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(
            *(BasicBlock(16 if i == 0 else 32, 32, 2 if i == 0 else 1) for i in range(n))
        )
        self.layer3 = nn.Sequential(
            *(BasicBlock(32 if i == 0 else 64, 64, 2 if i == 0 else 1) for i in range(n))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Latents (B, n_latents) of normalised images (B, channels, H, W)."""
        # (B, 16, 32, 32)
        x = self.first_relu(self.bn1(self.conv1(images)))
        # (B, 64, 8, 8)
        x = self.layer3(self.layer2(self.layer1(x)))
        latents: Tensor = x.mean((2, 3))
        return latents


class SmallCNN(Encoder):
    """For 8x8 images: three convolutions with batch normalisation, 64-d latents."""

    n_latents = 64

    def __init__(self, n_channels: int):
        super().__init__()
        widths = (n_channels, 16, 32, 64)
        convs = [
            nn.Conv2d(a, b, 3, stride, 1, bias=False)
            for a, b, stride in zip(widths, widths[1:], (1, 2, 1), strict=False)
        ]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.first_relu = nn.ReLU(inplace=True)
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Latents (B, n_latents) of normalised images (B, channels, H, W)."""
        x = self.first_relu(self.norms[0](self.convs[0](images)))
        for conv, norm in zip(self.convs[1:], self.norms[1:], strict=True):
            # ends at (B, 64, 4, 4)
            x = F.relu(norm(conv(x)), inplace=True)
        latents: Tensor = x.mean((2, 3))
        return latents


class TorchvisionResNet(Encoder):
    """A torchvision ResNet without its classifier, for larger images."""

    def __init__(self, name: str, n_channels: int):
        # imported here: it takes 90 MiB of every worker, and nothing else needs it
        import torchvision

        super().__init__()
        self.body = getattr(torchvision.models, name)(weights=None)
        self.n_latents = self.body.fc.in_features
        self.body.fc = nn.Identity()
        if n_channels != 3:
            self.body.conv1 = nn.Conv2d(n_channels, 64, 7, 2, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Latents (B, n_latents) of normalised images (B, channels, H, W)."""
        latents: Tensor = self.body(images)
        return latents


def drop_first_relu(encoder: nn.Module) -> None:
    """Take out the ReLU that follows the first batch normalisation.

    LDMLR's code makes its encoder for CIFAR from the network's children, and that ReLU is a call,
    not a child.
    """
    owner, name = (
        (encoder.body, "relu")
        if isinstance(encoder, TorchvisionResNet)
        else (encoder, "first_relu")
    )
    setattr(owner, name, nn.Identity())


def build_encoder(name: str, n_channels: int) -> Encoder:
    """An encoder by its config name."""
    if name == "small-cnn":
        return SmallCNN(n_channels)
    if name.startswith("torchvision-"):
        return TorchvisionResNet(name.removeprefix("torchvision-"), n_channels)
    return CifarResNet(int(name.removeprefix("resnet")), n_channels)


def load_checkpoint(path: str, encoder: nn.Module) -> dict[str, Tensor]:
    """Load pretrained weights into `encoder`; return the linear head that came with them.

    Reads our own .safetensors and PyTorch zip files with LDMLR's layout (`state_dict` -> `model`)
    or a plain state dict, the latter with weights_only: no code in the file is run.

    Returns {"weight": (C, D), "bias": (C,)}, or {} if the file holds no head (`fc.*`).
    Raises ValueError if the file cannot be read so, or the weights are not this encoder's.
    """
    weights = _read_weights(locate(path))
    head = {
        name.removeprefix("fc."): value for name, value in weights.items() if name.startswith("fc.")
    }
    body = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    if isinstance(encoder, TorchvisionResNet):
        body = {f"body.{name.removeprefix('body.')}": value for name, value in body.items()}
    expected = encoder.state_dict()
    wrong = sorted(set(expected) ^ set(body)) + [
        n for n in set(expected) & set(body) if expected[n].shape != body[n].shape
    ]
    if wrong:
        differ = f"{len(wrong)} entries differ, the first is '{wrong[0]}'"
        raise ValueError(f"'{path}' does not hold this encoder's weights: {differ}")
    encoder.load_state_dict(body)
    return head


def _read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, whichever of the layouts it has."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True)
    # whatever the two readers stumble over: a garbled file has them raise nearly anything
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"'{file}' cannot be read as weights alone, without running code in it: {reason}"
        ) from None
    for name in ("state_dict", "model"):
        if isinstance(weights, dict):
            weights = weights.get(name, weights)
    if not isinstance(weights, dict) or not all(
        isinstance(value, Tensor) for value in weights.values()
    ):
        raise ValueError(f"'{file}' holds no dictionary of tensors")
    return weights
