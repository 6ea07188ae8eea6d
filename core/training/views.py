"""Two views of each image, and the loss that asks the encoder to see the same in both.

In the manner of GLMC (Du et al., CVPR 2023): mixup makes the first view and CutMix the second, with
one draw of the partners and of each image's share, and each view's projection is predicted from the
other's. Without mixup the views are two independent augmentations. How this departs from GLMC's
code (ynu-yangpeng/GLMC):

- Each view's labels are mixed as its pixels are; there CutMix's are mixed by the share that was
  drawn, although its box is clipped at the image's border.
- Every image has a share of its own, of at least a half, so that CutMix's box takes half of it at
  most; there one share serves the batch, drawn evenly from 0 to 1.
- Partners come from the same batch; there from a second loader, which may resample classes.
- The encoder takes both views as one batch, so that batch normalisation takes the statistics of
  both together; there one after the other.
- Losses are means over the views where GLMC adds them up: its weight of 1 or 4, relative to the
  classification loss, is the same number here.
- The predictor has a hidden layer, as SimSiam's (Chen & He 2021); there projector and predictor are
  one linear layer each, 128 wide for its CIFAR networks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# dimensions of projection and prediction
WIDTH = 128


class Consistency(nn.Module):
    """The consistency loss of two views, with the projector and the predictor that it trains."""

    def __init__(self, n_latents: int):
        super().__init__()
        self.projector = nn.Linear(n_latents, WIDTH)
        self.predictor = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(), in [-1, 1]. first, second: (B, D) latents of the two views of the same images."""
        z1, z2 = self.projector(first), self.projector(second)
        return consistency_loss(self.predictor(z1), self.predictor(z2), z1, z2)


def consistency_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """-(cos(p1, z2) + cos(p2, z1)) / 2, the mean over images; SimSiam's eq. 2.

    p1, p2: (B, W) predictions from the first and the second view; z1, z2: (B, W) their projections.
    No gradient flows through a projection as a target: both could otherwise agree by collapsing.
    """
    agreement = F.cosine_similarity(p1, z2.detach(), dim=1) + F.cosine_similarity(
        p2, z1.detach(), dim=1
    )
    return -agreement.mean() / 2


def boxes(shares: Tensor, centres: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """CutMix's boxes (Yun et al. 2019, section 3.1) and what they leave.

    shares: (B,) of an image that are to be its own; centres: (B, 2) in [0, 1), shares of height and
    width. Returns (B, 4) int64: top, bottom, left, right, the ends not in the box; and (B,) float,
    the share of pixels outside it. A box is clipped at the border: more is left than was drawn.
    """
    # (B, 2)
    size = torch.stack([torch.full_like(shares, height), torch.full_like(shares, width)], 1)
    centres, half = centres * size, (1 - shares).sqrt()[:, None] * size / 2
    start = (centres - half).round().clamp(min=0)
    end = torch.minimum((centres + half).round(), size)
    found = torch.stack([start[:, 0], end[:, 0], start[:, 1], end[:, 1]], 1).long()
    return found, 1 - (end - start).prod(1) / (height * width)


def cutmix(images: Tensor, others: Tensor, found: Tensor) -> Tensor:
    """`images` with those pixels of `others` that are in their box.

    images, others: (B, channels, H, W); found: (B, 4) int64 from `boxes`.
    """
    rows, columns = (torch.arange(n, device=images.device) for n in images.shape[-2:])
    # (B, 1) each
    top, bottom, left, right = found.T[:, :, None]
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return torch.where(in_rows[:, None, :, None] & in_columns[:, None, None, :], others, images)
