"""The configuration of a trial: frozen, nested, typed; the one place for defaults. No torch.

The comment before a setting says what it means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def limited(default: T, **limits: float) -> T:
    """A number with limits: any of `minimum`, `above`, `maximum` and `below`."""
    return field(default=default, metadata=limits)


Augmentation = Literal["none", "crop", "crop-flip", "medium", "strong"]

Encoders = Literal[
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "small-cnn",
    "torchvision-resnet18",
    "torchvision-resnet34",
    "torchvision-resnet50",
]
Optimiser = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class Data:
    """Where the images come from, and what is made of them before training."""

    # where the images come from
    source: Literal["digits", "folder", "cifar10", "cifar100"] = "digits"
    # folder or .tar.gz archive holding train/<class>/* and test/<class>/*; for cifar10 and cifar100
    # torchvision's root folder. A relative path is looked for below ABLATE_DATA, then below the
    # working directory
    path: str | None = None
    # let torchvision download cifar10 or cifar100
    download: bool = False
    # n_max / n_min of the exponential profile; none: the counts are what the files hold
    imbalance_factor: float | None = limited(None, minimum=1)
    # images of the largest class; none: all it has
    n_max: int | None = limited(None, minimum=1)
    # test images per class that are set aside (digits only)
    n_test: int = limited(50, minimum=1)
    # share of every class's training images, one at least, that is held out and stands in for the
    # test set, which is then not looked at: for tuning, with an encoder that has not been trained
    # on them. Metrics are then called validation/* and not test/*
    validation: float = limited(0.0, minimum=0, maximum=0.9)
    # which images are drawn where the settings ask for fewer than there are (the long tail, the
    # test images of digits, the validation images): the same for all seeds, or anew for each seed;
    # either way the same for all arms of a seed
    split: Literal["fixed", "seed"] = "fixed"
    # order in which the files of `folder` hold their channels; digits are gray, and cifar10 and
    # cifar100 rgb
    channels: Literal["rgb", "bgr", "gray"] = "rgb"
    # swap red and blue on loading
    flip_channels: bool = False
    # random crop after zero padding, horizontal flip; medium and strong: then one of
    # TrivialAugment's operations, medium by its milder ranges (RA), strong by its wide ones, and
    # Cutout
    augmentation: Augmentation = "crop-flip"
    # pixels of padding of the random crop
    padding: int = limited(4, minimum=0)
    # per channel, of images in [0, 1]; one value serves all channels
    mean: tuple[float, ...] = (0.5,)
    # per channel, of images in [0, 1]; one value serves all channels
    std: tuple[float, ...] = limited((0.5,), above=0)
    # images are resized to size x size pixels on loading; none: they must all have one size
    size: int | None = limited(None, minimum=1)

    @property
    def held_channels(self) -> str:
        """The order of the source's channels: of `folder` alone, what `channels` says."""
        known = {"digits": "gray", "cifar10": "rgb", "cifar100": "rgb"}
        return known.get(self.source, self.channels)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The parts whose images are drawn from more: any of training, validation and test."""
        has_profile = self.imbalance_factor is not None or self.n_max is not None
        is_drawn = {
            "training": has_profile or self.validation > 0 or self.source == "digits",
            "validation": self.validation > 0,
            # with validation images there is no test
            "test": self.source == "digits" and not self.validation,
        }
        return tuple(part for part, holds in is_drawn.items() if holds)

    @property
    def required_path(self) -> str:
        """The path of a source that needs one; settings without it are a fault."""
        if self.path is None:
            raise ValueError(f"source '{self.source}' needs data.path")
        return self.path


@dataclass(frozen=True)
class Encoder:
    """The network from images to latents, and where its weights come from."""

    # architecture
    name: Encoders = "resnet32"
    # pretrained weights: .safetensors, or a PyTorch file that weights_only can load; found as
    # data.path is
    checkpoint: str | None = None
    # channel order the checkpoint was trained on; required with a checkpoint
    channels: Literal["rgb", "bgr", "gray"] | None = None


@dataclass(frozen=True)
class Pretraining:
    """Cross-entropy with a linear head by SGD, when there is no checkpoint."""

    # epochs of pre-training; not used with a checkpoint
    epochs: int = limited(200, minimum=0)
    # learning rate
    lr: float = limited(0.1, above=0)
    # momentum of SGD
    momentum: float = limited(0.9, minimum=0, maximum=1)
    # weight decay
    weight_decay: float = limited(5e-4, minimum=0)
    # images per step
    batch_size: int = limited(128, minimum=2)
    # learning rate over the epochs
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    # epochs after which `step` divides the rate by ten
    milestones: tuple[int, ...] = (100, 150)
    # alpha of mixup's Beta distribution; 0: no mixup
    mixup: float = limited(0.0, minimum=0)
    # as data.augmentation, of pre-training alone; none given: data.augmentation
    augmentation: Augmentation | None = None


@dataclass(frozen=True)
class Head:
    """The classifier on the latents."""

    # classifier on the latents
    name: Literal["linear", "cosine", "wcdas"] = "wcdas"
    # factor on cosine or WCDAS logits (initial value if trainable); none: 30 for cosine, and for
    # wcdas softplus(0) + 1 = 1.693, where its authors start
    scale: float | None = limited(None, above=1)
    # train the scale: softplus(raw) + 1
    trainable_scale: bool = True
    # initial weights; pretrained: the linear head of the pre-training
    start: Literal["random", "pretrained"] = "random"

    @property
    def initial_scale(self) -> float:
        """The scale where training starts."""
        if self.scale is not None:
            return self.scale
        return 30.0 if self.name == "cosine" else math.log(2) + 1


@dataclass(frozen=True)
class Denoiser:
    """The network of the diffusion model."""

    # residual MLP with adaptive layer norm, or LDMLR's 1-D U-Net
    name: Literal["mlp", "unet1d"] = "mlp"
    # hidden width of the MLP
    width: int = limited(256, minimum=8)
    # residual blocks of the MLP
    blocks: int = limited(3, minimum=1)


@dataclass(frozen=True)
class Diffusion:
    """The diffusion model of the latents."""

    # timesteps T
    steps: int = limited(1000, minimum=2)
    # noise schedule
    schedule: Literal["cosine", "linear"] = "cosine"
    # what the denoiser predicts
    objective: Literal["x0", "noise", "v"] = "x0"
    # weight of the timesteps in the loss
    weighting: Literal["uniform", "snr"] = "uniform"
    # latents as the denoiser meets them: standardised per dimension, or mapped x -> 2x - 1 as if
    # they lay in [0, 1], and x0 estimates clamped to [-1, 1] when generating
    scaling: Literal["standardised", "unit"] = "standardised"


@dataclass(frozen=True)
class LearningRates:
    """Learning rate of each module; `optim.schedule` says how it changes."""

    # learning rate of the encoder once it thaws
    encoder: float = limited(1e-5, minimum=0)
    # learning rate of the head
    head: float = limited(1e-3, minimum=0)
    # learning rate of the denoiser
    denoiser: float = limited(1e-3, minimum=0)


@dataclass(frozen=True)
class Optim:
    """How the modules are trained after the pre-training."""

    # optimiser of every module
    name: Optimiser = "adam"
    # optimiser of the encoder; none: optim.name
    encoder_name: Optimiser | None = None
    # optimiser of the head; none: optim.name
    head_name: Optimiser | None = None
    # optimiser of the denoiser; none: optim.name
    denoiser_name: Optimiser | None = None
    lr: LearningRates = LearningRates()
    # weight decay (L2 for adam and sgd, decoupled for adamw)
    weight_decay: float = limited(0.0, minimum=0)
    # weight decay of the encoder; none: optim.weight_decay
    encoder_weight_decay: float | None = limited(None, minimum=0)
    # weight decay of the head; none: optim.weight_decay
    head_weight_decay: float | None = limited(None, minimum=0)
    # momentum of sgd
    momentum: float = limited(0.9, minimum=0, maximum=1)
    # Nesterov's momentum, for sgd
    nesterov: bool = False
    # largest norm of a module's gradient after the pre-training; a larger one is scaled down to it
    clip: float | None = limited(None, above=0)
    # epochs after the thaw over which the encoder's rate rises linearly to that of the schedule
    ramp_epochs: int = limited(0, minimum=0)
    # learning rates over the epochs, down to 0 for cosine
    schedule: Literal["constant", "cosine"] = "constant"
    # decay per step of a moving average of the weights of encoder and head, in joint epochs from
    # the first on; evaluated beside them, as test/top1_ema and others; 0: no average
    ema: float = limited(0.0, minimum=0, below=1)
    # rho of sharpness-aware minimisation (Foret et al. 2021), of encoder and head in joint epochs:
    # their step is made with the gradient at weights that the first gradient has moved by rho; the
    # encoder is walked twice; 0: off
    sam: float = limited(0.0, minimum=0)

    def of(self, module: str) -> Optim:
        """As it holds for one module: encoder, head or denoiser."""
        name = getattr(self, f"{module}_name")
        # the denoiser has no weight decay of its own
        weight_decay = getattr(self, f"{module}_weight_decay", None)
        return replace(
            self,
            name=name or self.name,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
        )


@dataclass(frozen=True)
class Plateau:
    """Ends the warm-up when the diffusion loss has stopped improving."""

    # epochs whose mean loss is compared with the mean of as many epochs before
    window: int = limited(5, minimum=1)
    # least relative improvement that counts
    tolerance: float = limited(0.01, minimum=0)
    # warm-up lasts at least so long
    min_epochs: int = limited(5, minimum=1)
    # and at most this share of the epochs
    max_fraction: float = limited(0.5, above=0, maximum=1)

    @property
    def shortest(self) -> int:
        """Epochs before which it is not looked for."""
        return max(self.min_epochs, 2 * self.window)


@dataclass(frozen=True)
class Warmup:
    """How long the encoder stays frozen: one of three; setting one unsets the others."""

    # epochs
    epochs: int | None = limited(None, minimum=0)
    # share of the epochs
    fraction: float | None = limited(0.25, minimum=0, maximum=1)
    # until the diffusion loss settles
    plateau: Plateau | None = None


@dataclass(frozen=True)
class Losses:
    """Weights; 0 switches a term off."""

    # weight of a real latent in the classification loss
    real: float = limited(1.0, minimum=0)
    # diffusion, prototype and radius terms together
    semantic: float = limited(1.0, minimum=0)
    # weight of a generated latent in the classification loss where that of a real one is
    # losses.real: at 1, the loss is the mean over training images and pool together
    generated: float = limited(1.0, minimum=0)
    # distance of real latents to their class prototype (eta_p), within semantic
    prototype: float = limited(0.1, minimum=0)
    # equal-radius constraint (eta_r), within semantic
    radius: float = limited(0.1, minimum=0)
    # of the moving averages of prototypes and radii, per batch
    momentum: float = limited(0.9, minimum=0, maximum=1)
    # tau: heads are trained with tau log(prior) added to their logits (Menon et al. 2021); the
    # prior is that of training images and pool together
    logit_adjustment: float = limited(0.0, minimum=0)
    # where the common radius comes from: the latents of all classes' training images, which an
    # encoder that has memorised the tail puts too near to each other; strongly augmented views of
    # them, until the encoder thaws and its batches tell; or the images of classes with more than
    # 100 of them
    radius_from: Literal["images", "views", "many"] = "images"
    # two views of each image in joint epochs, by mixup and CutMix where mixup is above 0, else two
    # augmentations: weight of the loss that asks for the same projection of both (GLMC, Du et al.
    # 2023); the classification loss is then the mean over the views
    consistency: float = limited(0.0, minimum=0)


@dataclass(frozen=True)
class Generation:
    """The pool of generated latents: how many, how, and how often."""

    # latents per class: max(round(0.2 n_c), 5), or n_max - n_c
    quota: Literal["ldmlr", "balance"] = "balance"
    # epochs between refreshes of the pool
    every: int = limited(5, minimum=1)
    # deterministic, or ancestral over all timesteps; gaussian: no diffusion model, but a normal
    # distribution around every class's mean, with the covariance that classes of more than 100
    # images have within them
    method: Literal["ddim", "ddpm", "gaussian"] = "ddim"
    # timesteps of ddim
    steps: int = limited(50, minimum=1)
    # generated latents per step; none: as many as real ones
    batch_size: int | None = limited(None, minimum=1)


@dataclass(frozen=True)
class Encoding:
    """How the training images become the latents of a staged baseline.

    Test images are always encoded by the network as it is, in eval mode; LDMLR's code encodes
    training images with all three switched.
    """

    # what batch normalisation normalises by: its running statistics (eval mode), or those of
    # shuffled batches of 64 (train mode)
    statistics: Literal["running", "batch"] = "running"
    # augment the images as data.augmentation says, one draw an image
    augmented: bool = False
    # off: leave out the ReLU that follows the encoder's first batch normalisation
    first_relu: bool = True


@dataclass(frozen=True)
class Staged:
    """The staged baselines (LDMLR): diffusion on frozen latents, then the head alone."""

    # train the diffusion model and add generated latents
    generation: bool = True
    # class-balanced batches draw every class alike
    batching: Literal["natural", "balanced"] = "natural"
    # epochs of diffusion; none: as many as the joint arms train
    diffusion_epochs: int | None = limited(None, minimum=1)
    # epochs of head training; none: as many as the joint arms train
    head_epochs: int | None = limited(None, minimum=1)
    # latents per step of head training; none: batch_size
    head_batch_size: int | None = limited(None, minimum=2)
    encoding: Encoding = Encoding()


@dataclass(frozen=True)
class Config:
    """All settings of a trial."""

    # Strategy A, the staged baseline, the pretrained network as it is, or that with the log of the
    # class prior subtracted from its logits
    method: Literal["joint", "staged", "ce", "ce-adjusted"] = "joint"
    # epochs, warm-up included, pre-training not
    epochs: int = limited(400, minimum=1)
    # images per step
    batch_size: int = limited(128, minimum=2)
    # epochs between evaluations on the test set; the last epoch always is
    evaluate_every: int = limited(1, minimum=1)
    # epochs between measurements of each loss's gradient by itself, at encoder and head, on the
    # first tenth of an epoch's batches; the last epoch always measures
    measure_gradients_every: int = limited(10, minimum=1)
    # off: the encoder stays frozen throughout
    end_to_end: bool = True
    # which losses reach the encoder; alternating: two steps a batch, with the gradients of the
    # classification loss, then with those of the semantic loss
    routing: Literal["summed", "decoupled", "alternating", "stopgrad", "pcgrad"] = "decoupled"
    # images of warm-up and joint batches: each once an epoch, or every class alike
    batching: Literal["natural", "balanced"] = "natural"
    # alpha of mixup's Beta distribution, in joint epochs, a share for each image; the semantic loss
    # and what is followed of classes and latents take an image only if at least 95 % of it is one
    # image; 0: no mixup
    mixup: float = limited(0.0, minimum=0)
    # latents of joint batches, for the semantic loss: by moving averages, or by their own mean and
    # deviation, so that the loss cannot fall by shrinking them
    standardisation: Literal["tracked", "batch"] = "tracked"
    # running statistics and batch statistics of the thawed encoder, or the frozen ones
    batchnorm: Literal["updating", "frozen"] = "updating"
    # where to compute
    device: Literal["cpu", "cuda"] = "cpu"
    # bfloat16: autocast of the encoder, for GPUs and for CPUs that have it (AVX512-BF16, AMX)
    precision: Literal["float32", "bfloat16"] = "float32"
    # compile the encoder's pass in training (torch.compile; a minute or more, once on a machine);
    # for GPUs, where there is a C++ compiler
    compile: bool = False
    # CPU threads of a trial; sums depend on it
    threads: int = limited(1, minimum=1)
    data: Data = Data()
    encoder: Encoder = Encoder()
    pretraining: Pretraining = Pretraining()
    head: Head = Head()
    denoiser: Denoiser = Denoiser()
    diffusion: Diffusion = Diffusion()
    optim: Optim = Optim()
    warmup: Warmup = Warmup()
    losses: Losses = Losses()
    generation: Generation = Generation()
    staged: Staged = Staged()

    @property
    def diffusion_epochs(self) -> int:
        """Epochs of diffusion of a staged trial; 0 without a diffusion model."""
        if not self.staged.generation or self.generation.method == "gaussian":
            return 0
        return self.staged.diffusion_epochs or self.epochs

    @property
    def draws_gaussian(self) -> bool:
        """Whether a pool is drawn from normal distributions."""
        draws = self.staged.generation if self.method == "staged" else self.losses.generated > 0
        return draws and self.generation.method == "gaussian"

    @property
    def head_epochs(self) -> int:
        """Epochs of head training of a staged trial."""
        return self.staged.head_epochs or self.epochs

    @property
    def head_batch_size(self) -> int:
        """Latents per step of head training of a staged trial."""
        return self.staged.head_batch_size or self.batch_size

    @property
    def pretraining_augmentation(self) -> Augmentation:
        """The augmentation of the pre-training."""
        return self.pretraining.augmentation or self.data.augmentation

    @property
    def pretraining_epochs(self) -> int:
        """Epochs of pre-training; 0 with a checkpoint."""
        return 0 if self.encoder.checkpoint else self.pretraining.epochs

    @property
    def longest_warmup(self) -> int:
        """Epochs of warm-up; for a plateau, the most it may last."""
        warmup = self.warmup
        if not self.end_to_end:
            return self.epochs
        if warmup.epochs is not None:
            return warmup.epochs
        plateau = warmup.plateau
        if warmup.fraction is None and plateau is not None:
            return max(plateau.min_epochs, self._share_of_epochs(plateau.max_fraction))
        return self._share_of_epochs(warmup.fraction or 0.0)

    def _share_of_epochs(self, fraction: float) -> int:
        # 0.29 * 100 is 28.999999999999996
        return math.floor(fraction * self.epochs + 1e-9)


ALTERNATIVES = {"warmup": ("epochs", "fraction", "plateau")}
"""Sections of which one key is set: setting it unsets the others."""

_STAGED = {"method": "staged", "head.name": "linear", "head.start": "pretrained"}
_BALANCED_HEAD = _STAGED | {
    "staged.generation": False,
    "staged.batching": "balanced",
    "losses.logit_adjustment": 0.0,
}
_ORIGINAL_ENCODING = {
    "staged.encoding.statistics": "batch",
    "staged.encoding.augmented": True,
    "staged.encoding.first_relu": False,
}

BASELINES: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "ce-adjusted": {"method": "ce-adjusted"},
    "ldmlr": _STAGED | {"generation.quota": "ldmlr"},
    "ldmlr-gaussian": _STAGED | {"generation.quota": "ldmlr", "generation.method": "gaussian"},
    "ldmlr-no-generation": _STAGED | {"staged.generation": False},
    "frozen-encoder": {"method": "joint", "end_to_end": False},
    "balanced-head": _BALANCED_HEAD,
    "balanced-head-original-encoding": _BALANCED_HEAD | _ORIGINAL_ENCODING,
    "ldmlr-original": _ORIGINAL_ENCODING
    | _STAGED
    | {
        "denoiser.name": "unet1d",
        "diffusion.steps": 1000,
        "diffusion.schedule": "cosine",
        "diffusion.objective": "x0",
        "diffusion.weighting": "snr",
        "diffusion.scaling": "unit",
        "optim.name": "adam",
        "optim.head_name": "adam",
        "optim.lr.head": 1e-3,
        "optim.weight_decay": 0.0,
        "optim.head_weight_decay": 1e-5,
        "optim.schedule": "constant",
        "optim.denoiser_name": "sgd",
        "optim.lr.denoiser": 1e-4,
        "optim.momentum": 0.0,
        "optim.nesterov": False,
        "optim.clip": None,
        "losses.logit_adjustment": 0.0,
        "batch_size": 256,
        "staged.diffusion_epochs": 201,
        "staged.head_batch_size": 1024,
        "staged.head_epochs": 400,
        "staged.generation": True,
        "staged.batching": "natural",
        "generation.quota": "ldmlr",
        "generation.method": "ddpm",
    },
}
"""What a grid may name under `baselines`: settings on top of the experiment's. `ldmlr` is repaired;
`ldmlr-gaussian` draws its latents from normal distributions, without a diffusion model;
`ldmlr-original` is what the code of Han et al. 2024 does, and so names even what is our default."""
