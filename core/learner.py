"""Everything that changes while Strategy A trains: modules, optimisers, statistics, prototypes, pool."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.averaging import Average
from core.config import Config
from core.diffusion import alpha_bars
from core.geometry import (
    class_means,
    distances,
    mean_over,
    track,
    unbiased_radii,
    within_class_covariance,
)
from core.losses import Geometry, Semantic, Weights, logit_adjustment, semantic_loss
from core.metrics import MANY_ABOVE
from core.networks.denoisers import build_denoiser
from core.networks.heads import build_head
from core.pool import Pool, draw, draw_gaussian, quota
from core.priors import shares, training_prior
from core.randomness import generator, initialised
from core.repeated import Recorder, Repeated, cuda_graph
from core.state import (
    State,
    build_optimiser,
    load_module,
    load_optimiser,
    module_state,
    optimiser_state,
    part,
    set_rate,
)
from core.views import Consistency

STATISTICS_MOMENTUM = (
    0.99  # per batch, of the latents' mean and standard deviation once the encoder thaws
)


class Learner:
    """The trainable state of a trial after pre-training, and the steps that all its phases share."""

    def __init__(
        self,
        config: Config,
        seed: int,
        encoder: nn.Module,
        pretrained_head: Mapping[str, Tensor],
        class_counts: Tensor,
    ):
        self.config, self.seed, self.device = config, seed, config.device
        self.class_counts = class_counts.to(self.device)  # (C,)
        self.n_images = class_counts.tolist()  # the same, as plain numbers
        self.n_classes, self.n_latents = len(class_counts), encoder.n_latents
        self.encoder = encoder
        head = config.head
        build = lambda: build_head(
            head.name, self.n_latents, self.n_classes, head.initial_scale, head.trainable_scale
        )  # noqa: E731
        self.head = initialised(build, seed, f"head {head.name}").to(self.device)
        if head.start == "pretrained":
            self.head.load_state_dict(dict(pretrained_head))
        denoiser = config.denoiser
        build = lambda: build_denoiser(
            denoiser.name, self.n_latents, self.n_classes, denoiser.width, denoiser.blocks
        )  # noqa: E731
        self.denoiser = initialised(build, seed, f"denoiser {denoiser.name}").to(self.device)
        # changed in place when the pool changes: a recorded step keeps to the tensors that it has met
        self.adjustment = torch.zeros(
            self.n_classes, device=self.device
        )  # (C,) added to training logits
        self.shares = torch.zeros(
            2, device=self.device
        )  # weights of the mean losses of real and of generated latents
        self.n_per_image = torch.ones(
            (), device=self.device
        )  # training images and pool, per training image
        self.many = (
            self.class_counts > MANY_ABOVE
        )  # (C,) classes to borrow from: with many images, or all
        if not (class_counts > MANY_ABOVE).any():
            self.many = torch.ones_like(self.many)
        # (C,) classes whose mean radius is the common one
        self.exemplary = (
            self.many if config.losses.radius_from == "many" else torch.ones_like(self.many)
        )
        self.covariance: Tensor | None = (
            None  # (D, D) within these classes, where the pool is drawn by it
        )
        self.optimisers = {
            name: build_optimiser(
                config.optim.of(name),
                getattr(self, name).parameters(),
                getattr(config.optim.lr, name),
            )
            for name in ("encoder", "head", "denoiser")
        }
        self.levels = alpha_bars(config.diffusion.schedule, config.diffusion.steps).to(
            self.device
        )  # (T,)
        self.pool = Pool.empty(self.n_latents, self.device)
        self.average: Average | None = None  # made when the encoder thaws, as what follows
        self.consistency: Consistency | None = None
        self.n_chunks = (
            1  # in which joint batches pass through the encoder; set before any step is recorded
        )
        self.diffusion_loss_at_thaw = float("nan")  # of the last warm-up epoch so far
        self.record: Recorder | None = cuda_graph if self.device == "cuda" else None
        self._repeated: dict[Callable[..., Any], Repeated] = {}
        self.weigh()

    def start(self, latents: Tensor, labels: Tensor, views: Tensor | None = None) -> None:
        """Statistics, prototypes and radii from the pretrained latents (N, D) of the training images.

        views: (N, D) latents of strongly augmented views of them, if radii are to be those of these.
        """
        if self.config.diffusion.scaling == "unit":  # (x - 0.5) / 0.5 = 2x - 1
            self.mean, self.std = torch.full_like(latents[0], 0.5), torch.full_like(latents[0], 0.5)
        else:
            self.mean, self.std = latents.mean(0), latents.std(0).clamp(min=1e-6)
        self.is_nonnegative = bool((latents >= 0).all())  # of a last ReLU
        standard = self.standardise(latents)
        self.farthest = float(standard.abs().max())
        prototypes, _ = class_means(standard, labels, self.n_classes)
        if self.config.draws_gaussian:
            covariance, n = within_class_covariance(standard, labels, prototypes, self.many)
            self.covariance = covariance * (n / (n - self.many.sum()).clamp(min=1))
        seen = standard if views is None else self.standardise(views)
        means = prototypes if views is None else class_means(seen, labels, self.n_classes)[0]
        radii, _ = class_means(distances(seen, labels, means), labels, self.n_classes)
        radii = unbiased_radii(radii, self.class_counts)
        self.geometry = Geometry(prototypes, radii, radii.clone())

    def thaw(self) -> None:
        """Make what joint epochs alone have, unless it is there; before any of their steps is recorded."""
        if self.config.optim.ema and self.average is None:
            self.average = Average(self.encoder, self.head)
        if self.config.losses.consistency and self.consistency is None:
            self.consistency = initialised(
                lambda: Consistency(self.n_latents), self.seed, "consistency"
            ).to(self.device)
            rate = float(self.optimisers["head"].param_groups[0]["lr"])
            self.optimisers["consistency"] = build_optimiser(
                self.config.optim.of("head"), self.consistency.parameters(), rate
            )

    def standardise(self, latents: Tensor) -> Tensor:
        """(..., D) in the denoiser's coordinates."""
        return (latents - self.mean) / self.std

    def destandardise(self, generated: Tensor) -> Tensor:
        """(..., D) generated latents in the encoder's coordinates; where it puts out none below 0, they have none either."""
        latents = generated * self.std + self.mean
        return latents.clamp(min=0) if self.is_nonnegative else latents

    def repeated(self, step: Callable[..., Any]) -> Repeated:
        """`step` with this learner as its first argument, recorded where the device can repeat recordings."""
        if step not in self._repeated:
            # not the learner itself: a cycle would keep its memory on the device until Python looks for cycles
            self._repeated[step] = Repeated(
                functools.partial(step, weakref.proxy(self)), self.record
            )
        return self._repeated[step]

    def draw_noise(self, n: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps (n,) and standard normal noise (n, D)."""
        t = torch.randint(len(self.levels), (n,), generator=gen, device=self.device)
        return t, torch.randn(n, self.n_latents, generator=gen, device=self.device)

    def semantic(
        self, standard: Tensor, labels: Tensor, t: Tensor, noise: Tensor, used: Tensor | None = None
    ) -> Semantic:
        """The semantic loss of a batch of standardised latents (B, D) under `noise` (B, D) at timesteps t (B,).

        used: (B,) 0 or 1, the samples that count; None: all.
        """
        diffusion, losses = self.config.diffusion, self.config.losses
        weights = Weights(losses.prototype, losses.radius, losses.momentum)
        return semantic_loss(
            self.denoiser, diffusion.objective, diffusion.weighting, standard, labels,
            self.levels[t][:, None], t, noise, self.geometry, weights, self.common_radius(), used,
        )  # fmt: skip

    def common_radius(self) -> Tensor:
        """(), the mean radius of the exemplary classes."""
        return (self.geometry.radii * self.exemplary).sum() / self.exemplary.sum()

    @torch.no_grad()
    def track_estimates(self, semantic: Semantic) -> None:
        """Follow the radii of the denoiser's estimates."""
        if semantic.estimate_means is not None:
            tracked = self.geometry.estimate_radii
            tracked.copy_(track(tracked, *semantic.estimate_means, self.config.losses.momentum))

    @torch.no_grad()
    def track_latents(self, latents: Tensor, labels: Tensor, used: Tensor | None = None) -> None:
        """Follow statistics, prototypes and radii of a moving encoder. latents: (B, D), no gradient.

        used: (B,) 0 or 1, the samples that count; None: all. Without one, all stays as it is.
        """
        if self.config.diffusion.scaling == "standardised":
            m = STATISTICS_MOMENTUM if used is None else 1 - (1 - STATISTICS_MOMENTUM) * used.amax()
            self.mean.copy_(m * self.mean + (1 - m) * mean_over(latents, used))
            variance = mean_over((latents - self.mean).square(), used)
            self.std.copy_((m * self.std.square() + (1 - m) * variance).sqrt().clamp(min=1e-6))
        standard, momentum = self.standardise(latents), self.config.losses.momentum
        prototypes, radii = self.geometry.prototypes, self.geometry.radii
        # From the prototypes as they were: one that has taken in the batch is nearer to it, most of all to a class's only
        # sample, of which it has taken a tenth.
        apart, counts = class_means(
            distances(standard, labels, prototypes), labels, self.n_classes, used
        )
        radii.copy_(track(radii, apart, counts, momentum))
        if self.covariance is not None:
            found, n = within_class_covariance(standard, labels, prototypes, self.many, used)
            m = STATISTICS_MOMENTUM
            self.covariance.copy_(
                torch.where(n > 0, m * self.covariance + (1 - m) * found, self.covariance)
            )
        means, _ = class_means(standard, labels, self.n_classes, used)
        prototypes.copy_(track(prototypes, means, counts, momentum))

    def training_prior(self) -> list[float]:
        """(C,) share of each class in the classification loss; sums to 1."""
        labels = self.pool.labels
        drawn = (
            torch.bincount(labels, minlength=self.n_classes).tolist()
            if len(labels)
            else [0] * self.n_classes
        )
        return training_prior(self.config, self.n_images, drawn)

    def weigh(self) -> None:
        """Weights and logit adjustment as the pool that there is asks for them."""
        config, n_real, n_generated = self.config, sum(self.n_images), len(self.pool.labels)
        self.shares.copy_(torch.tensor(shares(config, n_real, n_generated)))
        self.n_per_image.fill_((n_real + n_generated) / n_real)
        self.adjustment.copy_(
            logit_adjustment(torch.tensor(self.training_prior()), config.losses.logit_adjustment)
        )

    def refresh_pool(self, epoch: int) -> None:
        """Draw all generated latents anew."""
        counts = quota(self.config.generation.quota, self.class_counts)
        gen = generator(self.seed, "generation", epoch, self.device)
        if self.covariance is not None:
            self.pool = draw_gaussian(self.geometry.prototypes, self.covariance, counts, gen)
        else:
            self.pool = draw(
                self.denoiser, self.config.diffusion, self.config.generation, self.levels, counts, self.n_latents, gen, self.farthest
            )  # fmt: skip
        self.weigh()

    def generated_batch(self, size: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, D) generated latents in the encoder's coordinates, (B,) labels."""
        chosen = torch.randint(len(self.pool.labels), (size,), generator=gen, device=self.device)
        return self.destandardise(self.pool.latents[chosen]), self.pool.labels[chosen]

    def set_rates(self, rates: Mapping[str, float]) -> None:
        for name, lr in rates.items():
            set_rate(self.optimisers[name], lr)
        if "consistency" in self.optimisers:
            set_rate(self.optimisers["consistency"], rates["head"])

    def state(self, without: Collection[str] = ()) -> State:
        """All that changes, modules named in `without` aside, and without the denoiser the coordinates that it works in."""
        modules = {name: getattr(self, name) for name in self.optimisers if name not in without}
        thaw = torch.tensor(self.diffusion_loss_at_thaw, dtype=torch.float64)
        state = {"diffusion_loss_at_thaw": thaw}
        if "denoiser" in modules:
            state |= {"mean": self.mean, "std": self.std} | {
                f"geometry.{name}": tensor for name, tensor in self.geometry._asdict().items()
            }
        if "denoiser" in modules and self.covariance is not None:
            state["covariance"] = self.covariance
        state |= {f"pool.{name}": tensor for name, tensor in self.pool._asdict().items()}
        for name, module in modules.items():
            state |= module_state(name, module) | optimiser_state(
                f"optim.{name}", self.optimisers[name]
            )
        return state if self.average is None else state | module_state("average", self.average)

    def load(self, state: State) -> None:
        """Before any step is recorded: a recording keeps to the tensors that it has met."""
        self.diffusion_loss_at_thaw = float(state["diffusion_loss_at_thaw"])
        if "mean" in state:
            self.mean, self.std = state["mean"].to(self.device), state["std"].to(self.device)
            self.geometry = Geometry(
                **{k: v.to(self.device) for k, v in part("geometry", state).items()}
            )
        if (
            self.covariance is not None and "covariance" in state
        ):  # arms share a warm-up, some without one
            self.covariance = state["covariance"].to(self.device)
        self.pool = Pool(**{k: v.to(self.device) for k, v in part("pool", state).items()})
        self.weigh()
        if part("average", state) or part("consistency", state):
            self.thaw()
        for name, optimiser in self.optimisers.items():
            if part(name, state):  # a module that no epoch has trained yet is not in the checkpoint
                load_module(name, getattr(self, name), state)
            load_optimiser(f"optim.{name}", optimiser, state)
        if self.average is not None:
            load_module("average", self.average, state)
