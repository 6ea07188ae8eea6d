"""A trial as a chain of epochs, each keyed by all that can change what it computes. No torch.

key_e = H(key_{e-1}, effective settings of epoch e). Effective settings are those that can change
that epoch: in warm-up the encoder is frozen, so its learning rate and the routing rule are not
among them, and arms that differ only in these share the whole warm-up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from core.config.parsing import to_tree
from core.config.schema import Config, Encoding, Plateau
from core.device.compiler import has_compiler
from core.planning.fingerprint import canonical, digest_of_text, root_key, root_settings

PRETRAIN, WARMUP, JOINT = "pretrain", "warmup", "joint"
DIFFUSION, HEAD, EVALUATE = "diffusion", "head", "evaluate"

TRAINED = {
    WARMUP: ("head", "denoiser"),
    JOINT: ("encoder", "head", "denoiser"),
    DIFFUSION: ("denoiser",),
    HEAD: ("head",),
}
"""Modules that an epoch after the pre-training trains."""

COST = {PRETRAIN: 1.0, JOINT: 1.3, WARMUP: 0.2, DIFFUSION: 0.15, HEAD: 0.05, EVALUATE: 0.1}
"""Relative cost of an epoch, in epochs of pre-training; only scheduling and estimates use it."""
# on top of that, of an epoch that trains the 1-D U-Net: a hundred times the MLP's
UNET_COST = 2.0


class Link(NamedTuple):
    """One epoch of a trial, as planned."""

    key: str
    phase: str
    # from 1; pre-training counts on its own
    epoch: int
    cost: float


Records = Callable[[str], Mapping[str, Any] | None]


def chain(config: Config, seed: int, records: Records) -> list[Link]:
    """All links of a trial, first to last; see `Subject.chain` for `records`."""
    # as it would run uncompiled
    if config.compile and not has_compiler():
        config = replace(config, compile=False)
    key = root_key(config, seed)
    links: list[Link] = []
    of_phase = functools.cache(lambda phase: phase_settings(config, phase))
    texts = _texts(repr(config))
    plateau = deciding_plateau(config)
    # the diffusion loss of each warm-up epoch, as far as it is known
    losses: list[float] = []
    thawed = False
    for phase, epoch in planned(config):
        n_known = epoch - 1 == len(losses)
        thawed = thawed or bool(plateau and n_known and has_settled(plateau, losses))
        if phase == WARMUP and thawed:
            phase = JOINT
        if (phase, epoch) not in texts:
            settings = of_phase(phase) | epoch_settings(config, phase, epoch)
            texts[phase, epoch] = canonical(settings)
        # of the text of [key, phase, epoch, settings]
        key = digest_of_text(f'["{key}","{phase}",{epoch},{texts[phase, epoch]}]')
        links.append(Link(key, phase, epoch, cost(config, phase)))
        if phase == WARMUP and plateau and n_known and (record := records(key)):
            losses.append(record["metrics"]["train/diffusion_loss"])
    return links


@functools.lru_cache(maxsize=32)
def _texts(told: str) -> dict[tuple[str, int], str]:
    """Phase and epoch -> the text of its settings, which `chain` adds: an arm's seeds share it.

    told: the configuration as text, as equal numbers (1 and 1.0) have different keys
    """
    return {}


def cost(config: Config, phase: str) -> float:
    """Relative cost of an epoch of this phase."""
    n_walks = 2 ** (bool(config.losses.consistency) + bool(config.optim.sam))
    trains_unet = config.denoiser.name == "unet1d" and phase in (DIFFUSION, WARMUP, JOINT)
    return (n_walks if phase == JOINT else 1) * COST[phase] + UNET_COST * trains_unet


def planned(config: Config) -> Iterator[tuple[str, int]]:
    """Yield phase and epoch of each link, a warm-up until a plateau at its longest."""
    yield from ((PRETRAIN, epoch) for epoch in range(1, config.pretraining_epochs + 1))
    if config.method in ("ce", "ce-adjusted"):
        yield EVALUATE, 1
        return
    if config.method == "staged":
        first, second = DIFFUSION, HEAD
        n_first, n = config.diffusion_epochs, config.diffusion_epochs + config.head_epochs
    else:
        first, second, n_first, n = WARMUP, JOINT, config.longest_warmup, config.epochs
    yield from ((first if epoch <= n_first else second, epoch) for epoch in range(1, n + 1))


def deciding_plateau(config: Config) -> Plateau | None:
    """Return the plateau that ends the warm-up of a trial that has one."""
    return config.warmup.plateau if config.method == "joint" and config.end_to_end else None


def all_effective(config: Config) -> list[Any]:
    """All settings that can change a trial; trials of one seed that have the same are the same.

    Files stand for their content by their names.
    """
    epochs, plateau = list(planned(config)), deciding_plateau(config)
    # the encoder may thaw earlier than is planned
    if plateau is not None:
        earlier = range(plateau.shortest + 1, config.longest_warmup + 1)
        epochs += [(JOINT, epoch) for epoch in earlier]
    return [
        root_settings(config),
        plateau,
        {phase: phase_settings(config, phase) for phase in dict(epochs)},
        [(phase, epoch, epoch_settings(config, phase, epoch)) for phase, epoch in epochs],
    ]


def has_settled(plateau: Plateau, losses: list[float]) -> bool:
    """Whether the diffusion loss has stopped improving.

    The mean over the last `window` epochs is then less than `tolerance` (relative) below the mean
    over the window before.
    """
    window = plateau.window
    if len(losses) < plateau.shortest:
        return False
    before = sum(losses[-2 * window : -window]) / window
    last = sum(losses[-window:]) / window
    return last > (1 - plateau.tolerance) * before


def learning_rate(
    base: float, schedule: str, epoch: int, n_epochs: int, milestones: tuple[int, ...] = ()
) -> float:
    """The rate of epoch `epoch` (from 1), constant within the epoch."""
    done = epoch - 1
    if schedule == "cosine":
        return base * 0.5 * (1 + math.cos(math.pi * done / n_epochs))
    if schedule == "step":
        return base * 0.1 ** sum(done >= milestone for milestone in milestones)
    return base


def rates(config: Config, phase: str, epoch: int) -> dict[str, float]:
    """Learning rate of each module that this epoch trains."""
    if phase == PRETRAIN:
        p = config.pretraining
        return {"encoder": learning_rate(p.lr, p.schedule, epoch, p.epochs, p.milestones)}
    optim, n_epochs, of_phase = config.optim, config.epochs, epoch
    if phase == DIFFUSION:
        n_epochs = config.diffusion_epochs
    elif phase == HEAD:
        n_epochs, of_phase = config.head_epochs, epoch - config.diffusion_epochs
    found = {
        module: learning_rate(getattr(optim.lr, module), optim.schedule, of_phase, n_epochs)
        for module in TRAINED[phase]
    }
    if phase == JOINT and optim.ramp_epochs:
        found["encoder"] *= min(1.0, (epoch - config.longest_warmup) / (optim.ramp_epochs + 1))
    return found


def evaluates(config: Config, phase: str, epoch: int) -> bool:
    """Whether this epoch ends with an evaluation on the test set."""
    last = config.diffusion_epochs + config.head_epochs if phase == HEAD else config.epochs
    return phase != DIFFUSION and (epoch % config.evaluate_every == 0 or epoch == last)


def measures_gradients(config: Config, epoch: int) -> bool:
    """Whether this joint epoch measures the gradient of each loss by itself."""
    return epoch % config.measure_gradients_every == 0 or epoch == config.epochs


# The settings that can change an epoch, root settings (`fingerprint.root_key`) aside, are
# `phase_settings | epoch_settings`.


def epoch_settings(config: Config, phase: str, epoch: int) -> dict[str, Any]:
    """Settings that one epoch of a phase has otherwise than another."""
    if phase == EVALUATE:
        return {}
    settings: dict[str, Any] = {"rates": rates(config, phase, epoch)}
    if phase != PRETRAIN:
        settings["evaluates"] = evaluates(config, phase, epoch)
    if phase == JOINT:
        settings["measures_gradients"] = measures_gradients(config, epoch)
    has_pool = config.losses.generated > 0 and epoch > config.generation.every
    if phase in (WARMUP, JOINT) and has_pool:
        settings |= {"generation": generation(config), "generated": config.losses.generated}
    return settings


def phase_settings(config: Config, phase: str) -> dict[str, Any]:
    """Settings that all epochs of a phase have in common."""
    tree = to_tree(config)
    if phase == EVALUATE:
        return {"method": config.method}
    if phase == PRETRAIN:
        names = ("momentum", "weight_decay", "batch_size", "mixup")
        return {
            "pretraining": {name: tree["pretraining"][name] for name in names},
            "augmentation": augmentation(config, config.pretraining_augmentation),
        }
    settings: dict[str, Any] = {
        "optim": {module: optimiser(config, module) for module in TRAINED[phase]},
        "batch_size": config.head_batch_size if phase == HEAD else config.batch_size,
        "clip": config.optim.clip,
    }
    if phase != DIFFUSION:
        settings["head"] = head(config)
    if phase in (DIFFUSION, HEAD):
        settings["encoding"] = encoding(config)
    if phase == HEAD:
        settings |= {
            "batching": config.staged.batching,
            "logit_adjustment": config.losses.logit_adjustment,
        }
        if config.staged.generation:
            settings["generation"] = generation(config)
        if config.diffusion_epochs:
            settings["diffusion"] = diffusion(config)
        elif config.staged.generation:
            settings["scaling"] = config.diffusion.scaling
        return settings
    settings["denoiser"] = tree["denoiser"] if config.denoiser.name == "mlp" else "unet1d"
    settings["diffusion"] = diffusion(config)
    if phase == DIFFUSION:
        return settings
    settings |= {"losses": effective_losses(config, phase), "batching": config.batching}
    if phase == JOINT:
        settings |= {
            "routing": config.routing,
            "batchnorm": config.batchnorm,
            "standardisation": config.standardisation,
            "mixup": config.mixup,
            "compile": config.compile,
            "augmentation": augmentation(config, config.data.augmentation),
            # is tracked before there is a pool, too
            "covariance": config.draws_gaussian,
            "ema": config.optim.ema,
            "sam": config.optim.sam,
        }
    return settings


def effective_losses(config: Config, phase: str) -> dict[str, Any]:
    """The losses' settings that a warm-up or joint epoch uses.

    Without the weight of generated latents, which `epoch_settings` has once there are any.
    """
    losses = config.losses
    found = to_tree(losses)
    del found["generated"]
    if phase == WARMUP:
        del found["consistency"]
    # Terms whose gradients reach nothing that trains: only whether they are reported counts.
    if phase == WARMUP or not losses.semantic:
        found["prototype"] = losses.prototype > 0
    if not losses.semantic:
        found["radius"] = losses.radius > 0
    tracks_prototypes = phase == JOINT and (losses.prototype > 0 or config.draws_gaussian)
    if losses.radius == 0:
        del found["radius_from"]
        if not tracks_prototypes:
            del found["momentum"]
    elif losses.radius_from == "views":
        found["padding"] = config.data.padding
    return found


def optimiser(config: Config, module: str) -> list[Any]:
    """Name, weight decay and momentum; only sgd has one, and without decay adamw is adam."""
    optim = config.optim.of(module)
    name = "adam" if optim.name == "adamw" and not optim.weight_decay else optim.name
    momentum = [optim.momentum, optim.nesterov] if optim.name == "sgd" else None
    return [name, optim.weight_decay, momentum]


def head(config: Config) -> list[Any]:
    """Name, start and scale; a linear head has none."""
    found = config.head
    scale = None if found.name == "linear" else [found.initial_scale, found.trainable_scale]
    return [found.name, found.start, scale]


def diffusion(config: Config) -> dict[str, Any]:
    """Without the weighting under the noise objective, where each weight is 1."""
    found = to_tree(config.diffusion)
    if config.diffusion.objective == "noise":
        del found["weighting"]
    return found


def generation(config: Config) -> dict[str, Any]:
    """Without the steps that only ddim uses; refreshes and batches are those of a joint trial."""
    unused = set() if config.generation.method == "ddim" else {"steps"}
    if config.method == "staged":
        unused |= {"every", "batch_size"}
    return {name: value for name, value in to_tree(config.generation).items() if name not in unused}


def encoding(config: Config) -> dict[str, Any] | None:
    """How the latents that a trial trains on differ from those of the encoder in eval mode.

    None: they do not.
    """
    chosen = config.staged.encoding
    if config.method != "staged" or chosen == Encoding():
        return None
    drawn = augmentation(config, config.data.augmentation) if chosen.augmented else None
    return {"statistics": chosen.statistics, "first_relu": chosen.first_relu, "augmentation": drawn}


def augmentation(config: Config, kind: str) -> list[Any]:
    """Kind and padding; the padding of an augmentation that is off changes nothing."""
    return [kind, 0 if kind == "none" else config.data.padding]
