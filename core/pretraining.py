"""Pre-training of the encoder with a linear head: cross-entropy, SGD, optional mixup (Zhang et al. 2018)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batches import batches
from core.chunks import chunks, one_update
from core.config import Config, Optim
from core.data.sources import Split
from core.divergence import Means
from core.encoding import augmented, autocast
from core.networks.encoders import build_encoder
from core.randomness import generator, initialised, mixing_shares
from core.state import (
    State,
    build_optimiser,
    load_module,
    load_optimiser,
    module_state,
    optimiser_state,
    set_rate,
)


class Pretraining:
    """Encoder and linear head `fc`, and their optimiser."""

    def __init__(
        self, config: Config, seed: int, n_channels: int, n_classes: int, n_chunks: int = 1
    ):
        """n_chunks: in which a batch passes through the encoder, see `core.chunks`."""
        self.config, self.seed, self.n_chunks, p = config, seed, n_chunks, config.pretraining
        encoder = initialised(
            lambda: build_encoder(config.encoder.name, n_channels), seed, "encoder"
        )
        self.encoder = encoder.to(config.device, memory_format=torch.channels_last)
        self.fc = initialised(lambda: nn.Linear(encoder.n_latents, n_classes), seed, "fc").to(
            config.device
        )
        sgd = Optim(name="sgd", momentum=p.momentum, weight_decay=p.weight_decay)
        self.optimiser = build_optimiser(
            sgd, [*self.encoder.parameters(), *self.fc.parameters()], p.lr
        )

    def epoch(self, train: Split, epoch: int, lr: float) -> dict[str, float]:
        """One pass over the training images; returns the mean loss and training accuracy (percent)."""
        config, p, means = self.config, self.config.pretraining, Means(self.config)
        set_rate(self.optimiser, lr)
        order, augmentation = (
            generator(self.seed, f"pretrain {name}", epoch, config.device)
            for name in ("order", "augmentation")
        )
        chosen_batches = batches(len(train.labels), p.batch_size, order)
        shares = (
            mixing_shares(p.mixup, len(chosen_batches), self.seed, "pretrain mixup", epoch).tolist()
            if p.mixup
            else None
        )
        self.encoder.train()
        for i, chosen in enumerate(chosen_batches):
            images, y = (
                augmented(
                    train.images[chosen], config, augmentation, config.pretraining_augmentation, i
                ),
                train.labels[chosen],
            )
            share, partner = 1.0, torch.arange(len(y), device=y.device)
            if shares is not None:
                share = shares[i]
                partner = torch.randperm(len(y), generator=augmentation, device=y.device)
                images = share * images + (1 - share) * images[partner]
            losses, hits = [], []
            for chunk in chunks(len(y), p.batch_size, self.n_chunks, training=True):
                own, other = y[chunk.rows], y[partner[chunk.rows]]
                with autocast(config), one_update(self.encoder, chunk):
                    logits = self.fc(self.encoder(images[chunk.rows])).float()
                loss = share * F.cross_entropy(logits, own) + (1 - share) * F.cross_entropy(
                    logits, other
                )
                loss = chunk.share * loss
                loss.backward()
                losses.append(loss.detach())
                hits.append(logits.argmax(1) == own)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            means.add(
                {
                    "pretrain/loss": torch.stack(losses).sum(),
                    "pretrain/train_top1": 100 * torch.cat(hits).float().mean(),
                }
            )
        return means.read()

    def head(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.fc.state_dict().items()}

    def state(self) -> State:
        return (
            module_state("encoder", self.encoder)
            | module_state("fc", self.fc)
            | optimiser_state("optim", self.optimiser)
        )

    def load(self, state: State) -> None:
        load_module("encoder", self.encoder, state)
        load_module("fc", self.fc, state)
        load_optimiser("optim", self.optimiser, state)
