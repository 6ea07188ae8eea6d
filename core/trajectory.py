"""A trial as a chain of epochs, each keyed by everything that can change what it computes. No torch.

key_e = H(key_{e-1}, effective settings of epoch e). Effective settings are those that can change that epoch:
in warm-up the encoder is frozen, so its learning rate and the routing rule are not among them, and arms that
differ only in these share the whole warm-up.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from core.config import Config, Encoding, Plateau
from core.fingerprint import digest, root_key, root_settings
from core.parsing import to_tree

PRETRAIN, WARMUP, JOINT, DIFFUSION, HEAD, EVALUATE = (
    "pretrain",
    "warmup",
    "joint",
    "diffusion",
    "head",
    "evaluate",
)

TRAINED = {
    WARMUP: ("head", "denoiser"),
    JOINT: ("encoder", "head", "denoiser"),
    DIFFUSION: ("denoiser",),
    HEAD: ("head",),
}
"""Modules that an epoch after the pre-training trains."""

COST = {PRETRAIN: 1.0, JOINT: 1.3, WARMUP: 0.2, DIFFUSION: 0.15, HEAD: 0.05, EVALUATE: 0.1}
"""Relative cost of an epoch, in epochs of pre-training; only scheduling and estimates depend on it."""
UNET_COST = 2.0  # on top of that, of an epoch that trains the 1-D U-Net: a hundred times the MLP's


class Link(NamedTuple):
    """One epoch of a trial, as planned."""

    key: str
    phase: str
    epoch: int  # from 1; pre-training counts on its own
    cost: float


Records = Callable[[str], Mapping[str, Any] | None]


def chain(config: Config, seed: int, records: Records) -> list[Link]:
    """All links of a trial, first to last; see `Subject.chain` for `records` and undecided lengths."""
    key = root_key(config, seed)
    links: list[Link] = []
    of_phase = functools.cache(lambda phase: phase_settings(config, phase))

    def add(phase: str, epoch: int) -> None:
        nonlocal key
        key = digest(key, phase, epoch, of_phase(phase) | epoch_settings(config, phase, epoch))
        trains_unet = config.denoiser.name == "unet1d" and phase in (DIFFUSION, WARMUP, JOINT)
        n_walks = (
            1 if phase != JOINT else 2 ** (bool(config.losses.consistency) + bool(config.optim.sam))
        )
        links.append(Link(key, phase, epoch, n_walks * COST[phase] + UNET_COST * trains_unet))

    plateau = deciding_plateau(config)
    losses: list[float] | None = []
    for phase, epoch in planned(config):
        is_settled = plateau is not None and losses is not None and has_settled(plateau, losses)
        if phase == WARMUP and (is_settled or (links and links[-1].phase == JOINT)):
            phase = JOINT
        add(phase, epoch)
        if phase == WARMUP and plateau is not None and losses is not None:
            record = records(key)
            losses = losses + [record["metrics"]["train/diffusion_loss"]] if record else None
    return links


def planned(config: Config) -> Iterator[tuple[str, int]]:
    """Phase and epoch of each link, a warm-up until a plateau at its longest."""
    yield from ((PRETRAIN, epoch) for epoch in range(1, config.pretraining_epochs + 1))
    if config.method in ("ce", "ce-adjusted"):
        yield EVALUATE, 1
    elif config.method == "staged":
        n, n_diffusion = config.diffusion_epochs + config.head_epochs, config.diffusion_epochs
        yield from (
            (DIFFUSION if epoch <= n_diffusion else HEAD, epoch) for epoch in range(1, n + 1)
        )
    else:
        longest = config.longest_warmup
        yield from (
            (WARMUP if epoch <= longest else JOINT, epoch) for epoch in range(1, config.epochs + 1)
        )


def deciding_plateau(config: Config) -> Plateau | None:
    """The plateau that ends the warm-up of a trial that has one."""
    return config.warmup.plateau if config.method == "joint" and config.end_to_end else None


def all_effective(config: Config) -> list[Any]:
    """All settings that can change a trial: two trials of one seed compute the same where these are equal.

    Files stand for their content by their names.
    """
    epochs, plateau = list(planned(config)), deciding_plateau(config)
    if plateau is not None:  # the encoder may thaw earlier than is planned
        epochs += [
            (JOINT, epoch) for epoch in range(plateau.shortest + 1, config.longest_warmup + 1)
        ]
    return [
        root_settings(config),
        plateau,
        {phase: phase_settings(config, phase) for phase in dict(epochs)},
        [(phase, epoch, epoch_settings(config, phase, epoch)) for phase, epoch in epochs],
    ]


def has_settled(plateau: Plateau, losses: list[float]) -> bool:
    """Whether the diffusion loss has stopped improving: the mean over the last `window` epochs is less than
    `tolerance` (relative) below the mean over the window before."""
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
    modules = TRAINED[phase]
    start, n_epochs = 0, config.epochs
    if phase == DIFFUSION:
        n_epochs = config.diffusion_epochs
    elif phase == HEAD:
        start, n_epochs = config.diffusion_epochs, config.head_epochs
    optim = config.optim
    found = {
        m: learning_rate(getattr(optim.lr, m), optim.schedule, epoch - start, n_epochs)
        for m in modules
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


def effective(config: Config, phase: str, epoch: int) -> dict[str, Any]:
    """The settings that can change this epoch, root settings (`fingerprint.root_key`) aside."""
    return phase_settings(config, phase) | epoch_settings(config, phase, epoch)


def epoch_settings(config: Config, phase: str, epoch: int) -> dict[str, Any]:
    """Those of them that one epoch of a phase does not have as another has them."""
    if phase == EVALUATE:
        return {}
    settings: dict[str, Any] = {"rates": rates(config, phase, epoch)}
    if phase != PRETRAIN:
        settings["evaluates"] = evaluates(config, phase, epoch)
    if phase == JOINT:
        settings["measures_gradients"] = measures_gradients(config, epoch)
    if phase in (WARMUP, JOINT) and config.losses.generated > 0 and epoch > config.generation.every:
        settings.update(
            generation=generation(config), generated=config.losses.generated
        )  # there is a pool
    return settings


def phase_settings(config: Config, phase: str) -> dict[str, Any]:
    """Those of them that all epochs of a phase have in common."""
    tree = to_tree(config)
    if phase == EVALUATE:
        return {"method": config.method}
    if phase == PRETRAIN:
        keep = {
            name: tree["pretraining"][name]
            for name in ("momentum", "weight_decay", "batch_size", "mixup")
        }
        return {
            "pretraining": keep,
            "augmentation": augmentation(tree, config.pretraining_augmentation),
        }
    common = {
        "optim": {module: optimiser(config, module) for module in TRAINED[phase]},
        "batch_size": config.head_batch_size if phase == HEAD else config.batch_size,
        "head": head(config),
        "clip": config.optim.clip,
    }
    if phase == HEAD:
        added = {"generation": generation(config)} if config.staged.generation else {}
        if config.diffusion_epochs:
            added["diffusion"] = tree["diffusion"]
        elif added:
            added["scaling"] = config.diffusion.scaling
        adjustment = config.losses.logit_adjustment
        return {
            **common,
            "batching": config.staged.batching,
            "encoding": encoding(config),
            "logit_adjustment": adjustment,
            **added,
        }
    diffusing = {
        "denoiser": tree["denoiser"] if config.denoiser.name == "mlp" else config.denoiser.name,
        "diffusion": tree["diffusion"],
    }
    if phase == DIFFUSION:
        del common["head"]
        return {**common, **diffusing, "encoding": encoding(config)}
    losses = {
        name: value
        for name, value in tree["losses"].items()
        if phase == JOINT or name != "consistency"
    }
    # Terms whose gradients reach nothing that trains: whether they are reported counts, and not their weights.
    if phase == WARMUP or not config.losses.semantic:
        losses["prototype"] = losses["prototype"] > 0
    if not config.losses.semantic:
        losses["radius"] = losses["radius"] > 0
    unused = unused_losses(config, phase)
    losses = {name: value for name, value in losses.items() if name not in unused}
    if losses.get("radius_from") == "views":
        losses["padding"] = config.data.padding
    settings = {**common, **diffusing, "losses": losses, "batching": config.batching}
    if phase == JOINT:
        settings.update(
            routing=config.routing,
            batchnorm=config.batchnorm,
            standardisation=config.standardisation,
            mixup=config.mixup,
            augmentation=augmentation(tree),
        )
        if config.draws_gaussian:
            settings["covariance"] = True  # is followed, before there is a pool too
        settings.update(
            {name: value for name in ("ema", "sam") if (value := getattr(config.optim, name))}
        )
    return settings


def optimiser(config: Config, module: str) -> list[Any]:
    """Name, weight decay and momentum; only sgd has one, and without decay adamw is adam."""
    optim = config.optim.of(module)
    name = "adam" if optim.name == "adamw" and not optim.weight_decay else optim.name
    return [
        name,
        optim.weight_decay,
        [optim.momentum, optim.nesterov] if optim.name == "sgd" else None,
    ]


def head(config: Config) -> list[Any]:
    """Name, start and scale; a linear head has none."""
    found = config.head
    return [
        found.name,
        found.start,
        None if found.name == "linear" else [found.initial_scale, found.trainable_scale],
    ]


def unused_losses(config: Config, phase: str) -> set[str]:
    """Of the losses' settings, those that no step of a warm-up or joint epoch asks for, and the weight of generated latents,
    which `epoch_settings` has once there are any."""
    losses = config.losses
    follows = losses.radius > 0 or (
        phase == JOINT and (losses.prototype > 0 or config.draws_gaussian)
    )
    unused = {"generated", *([] if follows else ["momentum"])}
    return unused if losses.radius > 0 else unused | {"radius_from"}


def generation(config: Config) -> dict[str, Any]:
    """Without the steps that only ddim asks for, and the refreshes and batches of a pool that a staged trial has not."""
    unused = set() if config.generation.method == "ddim" else {"steps"}
    if config.method == "staged":
        unused |= {"every", "batch_size"}
    return {name: value for name, value in to_tree(config.generation).items() if name not in unused}


def encoding(config: Config) -> dict[str, Any] | None:
    """How the latents that a trial trains on differ from those of the encoder in eval mode; None: they do not."""
    chosen = config.staged.encoding
    if config.method != "staged" or chosen == Encoding():
        return None
    drawn = augmentation(to_tree(config)) if chosen.augmented else None
    return {"statistics": chosen.statistics, "first_relu": chosen.first_relu, "augmentation": drawn}


def augmentation(tree: Mapping[str, Any], kind: str | None = None) -> list[Any]:
    """Kind (by default data.augmentation) and padding; the padding of an augmentation that is off changes nothing."""
    kind = kind or tree["data"]["augmentation"]
    return [kind, 0 if kind == "none" else tree["data"]["padding"]]
