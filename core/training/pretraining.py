"""Pre-training of the encoder with a linear head: cross-entropy, SGD, optional mixup."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.schema import Config, Optim
from core.data.batches import batches
from core.data.sources import Split
from core.device.chunks import chunks, one_update
from core.device.memory import autocast
from core.networks.encoders import build_encoder
from core.randomness import generator, initialised, mixing_shares
from core.training.divergence import Means
from core.training.encoding import augmented
from core.training.state import (
    State,
    build_optimiser,
    load_optimiser,
    module_state,
    optimiser_state,
    part,
    set_rate,
)


class Pretraining:
    """Encoder and linear head `fc`, and their optimiser."""

    def __init__(
        self, config: Config, seed: int, n_channels: int, n_classes: int, n_chunks: int = 1
    ):
        """n_chunks: in which a batch passes through the encoder, see `core.device.chunks`."""
        self.config, self.seed, self.n_chunks, p = config, seed, n_chunks, config.pretraining
        build = partial(build_encoder, config.encoder.name, n_channels)
        encoder = initialised(build, seed, "encoder").to(config.device)
        self.encoder = encoder.to(memory_format=torch.channels_last)
        build_fc = partial(nn.Linear, encoder.n_latents, n_classes)
        self.fc = initialised(build_fc, seed, "fc").to(config.device)
        sgd = Optim(name="sgd", momentum=p.momentum, weight_decay=p.weight_decay)
        parameters = [*self.encoder.parameters(), *self.fc.parameters()]
        self.optimiser = build_optimiser(sgd, parameters, p.lr)

    def epoch(self, train: Split, epoch: int, lr: float) -> dict[str, float]:
        """Pass over the training images once; return mean loss and training accuracy (percent)."""
        config, p, means = self.config, self.config.pretraining, Means(self.config)
        set_rate(self.optimiser, lr)
        order, augmentation, partners = (
            generator(self.seed, f"pretrain {name}", epoch, config.device)
            for name in ("order", "augmentation", "mixup partners")
        )
        chosen_batches, shares = batches(len(train.labels), p.batch_size, order), None
        if p.mixup:
            n = len(chosen_batches)
            shares = mixing_shares(p.mixup, n, self.seed, "pretrain mixup", epoch).tolist()
        self.encoder.train()
        for i, chosen in enumerate(chosen_batches):
            images, y = train.images[chosen], train.labels[chosen]
            images = augmented(images, config, augmentation, config.pretraining_augmentation, i)
            share, y_minor = 1.0, y
            if shares is not None:
                share = shares[i]
                partner = torch.randperm(len(y), generator=partners, device=y.device)
                images = share * images + (1 - share) * images[partner]
                y_minor = y[partner]
            losses, hits = [], []
            for chunk in chunks(len(y), p.batch_size, self.n_chunks, training=True):
                own, minor = y[chunk.rows], y_minor[chunk.rows]
                with autocast(config), one_update(self.encoder, chunk):
                    logits = self.fc(self.encoder(images[chunk.rows])).float()
                loss = share * F.cross_entropy(logits, own)
                loss = chunk.share * (loss + (1 - share) * F.cross_entropy(logits, minor))
                loss.backward()
                losses.append(loss.detach())
                hits.append(logits.argmax(1) == own)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            top1 = 100 * torch.cat(hits).float().mean()
            means.add({"pretrain/loss": torch.stack(losses).sum(), "pretrain/train_top1": top1})
        return means.read()

    def head(self) -> dict[str, Tensor]:
        """Return the linear head's weights, which change as it trains."""
        return {name: tensor.detach() for name, tensor in self.fc.state_dict().items()}

    def state(self) -> State:
        """Return all that changes."""
        modules = module_state("encoder", self.encoder) | module_state("fc", self.fc)
        return modules | optimiser_state("optim", self.optimiser)

    def load(self, state: State) -> None:
        """Go on from a state."""
        self.encoder.load_state_dict(part("encoder", state))
        self.fc.load_state_dict(part("fc", state))
        load_optimiser("optim", self.optimiser, state)
