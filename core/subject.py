"""Strategy A and its baselines as a subject of the harness; the protocol is described in `ablation.subject`.

Only `advance` and `inspect` import torch.
"""

from __future__ import annotations

import dataclasses
import lzma
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from core import fingerprint, trajectory
from core.config import ALTERNATIVES, BASELINES, Config, Data
from core.data.counting import class_counts
from core.data.listing import shown
from core.data.profile import exponential_counts
from core.ignored import counts_with, ignored
from core.parsing import Fault, parse, to_tree
from core.priors import training_prior, uncorrected_prior
from core.trajectory import EVALUATE, PRETRAIN, Link

MANY_ABOVE, FEW_BELOW = 100, 20  # as in `core.metrics`, which imports torch
UNREADABLE = (OSError, zlib.error, lzma.LZMAError)


class StrategyA:
    """End-to-end joint training of encoder, latent diffusion model and classifier, and the staged baseline."""

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        config, faults = parse(settings)
        if faults:
            return faults
        missing = list(fingerprint.missing_inputs(config))
        return (
            missing
            if any(fault.key == "data.path" for fault in missing)
            else [*missing, *_data_faults(config)]
        )

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return to_tree(_config(settings))

    def reads_files(self, settings: Mapping[str, Any]) -> bool:
        config = _config(settings)
        return config.data.source != "digits" or config.encoder.checkpoint is not None

    def inspect(self, settings: Mapping[str, Any], store: Any) -> list[Fault]:
        from core.inputs import faults

        config = _config(settings)
        return faults(config, len(_class_counts(config)), store)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        return BASELINES

    def alternatives(self) -> list[tuple[str, ...]]:
        return [tuple(f"{section}.{key}" for key in keys) for section, keys in ALTERNATIVES.items()]

    def metrics(self, settings: Mapping[str, Any]) -> frozenset[str] | None:
        config = _config(settings)
        try:
            return frozenset(_last_metrics(config, _class_counts(config)))
        except FileNotFoundError:  # which classes are large and small is not known
            return None

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = _config(settings)
        return {
            "class_counts": _class_counts(config),
            "data_fingerprint": fingerprint.data_fingerprint(config),
            "source_fingerprint": fingerprint.source_fingerprint(),
            "checkpoint": config.encoder.checkpoint,
            "device": config.device,
            "precision": config.precision,
            "threads": config.threads,
            "epochs": sum(
                phase not in (PRETRAIN, EVALUATE) for phase, _ in trajectory.planned(config)
            ),
            "pretraining_epochs": config.pretraining_epochs,
            "encoder": config.encoder.name,
            "head": config.head.name,
            "between_seeds": _between_seeds(config),
            "versions": fingerprint.versions(),
        }

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: trajectory.Records
    ) -> list[Link]:
        return trajectory.chain(_config(settings), seed, records)

    def effective(self, settings: Mapping[str, Any]) -> str:
        return fingerprint.digest(trajectory.all_effective(_config(settings)))

    def ignored(self, settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
        return ignored(settings, keys)

    def counts_with(self, settings: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
        return counts_with(settings, key)

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Any,
        report: Callable[[str, dict[str, Any]], bool | None],
    ) -> None:
        from core.trial import advance

        advance(_config(settings), seed, until, store, report)


def _between_seeds(config: Config) -> str:
    """What a spread over seeds is a spread of, for those who read a table."""
    later = "new modules, the order of the images, their augmentation and the noise"
    if config.encoder.checkpoint:
        return (
            f"All seeds start from one pretrained encoder, {PurePath(config.encoder.checkpoint).name}; they differ in {later}. The spread "
            "over seeds is that of training from this encoder, not of encoders."
        )
    return f"Every seed pre-trains an encoder of its own; besides, seeds differ in {later}. The images are the same."


def _config(settings: Mapping[str, Any]) -> Config:
    config, faults = parse(settings)
    if faults:
        raise ValueError("; ".join(f"{key}: {message}" for key, message in faults))
    return config


def _data_faults(config: Config) -> list[Fault]:
    """Images that the settings ask for and that are not there, or may not be read."""
    try:
        _class_counts(config)
        fingerprint.data_fingerprint(config)
    except ValueError as error:
        return [_located(config, error)]
    except UNREADABLE as error:
        file = shown(getattr(error, "filename", None) or config.data.path)
        return [
            Fault(
                "data.path", f"'{file}' cannot be read: {getattr(error, 'strerror', None) or error}"
            )
        ]
    return []


def _located(config: Config, error: ValueError) -> Fault:
    """The fault under the setting that it is due to: those that tell which images there are come before the profile's."""
    data = config.data
    try:
        available = _class_counts(
            config, dataclasses.replace(data, imbalance_factor=None, n_max=None, validation=0.0)
        )
    except ValueError as cause:
        message = " ".join(
            str(cause).split()
        )  # what tarfile says has a line for each kind of compression
        return (
            Fault("data.n_test", f"{data.n_test} {message}")
            if data.source == "digits"
            else Fault("data.path", message)
        )
    try:
        exponential_counts(
            data.n_max or max(available), len(available), data.imbalance_factor or 1.0
        )
    except ValueError as cause:
        return Fault("data.imbalance_factor", str(cause))
    try:
        _class_counts(config, dataclasses.replace(data, validation=0.0))
    except ValueError:
        pass
    else:
        return Fault("data.validation", str(error))
    return Fault("data.n_max" if data.n_max else "data.imbalance_factor", str(error))


def _class_counts(config: Config, data: Data | None = None) -> list[int]:
    """Training images per class; of `data` if given, settings other than the configuration's for the same files."""
    return class_counts(data or config.data, fingerprint.data_files(config))


def _last_metrics(config: Config, counts: Sequence[int]) -> set[str]:
    """Names of the metrics that a trial's last epoch is sure to report. counts: training images per class."""
    drawn = _drawn(config, counts)
    names = {"test/top1", "test/balanced_accuracy", "test/ece"}
    is_biased = uncorrected_prior(config, training_prior(config, counts, drawn)) is not None
    names |= {"test/top1_compensated"} if is_biased else set()
    names |= {"test/many"} if max(counts) > MANY_ABOVE else set()
    names |= {"test/medium"} if any(FEW_BELOW <= n <= MANY_ABOVE for n in counts) else set()
    names |= {"test/few"} if min(counts) < FEW_BELOW else set()
    if config.method in ("ce", "ce-adjusted"):
        return names
    thaws = config.method == "joint" and config.longest_warmup < config.epochs
    if thaws and config.optim.ema:
        names |= {f"{name}_ema" for name in names - {"test/ece", "test/top1_compensated"}}
    names |= {
        "train/real_loss",
        "grad/head",
        "diag/latent_drift",
        "diag/cka",
        "diag/effective_rank",
        "diag/total_variance",
    }
    names |= _radius_metrics(config, counts)
    names |= {"head/concentration"} if config.head.name == "wcdas" else set()
    names |= (
        {"gen/radius_ratio", "gen/prototype_distance", "gen/one_nn"}
        if any(min(n, m) > 1 for n, m in zip(counts, drawn))
        else set()
    )
    if config.method == "staged":
        return names
    names |= {"train/diffusion_loss", "grad/denoiser"}
    names |= {"train/generated_loss"} if any(drawn) else set()
    names |= {"train/prototype_loss"} if config.losses.prototype else set()
    names |= {"train/radius_loss"} if config.losses.radius else set()
    names |= {"diag/diffusion_loss_at_thaw"} if config.longest_warmup else set()
    names |= {"train/consistency_loss"} if thaws and config.losses.consistency else set()
    if not thaws:
        return names
    names |= {"grad/head_real", "grad/head_generated"} if any(drawn) else set()
    names |= {"grad/encoder_real", "grad/encoder_semantic", "grad/conflict_cosine_parameters"}
    names |= {
        "grad/encoder",
        "grad/conflict_cosine",
        "grad/real_at_latent",
        "grad/semantic_at_latent",
    }
    return names - _unsure_under_mixup(config.mixup)


def _unsure_under_mixup(alpha: float) -> set[str]:
    """Metrics of the last joint epoch that take pure images, see `core.epochs.PURE`.

    At an alpha of 1 a tenth of all images is pure: a small class may have none. At a larger one the epoch may.
    """
    if not alpha:
        return set()
    of_classes = {
        "diag/train_radius_head",
        "diag/train_radius_tail",
        "gen/radius_ratio",
        "gen/prototype_distance",
        "gen/one_nn",
    }
    if alpha <= 1:
        return of_classes
    losses = {"train/diffusion_loss", "train/prototype_loss", "train/radius_loss"}
    cosines = {"grad/conflict_cosine", "grad/conflict_cosine_parameters"}
    norms = {
        "denoiser",
        "semantic_at_latent",
        "head_real",
        "head_generated",
        "encoder_real",
        "encoder_semantic",
    }
    return of_classes | losses | cosines | {f"grad/{name}" for name in norms}


def _radius_metrics(config: Config, counts: Sequence[int]) -> set[str]:
    """A class of one image has no radius."""
    smallest = [n for n in counts if n < FEW_BELOW] or counts
    names = {"diag/train_radius_head"} if max(counts) > 1 else set()
    names |= {"diag/train_radius_tail"} if max(smallest) > 1 else set()
    may_be_single = config.data.validation > 0 or (
        config.data.source == "digits" and config.data.n_test == 1
    )
    return (
        names
        if may_be_single
        else names | {"diag/radius_head", "diag/radius_tail", "diag/radius_spread"}
    )


def _drawn(config: Config, counts: Sequence[int]) -> list[int]:
    """Generated latents of each class in the pool of the last epoch; see `core.pool.quota`."""
    if config.method in ("ce", "ce-adjusted"):
        is_drawn = False
    elif config.method == "staged":
        is_drawn = config.staged.generation
    else:
        is_drawn = config.losses.generated > 0 and config.epochs > config.generation.every
    if not is_drawn:
        return [0] * len(counts)
    return [
        max(counts) - n if config.generation.quota == "balance" else max(round(0.2 * n), 5)
        for n in counts
    ]


SUBJECT = StrategyA()
