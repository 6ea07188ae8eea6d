"""Each module's optimiser: its name, decay and momentum, the ramp after the thaw, clipped gradients."""

import pytest
import torch
from tiny_trials import JOINT, MemoryStore, advance, chain, config_of, effective, trial_at

from core.config.parsing import parse
from core.planning.trajectory import JOINT as JOINT_PHASE
from core.planning.trajectory import WARMUP, rates
from core.training.epochs import update

SGD = {
    "optim.encoder_name": "sgd", "optim.head_name": "sgd", "optim.encoder_weight_decay": 5e-4, "optim.nesterov": True, "optim.lr.encoder": 0.05,
}  # fmt: skip


def test_modules_have_optimisers_of_their_own():
    optim = config_of(JOINT | SGD).optim
    assert [optim.of(module).name for module in ("encoder", "head", "denoiser")] == [
        "sgd",
        "sgd",
        "adam",
    ]
    assert [optim.of(module).weight_decay for module in ("encoder", "head", "denoiser")] == [
        5e-4,
        0.0,
        0.0,
    ]
    store = MemoryStore()
    advance(JOINT | SGD, store, until=chain(JOINT | SGD)[1].key)
    optimisers = trial_at(JOINT | SGD, 0, store, 2).learner.optimisers
    assert (
        isinstance(optimisers["encoder"], torch.optim.SGD)
        and optimisers["encoder"].defaults["nesterov"]
    )
    assert isinstance(optimisers["denoiser"], torch.optim.Adam)


def test_the_rate_of_the_encoder_rises_after_the_thaw_and_no_others():
    config = config_of(
        JOINT | {"epochs": 12, "warmup.epochs": 2, "optim.ramp_epochs": 3, "optim.lr.encoder": 0.08}
    )
    encoder = [rates(config, JOINT_PHASE, epoch)["encoder"] for epoch in range(3, 9)]
    assert encoder == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.08, 0.08])
    assert {rates(config, JOINT_PHASE, epoch)["head"] for epoch in range(3, 9)} == {
        rates(config, WARMUP, 1)["head"]
    }


def test_a_ramp_multiplies_the_schedule():
    plain = config_of(JOINT | {"epochs": 12, "warmup.epochs": 2, "optim.schedule": "cosine"})
    ramped = config_of(
        JOINT
        | {"epochs": 12, "warmup.epochs": 2, "optim.schedule": "cosine", "optim.ramp_epochs": 1}
    )
    ratios = [
        rates(ramped, JOINT_PHASE, epoch)["encoder"] / rates(plain, JOINT_PHASE, epoch)["encoder"]
        for epoch in (3, 4, 5)
    ]
    assert ratios == pytest.approx([0.5, 1, 1])


@pytest.mark.parametrize("clip", [0.5, 2.0, 100.0])
def test_the_gradient_of_each_module_is_clipped_to_its_norm(clip, monkeypatch):
    settings = JOINT | {
        "optim.clip": clip,
        "optim.name": "sgd",
        "optim.momentum": 0.0,
        "optim.lr.head": 1.0,
        "optim.lr.encoder": 1.0,
    }
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[1].key)
    learner = trial_at(settings, 0, store, 2).learner
    learner.set_rates({"encoder": 1.0, "head": 1.0})
    for name in ("encoder", "head"):
        parameters = list(getattr(learner, name).parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        norm = sum(parameter.numel() for parameter in parameters) ** 0.5
        update(learner, name)
        moved = (
            sum(float((a - b.detach()).square().sum()) for a, b in zip(before, parameters)) ** 0.5
        )
        assert moved == pytest.approx(min(clip, norm), rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"optim.encoder_name": "sgd"},
        {"optim.encoder_weight_decay": 0.1},
        {"optim.ramp_epochs": 2},
        {"optim.clip": 1.0},
    ],
)
def test_what_concerns_the_joint_epochs_is_part_of_their_keys(change):
    plain, changed = config_of(JOINT), config_of(JOINT | change)
    assert effective(plain, JOINT_PHASE, 3) != effective(changed, JOINT_PHASE, 3)
    is_shared = effective(plain, WARMUP, 1) == effective(changed, WARMUP, 1)
    assert is_shared is ("optim.clip" not in change)


@pytest.mark.parametrize(
    ("settings", "key", "says"),
    [
        ({"optim.nesterov": True}, "optim.nesterov", "true, and no module's optimiser is sgd"),
        (
            {"optim.nesterov": True, "optim.name": "sgd", "optim.momentum": 0},
            "optim.nesterov",
            "true, and optim.momentum is 0",
        ),
        (
            {"optim.ramp_epochs": 2, "warmup.plateau": {}, "epochs": 40},
            "optim.ramp_epochs",
            "a plateau's thaw is not known",
        ),
        ({"optim.clip": 0}, "optim.clip", "0 is too small; more than 0"),
        (
            {"optim.encoder_name": "adamv"},
            "optim.encoder_name",
            "'adamv' is not allowed; did you mean 'adam",
        ),
    ],
)
def test_what_does_not_go_together_is_named(settings, key, says):
    faults = parse(JOINT | settings)[1]
    assert [fault.key for fault in faults] == [key] and says in faults[0].message, faults
