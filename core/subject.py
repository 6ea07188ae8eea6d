"""Strategy A and its baselines as a subject of the harness; see `ablation.subject.protocol`.

Only `advance` and `inspect` import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import PurePath
from typing import Any

from core.config.parsing import Fault, parse, to_tree
from core.config.schema import ALTERNATIVES, BASELINES, Config, Data
from core.data.counting import UnfitSelection, class_counts
from core.data.listing import DAMAGED, shown
from core.device.compiler import has_compiler
from core.method.groups import FEW_BELOW, MANY_ABOVE
from core.planning import fingerprint, trajectory
from core.planning.ignored import counts_with, ignored
from core.planning.lookups import once, unchanging
from core.planning.trajectory import EVALUATE, PRETRAIN, Link
from core.training.priors import quota, training_prior, uncorrected_prior
from core.trial.checkpoints import Store


class StrategyA:
    """Joint training of encoder, latent diffusion model and classifier, and its baselines."""

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        """All that is wrong with a trial's settings; images are looked for and not read whole."""
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
        """The full nested configuration, defaults filled in."""
        return to_tree(_config(settings))

    def unchanging(self) -> AbstractContextManager[None]:
        """Within it the files that trials read are taken not to change, and are looked at once."""
        return unchanging()

    def reads_files(self, settings: Mapping[str, Any]) -> bool:
        """Whether a trial reads images or a checkpoint from files."""
        config = _config(settings)
        return config.data.source != "digits" or config.encoder.checkpoint is not None

    def inspect(self, settings: Mapping[str, Any], store: Store) -> list[Fault]:
        """All that is wrong with those files; decoded images are kept in `store`."""
        from core.trial.inputs import faults

        config = _config(settings)
        return faults(config, len(_class_counts(config)), store)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> settings of each baseline that a grid may name."""
        return BASELINES

    def alternatives(self) -> list[tuple[str, ...]]:
        """Groups of dotted keys of which setting one unsets the others."""
        return [tuple(f"{section}.{key}" for key in keys) for section, keys in ALTERNATIVES.items()]

    def metrics(self, settings: Mapping[str, Any]) -> frozenset[str] | None:
        """Names of the metrics of a trial's last record; None where the images are not there."""
        config = _config(settings)
        try:
            return frozenset(_last_metrics(config, _class_counts(config)))
        except FileNotFoundError:
            # which classes are large and small is not known
            return None

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Facts for the report's provenance."""
        config = _config(settings)
        versions = fingerprint.versions()
        if config.compile:
            # nodes of a cluster are compared with it: keys depend on it
            versions = {**versions, "C++ compiler": "found" if has_compiler() else "missing"}
        facts = {
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
            "drawn_per_seed": _drawn_per_seed(config.data),
            "versions": versions,
        }
        warnings = _warnings(config)
        return {**facts, "warnings": warnings} if warnings else facts

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: trajectory.Records
    ) -> list[Link]:
        """The epochs of a trial, first to last, as planned."""
        return trajectory.chain(_config(settings), seed, records)

    def effective(self, settings: Mapping[str, Any]) -> str:
        """A hash of the settings that can change a trial."""
        return fingerprint.digest(trajectory.all_effective(_config(settings)))

    def ignored(self, settings: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
        """Those of the keys that change nothing in a trial, whatever their values."""
        return ignored(settings, keys)

    def counts_with(self, settings: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
        """A setting, and a value of it, with which an ignored key would change something."""
        return counts_with(settings, key)

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Store,
        report: Callable[[str, dict[str, Any]], bool | None],
    ) -> None:
        """Run a trial from its last checkpoint to the link with key `until`; None: to its end."""
        from core.trial.run import advance

        advance(_config(settings), seed, until, store, report)


def _between_seeds(config: Config) -> str:
    """What a spread over seeds is a spread of, for those who read a table."""
    later = "new modules, the order of the images, their augmentation and the noise"
    drawn = " and ".join(_drawn_per_seed(config.data))
    if not config.encoder.checkpoint:
        own = "pre-trains an encoder of its own"
        if drawn:
            draws = f"draws its own {drawn} images, the same for all arms"
            return f"Every seed {draws}, and {own}; besides, seeds differ in {later}."
        return f"Every seed {own}; besides, seeds differ in {later}. The images are the same."
    name = PurePath(config.encoder.checkpoint).name
    start = f"All seeds start from one pretrained encoder, {name}; they differ in"
    if not drawn:
        spread = "The spread over seeds is that of training from this encoder, not of encoders."
        return f"{start} {later}. {spread}"
    found = (
        f"{start} their {drawn} images, drawn anew for each seed and the same for all arms, in"
        f" {later}. The spread over seeds is that of these draws and of training from this encoder,"
        " not of encoders."
    )
    evaluated = [part for part in _drawn_per_seed(config.data) if part != "training"]
    if evaluated:
        seen = f"some of the {evaluated[0]} images"
        found += f" An encoder that was trained on this data set has seen {seen}."
    return found


def _drawn_per_seed(data: Data) -> list[str]:
    """The parts of the data, such as training and test, whose images every seed draws anew."""
    return list(data.drawn) if data.split == "seed" else []


def _warnings(config: Config) -> list[str]:
    """What makes results look better than they are, a sentence each."""
    if not (config.data.validation and config.encoder.checkpoint):
        return []
    name = PurePath(config.encoder.checkpoint).name
    return [
        f"The encoder {name} was pretrained before data.validation held images out, and may have"
        " been trained on them, as the encoders published with LDMLR were: validation metrics can"
        " be better than those of new images, and prefer settings that leave the encoder as it is"
    ]


def _config(settings: Mapping[str, Any]) -> Config:
    config, faults = parse(settings)
    if faults:
        raise ValueError("; ".join(f"{fault.key}: {fault.message}" for fault in faults))
    return config


def _data_faults(config: Config) -> list[Fault]:
    """Images that the settings ask for and that are not there, or may not be read."""
    try:
        counts = _class_counts(config)
        fingerprint.data_fingerprint(config)
    except UnfitSelection as error:
        return [Fault(error.key, error.message)]
    except ValueError as error:
        # What tarfile says has a line for each kind of compression.
        return [Fault("data.path", " ".join(str(error).split()))]
    except DAMAGED as error:
        file = shown(getattr(error, "filename", None) or config.data.path)
        why = getattr(error, "strerror", None) or error
        return [Fault("data.path", f"'{file}' cannot be read: {why}")]
    are_many = {n > MANY_ABOVE for n in counts}
    losses = config.losses
    has_radius = config.method == "joint" and losses.radius > 0
    if has_radius and losses.radius_from == "many" and len(are_many) == 1:
        what = f"{'every' if True in are_many else 'no'} class has more than {MANY_ABOVE} images"
        message = f"'many' changes nothing: {what}; choose images or views"
        return [Fault("losses.radius_from", message)]
    return []


def _class_counts(config: Config) -> list[int]:
    """Training images per class."""
    data = config.data
    return once(("counts", data), lambda: class_counts(data, fingerprint.data_files(config)))


def _last_metrics(config: Config, counts: Sequence[int]) -> set[str]:
    """Return the names of the metrics that a trial's last epoch is sure to report.

    counts: training images per class.
    """
    drawn = _drawn(config, counts)
    is_biased = uncorrected_prior(config, training_prior(config, counts, drawn)) is not None
    trains = config.method not in ("ce", "ce-adjusted")
    is_joint = config.method == "joint"
    thaws = is_joint and config.longest_warmup < config.epochs
    # Under mixup, the semantic loss and the radii take pure images alone
    # (`core.training.epochs.PURE`). At an alpha of 1 a tenth of all images is pure: a small class
    # may have none. At a larger one the epoch may have none.
    classes_have_pure = not (thaws and config.mixup)
    epoch_has_pure = not (thaws and config.mixup > 1)
    # A class of one image has no radius.
    smallest = max([n for n in counts if n < FEW_BELOW] or counts)
    has_test_radii = not config.data.validation
    has_test_radii &= not (config.data.source == "digits" and config.data.n_test == 1)
    groups = {
        "many": max(counts) > MANY_ABOVE,
        "medium": any(FEW_BELOW <= n <= MANY_ABOVE for n in counts),
        "few": min(counts) < FEW_BELOW,
    }
    has_tail = trains and sum(groups.values()) > 1
    accuracies = ["top1", "balanced_accuracy", *(name for name, holds in groups.items() if holds)]
    part = "validation" if config.data.validation else "test"
    names = {f"{part}/ece", *(f"{part}/{name}" for name in accuracies)}
    if thaws and config.optim.ema:
        names |= {f"{part}/{name}_ema" for name in accuracies}
    compares = (
        trains
        and classes_have_pure
        and any(min(n, m) > 1 for n, m in zip(counts, drawn, strict=True))
    )
    semantic = is_joint and epoch_has_pure
    for holds, more in (
        (is_biased, f"{part}/top1_compensated"),
        (trains, "train/real_loss grad/head diag/latent_drift diag/cka"),
        (trains, "diag/effective_rank diag/total_variance"),
        (has_tail and classes_have_pure and max(counts) > 1, "diag/train_radius_head"),
        (has_tail and classes_have_pure and smallest > 1, "diag/train_radius_tail"),
        (trains and has_test_radii, "diag/radius_spread"),
        (has_tail and has_test_radii, "diag/radius_head diag/radius_tail"),
        (trains and config.head.name == "wcdas", "head/concentration"),
        (compares, "gen/radius_ratio gen/prototype_distance gen/one_nn"),
        (is_joint and any(drawn), "train/generated_loss"),
        (is_joint and config.longest_warmup, "diag/diffusion_loss_at_thaw"),
        (semantic, "train/diffusion_loss grad/denoiser"),
        (semantic and config.losses.prototype, "train/prototype_loss"),
        (semantic and config.losses.radius, "train/radius_loss"),
        (thaws, "grad/encoder grad/real_at_latent"),
        (thaws and config.losses.consistency, "train/consistency_loss"),
        (thaws and epoch_has_pure, "grad/conflict_cosine grad/semantic_at_latent"),
        (thaws and epoch_has_pure, "grad/conflict_cosine_parameters"),
        (thaws and epoch_has_pure, "grad/encoder_real grad/encoder_semantic"),
        (thaws and epoch_has_pure and any(drawn), "grad/head_real grad/head_generated"),
    ):
        names.update(more.split() if holds else ())
    return names


def _drawn(config: Config, counts: Sequence[int]) -> list[int]:
    """Generated latents of each class in the pool of the last epoch."""
    is_drawn = {
        "joint": config.losses.generated > 0 and config.epochs > config.generation.every,
        "staged": config.staged.generation,
    }.get(config.method, False)
    return quota(config.generation.quota, counts) if is_drawn else [0] * len(counts)


SUBJECT = StrategyA()
