"""Trials of a second or less on a few dozen digits, and a store that keeps its bytes in a dict."""

import json

import torch

from core.config.parsing import parse
from core.config.schema import Config
from core.planning.trajectory import Link, epoch_settings, phase_settings
from core.subject import SUBJECT
from core.trial.run import Checkpoints, Trial, last_checkpoints

# as in a trial that is run by its name; several threads in each of two processes wait for each other
torch.set_num_threads(1)

PRETRAIN_AND_DATA = {
    "data.channels": "gray",
    "data.n_max": 14,
    "data.imbalance_factor": 6,
    "data.n_test": 5,
    "data.augmentation": "crop",
    "data.padding": 1,
    "encoder.name": "small-cnn",
    "pretraining.epochs": 2,
    "pretraining.batch_size": 32,
}
JOINT = PRETRAIN_AND_DATA | {
    "epochs": 5,
    "warmup.epochs": 2,
    "batch_size": 32,
    "optim.lr.encoder": 1e-3,  # large enough to move
    "denoiser.width": 16,
    "denoiser.blocks": 1,
    "diffusion.steps": 50,
    "generation.steps": 3,
    "generation.every": 2,  # a pool outlives the epoch that drew it
}
STAGED = JOINT | {
    "method": "staged",
    "staged.diffusion_epochs": 2,
    "staged.head_epochs": 2,
    "head.name": "linear",
    "head.start": "pretrained",
}

ORIGINAL = STAGED | {
    "staged.encoding.statistics": "batch",
    "staged.encoding.augmented": True,
    "staged.encoding.first_relu": False,
    "staged.head_batch_size": 48,
    "diffusion.scaling": "unit",
    "optim.denoiser_name": "sgd",
    "optim.head_weight_decay": 0.01,
    "optim.momentum": 0,
    "generation.method": "ddpm",
}


class MemoryStore(dict):
    """(kind, key) -> bytes."""

    def load(self, kind, key):
        return self.get((kind, key))

    def save(self, kind, key, data, seconds=0.0):
        self[kind, key] = data

    def holds(self, kind, key):
        return (kind, key) in self

    def record(self, key):
        data = self.load("record", key)
        return None if data is None else json.loads(data)


def config_of(settings: dict) -> Config:
    config, faults = parse(settings)
    assert not faults
    return config


def effective(config: Config, phase: str, epoch: int) -> dict:
    """The settings that can change this epoch."""
    return phase_settings(config, phase) | epoch_settings(config, phase, epoch)


def chain(settings: dict, seed: int = 0, store: MemoryStore | None = None) -> list[Link]:
    return SUBJECT.chain(settings, seed, store.record if store is not None else lambda key: None)


def advance(
    settings: dict, store: MemoryStore, seed: int = 0, until: str | None = None
) -> list[str]:
    """Run to `until`, or to the end; the keys of the links that were run, not found."""
    ran = []
    SUBJECT.advance(settings, seed, until, store, lambda key, record: ran.append(key))
    return ran


def run(settings: dict, seed: int = 0) -> MemoryStore:
    """A whole trial in a store of its own."""
    store = MemoryStore()
    advance(settings, store, seed)
    return store


_shared = MemoryStore()


def run_on_shared_epochs(settings: dict) -> MemoryStore:
    """A whole trial that takes the epochs which earlier calls left, as `test_resuming.py` shows it may.

    The store holds what belongs to this trial alone. Nothing of the training may be patched while this runs.
    """
    advance(settings, _shared)
    own = {link.key for link in chain(settings, store=_shared)}
    return MemoryStore({entry: data for entry, data in _shared.items() if entry[1] in own})


def records(store: MemoryStore, links: list[Link]) -> list[str]:
    """What the links reported, wall time aside, as text: NaN equals NaN there, and no other two floats are equal."""
    found = [store.record(link.key) for link in links]
    return [
        json.dumps(
            {name: value for name, value in record.items() if name not in ("seconds", "time")}
        )
        for record in found
    ]


def trial_at(settings: dict, seed: int, store: MemoryStore, n_done: int) -> Trial:
    """The trial as it goes on after its first `n_done` links, which the store has."""
    links = chain(settings, seed, store)
    start = (
        last_checkpoints(links, links[n_done - 1].key, store)
        if n_done
        else Checkpoints(0, None, None)
    )
    assert start.done == n_done
    return Trial(config_of(settings), seed, store, links, start)


def warmed_up(settings: dict) -> MemoryStore:
    """A store in which pre-training and warm-up are done, two epochs each, as in `JOINT`."""
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[3].key)
    return store


def at_the_thaw(
    settings: dict, warmed: MemoryStore, pool_at: int | None = None, **changes
) -> Trial:
    """A trial after its warm-up, with settings changed that the warm-up does not know of; pool_at: draw latents as of this epoch."""
    trial = trial_at(settings, 0, warmed, 4)
    if pool_at is not None:
        trial.learner.refresh_pool(pool_at)
    trial.learner.config = config_of(settings | changes)
    trial.learner.weigh()
    return trial
