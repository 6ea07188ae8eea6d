"""Which settings change nothing in a trial: found by trying other values, and never one that changes something."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_trials import JOINT, STAGED, chain, config_of, records, run

from core.config.parsing import parse
from core.planning.ignored import counts_with, ignored, setting_keys, value_of
from core.planning.trajectory import all_effective
from core.subject import SUBJECT

BASE = {
    "data.channels": "gray",
    "data.n_max": 60,
    "data.imbalance_factor": 10,
    "encoder.name": "small-cnn",
    "pretraining.epochs": 3,
    "epochs": 20,
    "warmup.epochs": 4,
}
STAGES = BASE | {"method": "staged"}
FROZEN = BASE | {"end_to_end": False}
CE = BASE | {"method": "ce"}
CHECKPOINT = BASE | {"encoder.checkpoint": "e.safetensors", "encoder.channels": "gray"}
PLATEAU = {
    "warmup.plateau.window": 2, "warmup.plateau.tolerance": 0.1, "warmup.plateau.min_epochs": 2, "warmup.plateau.max_fraction": 0.75,
}  # fmt: skip


def explicit(given: dict) -> dict:
    """The same settings with every other one written out at its default, alternatives of a warm-up aside."""
    config = config_of(given)
    values = {key: value_of(config, key) for key in setting_keys() if not key.startswith("warmup")}
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    } | given


@pytest.mark.parametrize(
    ("base", "idle"),
    [
        (BASE, {"optim.momentum": 0.5}),
        (BASE, {"staged.head_epochs": 5, "staged.batching": "balanced", "staged.encoding.statistics": "batch", "staged.generation": False}),
        (BASE, {"pretraining.milestones": [1, 2], "data.size": 16, "data.path": "data", "encoder.channels": "gray"}),
        (BASE | {"head.name": "linear"}, {"head.scale": 5, "head.trainable_scale": False}),
        (BASE | {"data.augmentation": "none"}, {"data.padding": 2}),
        (BASE | {"generation.method": "ddpm"}, {"generation.steps": 5}),
        (BASE | {"losses.generated": 0}, {"generation.quota": "ldmlr", "generation.every": 2, "generation.steps": 5, "generation.batch_size": 7}),
        (BASE | {"epochs": 5}, {"losses.generated": 0.5, "generation.steps": 5}),
        (BASE | {"denoiser.name": "unet1d"}, {"denoiser.width": 64, "denoiser.blocks": 1}),
        (BASE | {"diffusion.objective": "noise"}, {"diffusion.weighting": "snr"}),
        (STAGES | {"diffusion.objective": "noise"}, {"diffusion.weighting": "snr"}),
        (BASE, {"data.channels": "gray"}),
        (BASE | {"losses.radius": 0}, {"losses.radius_from": "many"}),
        (BASE | {"losses.radius": 0, "losses.prototype": 0}, {"losses.momentum": 0.5}),
        (BASE | {"optim.encoder_name": "sgd", "optim.head_name": "adam", "optim.denoiser_name": "adam"}, {"optim.name": "sgd"}),
        (FROZEN, {"optim.lr.encoder": 1e-3, "routing": "summed", "batchnorm": "frozen", "mixup": 1.0, "optim.ramp_epochs": 2, "warmup.epochs": 3}),
        (FROZEN | {"losses.radius": 0}, {"losses.momentum": 0.5}),
        (BASE | {"warmup.fraction": 0.5}, {"warmup.epochs": 4}),
        (FROZEN | PLATEAU, {"warmup.plateau.tolerance": 0.2, "warmup.plateau.window": 3}),
        (STAGES | PLATEAU, {"warmup.plateau.tolerance": 0.2, "warmup.plateau.window": 3}),
        (STAGES, {"losses.semantic": 2, "losses.prototype": 0, "routing": "summed", "end_to_end": False, "generation.every": 2, "warmup.epochs": 3}),
        (STAGES | {"staged.generation": False}, {"denoiser.width": 64, "diffusion.steps": 100, "optim.lr.denoiser": 0.1, "generation.quota": "ldmlr"}),
        (STAGES | {"staged.diffusion_epochs": 2, "staged.head_epochs": 2}, {"epochs": 9}),
        (STAGES | {"staged.generation": False, "staged.head_batch_size": 32}, {"batch_size": 64}),
        (CE, {"losses.logit_adjustment": 1, "epochs": 9, "batch_size": 8, "head.name": "cosine", "optim.clip": 1.0, "evaluate_every": 3, "warmup.epochs": 2}),
        (BASE | {"method": "ce-adjusted"}, {"losses.logit_adjustment": 1, "diffusion.steps": 100, "staged.head_epochs": 3}),
        (CHECKPOINT, {"pretraining.epochs": 5, "pretraining.lr": 0.2, "pretraining.mixup": 0.5}),
        (CHECKPOINT | {"method": "ce"}, {"data.augmentation": "crop", "data.padding": 3}),
        (CHECKPOINT | {"method": "staged"}, {"data.augmentation": "none"}),
        (BASE | {"data.source": "cifar10", "data.path": "x", "data.download": True, "data.channels": "rgb"}, {"data.n_test": 9, "data.size": 8}),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_found(base, idle):
    assert ignored(base | idle, list(idle)) == list(idle)


@pytest.mark.parametrize(
    ("base", "counts"),
    [
        (BASE | PLATEAU, [*PLATEAU]),
        (BASE | PLATEAU | {"warmup.plateau.min_epochs": 15}, [*PLATEAU]),  # it lasts as long as it may, and is there
        (BASE | {"optim.ramp_epochs": 3}, ["optim.ramp_epochs", "optim.lr.encoder"]),
        (BASE | {"evaluate_every": 1000}, ["evaluate_every"]),
        (BASE | {"data.split": "seed"}, ["data.split", "data.n_test"]),
        (BASE | {"threads": 2, "precision": "float32", "device": "cpu"}, ["threads", "precision", "device"]),
        (CE | {"threads": 2, "precision": "float32"}, ["threads", "precision", "data.mean", "data.n_test", "pretraining.epochs", "data.padding"]),
        (BASE | {"routing": "stopgrad"}, ["denoiser.width", "optim.lr.denoiser", "diffusion.objective", "losses.prototype", "losses.semantic", "standardisation"]),
        (BASE | {"losses.semantic": 0}, ["denoiser.width", "diffusion.steps", "losses.prototype", "losses.radius", "losses.momentum"]),
        (BASE | {"losses.radius": 0}, ["losses.momentum", "losses.prototype"]),
        (BASE | {"losses.prototype": 0, "losses.radius": 0}, ["losses.prototype", "losses.radius"]),
        (BASE | {"optim.denoiser_name": "sgd"}, ["optim.momentum", "optim.nesterov", "optim.name"]),
        (BASE | {"optim.weight_decay": 0.1, "optim.head_weight_decay": 0, "optim.encoder_weight_decay": 0}, ["optim.weight_decay"]),
        (BASE | {"losses.generated": 0}, ["losses.generated", "losses.real", "losses.logit_adjustment"]),
        (BASE | {"generation.every": 100}, ["generation.every"]),
        (BASE | {"warmup.epochs": 20}, ["warmup.epochs", "epochs"]),
        (BASE | {"warmup.fraction": 0.21}, ["warmup.fraction"]),
        (FROZEN, ["end_to_end", "head.scale", "optim.clip", "batching", "generation.steps", "optim.schedule"]),
        (STAGES, ["epochs", "batch_size", "staged.head_epochs", "staged.diffusion_epochs", "optim.clip", "evaluate_every", "diffusion.weighting"]),
        (STAGES | {"staged.generation": False}, ["staged.batching", "losses.logit_adjustment", "staged.encoding.first_relu", "head.scale"]),
        (CHECKPOINT, ["encoder.checkpoint", "encoder.channels"]),
        (BASE | {"diffusion.objective": "v"}, ["diffusion.weighting", "diffusion.objective"]),
        (BASE | {"pretraining.schedule": "step", "pretraining.milestones": [100, 150]}, ["pretraining.milestones"]),
        (BASE | {"data.source": "folder", "data.path": "nowhere", "data.size": 8}, ["data.path", "data.size", "data.channels"]),
        (BASE | {"data.source": "cifar10", "data.path": "nowhere", "data.download": True, "data.channels": "rgb"}, ["data.path", "data.download"]),
    ],
)  # fmt: skip
def test_what_looks_idle_and_changes_something_is_not_found(base, counts):
    given = explicit(base)
    assert set(counts) <= set(given)
    assert ignored(given, counts) == []


@pytest.mark.parametrize("key", ["optim.nesterov", "staged.encoding.augmented"])
def test_a_switch_that_may_not_be_turned_is_not_called_ignored(key):
    given = STAGES | {"data.augmentation": "none", key: False}
    assert not ignored(given, [key])


@pytest.mark.parametrize(
    ("base", "key", "value", "instead"),
    [
        (CE, "losses.logit_adjustment", 1, ("method", "joint")),
        (BASE, "optim.momentum", 0.5, ("optim.name", "sgd")),
        (BASE, "staged.head_epochs", 5, ("method", "staged")),
        (BASE | {"data.augmentation": "none"}, "data.padding", 2, ("data.augmentation", "crop")),
        (BASE | {"generation.method": "ddpm"}, "generation.steps", 5, ("generation.method", "ddim")),
        (BASE | {"losses.radius": 0}, "losses.radius_from", "many", ("losses.radius", 0.1)),
        (BASE | {"losses.generated": 0}, "generation.quota", "ldmlr", ("losses.generated", 1.0)),
        (BASE | {"head.name": "linear"}, "head.scale", 5, ("head.name", "cosine")),
        (FROZEN, "routing", "summed", ("end_to_end", True)),
        (CHECKPOINT, "pretraining.lr", 0.2, ("encoder.checkpoint", None)),
        (BASE, "encoder.channels", "gray", None),
    ],
)  # fmt: skip
def test_what_would_make_a_setting_count_is_told(base, key, value, instead):
    given = base | {key: value}
    assert ignored(given, [key]) == [key]
    assert counts_with(given, key) == instead


def test_the_subject_tells_by_its_settings_which_trials_are_the_same():
    same = [BASE, BASE | {"optim.momentum": 0.5}, BASE | {"warmup.fraction": 0.2}]
    assert len({SUBJECT.effective(given) for given in same}) == 1
    others = [
        BASE | {"threads": 2},
        BASE | {"optim.ramp_epochs": 1},
        BASE | PLATEAU,
        BASE | PLATEAU | {"warmup.plateau.tolerance": 0.2},
        CE,
        BASE | {"evaluate_every": 7},
    ]
    assert len({SUBJECT.effective(given) for given in [BASE, *others]}) == 1 + len(others)


CHOICES = {
    "method": ["joint", "staged"], "end_to_end": [True, False], "routing": ["summed", "stopgrad"], "losses.radius": [0, 0.1], "losses.prototype": [0, 0.1],
    "losses.generated": [0, 1.0], "losses.semantic": [0, 1.0], "head.name": ["linear", "cosine"], "optim.name": ["adam", "sgd"], "optim.clip": [None, 1.0],
    "generation.method": ["ddim", "ddpm"], "generation.every": [2, 5], "warmup.epochs": [1, 4], "staged.generation": [True, False], "evaluate_every": [1, 3],
    "data.augmentation": ["none", "crop"], "optim.encoder_name": [None, "sgd"], "optim.schedule": ["constant", "cosine"], "optim.ramp_epochs": [0, 2],
}  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries({key: st.sampled_from(values) for key, values in CHOICES.items()}),
    st.sampled_from([*CHOICES, "losses.momentum", "head.scale", "generation.steps"]),
)
def test_a_setting_is_ignored_only_if_no_epoch_has_another_key_with_another_value(chosen, key):
    given = JOINT | {"generation.steps": 3, "losses.momentum": 0.5, "head.scale": 7.0} | chosen
    found = ignored(given, [key])
    for value in CHOICES.get(key, [1, 2, 20]):
        other = given | {key: value}
        if not parse(other)[1]:
            keys = [[link.key for link in chain(settings)] for settings in (given, other)]
            assert (keys[0] == keys[1]) is (
                all_effective(config_of(given)) == all_effective(config_of(other))
            )
            assert keys[0] == keys[1] or not found


TINY = JOINT | {"pretraining.epochs": 1, "epochs": 3, "warmup.epochs": 1, "generation.every": 1}


@pytest.mark.parametrize(
    ("base", "other"),
    [
        (
            TINY | {"losses.radius": 0, "losses.prototype": 0},
            {"losses.momentum": 0.1, "losses.radius_from": "many"},
        ),
        (
            TINY | {"losses.radius": 0, "warmup.epochs": 3},
            {"losses.momentum": 0.1, "routing": "summed", "optim.lr.encoder": 0.1},
        ),
        (TINY | {"losses.semantic": 0}, {"losses.prototype": 3.0, "losses.radius": 2.0}),
        (TINY | {"warmup.epochs": 3}, {"losses.prototype": 3.0}),
        (
            TINY | {"head.name": "linear"},
            {"head.scale": 5.0, "head.trainable_scale": False, "optim.momentum": 0.1},
        ),
        (
            TINY | {"generation.every": 3},
            {
                "losses.generated": 0,
                "generation.steps": 2,
                "generation.quota": "ldmlr",
                "generation.batch_size": 5,
            },
        ),
        (TINY | {"optim.name": "adamw"}, {"optim.name": "adam"}),
        (
            STAGED | {"pretraining.epochs": 1, "generation.method": "ddpm"},
            {"generation.steps": 9, "epochs": 7, "losses.radius": 0, "optim.lr.encoder": 0.1},
        ),
        (
            STAGED | {"pretraining.epochs": 1, "staged.generation": False},
            {"diffusion.steps": 9, "denoiser.width": 24, "losses.generated": 0},
        ),
    ],
)
def test_settings_that_have_no_effect_by_the_keys_leave_all_that_a_trial_records_as_it_is(
    base, other
):
    given = base | {key: value for key, value in explicit(base).items() if key in other}
    changed = base | other
    assert all_effective(config_of(given)) == all_effective(config_of(changed))
    assert records(run(given), chain(given)) == records(run(changed), chain(changed))


@pytest.mark.parametrize("key", ["optim.clip", "losses.momentum", "head.scale"])
def test_a_setting_that_is_not_ignored_can_be_seen_in_what_a_trial_records(key):
    """So that the test before this one could fail."""
    base = STAGED if key == "optim.clip" else TINY
    other = base | {key: {"optim.clip": 1e-3, "losses.momentum": 0.1, "head.scale": 5.0}[key]}
    assert not ignored(other, [key])
    assert records(run(base), chain(base)) != records(run(other), chain(other))


def test_what_joint_epochs_take_counts_where_a_plateau_may_last_to_the_end():
    settings = BASE | {"epochs": 20, "warmup.plateau.max_fraction": 1.0, "routing": "summed"}
    assert ignored(settings, ["routing"]) == []
