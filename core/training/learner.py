"""What changes while Strategy A trains: modules, optimisers, statistics, prototypes, pool."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from core.config.schema import Config
from core.device.forward import Forward
from core.device.repeated import Recorder, Repeated, cuda_graph
from core.method.diffusion import alpha_bars
from core.method.geometry import (
    class_means,
    distances,
    mean_over,
    track,
    unbiased_radii,
    within_class_covariance,
)
from core.method.groups import MANY_ABOVE
from core.method.losses import Geometry, Semantic, Weights, logit_adjustment, semantic_loss
from core.networks.denoisers import build_denoiser
from core.networks.encoders import Encoder
from core.networks.heads import build_head
from core.randomness import generator, initialised
from core.training.averaging import Average
from core.training.pool import Pool, draw, draw_gaussian
from core.training.priors import quota, shares, training_prior
from core.training.state import (
    State,
    build_optimiser,
    load_optimiser,
    module_state,
    nested,
    optimiser_state,
    part,
    set_rate,
)
from core.training.views import Consistency

# Per batch, of the latents' mean and standard deviation once the encoder thaws.
STATISTICS_MOMENTUM = 0.99


class Learner:
    """The trainable state of a trial after pre-training, and the steps that all its phases share.

    Tensors are changed in place: a recorded step (`core.device.repeated`) keeps to those that it
    has met.
    """

    # Set by `start`, in the latents' coordinates: (D,) what `standardise` subtracts and divides by.
    mean: Tensor
    std: Tensor
    geometry: Geometry
    # the largest standardised coordinate of a real latent
    farthest: float
    # whether latents have none below 0, as after a last ReLU
    is_nonnegative: bool

    def __init__(
        self,
        config: Config,
        seed: int,
        encoder: Encoder,
        pretrained_head: Mapping[str, Tensor],
        class_counts: Tensor,
    ):
        self.config, self.seed, self.device = config, seed, config.device
        # (C,)
        self.class_counts = class_counts.to(self.device)
        # the same, as plain numbers
        self.n_images: list[int] = class_counts.tolist()
        self.n_classes, self.n_latents = len(class_counts), encoder.n_latents
        sizes = self.n_latents, self.n_classes
        head, denoiser = config.head, config.denoiser
        self.encoder, self.forward = encoder, Forward(encoder, config)
        self.head = initialised(
            lambda: build_head(head.name, *sizes, head.initial_scale, head.trainable_scale),
            seed,
            f"head {head.name}",
        ).to(self.device)
        if head.start == "pretrained":
            self.head.load_state_dict(dict(pretrained_head))
        self.denoiser = initialised(
            lambda: build_denoiser(denoiser.name, *sizes, denoiser.width, denoiser.blocks),
            seed,
            f"denoiser {denoiser.name}",
        ).to(self.device)
        # Made when the encoder thaws.
        self.average: Average | None = None
        self.consistency: Consistency | None = None
        self.optimisers = {
            name: build_optimiser(
                config.optim.of(name),
                getattr(self, name).parameters(),
                getattr(config.optim.lr, name),
            )
            for name in ("encoder", "head", "denoiser")
        }
        self.levels = alpha_bars(config.diffusion.schedule, config.diffusion.steps).to(self.device)

        # (C,) classes to borrow from: with many images, or all
        self.many = self.class_counts > MANY_ABOVE
        if max(self.n_images) <= MANY_ABOVE:
            self.many = torch.ones_like(self.many)
        # (C,) classes whose mean radius is the common one
        everyone = torch.ones_like(self.many)
        self.exemplary = self.many if config.losses.radius_from == "many" else everyone
        # (D, D) within the classes with many images, where the pool is drawn by it
        self.covariance: Tensor | None = None

        self.pool = Pool.empty(self.n_latents, self.device)
        # What depends on the pool: (C,) added to training logits; weights of the mean losses of
        # real and of generated latents; training images and pool, per training image.
        self.adjustment = torch.zeros(self.n_classes, device=self.device)
        self.shares = torch.zeros(2, device=self.device)
        self.n_per_image = torch.ones((), device=self.device)
        self.weigh()

        # of the last warm-up epoch so far
        self.diffusion_loss_at_thaw = float("nan")
        # In which joint batches pass through the encoder; set before any step is recorded.
        self.n_chunks = 1
        self.record: Recorder | None = cuda_graph if self.device == "cuda" else None
        self._repeated: dict[Callable[..., Any], Repeated] = {}

    def start(self, latents: Tensor, labels: Tensor, views: Tensor | None = None) -> None:
        """Take statistics, prototypes and radii from the pretrained latents (N, D) of the images.

        views: (N, D) latents of strongly augmented views of them, if radii are to be those of
        these.
        """
        # (x - 0.5) / 0.5 = 2x - 1
        if self.config.diffusion.scaling == "unit":
            self.mean, self.std = torch.full_like(latents[0], 0.5), torch.full_like(latents[0], 0.5)
        else:
            self.mean, self.std = latents.mean(0), latents.std(0).clamp(min=1e-6)
        self.is_nonnegative = bool((latents >= 0).all())
        standard = self.standardise(latents)
        self.farthest = float(standard.abs().max())
        prototypes, _ = class_means(standard, labels, self.n_classes)
        if self.config.draws_gaussian:
            covariance, n = within_class_covariance(standard, labels, prototypes, self.many)
            self.covariance = covariance * (n / (n - self.many.sum()).clamp(min=1))
        seen, means = standard, prototypes
        if views is not None:
            seen = self.standardise(views)
            means, _ = class_means(seen, labels, self.n_classes)
        radii, _ = class_means(distances(seen, labels, means), labels, self.n_classes)
        radii = unbiased_radii(radii, self.class_counts)
        self.geometry = Geometry(prototypes, radii, radii.clone())

    def thaw(self) -> None:
        """Make what joint epochs alone have, before any of their steps is recorded."""
        optim = self.config.optim
        if optim.ema and self.average is None:
            self.average = Average(self.encoder, self.head)
        if self.config.losses.consistency and self.consistency is None:
            build = functools.partial(Consistency, self.n_latents)
            self.consistency = initialised(build, self.seed, "consistency").to(self.device)
            self.optimisers["consistency"] = build_optimiser(
                optim.of("head"),
                self.consistency.parameters(),
                float(self.optimisers["head"].param_groups[0]["lr"]),
            )

    def standardise(self, latents: Tensor) -> Tensor:
        """(..., D) in the denoiser's coordinates."""
        return (latents - self.mean) / self.std

    def destandardise(self, generated: Tensor) -> Tensor:
        """(..., D) generated latents in the encoder's coordinates, and in its range."""
        latents = generated * self.std + self.mean
        return latents.clamp(min=0) if self.is_nonnegative else latents

    def repeated(self, step: Callable[..., Any]) -> Repeated:
        """`step` with this learner as first argument, recorded where the device can repeat it."""
        if step not in self._repeated:
            # not the learner itself: a cycle would keep its memory on the device until Python looks
            # for cycles
            self._repeated[step] = Repeated(
                functools.partial(step, weakref.proxy(self)), self.record
            )
        return self._repeated[step]

    def stream(self, purpose: str, epoch: int) -> torch.Generator:
        """The random numbers of one purpose in one epoch; the same for every arm under one seed."""
        return generator(self.seed, purpose, epoch, self.device)

    def draw_noise(self, n: int, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps (n,) and standard normal noise (n, D)."""
        t = torch.randint(len(self.levels), (n,), generator=gen, device=self.device)
        return t, torch.randn(n, self.n_latents, generator=gen, device=self.device)

    def semantic(
        self, standard: Tensor, labels: Tensor, t: Tensor, noise: Tensor, used: Tensor | None = None
    ) -> Semantic:
        """The semantic loss of standardised latents (B, D) under noise (B, D) at steps t (B,).

        used: (B,) 0 or 1, the samples that count; None: all.
        """
        diffusion, losses = self.config.diffusion, self.config.losses
        return semantic_loss(
            self.denoiser,
            diffusion.objective,
            diffusion.weighting,
            standard,
            labels,
            self.levels[t][:, None],
            t,
            noise,
            self.geometry,
            Weights(losses.prototype, losses.radius, losses.momentum),
            self.common_radius(),
            used,
        )

    def common_radius(self) -> Tensor:
        """The mean radius () of the exemplary classes."""
        return (self.geometry.radii * self.exemplary).sum() / self.exemplary.sum()

    @torch.no_grad()
    def track_estimates(self, semantic: Semantic) -> None:
        """Follow the radii of the denoiser's estimates."""
        if semantic.estimate_means is not None:
            tracked = self.geometry.estimate_radii
            tracked.copy_(track(tracked, *semantic.estimate_means, self.config.losses.momentum))

    @torch.no_grad()
    def track_latents(self, latents: Tensor, labels: Tensor, used: Tensor | None = None) -> None:
        """Track statistics, prototypes and radii of a moving encoder. latents: (B, D), no gradient.

        used: (B,) 0 or 1, the samples that count; None: all. Without one, all stays as it is.
        """
        if self.config.diffusion.scaling == "standardised":
            m = STATISTICS_MOMENTUM if used is None else 1 - (1 - STATISTICS_MOMENTUM) * used.amax()
            self.mean.copy_(m * self.mean + (1 - m) * mean_over(latents, used))
            variance = mean_over((latents - self.mean).square(), used)
            self.std.copy_((m * self.std.square() + (1 - m) * variance).sqrt().clamp(min=1e-6))
        standard, momentum = self.standardise(latents), self.config.losses.momentum
        prototypes, radii = self.geometry.prototypes, self.geometry.radii
        # From the prototypes as they were: one that has taken in the batch is nearer to it, most of
        # all to a class's only sample, of which it has taken a tenth.
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
        drawn = [0] * self.n_classes
        if len(labels):
            drawn = torch.bincount(labels, minlength=self.n_classes).tolist()
        return training_prior(self.config, self.n_images, drawn)

    def weigh(self) -> None:
        """Set weights and logit adjustment as the pool asks for them."""
        config, n_real, n_generated = self.config, sum(self.n_images), len(self.pool.labels)
        self.shares.copy_(torch.tensor(shares(config, n_real, n_generated)))
        self.n_per_image.fill_((n_real + n_generated) / n_real)
        prior = torch.tensor(self.training_prior())
        self.adjustment.copy_(logit_adjustment(prior, config.losses.logit_adjustment))

    def refresh_pool(self, epoch: int) -> None:
        """Draw all generated latents anew."""
        config = self.config
        counts = torch.tensor(quota(config.generation.quota, self.n_images))
        gen = self.stream("generation", epoch)
        if self.covariance is not None:
            self.pool = draw_gaussian(self.geometry.prototypes, self.covariance, counts, gen)
        else:
            self.pool = draw(
                self.denoiser,
                config.diffusion,
                config.generation,
                self.levels,
                counts,
                self.n_latents,
                gen,
                self.farthest,
            )
        self.weigh()

    def generated_batch(self, gen: torch.Generator) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """(G, D) generated latents in the encoder's coordinates, (G,) labels.

        None while nothing has been generated, or nothing is to be learned from it.
        """
        n, config = len(self.pool.labels), self.config
        if n == 0 or config.losses.generated == 0:
            return None, None
        size = config.generation.batch_size or config.batch_size
        chosen = torch.randint(n, (size,), generator=gen, device=self.device)
        return self.destandardise(self.pool.latents[chosen]), self.pool.labels[chosen]

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the learning rates of an epoch; the consistency loss trains at the head's."""
        for name, optimiser in self.optimisers.items():
            rate = rates.get("head" if name == "consistency" else name)
            if rate is not None:
                set_rate(optimiser, rate)

    def state(self, without: Collection[str] = ()) -> State:
        """Return all that changes, without some modules.

        Without the denoiser, the coordinates that it works in are left out, too.
        """
        state = {
            "diffusion_loss_at_thaw": torch.tensor(self.diffusion_loss_at_thaw, dtype=torch.float64)
        }
        if "denoiser" not in without:
            state |= {"mean": self.mean, "std": self.std} | nested("geometry", self.geometry)
            if self.covariance is not None:
                state["covariance"] = self.covariance
        state |= nested("pool", self.pool)
        for name, optimiser in self.optimisers.items():
            if name not in without:
                state |= module_state(name, getattr(self, name))
                state |= optimiser_state(f"optim.{name}", optimiser)
        return state if self.average is None else state | module_state("average", self.average)

    def load(self, state: State) -> None:
        """Before any step is recorded: a recording keeps to the tensors that it has met."""
        state = {name: tensor.to(self.device) for name, tensor in state.items()}
        self.diffusion_loss_at_thaw = float(state["diffusion_loss_at_thaw"])
        if "mean" in state:
            self.mean, self.std = state["mean"], state["std"]
            self.geometry = Geometry(**part("geometry", state))
        # Arms share a warm-up, some without a covariance.
        if self.covariance is not None and "covariance" in state:
            self.covariance = state["covariance"]
        self.pool = Pool(**part("pool", state))
        self.weigh()
        if part("average", state) or part("consistency", state):
            self.thaw()
        for name, optimiser in self.optimisers.items():
            # A module that no epoch has trained yet is not in the checkpoint.
            if weights := part(name, state):
                getattr(self, name).load_state_dict(weights)
            load_optimiser(f"optim.{name}", optimiser, state)
        if self.average is not None:
            self.average.load_state_dict(part("average", state))
