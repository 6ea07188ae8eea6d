"""Strategy A and its baselines as a subject of the harness; the protocol is described in `ablation.subject`.

Only `advance` imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core import fingerprint, trajectory
from core.config import BASELINES, Config, Data
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
        return faults or _data_faults(config)

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return to_tree(_config(settings))

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        return BASELINES

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
            "epochs": config.epochs,
            "pretraining_epochs": config.pretraining_epochs,
            "encoder": config.encoder.name,
            "head": config.head.name,
            "versions": fingerprint.versions(),
        }

    def chain(self, settings: Mapping[str, Any], seed: int, records: trajectory.Records) -> list[Link]:
        return trajectory.chain(_config(settings), seed, records)

    def advance(
        self, settings: Mapping[str, Any], seed: int, until: str | None, store: Any, report: Callable[[str, dict[str, Any]], None]
    ) -> None:
        from core.trial import advance

        advance(_config(settings), seed, until, store, report)


def _config(settings: Mapping[str, Any]) -> Config:
    config, faults = parse(settings)
    if faults:
        raise ValueError("; ".join(f"{key}: {message}" for key, message in faults))
    return config


def _data_faults(config: Config) -> list[Fault]:
    """Images that the settings ask for and that are not there."""
    data = config.data
    try:
        _class_counts(config)
    except ValueError as error:
        key = "data.imbalance_factor" if data.imbalance_factor else "data.n_max" if data.n_max else "data.n_test" if data.source == "digits" else "data.path"
        return [Fault(key, str(error))]
    return []


def _class_counts(config: Config) -> list[int]:
    files = tuple(fingerprint.data_files(config))
    return list(_counted(config.data, files, fingerprint.data_fingerprint(config)))


@functools.cache  # listing an archive takes half a second, and a grid has many cells
def _counted(data: Data, files: tuple[Path, ...], data_fingerprint: str) -> tuple[int, ...]:
    return tuple(class_counts(data, files))


SUBJECT = StrategyA()
