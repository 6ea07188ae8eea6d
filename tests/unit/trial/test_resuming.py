"""Stopped and resumed, shared or alone, after damage: always the same bits."""

import functools

import pytest
import torch
from tiny_trials import (
    JOINT,
    ORIGINAL,
    STAGED,
    MemoryStore,
    advance,
    chain,
    records,
    run,
    trial_at,
)

from ablation.storage.cache import DiskStore
from core.subject import SUBJECT
from core.trial import run as trial

PLATEAU = {
    "warmup.plateau.window": 1,
    "warmup.plateau.min_epochs": 2,
    "warmup.plateau.tolerance": 1.0,
    "warmup.plateau.max_fraction": 0.8,
}
"""Planned as four of five epochs; no loss falls to 0, so it ends after two."""

CE = JOINT | {"method": "ce"}
TRIALS = {
    "joint": JOINT,
    "joint, sgd, mixup": JOINT
    | {
        "optim.name": "sgd",
        "pretraining.mixup": 0.4,
        "data.augmentation": "crop-flip",
        "optim.schedule": "cosine",
    },
    "joint, gaussian, views, strong": JOINT
    | {
        "generation.method": "gaussian",
        "losses.radius_from": "views",
        "data.augmentation": "strong",
    },
    "plateau": JOINT | PLATEAU,
    "joint, averaged weights": JOINT | {"optim.ema": 0.9},
    "joint, two views, sharpness-aware": JOINT
    | {"losses.consistency": 1.0, "mixup": 0.4, "optim.sam": 0.05},
    "staged": STAGED,
    "original": ORIGINAL,
    "control": STAGED | {"staged.generation": False, "staged.batching": "balanced"},
    "ce": CE,
}


@functools.cache
def _run(settings):
    return run(dict(settings))


def finished(settings):
    """The store of a whole trial; run once, copied for each test."""
    return MemoryStore(_run(tuple(settings.items())))


@functools.cache
def whole(name):
    """The uninterrupted trial, and its links. The store is for all tests: copy it before it changes."""
    store = finished(TRIALS[name])
    return store, chain(TRIALS[name], store=store)


def assert_same(name, store):
    """Every record and the last checkpoint are those of the uninterrupted trial."""
    expected, links = whole(name)
    assert records(store, links) == records(expected, links)
    assert store.load("state", links[-1].key) == expected.load("state", links[-1].key)


LENGTHS = {
    "joint": 7, "joint, sgd, mixup": 7, "joint, gaussian, views, strong": 7, "plateau": 7, "joint, averaged weights": 7,
    "joint, two views, sharpness-aware": 7, "staged": 6, "original": 6, "control": 4, "ce": 3,
}  # fmt: skip
# in the middle of each phase that keeps a checkpoint at its end; below, every trial stops after each
IN_EVERY_RUN = {("joint", 0), ("joint", 2), ("joint", 5), ("staged", 2), ("staged", 4)}
STOPS = [
    pytest.param(
        name,
        i,
        id=f"{name}, after link {i + 1}",
        marks=[] if (name, i) in IN_EVERY_RUN else pytest.mark.long,
    )
    for name, n in LENGTHS.items()
    for i in range(n - 1)
]


def test_every_link_but_the_last_is_a_stop():
    assert LENGTHS == {name: len(whole(name)[1]) for name in TRIALS}


@pytest.mark.parametrize(("name", "i"), STOPS)
def test_a_trial_stopped_at_any_epoch_and_resumed_equals_the_uninterrupted_one(name, i):
    links, store = whole(name)[1], MemoryStore()
    assert advance(TRIALS[name], store, until=links[i].key) == [link.key for link in links[: i + 1]]
    torch.manual_seed(i)  # another process
    torch.rand(7)
    assert advance(TRIALS[name], store) == [
        link.key for link in links[i + 1 :]
    ]  # nothing is run again
    assert_same(name, store)


@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_stopped_after_every_epoch_equals_the_uninterrupted_one(name):
    links, store = whole(name)[1], MemoryStore()
    for i, link in enumerate(links):
        torch.manual_seed(i)  # another process
        assert advance(TRIALS[name], store, until=link.key) == [link.key]
    assert_same(name, store)


class Killed(BaseException):
    """Not an Exception: nothing may catch it."""


DEATHS = [
    pytest.param(
        name,
        i,
        seconds,
        marks=[] if (name, i) in {("joint", 2), ("staged", 4)} else pytest.mark.long,
    )
    for name, i in [("joint", 0), ("joint", 2), ("joint", 5), ("staged", 2), ("staged", 4)]
    for seconds in [-1.0, 1e9]
]


@pytest.mark.parametrize(("name", "i", "seconds_between_checkpoints"), DEATHS)
def test_a_trial_that_dies_and_is_run_again_equals_the_uninterrupted_one(
    name, i, seconds_between_checkpoints, monkeypatch
):
    # before the patch: the whole trial is kept for the other tests of this process
    links, store = whole(name)[1], MemoryStore()
    monkeypatch.setattr(trial, "CHECKPOINT_SECONDS", seconds_between_checkpoints)

    def die(key, record):
        if key == links[i].key:
            raise Killed

    with pytest.raises(Killed):
        SUBJECT.advance(TRIALS[name], 0, None, store, die)
    ran = advance(TRIALS[name], store)
    assert (
        len(ran) == len(links) - i
        if seconds_between_checkpoints < 0
        else len(ran) >= len(links) - i
    )  # the record is there, its checkpoint is not
    assert_same(name, store)


def test_checkpoints_are_left_where_a_phase_ends():
    store, links = whole("joint")
    assert [store.holds("state", link.key) for link in links] == [
        False,
        True,
        False,
        True,
        False,
        False,
        True,
    ]
    store, links = whole("staged")
    assert [store.holds("state", link.key) for link in links] == [
        False,
        True,
        False,
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("name", ["joint", "staged", "ce", "plateau"])
def test_a_finished_trial_is_never_run_again(name):
    expected, links = whole(name)
    store = MemoryStore(expected)
    assert advance(TRIALS[name], store) == []
    assert advance(TRIALS[name], store, until=links[1].key) == []  # the end of pre-training
    assert store == expected


def test_a_checkpoint_asked_for_within_a_phase_is_made_from_the_one_before():
    expected, links = whole("joint")
    store = MemoryStore(expected)
    assert advance(JOINT, store, until=links[5].key) == [link.key for link in links[4:6]]
    assert store.holds("state", links[5].key)
    assert records(store, links) == records(expected, links)


# --- sharing

PAIRS = {
    "learning rate of the encoder": (JOINT, {"optim.lr.encoder": 1e-5}),
    "routing": (JOINT, {"routing": "summed", "batchnorm": "frozen"}),
    "length of the warm-up": (JOINT, {"warmup.epochs": 3}),
    "no warm-up": (JOINT, {"warmup.epochs": 0}),
    "frozen throughout": (JOINT, {"end_to_end": False}),
    "head": (JOINT, {"head.name": "cosine"}),
    "plateau": (JOINT, PLATEAU),
    "the longer trial first": (JOINT | {"epochs": 6}, {"epochs": 5}),
    "the shorter trial first": (JOINT, {"epochs": 6}),
    "staged and joint": (JOINT, STAGED),
    "staged quotas": (STAGED, {"generation.quota": "ldmlr"}),
    "staged heads": (STAGED, {"head.name": "wcdas", "head.start": "random"}),
    "staged starts of one head": (STAGED, {"head.start": "random"}),
    "staged with and without generation": (STAGED, {"staged.generation": False}),
    "staged and original": (STAGED, ORIGINAL),
    "staged encodings": (ORIGINAL, {"staged.encoding.first_relu": True}),
    "staged scalings": (STAGED, {"diffusion.scaling": "unit"}),
    "what a control has no use for": (
        STAGED | {"staged.generation": False},
        {"diffusion.scaling": "unit", "optim.denoiser_name": "sgd"},
    ),
    "as it is": (JOINT, {"method": "ce"}),
}


FURTHER = {
    "head", "frozen throughout", "staged heads", "staged starts of one head", "staged encodings", "staged scalings",
    "the longer trial first",
}  # fmt: skip


@pytest.mark.parametrize(
    ("first", "change"),
    [
        pytest.param(*pair, id=name, marks=pytest.mark.long if name in FURTHER else [])
        for name, pair in PAIRS.items()
    ],
)
def test_a_trial_that_shares_epochs_equals_one_that_shares_none(first, change):
    second = first | change
    alone, together = finished(second), finished(first)
    links = chain(second, store=alone)
    n_shared = sum(together.holds("record", link.key) for link in links)
    assert n_shared >= 2  # the pre-training at least
    last_checkpoint = max(i + 1 for i in range(n_shared) if together.holds("state", links[i].key))
    assert len(advance(second, together)) == len(links) - last_checkpoint
    assert records(together, links) == records(alone, links)
    assert together.load("state", links[-1].key) == alone.load("state", links[-1].key)


def test_a_control_takes_over_from_one_with_another_denoiser():
    """Without generation the denoiser is not trained, so it is not among what makes an epoch new."""
    control = TRIALS["control"]
    links, store = whole("control")[1], MemoryStore()
    advance(control | {"denoiser.width": 24}, store, until=links[-2].key)
    assert advance(control, store) == [links[-1].key]
    assert records(store, links) == records(whole("control")[0], links)


# --- damage


class Damaged(MemoryStore):
    """Holds some entries that turn out damaged when they are read, and are then removed."""

    def __init__(self, whole, *damaged):
        super().__init__(whole)
        self.damaged = set(damaged)

    def load(self, kind, key):
        if (kind, key) in self.damaged:
            self.damaged.discard((kind, key))
            self.pop((kind, key))
        return super().load(kind, key)

    def save(self, kind, key, data, seconds=0.0):
        self.damaged.discard((kind, key))
        super().save(kind, key, data, seconds)


@pytest.mark.parametrize("form", ["missing", "damaged"])
@pytest.mark.parametrize("kind, i, resumes_at", [
    ("state", 6, 4),  # the last checkpoint: from the one at the end of the warm-up
    ("state", 3, 7), ("latents", 1, 7),  # not needed any more
])  # fmt: skip
def test_a_damaged_checkpoint_of_a_finished_trial_is_made_again_if_needed(
    kind, i, resumes_at, form
):
    store, links = whole("joint")
    entry = (kind, links[i].key)
    assert entry in store
    broken = (
        Damaged(store, entry)
        if form == "damaged"
        else MemoryStore({k: v for k, v in store.items() if k != entry})
    )
    assert advance(JOINT, broken) == [link.key for link in links[resumes_at:]]
    assert_same("joint", broken)


# a damaged one is missing once it has been read
@pytest.mark.parametrize("form", [pytest.param("missing", marks=pytest.mark.long), "damaged"])
@pytest.mark.parametrize("kind, i, resumes_at", [
    ("latents", 1, 5),  # encoded again
    ("state", 4, 4),  # of the epoch it stopped at: from the end of the warm-up
    ("state", 1, 0),  # of the pre-training, which the pretrained latents and head come from
])  # fmt: skip
def test_a_damaged_checkpoint_of_a_stopped_trial_is_made_again(kind, i, resumes_at, form):
    links, store = whole("joint")[1], MemoryStore()
    advance(JOINT, store, until=links[4].key)
    entry = (kind, links[i].key)
    assert entry in store
    broken = (
        Damaged(store, entry)
        if form == "damaged"
        else MemoryStore({k: v for k, v in store.items() if k != entry})
    )
    assert advance(JOINT, broken) == [link.key for link in links[resumes_at:]]
    assert_same("joint", broken)


# each phase once; the other epochs of a phase with the long tests
@pytest.mark.parametrize(
    ("i", "resumes_at"),
    [
        (0, 0),
        (3, 2),
        (6, 4),
        *(pytest.param(*each, marks=pytest.mark.long) for each in [(1, 0), (2, 2), (4, 4)]),
    ],
)
def test_a_missing_record_is_made_again(i, resumes_at):
    store, links = whole("joint")
    broken = MemoryStore(store)
    del broken["record", links[i].key]
    assert advance(JOINT, broken) == [link.key for link in links[resumes_at:]]
    assert_same("joint", broken)


def test_a_damaged_record_of_a_plateau_is_made_again():
    store, links = whole("plateau")
    broken = Damaged(store, ("record", links[3].key))
    advance(TRIALS["plateau"], broken)
    assert_same("plateau", broken)


def test_a_trial_on_disk_survives_damage_to_its_files(tmp_path):
    store, links = DiskStore(tmp_path), whole("joint")[1]
    advance(JOINT, store)
    for kind, key in (("state", links[-1].key), ("record", links[4].key)):
        path = store.path(kind, key)
        path.write_bytes(path.read_bytes()[:-1])
    assert store.record(links[4].key) is None  # as the harness finds out
    assert advance(JOINT, store) == [link.key for link in links[4:]]
    assert_same("joint", store)


# --- a split per seed

PER_SEED = {"data.split": "seed"}


@pytest.mark.parametrize("settings", [JOINT, STAGED], ids=["joint", "staged"])
def test_a_process_that_serves_two_seeds_by_turns_gives_the_bits_of_one_for_each(
    settings, monkeypatch
):
    settings, store, alone = settings | PER_SEED, MemoryStore(), {}
    for seed in (0, 1):
        monkeypatch.setattr(trial, "_datasets", {})  # a process of its own
        alone[seed] = run(settings, seed)
    links = {seed: chain(settings, seed) for seed in alone}
    for of_both in zip(*links.values(), strict=True):
        for seed, link in enumerate(of_both):
            assert advance(settings, store, seed, until=link.key) == [link.key]
    for seed, own in links.items():
        assert records(store, own) == records(alone[seed], own)
        last = ("state", own[-1].key)
        assert store.load(*last) == alone[seed].load(*last)


def test_a_fixed_split_gives_what_seed_0_draws_and_no_other_seed():
    # the shortest trial that reads the images
    for seed in (0, 1):
        fixed, drawn = (
            records(run(settings, seed), chain(settings, seed)) for settings in (CE, CE | PER_SEED)
        )
        assert (fixed == drawn) == (seed == 0)


def test_all_arms_of_a_seed_have_one_split_and_share_its_pretraining():
    arms = [settings | PER_SEED for settings in (JOINT, STAGED, JOINT | {"method": "ce"})]
    for seed in (0, 1):
        chains = [[link.key for link in chain(arm, seed)] for arm in arms]
        assert len({tuple(keys[:2]) for keys in chains}) == 1
        assert len({keys[2] for keys in chains}) == len(arms)
        images = [trial_at(arm, seed, MemoryStore(), 0).dataset.train.images for arm in arms]
        assert all(torch.equal(each, images[0]) for each in images)


# --- the plateau


def test_a_plateau_ends_the_warmup_early():
    planned = [link.phase for link in chain(TRIALS["plateau"])]
    store, links = whole("plateau")
    assert planned == ["pretrain"] * 2 + ["warmup"] * 4 + ["joint"]
    assert [link.phase for link in links] == ["pretrain"] * 2 + ["warmup"] * 2 + ["joint"] * 3
    assert [link.key for link in links] == [
        link.key for link in chain(JOINT)
    ]  # the fixed warm-up of that length
    assert records(store, links) == records(whole("joint")[0], links)


@pytest.mark.parametrize(
    "settings",
    [JOINT, STAGED | {"warmup.plateau": {}}, JOINT | {"end_to_end": False, "warmup.plateau": {}}],
)
def test_a_trial_without_a_plateau_that_counts_refuses_a_key_that_is_not_planned(settings):
    store = MemoryStore()
    with pytest.raises(trial.PlanChanged, match="its plan no longer holds"):
        advance(settings, store, until="no such key")
    assert not store


def test_a_plateau_asked_for_an_epoch_that_never_comes_stops_where_it_turns_off():
    planned, store = chain(TRIALS["plateau"]), MemoryStore()
    ran = advance(TRIALS["plateau"], store, until=planned[5].key)
    assert ran == [
        link.key for link in whole("plateau")[1][:4]
    ]  # its pre-training and warm-up, which others may share
    assert store.holds("state", ran[-1])
    advance(TRIALS["plateau"], store)
    assert_same("plateau", store)
