"""The configuration of a trial: frozen, nested, typed; the one place for defaults. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal


def setting(default: Any, help: str, **limits: float) -> Any:
    """A config field with its help text and, for numbers, `minimum` / `above` / `maximum` / `below`."""
    return field(default=default, metadata={"help": help, **limits})


def section(cls: type) -> Any:
    return field(default_factory=cls)


Augmentation = Literal["none", "crop", "crop-flip", "strong"]

Encoders = Literal[
    "resnet20", "resnet32", "resnet44", "resnet56", "small-cnn",
    "torchvision-resnet18", "torchvision-resnet34", "torchvision-resnet50",
]  # fmt: skip


Optimiser = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class Data:
    source: Literal["digits", "folder", "cifar10", "cifar100"] = setting(
        "digits", "where the images come from"
    )
    path: str | None = setting(
        None,
        "folder or .tar.gz archive holding train/<class>/* and test/<class>/*; for cifar10 and cifar100 torchvision's root folder. A relative path is looked for below ABLATE_DATA, then below the working directory",
    )
    download: bool = setting(False, "let torchvision download cifar10 or cifar100")
    imbalance_factor: float | None = setting(
        None,
        "n_max / n_min of the exponential profile; none: the counts are what the files hold",
        minimum=1,
    )
    n_max: int | None = setting(None, "images of the largest class; none: all it has", minimum=1)
    n_test: int = setting(50, "test images per class that are set aside (digits only)", minimum=1)
    validation: float = setting(
        0.0,
        "share of every class's training images, one at least, that is held out and stands in for the test set, which is then not looked at: for tuning, with an encoder that has not been trained on them",
        minimum=0,
        maximum=0.9,
    )
    channels: Literal["rgb", "bgr", "gray"] = setting(
        "rgb", "order in which the files hold their channels"
    )
    flip_channels: bool = setting(False, "swap red and blue on loading")
    augmentation: Augmentation = setting(
        "crop-flip",
        "random crop after zero padding, horizontal flip; strong: then one of TrivialAugment's operations and Cutout",
    )
    padding: int = setting(4, "pixels of padding of the random crop", minimum=0)
    mean: tuple[float, ...] = setting(
        (0.5,), "per channel, of images in [0, 1]; one value serves all channels"
    )
    std: tuple[float, ...] = setting(
        (0.5,), "per channel, of images in [0, 1]; one value serves all channels", above=0
    )
    size: int | None = setting(
        None,
        "images are resized to size x size pixels on loading; none: they must all have one size",
        minimum=1,
    )


@dataclass(frozen=True)
class Encoder:
    name: Encoders = setting("resnet32", "architecture")
    checkpoint: str | None = setting(
        None,
        "pretrained weights: .safetensors, or a PyTorch file that weights_only can load; found as data.path is",
    )
    channels: Literal["rgb", "bgr", "gray"] | None = setting(
        None, "channel order the checkpoint was trained on; required with a checkpoint"
    )


@dataclass(frozen=True)
class Pretraining:
    """Cross-entropy with a linear head by SGD, when there is no checkpoint."""

    epochs: int = setting(200, "epochs of pre-training; not used with a checkpoint", minimum=0)
    lr: float = setting(0.1, "learning rate", above=0)
    momentum: float = setting(0.9, "momentum of SGD", minimum=0, maximum=1)
    weight_decay: float = setting(5e-4, "weight decay", minimum=0)
    batch_size: int = setting(128, "images per step", minimum=2)
    schedule: Literal["cosine", "step", "constant"] = setting(
        "cosine", "learning rate over the epochs"
    )
    milestones: tuple[int, ...] = setting(
        (100, 150), "epochs after which `step` divides the rate by ten"
    )
    mixup: float = setting(0.0, "alpha of mixup's Beta distribution; 0: no mixup", minimum=0)
    augmentation: Augmentation | None = setting(
        None, "as data.augmentation, of pre-training alone; none given: data.augmentation"
    )


@dataclass(frozen=True)
class Head:
    name: Literal["linear", "cosine", "wcdas"] = setting("wcdas", "classifier on the latents")
    scale: float | None = setting(
        None,
        "factor on cosine or WCDAS logits (initial value if trainable); none: 30 for cosine, and for wcdas "
        "softplus(0) + 1 = 1.693, where its authors start",
        above=1,
    )
    trainable_scale: bool = setting(True, "train the scale: softplus(raw) + 1")
    start: Literal["random", "pretrained"] = setting(
        "random", "initial weights; pretrained: the linear head of the pre-training"
    )

    @property
    def initial_scale(self) -> float:
        if self.scale is not None:
            return self.scale
        return 30.0 if self.name == "cosine" else math.log(2) + 1


@dataclass(frozen=True)
class Denoiser:
    name: Literal["mlp", "unet1d"] = setting(
        "mlp", "residual MLP with adaptive layer norm, or LDMLR's 1-D U-Net"
    )
    width: int = setting(256, "hidden width of the MLP", minimum=8)
    blocks: int = setting(3, "residual blocks of the MLP", minimum=1)


@dataclass(frozen=True)
class Diffusion:
    steps: int = setting(1000, "timesteps T", minimum=2)
    schedule: Literal["cosine", "linear"] = setting("cosine", "noise schedule")
    objective: Literal["x0", "noise", "v"] = setting("x0", "what the denoiser predicts")
    weighting: Literal["uniform", "snr"] = setting("uniform", "weight of the timesteps in the loss")
    scaling: Literal["standardised", "unit"] = setting(
        "standardised",
        "latents as the denoiser meets them: standardised per dimension, or mapped x -> 2x - 1 as if they lay in [0, 1], and x0 estimates clamped to [-1, 1] when generating",
    )


@dataclass(frozen=True)
class LearningRates:
    encoder: float = setting(1e-5, "learning rate of the encoder once it thaws", minimum=0)
    head: float = setting(1e-3, "learning rate of the head", minimum=0)
    denoiser: float = setting(1e-3, "learning rate of the denoiser", minimum=0)


@dataclass(frozen=True)
class Optim:
    name: Optimiser = setting("adam", "optimiser of every module")
    encoder_name: Optimiser | None = setting(None, "optimiser of the encoder; none: optim.name")
    head_name: Optimiser | None = setting(None, "optimiser of the head; none: optim.name")
    denoiser_name: Optimiser | None = setting(None, "optimiser of the denoiser; none: optim.name")
    lr: LearningRates = section(LearningRates)
    weight_decay: float = setting(
        0.0, "weight decay (L2 for adam and sgd, decoupled for adamw)", minimum=0
    )
    encoder_weight_decay: float | None = setting(
        None, "weight decay of the encoder; none: optim.weight_decay", minimum=0
    )
    head_weight_decay: float | None = setting(
        None, "weight decay of the head; none: optim.weight_decay", minimum=0
    )
    momentum: float = setting(0.9, "momentum of sgd", minimum=0, maximum=1)
    nesterov: bool = setting(False, "Nesterov's momentum, for sgd")
    clip: float | None = setting(
        None,
        "largest norm of a module's gradient after the pre-training; a larger one is scaled down to it",
        above=0,
    )
    ramp_epochs: int = setting(
        0,
        "epochs after the thaw over which the encoder's rate rises linearly to that of the schedule",
        minimum=0,
    )
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "learning rates over the epochs, down to 0 for cosine"
    )
    ema: float = setting(
        0.0,
        "decay per step of a moving average of the weights of encoder and head, in joint epochs from the first on; evaluated beside them, as test/top1_ema and others; 0: no average",
        minimum=0,
        below=1,
    )
    sam: float = setting(
        0.0,
        "rho of sharpness-aware minimisation (Foret et al. 2021), of encoder and head in joint epochs: their step is made with the gradient at weights that the first gradient has moved by rho; the encoder is walked twice; 0: off",
        minimum=0,
    )

    def of(self, module: str) -> Optim:
        """As it holds for one module: encoder, head or denoiser."""
        name = getattr(self, f"{module}_name")
        weight_decay = getattr(
            self, f"{module}_weight_decay", None
        )  # the denoiser has none of its own
        return replace(
            self,
            name=name or self.name,
            weight_decay=self.weight_decay if weight_decay is None else weight_decay,
        )


@dataclass(frozen=True)
class Plateau:
    """Ends the warm-up when the diffusion loss has stopped improving."""

    window: int = setting(
        5, "epochs whose mean loss is compared with the mean of as many epochs before", minimum=1
    )
    tolerance: float = setting(0.01, "least relative improvement that counts", minimum=0)
    min_epochs: int = setting(5, "warm-up lasts at least so long", minimum=1)
    max_fraction: float = setting(0.5, "and at most this share of the epochs", above=0, maximum=1)

    @property
    def shortest(self) -> int:
        """Epochs before which it is not looked for."""
        return max(self.min_epochs, 2 * self.window)


@dataclass(frozen=True)
class Warmup:
    """How long the encoder stays frozen: one of three; setting one unsets the others."""

    epochs: int | None = setting(None, "epochs", minimum=0)
    fraction: float | None = setting(0.25, "share of the epochs", minimum=0, maximum=1)
    plateau: Plateau | None = setting(None, "until the diffusion loss settles")


@dataclass(frozen=True)
class Losses:
    """Weights; 0 switches a term off."""

    real: float = setting(1.0, "weight of a real latent in the classification loss", minimum=0)
    semantic: float = setting(1.0, "diffusion, prototype and radius terms together", minimum=0)
    generated: float = setting(
        1.0,
        "weight of a generated latent in the classification loss where that of a real one is losses.real: at 1, the loss is the mean over training images and pool together",
        minimum=0,
    )
    prototype: float = setting(
        0.1, "distance of real latents to their class prototype (eta_p), within semantic", minimum=0
    )
    radius: float = setting(0.1, "equal-radius constraint (eta_r), within semantic", minimum=0)
    momentum: float = setting(
        0.9, "of the moving averages of prototypes and radii, per batch", minimum=0, maximum=1
    )
    logit_adjustment: float = setting(
        0.0,
        "tau: heads are trained with tau log(prior) added to their logits (Menon et al. 2021); the prior is that of training images and pool together",
        minimum=0,
    )
    radius_from: Literal["images", "views", "many"] = setting(
        "images",
        "where the common radius comes from: the latents of all classes' training images, which an encoder that has memorised the tail "
        "puts too near to each other; strongly augmented views of them, until the encoder thaws and its batches tell; or the images of "
        "classes with more than 100 of them",
    )
    consistency: float = setting(
        0.0,
        "two views of each image in joint epochs, by mixup and CutMix where mixup is above 0, else two augmentations: weight of the loss "
        "that asks for the same projection of both (GLMC, Du et al. 2023); the classification loss is then the mean over the views",
        minimum=0,
    )


@dataclass(frozen=True)
class Generation:
    quota: Literal["ldmlr", "balance"] = setting(
        "balance", "latents per class: max(round(0.2 n_c), 5), or n_max - n_c"
    )
    every: int = setting(5, "epochs between refreshes of the pool", minimum=1)
    method: Literal["ddim", "ddpm", "gaussian"] = setting(
        "ddim",
        "deterministic, or ancestral over all timesteps; gaussian: no diffusion model, but a normal distribution around every class's "
        "mean, with the covariance that classes of more than 100 images have within them",
    )
    steps: int = setting(50, "timesteps of ddim", minimum=1)
    batch_size: int | None = setting(
        None, "generated latents per step; none: as many as real ones", minimum=1
    )


@dataclass(frozen=True)
class Encoding:
    """How the training images become the latents of a staged baseline. Test images are always encoded by the
    network as it is, in eval mode; LDMLR's code encodes training images with all three switched."""

    statistics: Literal["running", "batch"] = setting(
        "running",
        "what batch normalisation normalises by: its running statistics (eval mode), or those of shuffled batches of 64 (train mode)",
    )
    augmented: bool = setting(
        False, "augment the images as data.augmentation says, one draw an image"
    )
    first_relu: bool = setting(
        True, "off: leave out the ReLU that follows the encoder's first batch normalisation"
    )


@dataclass(frozen=True)
class Staged:
    """The staged baselines (LDMLR): diffusion on frozen latents, then the head alone."""

    generation: bool = setting(True, "train the diffusion model and add generated latents")
    batching: Literal["natural", "balanced"] = setting(
        "natural", "class-balanced batches draw every class alike"
    )
    diffusion_epochs: int | None = setting(
        None, "epochs of diffusion; none: as many as the joint arms train", minimum=1
    )
    head_epochs: int | None = setting(
        None, "epochs of head training; none: as many as the joint arms train", minimum=1
    )
    head_batch_size: int | None = setting(
        None, "latents per step of head training; none: batch_size", minimum=2
    )
    encoding: Encoding = section(Encoding)


@dataclass(frozen=True)
class Config:
    method: Literal["joint", "staged", "ce", "ce-adjusted"] = setting(
        "joint",
        "Strategy A, the staged baseline, the pretrained network as it is, or that with the log of the class prior subtracted from its logits",
    )
    epochs: int = setting(400, "epochs, warm-up included, pre-training not", minimum=1)
    batch_size: int = setting(128, "images per step", minimum=2)
    evaluate_every: int = setting(
        1, "epochs between evaluations on the test set; the last epoch always is", minimum=1
    )
    measure_gradients_every: int = setting(
        10,
        "epochs between measurements of each loss's gradient by itself, at encoder and head, on the "
        "first tenth of an epoch's batches; the last epoch always measures",
        minimum=1,
    )
    end_to_end: bool = setting(True, "off: the encoder stays frozen throughout")
    routing: Literal["summed", "decoupled", "alternating", "stopgrad", "pcgrad"] = setting(
        "decoupled",
        "which losses reach the encoder; alternating: two steps a batch, with the gradients of the "
        "classification loss, then with those of the semantic loss",
    )
    batching: Literal["natural", "balanced"] = setting(
        "natural", "images of warm-up and joint batches: each once an epoch, or every class alike"
    )
    mixup: float = setting(
        0.0,
        "alpha of mixup's Beta distribution, in joint epochs, a share for each image; the semantic loss and what "
        "is followed of classes and latents take an image only if at least 95 % of it is one image; 0: no mixup",
        minimum=0,
    )
    standardisation: Literal["tracked", "batch"] = setting(
        "tracked",
        "latents of joint batches, for the semantic loss: by moving averages, or by their own mean and deviation, so that the loss cannot fall by shrinking them",
    )
    batchnorm: Literal["updating", "frozen"] = setting(
        "updating",
        "running statistics and batch statistics of the thawed encoder, or the frozen ones",
    )
    device: Literal["cpu", "cuda"] = setting("cpu", "where to compute")
    precision: Literal["float32", "bfloat16"] = setting(
        "float32",
        "bfloat16: autocast of the encoder, for GPUs and for CPUs that have it (AVX512-BF16, AMX)",
    )
    threads: int = setting(1, "CPU threads of a trial; sums depend on it", minimum=1)
    data: Data = section(Data)
    encoder: Encoder = section(Encoder)
    pretraining: Pretraining = section(Pretraining)
    head: Head = section(Head)
    denoiser: Denoiser = section(Denoiser)
    diffusion: Diffusion = section(Diffusion)
    optim: Optim = section(Optim)
    warmup: Warmup = section(Warmup)
    losses: Losses = section(Losses)
    generation: Generation = section(Generation)
    staged: Staged = section(Staged)

    @property
    def diffusion_epochs(self) -> int:
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
        return self.staged.head_epochs or self.epochs

    @property
    def head_batch_size(self) -> int:
        return self.staged.head_batch_size or self.batch_size

    @property
    def pretraining_augmentation(self) -> Augmentation:
        return self.pretraining.augmentation or self.data.augmentation

    @property
    def pretraining_epochs(self) -> int:
        return 0 if self.encoder.checkpoint else self.pretraining.epochs

    @property
    def longest_warmup(self) -> int:
        """Epochs of warm-up; for a plateau, the most it may last."""
        warmup = self.warmup
        if not self.end_to_end:
            return self.epochs
        if warmup.epochs is not None:
            return warmup.epochs
        if warmup.fraction is not None:
            return math.floor(
                warmup.fraction * self.epochs + 1e-9
            )  # 0.29 * 100 is 28.999999999999996
        return max(
            warmup.plateau.min_epochs, math.floor(warmup.plateau.max_fraction * self.epochs + 1e-9)
        )


ALTERNATIVES = {"warmup": ("epochs", "fraction", "plateau")}
"""Sections of which one key is set: setting it unsets the others."""

_ORIGINAL_ENCODING = {
    "staged.encoding.statistics": "batch",
    "staged.encoding.augmented": True,
    "staged.encoding.first_relu": False,
}
_BALANCED_HEAD = {
    "method": "staged",
    "head.name": "linear",
    "head.start": "pretrained",
    "staged.generation": False,
    "staged.batching": "balanced",
}

BASELINES: dict[str, dict[str, Any]] = {
    "ce": {"method": "ce"},
    "ce-adjusted": {"method": "ce-adjusted"},
    "ldmlr": {"method": "staged", "head.name": "linear", "head.start": "pretrained", "generation.quota": "ldmlr"},
    "ldmlr-gaussian": {"method": "staged", "head.name": "linear", "head.start": "pretrained", "generation.quota": "ldmlr", "generation.method": "gaussian"},
    "ldmlr-no-generation": {"method": "staged", "head.name": "linear", "head.start": "pretrained", "staged.generation": False},
    "frozen-encoder": {"method": "joint", "end_to_end": False},
    "balanced-head": _BALANCED_HEAD,
    "balanced-head-original-encoding": _BALANCED_HEAD | _ORIGINAL_ENCODING,
    "ldmlr-original": _ORIGINAL_ENCODING | {
        "method": "staged", "head.name": "linear", "head.start": "pretrained", "denoiser.name": "unet1d",
        "diffusion.steps": 1000, "diffusion.schedule": "cosine", "diffusion.objective": "x0", "diffusion.weighting": "snr", "diffusion.scaling": "unit",
        "optim.name": "adam", "optim.lr.head": 1e-3, "optim.weight_decay": 0.0, "optim.head_weight_decay": 1e-5, "optim.schedule": "constant",
        "optim.denoiser_name": "sgd", "optim.lr.denoiser": 1e-4, "optim.momentum": 0.0,
        "batch_size": 256, "staged.diffusion_epochs": 201, "staged.head_batch_size": 1024, "staged.head_epochs": 400,
        "staged.generation": True, "staged.batching": "natural", "generation.quota": "ldmlr", "generation.method": "ddpm",
    },
}  # fmt: skip
"""What a grid may name under `baselines`: settings on top of the experiment's. `ldmlr` is repaired; `ldmlr-gaussian` draws
its latents from normal distributions, without a diffusion model; `ldmlr-original` is what the code of Han et al. 2024 does, and so names even what is our default."""
