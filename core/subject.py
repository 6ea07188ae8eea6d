"""Strategy A and its baselines as a subject of the harness; the protocol is described in `ablation.subject`.

Only `advance` imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from core import fingerprint, trajectory
from core.config import BASELINES, Config
from core.data.counting import class_counts
from core.parsing import Fault, parse, to_tree
from core.trajectory import Link


class StrategyA:
    """End-to-end joint training of encoder, latent diffusion model and classifier, and the staged baseline."""

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        config, faults = parse(settings)
        if faults:
            return faults
        faults = [Fault(key, message) for key, message in fingerprint.missing_inputs(config)]
        return faults or _profile_faults(config)

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return to_tree(_config(settings))

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        return BASELINES

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        config = _config(settings)
        return {
            "class_counts": class_counts(config.data, fingerprint.data_files(config)),
            "data_fingerprint": fingerprint.data_fingerprint(config),
            "source_fingerprint": fingerprint.source_fingerprint(),
            "checkpoint": config.encoder.checkpoint,
            "device": config.device,
            "precision": config.precision,
            "threads": config.threads,
            "epochs": config.epochs,
            "pretraining_epochs": config.pretraining_epochs,
            "encoder": config.encoder.name,
            "head": config.head.name,
            "versions": fingerprint.versions(),
        }

    def chain(self, settings: Mapping[str, Any], seed: int, records: trajectory.Records) -> list[Link]:
        return trajectory.chain(_config(settings), seed, records)

    def advance(
        self, settings: Mapping[str, Any], seed: int, until: str, store: Any, report: Callable[[str, dict[str, Any]], None]
    ) -> None:
        from core.trial import advance

        advance(_config(settings), seed, until, store, report)


def _config(settings: Mapping[str, Any]) -> Config:
    config, faults = parse(settings)
    if faults:
        raise ValueError("; ".join(f"{key}: {message}" for key, message in faults))
    return config


@functools.cache
def _n_classes(source: str) -> int | None:
    return {"digits": 10, "cifar10": 10, "cifar100": 100}.get(source)


def _profile_faults(config: Config) -> list[Fault]:
    """A profile that leaves a class empty, where the number of images is known beforehand."""
    data = config.data
    n_classes = _n_classes(data.source)
    n_max = data.n_max or {"cifar10": 5000, "cifar100": 500}.get(data.source)
    if data.imbalance_factor and n_classes and n_max and n_max / data.imbalance_factor < 1:
        return [Fault("data.imbalance_factor", f"{data.imbalance_factor:g} leaves the smallest class of at most {n_max} images empty")]
    return []


SUBJECT = StrategyA()
