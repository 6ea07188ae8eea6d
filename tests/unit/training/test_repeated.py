"""Recorded steps on CPU tensors: a tape that repeats operations on fixed memory, as a CUDA graph does, and nothing of Python."""

import gc
import weakref
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny_trials import JOINT, ORIGINAL, STAGED, MemoryStore, chain, config_of, trial_at
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from core.data.sources import Split
from core.device import forward
from core.device.repeated import N_PLAIN, Repeated
from core.method.diffusion import generate
from core.method.losses import Geometry
from core.networks.encoders import build_encoder
from core.training import epochs, learner
from core.training.pool import Pool

WAITS = {
    torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default, torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor, torch.ops.aten.item.default,
}  # fmt: skip
"""For these a GPU must first have computed what comes before."""


def memory(value):
    """A tensor's memory without its history."""
    return value.detach() if isinstance(value, torch.Tensor) else value


class Tape(TorchDispatchMode):
    """Keeps every operation with the memory that it read and wrote."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.done.append((func, *tree_map(memory, (args, kwargs or {}, out))))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.done:
            read = {
                t.untyped_storage().data_ptr()
                for t in tree_leaves((args, kwargs))
                if isinstance(t, torch.Tensor)
            }
            again = func(*args, **kwargs)
            for place, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if (
                    isinstance(place, torch.Tensor)
                    and place.untyped_storage().data_ptr() not in read
                ):
                    place.copy_(new)


def tape(step, inputs):
    """The recorder for CPUs. A CPU cannot record without computing: its first replay has been done already."""
    recorded = Tape()
    with recorded:
        outputs = step(*inputs)
    assert not [
        func
        for func, *_ in recorded.done
        if func in WAITS or torch.Tag.nondeterministic_seeded in func.tags
    ]
    replays = iter([lambda: None])
    return outputs, lambda: next(replays, recorded.replay)()


# Of so few images that an epoch has some steps of 16 and one of the rest, whose sizes `RECORDED` holds.
FEW = {"batch_size": 16, "data.n_max": 12}
EACH_EPOCH = JOINT | FEW | {"warmup.epochs": 3, "epochs": 8, "generation.every": 1}
ALL_AT_ONCE = {"losses.consistency": 1.0, "mixup": 0.4, "optim.sam": 0.05, "optim.ema": 0.9}
SETTINGS = {
    "joint": EACH_EPOCH,
    "staged": STAGED | FEW | {"staged.diffusion_epochs": 5},
    "original": ORIGINAL | FEW | {"staged.diffusion_epochs": 5, "staged.head_batch_size": 16},
    "joint, unit scaling, mixup": EACH_EPOCH
    | {"diffusion.scaling": "unit", "optim.denoiser_name": "sgd", "mixup": 0.4},
    "joint, alternating": EACH_EPOCH | {"routing": "alternating", "optim.clip": 0.5},
    "joint, averaged weights": EACH_EPOCH | {"optim.ema": 0.9},
    "joint, two crops": EACH_EPOCH | {"losses.consistency": 1.0},
    "joint, mixup and CutMix": EACH_EPOCH | {"losses.consistency": 1.0, "mixup": 0.4},
    "joint, sharpness-aware": EACH_EPOCH | {"optim.sam": 0.05},
    "joint, all at once": EACH_EPOCH | ALL_AT_ONCE,
}


IN_EVERY_RUN = {"staged", "original", "joint, alternating"}


@pytest.mark.parametrize(
    ("name", "n_chunks"),
    [
        # "all at once" has what the long ones add one by one; "joint" in one chunk is that of the
        # next test
        *(
            pytest.param(name, 1, marks=[] if name in IN_EVERY_RUN else pytest.mark.long)
            for name in SETTINGS
        ),
        pytest.param("joint", 3, marks=pytest.mark.long),
        ("joint, all at once", 3),
        pytest.param("joint, alternating", 3, marks=pytest.mark.long),
    ],
)
def test_repeated_recordings_train_as_plain_steps_do(name, n_chunks):
    plain, recorded = (whole_trial(SETTINGS[name], record, n_chunks) for record in (None, tape))
    assert plain.keys() == recorded.keys()
    for key, value in plain.items():
        assert torch.allclose(value, recorded[key], rtol=0, atol=0, equal_nan=True), key


def test_weights_that_are_cast_at_once_are_cast_anew_in_each_repeated_step(monkeypatch):
    monkeypatch.setattr(forward, "CAST_AT_ONCE", ("cpu",))
    settings = SETTINGS["joint"] | {"precision": "bfloat16"}
    plain, recorded = (whole_trial(settings, record, 1) for record in (None, tape))
    for key, value in plain.items():
        assert torch.allclose(value, recorded[key], rtol=0, atol=0, equal_nan=True), key


def whole_trial(settings, record, n_chunks):
    links, store = chain(settings), MemoryStore()
    trial = trial_at(settings, 0, store, 0)
    trial.n_chunks = {"joint": n_chunks}
    metrics = {}
    for link in links:
        if link.phase != "pretrain":
            trial.learner.record = record
        metrics |= {f"{link.epoch} {k}": torch.tensor(v) for k, v in trial.run(link)[0].items()}
    if (
        record is not None
    ):  # the last batch of an epoch is smaller: its recording and the other's take turns
        assert {
            step.__name__: sizes(repeated) for step, repeated in trial.learner._repeated.items()
        } == RECORDED[settings.get("method", "joint")]
    return metrics | {k: v.clone() for k, v in trial.state(links[-1].phase).items()}


RECORDED = {
    "joint": {"warmup_step": {16}, "joint_step": {16, 5}},
    "staged": {"diffusion_step": {16, 5}, "head_step": {16}},
}


def sizes(repeated):
    """Of the batches of which recordings have been repeated."""
    return {
        inputs[0][0][0] for inputs in repeated.recordings if repeated.n_calls[inputs] > N_PLAIN + 1
    }


def test_a_finished_learner_is_gone_at_once():
    """And with it the device memory of its recordings, without waiting for Python to look for cycles."""
    trial = trial_at(SETTINGS["staged"], 0, MemoryStore(), 0)
    for link in chain(SETTINGS["staged"])[:3]:
        trial.run(link)
    gone = weakref.ref(trial.learner)
    gc.disable()
    try:
        del trial
        assert gone() is None
    finally:
        gc.enable()


def test_a_step_that_rebinds_what_lasts_is_caught_by_the_tape():
    """The tape sees what it is there to see."""
    held = {"total": torch.zeros(())}

    def step(x):
        held["total"] = held["total"] + x.sum()
        return held["total"]

    repeated = Repeated(step, tape)
    totals = [float(repeated(torch.ones(2))) for _ in range(N_PLAIN + 3)]
    assert totals[:4] == [2, 4, 6, 8] and totals[-1] != 12


def test_each_combination_of_shapes_has_its_recording_and_none_is_a_combination():
    seen = []

    def step(x, y):
        seen.append(len(x))
        return x * 2 if y is None else x + y

    repeated = Repeated(step, tape)
    for _ in range(N_PLAIN + 2):
        for x, y in (
            (torch.ones(3), None),
            (torch.ones(2), None),
            (torch.full((3,), 5.0), torch.ones(3)),
        ):
            expected = step(x, y)
            seen.pop()
            assert torch.equal(repeated(x, y), expected)
    assert seen.count(2) == N_PLAIN + 1 and seen.count(3) == 2 * (
        N_PLAIN + 1
    )  # afterwards Python is not asked


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        ("warmup", "joint"),
        ("joint", "joint"),
        pytest.param("joint", "joint, two crops", marks=pytest.mark.long),
        ("joint", "joint, all at once"),
    ],
)
def test_an_epoch_never_waits_for_the_device(phase, name, monkeypatch):
    settings = SETTINGS[name]
    trial = trial_at(settings, 0, MemoryStore(), 0)
    for link in chain(settings)[:5]:
        trial.run(link)
    monkeypatch.setattr(epochs.Means, "read", lambda means: {})  # at the end of the epoch
    with Tape() as recorded:
        if phase == "warmup":
            epochs.warmup_epoch(trial.learner, trial.latents.train, trial.dataset.train.labels, 4)
        else:
            epochs.joint_epoch(trial.learner, trial.dataset.train, 4)
    assert [func for func, *_ in recorded.done if func in WAITS] == []


@pytest.mark.parametrize(
    ("augmentation", "change"),
    [
        # each augmentation once, with and without a second crop
        pytest.param("none", {}, marks=pytest.mark.long),
        pytest.param("crop-flip", {}, marks=pytest.mark.long),
        ("strong", {}),
        ("crop-flip", {"losses.consistency": 1.0}),
        ("none", {"losses.consistency": 1.0, "mixup": 1.0}),
    ],
)
def test_every_tensor_of_an_epoch_is_on_the_device(augmentation, change, monkeypatch):
    """On `meta`, the device without values, which refuses tensors of other devices as a GPU does."""
    config = replace(
        config_of(SETTINGS["joint"] | {"data.augmentation": augmentation} | change),
        device="meta",
        batch_size=64,
    )
    unfused = lambda optim, parameters, lr: torch.optim.SGD(list(parameters), lr)  # noqa: E731  fused steps have no form there
    monkeypatch.setattr(learner, "build_optimiser", unfused)
    monkeypatch.setattr(learner, "generator", lambda *_: None)
    monkeypatch.setattr(
        epochs, "batches", lambda n, size, _: torch.randperm(n, device="meta").split(size)
    )
    monkeypatch.setattr(forward, "autocast", lambda _: nullcontext())
    monkeypatch.setattr(epochs.Means, "read", lambda means: {})
    with torch.device("meta"):
        trained = learner.Learner(
            config,
            0,
            build_encoder("small-cnn", 1),
            {},
            torch.ones(10, dtype=torch.int64, device="cpu"),
        )
        trained.mean, trained.std = torch.zeros(2, 64)
        trained.is_nonnegative = True
        trained.geometry = Geometry(torch.zeros(10, 64), torch.zeros(10), torch.zeros(10))
        trained.pool = Pool(torch.zeros(50, 64), torch.zeros(50, dtype=torch.int64))
        train = Split(
            torch.zeros(100, 1, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64)
        )
    latents = epochs.joint_epoch(trained, train, 5).latents
    assert latents.device.type == "meta" and latents.shape[1] == 64
    assert len(latents) < 100 if config.mixup else len(latents) == 100
    epochs.warmup_epoch(trained, torch.zeros(100, 64, device="meta"), train.labels, 1)

    def of_each(z, t):
        return trained.denoiser(z, t[:1].expand(10), torch.arange(10, device="meta"), train.labels)

    assert (
        generate(
            of_each, "x0", trained.levels, torch.zeros(100, 64, device="meta"), 3, 0.0, None
        ).device.type
        == "meta"
    )
