"""The chain of epochs and its keys: what arms share, what makes an epoch new, how long a warm-up lasts."""

import itertools
import math

import pytest
from tiny_trials import chain, config_of, effective

from core.config.schema import BASELINES, Plateau
from core.planning import fingerprint, trajectory
from core.planning.trajectory import (
    DIFFUSION,
    EVALUATE,
    HEAD,
    JOINT,
    PRETRAIN,
    WARMUP,
    evaluates,
    has_settled,
    learning_rate,
    rates,
)

BASE = {
    "data.channels": "gray", "data.n_max": 60, "data.imbalance_factor": 10, "encoder.name": "small-cnn",
    "pretraining.epochs": 3, "epochs": 8, "warmup.epochs": 4,
}  # fmt: skip
STAGED = BASE | {"method": "staged", "staged.diffusion_epochs": 3, "staged.head_epochs": 2}


def keys(settings, seed=0, phase=None):
    return [link.key for link in chain(settings, seed) if phase in (None, link.phase)]


def phases(links):
    """As a word, a letter an epoch: p, w, j, d, h, e."""
    return "".join(link.phase[0] for link in links)


def n_shared(a, b):
    """Links of the common prefix; asserts that nothing is shared after it."""
    a, b = keys(a), keys(b)
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    assert not set(a[n:]) & set(b[n:])
    return n


# --- the chain


def test_a_joint_chain_is_pretraining_warmup_and_joint_training():
    links = chain(BASE)
    assert phases(links) == "pppwwwwjjjj"
    assert [link.epoch for link in links] == [1, 2, 3, *range(1, 9)]
    assert len({link.key for link in links}) == len(links)


def test_a_staged_chain_is_pretraining_diffusion_and_head():
    links = chain(STAGED)
    assert phases(links) == "pppdddhh"
    assert [link.epoch for link in links] == [1, 2, 3, 1, 2, 3, 4, 5]
    assert phases(chain(STAGED | {"staged.generation": False})) == "ppphh"
    assert (
        phases(chain(BASE | {"method": "staged"})) == "ppp" + "d" * 8 + "h" * 8
    )  # as long as the joint arms


def test_the_pretrained_encoder_is_evaluated_as_it_is():
    assert phases(chain(BASE | {"method": "ce"})) == "pppe"


def test_with_end_to_end_off_all_is_warmup():
    links = chain(BASE | {"end_to_end": "off"})
    assert phases(links) == "ppp" + "w" * 8
    plateau = {"warmup.plateau.window": 1, "warmup.plateau.min_epochs": 1}
    assert keys(BASE | plateau | {"end_to_end": "off"}) == [link.key for link in links]


def test_no_warmup_and_nothing_but_warmup():
    assert phases(chain(BASE | {"warmup.epochs": 0})) == "pppjjjjjjjj"
    assert phases(chain(BASE | {"warmup.epochs": 8})) == "pppwwwwwwww"


@pytest.mark.parametrize(
    ("fraction", "epochs", "expected"),
    [
        (0.29, 100, 29),
        (0.57, 100, 57),
        (0.25, 60, 15),
        (0.25, 7, 1),
        (0.0, 10, 0),
        (1.0, 10, 10),
        (1 / 3, 9, 3),
        (0.999, 10, 9),
    ],
)
def test_a_fraction_of_the_epochs_is_rounded_down_as_written(fraction, epochs, expected):
    assert (
        config_of(BASE | {"epochs": epochs, "warmup.fraction": fraction}).longest_warmup == expected
    )


def test_a_fraction_and_its_number_of_epochs_are_the_same_trial():
    assert keys(BASE | {"warmup.fraction": 0.5}) == keys(BASE)


# --- what is shared


@pytest.mark.parametrize(
    "other",
    [
        {"optim.lr.encoder": 1e-3}, {"routing": "summed"}, {"batchnorm": "frozen"}, {"measure_gradients_every": 5}, {"mixup": 1.0}, {"optim.ema": 0.9}, {"losses.consistency": 1.0}, {"optim.sam": 0.05}, {"losses.prototype": 0.2}, {"standardisation": "batch"}, {"warmup.epochs": 4, "routing": "pcgrad", "optim.lr.encoder": 0.5},
    ],
)  # fmt: skip
def test_what_acts_on_the_thawed_encoder_leaves_the_warmup_shared(other):
    assert n_shared(BASE, BASE | other) == 3 + 4


@pytest.mark.parametrize(
    "other",
    [
        {"optim.lr.head": 1e-2}, {"optim.lr.denoiser": 1e-2}, {"head.name": "linear"}, {"head.scale": 10}, {"head.start": "pretrained", "head.name": "linear"},
        {"losses.radius": 0}, {"denoiser.width": 64},
        {"diffusion.objective": "v"}, {"optim.name": "sgd"}, {"optim.weight_decay": 0.1}, {"batch_size": 64}, {"evaluate_every": 2},
        {"optim.schedule": "cosine"}, {"diffusion.scaling": "unit"}, {"optim.denoiser_name": "sgd"}, {"optim.head_weight_decay": 0.1}, {"losses.momentum": 0.5},
        {"losses.radius_from": "many"}, {"losses.prototype": 0}, {"optim.clip": 1.0},
        {"losses.radius": 0.2}, {"losses.semantic": 2}, {"losses.real": 2}, {"losses.logit_adjustment": 1}, {"denoiser.blocks": 1}, {"diffusion.steps": 100}, {"batching": "balanced"},
    ],
)  # fmt: skip
def test_what_acts_in_the_warmup_leaves_the_pretraining_shared(other):
    first_affected = (
        4 if "optim.schedule" in other else 3
    )  # a cosine starts where a constant rate does
    assert n_shared(BASE, BASE | other) == first_affected


@pytest.mark.parametrize(
    "other",
    [
        {"pretraining.lr": 0.2}, {"pretraining.mixup": 0.2}, {"pretraining.momentum": 0.8}, {"pretraining.weight_decay": 0}, {"pretraining.batch_size": 64},
        {"data.augmentation": "none"}, {"data.padding": 1},
        {"data.n_max": 50}, {"data.imbalance_factor": 5}, {"data.n_test": 20}, {"data.mean": [0.4]}, {"data.std": [0.4]},
        {"data.split": "seed"},
        {"encoder.name": "resnet20"}, {"threads": 2}, {"device": "cuda"},
    ],
)  # fmt: skip
def test_what_acts_on_the_pretraining_shares_nothing(other):
    assert n_shared(BASE, BASE | other) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"losses.generated": 0},
        {"generation.quota": "ldmlr"},
        {"generation.steps": 10},
        {"generation.batch_size": 9},
    ],
)
def test_what_acts_on_generated_latents_leaves_the_epochs_before_there_are_any_shared(other):
    assert n_shared(BASE, BASE | other) == 3 + 5
    assert n_shared(BASE | {"generation.every": 2}, BASE | {"generation.every": 2} | other) == 3 + 2
    assert n_shared(BASE | {"generation.every": 2}, BASE | {"generation.every": 3}) == 3 + 2


def test_another_seed_shares_nothing():
    assert not set(keys(BASE, 0)) & set(keys(BASE, 1))


def test_the_end_of_the_warmup_is_where_arms_part():
    assert n_shared(BASE, BASE | {"warmup.epochs": 6}) == 3 + 4
    assert n_shared(BASE, BASE | {"warmup.epochs": 0}) == 3
    assert n_shared(BASE, BASE | {"end_to_end": False}) == 3 + 4


def test_a_longer_trial_shares_its_beginning_when_rates_are_constant():
    every = {"evaluate_every": 4, "measure_gradients_every": 4}  # the last epoch does both anyway
    assert n_shared(BASE | every, BASE | every | {"epochs": 12}) == 3 + 8
    assert (
        n_shared(BASE, BASE | {"pretraining.schedule": "constant", "pretraining.epochs": 3}) == 1
    )  # the first rate of a cosine is the base


def test_a_longer_trial_shares_no_warmup_when_rates_follow_a_cosine():
    cosine = BASE | {"optim.schedule": "cosine"}
    assert (
        n_shared(cosine, cosine | {"epochs": 12}) == 3 + 1
    )  # its first epoch has the base rate in both


def test_baselines_share_the_pretraining_and_what_they_have_in_common():
    ce, ldmlr, control, balanced = (
        BASE | BASELINES[name] for name in ("ce", "ldmlr", "ldmlr-no-generation", "balanced-head")
    )
    assert [n_shared(BASE, other) for other in (ce, ldmlr, control, balanced)] == [3] * 4
    assert n_shared(control, balanced) == 3
    assert (
        n_shared(ldmlr, ldmlr | {"generation.quota": "balance"}) == 3 + 8
    )  # the diffusion is the same
    assert n_shared(ldmlr, ldmlr | {"optim.lr.head": 0.1}) == 3 + 8


@pytest.mark.parametrize(
    "other",
    [
        {"routing": "summed"},
        {"optim.lr.encoder": 1},
        {"batchnorm": "frozen"},
        {"losses.semantic": 5},
        {"warmup.epochs": 2},
    ],
)
def test_the_staged_baseline_is_one_trial_for_all_arms(other):
    ldmlr = BASE | BASELINES["ldmlr"]
    assert keys(ldmlr) == keys(ldmlr | other)
    assert keys(BASE | {"method": "ce"}) == keys(BASE | {"method": "ce"} | other)


ENCODINGS = [
    {"staged.encoding.statistics": "batch"},
    {"staged.encoding.augmented": True},
    {"staged.encoding.first_relu": False},
]


@pytest.mark.parametrize(
    "other",
    [
        *ENCODINGS,
        {"diffusion.scaling": "unit"},
        {"optim.denoiser_name": "sgd"},
        {"batch_size": 64, "staged.head_batch_size": 128},
    ],
)
def test_what_acts_on_the_diffusion_of_a_staged_trial_shares_its_pretraining(other):
    assert n_shared(STAGED, STAGED | other) == 3


@pytest.mark.parametrize("clip", [0.5, 1.0])
def test_gradients_are_clipped_in_staged_phases_too(clip):
    """`core.training.staged` takes its steps as joint epochs do."""
    assert n_shared(STAGED, STAGED | {"optim.clip": clip}) == 3
    assert (
        n_shared(
            STAGED | {"staged.generation": False},
            STAGED | {"staged.generation": False, "optim.clip": clip},
        )
        == 3
    )
    assert n_shared(STAGED | {"optim.clip": clip}, STAGED | {"optim.clip": 2 * clip}) == 3


@pytest.mark.parametrize(
    "other", [{"optim.head_weight_decay": 0.1}, {"staged.head_batch_size": 64}]
)
def test_what_acts_on_the_head_of_a_staged_trial_shares_its_diffusion(other):
    assert n_shared(STAGED, STAGED | other) == 3 + 3


@pytest.mark.parametrize("other", ENCODINGS)
def test_latents_encoded_in_another_way_are_new_epochs_of_a_control_too(other):
    control = STAGED | {"staged.generation": False}
    assert n_shared(control, control | other) == 3


def test_every_way_to_encode_has_keys_of_its_own():
    ways = [
        dict(pair for chosen in some for pair in chosen.items())
        for n in range(4)
        for some in itertools.combinations(ENCODINGS, n)
    ]
    last = [keys(STAGED | way)[-1] for way in ways]
    assert len(set(last)) == len(ways) == 8


@pytest.mark.parametrize("other", [{}, *ENCODINGS])
@pytest.mark.parametrize("base", [BASE, STAGED])
def test_only_staged_trials_encode_otherwise_than_in_eval_mode(base, other):
    as_usual = trajectory.encoding(config_of(base | other)) is None
    assert as_usual is (base is BASE or not other)


@pytest.mark.parametrize(("augmented", "counts"), [(True, True), (False, False)])
def test_the_augmentation_counts_for_latents_that_are_augmented(augmented, counts):
    """Seen in the settings of an epoch, since the pre-training depends on it anyway."""
    a, b = (
        effective(
            config_of(STAGED | {"staged.encoding.augmented": augmented, "data.padding": padding}),
            HEAD,
            4,
        )
        for padding in (1, 2)
    )
    assert (a != b) is counts


@pytest.mark.parametrize(
    ("settings", "other"),
    [
        (STAGED | {"staged.generation": False}, {"diffusion.scaling": "unit"}),
        (STAGED | {"staged.generation": False}, {"optim.denoiser_name": "sgd"}),
        (STAGED | {"staged.generation": False, "staged.head_batch_size": 32}, {"batch_size": 64}),
        (STAGED, {"optim.momentum": 0.5}),  # adam has none
        (STAGED, {"optim.denoiser_name": "adam"}),
        (STAGED, {"optim.head_weight_decay": 0}),
        (STAGED, {"staged.head_batch_size": 128}),  # as many as batch_size
        (STAGED | {"denoiser.name": "unet1d"}, {"denoiser.width": 64, "denoiser.blocks": 1}),
        (STAGED | {"generation.method": "ddpm"}, {"generation.steps": 7, "generation.every": 2, "generation.batch_size": 9}),
        (BASE, {"staged.head_batch_size": 64, "staged.encoding.statistics": "batch", "staged.encoding.first_relu": False}),
        (BASE, {"optim.momentum": 0.5}),
        (BASE | {"generation.method": "ddpm"}, {"generation.steps": 7}),
        (STAGED | {"generation.method": "gaussian"}, {"generation.steps": 7, "staged.diffusion_epochs": 9, "diffusion.steps": 9}),
        (BASE, {"head.scale": None}),
        (BASE, {"head.scale": math.log(2) + 1}),  # where the authors of WCDAS start
        (BASE | {"head.name": "cosine"}, {"head.scale": 30}),
        (BASE | {"end_to_end": False}, {"optim.ema": 0.9, "optim.sam": 0.05, "losses.consistency": 1.0}),
        (STAGED, {"optim.ema": 0.9, "optim.sam": 0.05, "losses.consistency": 1.0}),
        (BASE | {"method": "ce"}, {"optim.ema": 0.9, "optim.sam": 0.05, "losses.consistency": 1.0}),
        (BASE, {"optim.ema": 0.0, "optim.sam": 0.0, "losses.consistency": 0.0}),
        (BASE | {"generation.every": 8}, {"losses.generated": 0, "generation.quota": "ldmlr", "generation.every": 9}),
        (BASE | {"losses.radius": 0}, {"losses.radius_from": "many"}),
        (BASE | {"losses.radius": 0, "losses.prototype": 0}, {"losses.momentum": 0.5}),
        (BASE | {"losses.radius": 0, "warmup.epochs": 8}, {"losses.momentum": 0.5}),  # prototypes stay where they are
        (BASE | {"losses.semantic": 0}, {"losses.radius": 0.5, "losses.prototype": 0.7}),
        (BASE | {"warmup.epochs": 8}, {"losses.prototype": 0.7}),  # moves latents alone, and those are frozen
        (BASE | {"head.name": "linear"}, {"head.scale": 5, "head.trainable_scale": False}),
        (BASE, {"optim.name": "adamw"}),  # without decay
        (BASE, {"data.size": 16}),
        (BASE | {"method": "ce"}, {"staged.encoding.statistics": "batch", "diffusion.scaling": "unit"}),
    ],
)  # fmt: skip
def test_what_changes_no_epoch_changes_no_key(settings, other):
    assert keys(settings) == keys(settings | other)


@pytest.mark.parametrize(
    ("radius_from", "counts"), [("views", True), ("images", False), ("many", False)]
)
def test_the_crop_of_views_counts_where_radii_are_taken_from_them(radius_from, counts):
    a, b = (
        effective(
            config_of(BASE | {"losses.radius_from": radius_from, "data.padding": padding}),
            WARMUP,
            1,
        )
        for padding in (1, 2)
    )
    assert (a != b) is counts


@pytest.mark.parametrize("kind", ["none", "strong"])
def test_pretraining_may_augment_in_its_own_way(kind):
    own = BASE | {"pretraining.augmentation": kind}
    assert n_shared(BASE, own) == 0
    same = BASE | {"pretraining.augmentation": BASE.get("data.augmentation", "crop-flip")}
    assert keys(BASE) == keys(same)
    joint = effective(config_of(own), JOINT, 5)
    assert joint == effective(config_of(BASE), JOINT, 5)


def test_a_momentum_counts_where_a_normal_distribution_follows_it():
    plain = BASE | {"losses.radius": 0, "losses.prototype": 0}
    gaussian = plain | {"generation.method": "gaussian"}
    for settings, counts in (
        (plain, False),
        (gaussian, True),
        (gaussian | {"losses.generated": 0}, False),
    ):
        a, b = (
            effective(config_of(settings | {"losses.momentum": m}), JOINT, 5) for m in (0.9, 0.1)
        )
        assert (a != b) is counts


def test_latents_drawn_from_a_normal_distribution_ask_for_no_diffusion_epochs():
    gaussian = STAGED | {"generation.method": "gaussian"}
    assert len(keys(STAGED)) - len(keys(gaussian)) == 3
    assert n_shared(gaussian, STAGED | {"staged.generation": False}) == 3
    assert n_shared(gaussian, gaussian | {"diffusion.scaling": "unit"}) == 3


@pytest.mark.parametrize("setting", ["optim.name", "optim.head_name", "optim.denoiser_name"])
def test_decoupled_weight_decay_makes_epochs_of_its_own(setting):
    decayed = BASE | {"optim.weight_decay": 0.1}
    assert n_shared(decayed, decayed | {setting: "adamw"}) == 3


def test_momentum_counts_for_the_modules_that_sgd_trains():
    denoiser = STAGED | {"optim.denoiser_name": "sgd"}
    assert n_shared(denoiser, denoiser | {"optim.momentum": 0}) == 3
    head = STAGED | {"optim.name": "sgd", "optim.denoiser_name": "adam"}
    assert n_shared(head, head | {"optim.momentum": 0}) == 3 + 3


def test_the_original_is_the_same_trial_in_every_experiment():
    """It says all that its epochs depend on, data and encoder aside."""
    experiment = {
        "epochs": 7, "batch_size": 64, "head.name": "cosine", "denoiser.width": 64, "diffusion.steps": 500, "diffusion.schedule": "linear",
        "diffusion.objective": "v", "optim.name": "adamw", "optim.denoiser_name": "adam", "optim.lr.head": 0.1, "optim.lr.denoiser": 0.1,
        "optim.weight_decay": 0.1, "optim.momentum": 0.5, "optim.schedule": "cosine", "generation.steps": 10, "generation.quota": "balance",
        "staged.batching": "balanced", "staged.generation": False, "staged.head_epochs": 3,
        "optim.head_name": "sgd", "optim.nesterov": True, "optim.clip": 1.0, "losses.logit_adjustment": 1.0,
    }  # fmt: skip
    original = BASELINES["ldmlr-original"]
    assert keys(BASE | experiment | original) == keys(BASE | original)
    assert phases(chain(BASE | original)) == "ppp" + "d" * 201 + "h" * 400
    assert n_shared(BASE | original, BASE | BASELINES["ldmlr"]) == 3
    assert (
        n_shared(
            BASE | BASELINES["balanced-head"], BASE | BASELINES["balanced-head-original-encoding"]
        )
        == 3
    )


def test_an_augmentation_that_is_off_has_no_padding():
    off = BASE | {"data.augmentation": "none"}
    assert keys(off) == keys(off | {"data.padding": 2})


def test_keys_do_not_depend_on_the_order_of_the_settings():
    assert keys(BASE) == keys(dict(reversed(BASE.items())))


# --- the plateau

PLATEAU = {
    "warmup.plateau.window": 1,
    "warmup.plateau.min_epochs": 2,
    "warmup.plateau.tolerance": 0.1,
    "warmup.plateau.max_fraction": 0.75,
}


def recorded(config, losses):
    """Look-up of records of a warm-up whose epochs had these diffusion losses."""
    warmup = [link.key for link in chain(BASE | {"warmup.epochs": 8}) if link.phase == WARMUP]
    found = {key: {"metrics": {"train/diffusion_loss": loss}} for key, loss in zip(warmup, losses)}
    # epochs of the pre-training have records without it
    found |= {key: {"metrics": {}} for key in keys(BASE, phase=PRETRAIN)}
    return trajectory.chain(config, 0, found.get)


def test_a_plateau_is_planned_at_its_longest():
    assert phases(chain(BASE | PLATEAU)) == "ppp" + "w" * 6 + "jj"


@pytest.mark.parametrize(
    ("losses", "n_warmup"),
    [
        ([], 6),
        ([1.0], 6),
        ([1.0, 0.95], 2),  # 5 % better is too little
        ([1.0, 0.5], 6),
        ([1.0, 0.5, 0.49], 3),
        ([1.0, 0.5, 0.6], 3),  # worse is no improvement
        ([1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02], 6),  # improves to the last: the most it may last
    ],
)
def test_a_plateau_ends_where_the_records_say(losses, n_warmup):
    assert phases(recorded(config_of(BASE | PLATEAU), losses)) == "ppp" + "w" * n_warmup + "j" * (
        8 - n_warmup
    )


def test_a_plateau_is_not_decided_past_a_missing_record():
    config = config_of(BASE | PLATEAU)
    warmup = keys(BASE | {"warmup.epochs": 8}, phase=WARMUP)
    found = {
        warmup[2]: {"metrics": {"train/diffusion_loss": 1.0}},
        warmup[3]: {"metrics": {"train/diffusion_loss": 1.0}},
    }
    assert phases(trajectory.chain(config, 0, found.get)) == "ppp" + "w" * 6 + "jj"


def test_a_plateau_shares_its_epochs_with_a_fixed_warmup_of_the_length_it_came_to():
    decided = recorded(config_of(BASE | PLATEAU), [1.0, 0.5, 0.49])
    assert [link.key for link in decided] == keys(BASE | {"warmup.epochs": 3})


def test_a_plateau_lasts_its_least_number_of_epochs():
    plateau = PLATEAU | {"warmup.plateau.min_epochs": 5}
    assert phases(recorded(config_of(BASE | plateau), [1.0] * 8)) == "ppp" + "w" * 5 + "jjj"
    assert config_of(BASE | plateau | {"warmup.plateau.max_fraction": 0.1}).longest_warmup == 5


@pytest.mark.parametrize(
    ("window", "min_epochs", "losses", "settled"),
    [
        (2, 1, [1, 1, 1], False),  # no two windows yet
        (2, 1, [1, 1, 1, 1], True),
        (2, 5, [1, 1, 1, 1], False),
        (2, 5, [1, 1, 1, 1, 1], True),
        (2, 1, [2, 2, 1, 1], False),
        (
            2,
            1,
            [9, 2, 2, 1.95, 1.95],
            True,
        ),  # 2.5 % of 5 % asked for; what was before does not count
        (2, 1, [2, 2, 1.9, 1.8], False),
        (2, 1, [1, 3, 3, 1], True),  # noise within the windows averages out
        (1, 1, [2, 1.9], False),  # exactly the tolerance is an improvement
        (1, 1, [2, 1.901], True),
    ],
)
def test_a_loss_has_settled_when_a_window_is_no_better_than_the_one_before(
    window, min_epochs, losses, settled
):
    assert (
        has_settled(Plateau(window=window, tolerance=0.05, min_epochs=min_epochs), losses)
        is settled
    )


@pytest.mark.parametrize(
    "settings",
    [BASE, STAGED, BASE | PLATEAU, BASE | {"method": "ce"}, BASE | {"end_to_end": False}],
)
def test_the_links_are_those_that_are_planned(settings):
    assert [(link.phase, link.epoch) for link in chain(settings)] == list(
        trajectory.planned(config_of(settings))
    )


# --- rates and evaluations


def test_learning_rates_over_the_epochs():
    assert [learning_rate(0.1, "constant", e, 4) for e in range(1, 5)] == [0.1] * 4
    expected = [0.1, 0.1 * (2 + math.sqrt(2)) / 4, 0.05, 0.1 * (2 - math.sqrt(2)) / 4]
    assert [learning_rate(0.1, "cosine", e, 4) for e in range(1, 5)] == pytest.approx(
        expected, rel=1e-12
    )
    stepped = [learning_rate(0.1, "step", e, 6, (2, 4)) for e in range(1, 7)]
    assert stepped == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rel=1e-12)


def test_each_phase_sets_the_rates_of_the_modules_it_trains():
    config = config_of(
        BASE
        | {
            "optim.lr.encoder": 1,
            "optim.lr.head": 2,
            "optim.lr.denoiser": 3,
            "pretraining.lr": 4,
            "pretraining.schedule": "constant",
        }
    )
    assert rates(config, PRETRAIN, 1) == {"encoder": 4}
    assert rates(config, WARMUP, 1) == {"head": 2, "denoiser": 3}
    assert rates(config, JOINT, 5) == {"encoder": 1, "head": 2, "denoiser": 3}
    assert rates(config, DIFFUSION, 1) == {"denoiser": 3}
    assert rates(config, HEAD, 1) == {"head": 2}


def test_the_cosine_of_a_staged_trial_starts_anew_with_the_head():
    config = config_of(
        STAGED | {"optim.schedule": "cosine", "optim.lr.head": 1, "optim.lr.denoiser": 1}
    )
    assert [rates(config, DIFFUSION, e)["denoiser"] for e in (1, 2, 3)] == pytest.approx(
        [1, 0.75, 0.25]
    )
    assert [rates(config, HEAD, e)["head"] for e in (4, 5)] == pytest.approx([1, 0.5])


def test_the_cosine_runs_on_from_warmup_to_joint_training():
    config = config_of(BASE | {"optim.schedule": "cosine", "optim.lr.head": 1})
    assert rates(config, WARMUP, 4)["head"] > rates(config, JOINT, 5)["head"] == pytest.approx(0.5)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 100])
def test_the_last_epoch_is_always_evaluated(every):
    joint, staged = (
        config_of(BASE | {"evaluate_every": every}),
        config_of(STAGED | {"evaluate_every": every}),
    )
    assert [e for e in range(1, 9) if evaluates(joint, JOINT, e)] == sorted(
        {*range(every, 9, every), 8}
    )
    assert evaluates(config_of(BASE | {"evaluate_every": every, "end_to_end": False}), WARMUP, 8)
    assert evaluates(staged, HEAD, 5)
    assert not any(evaluates(staged, DIFFUSION, e) for e in range(1, 4))


# --- the fingerprint of the source

CODE = '''
"""Docstring of the module."""
import math  # a comment


class A:
    """Docstring of a class."""

    factor = 2


def f(x):
    """Docstring of a function."""
    return A.factor * x  # another

for name in "ab":
    print(name)
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  # a comment", ""),
        ("Docstring of the module.", "Another."),
        ('"""Docstring of a class."""', '"""Another."""'),
        ('    """Docstring of a class."""\n\n', ""),
        ("Docstring of a function.", "Another."),
        ("A.factor * x", "(A.factor\n            * x)"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_source_fingerprint(
    tmp_path, before, after
):
    assert before in CODE
    assert meaning(tmp_path, CODE) == meaning(tmp_path, CODE.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("factor = 2", "factor = 3"),
        ("* x", "+ x"),
        ("def f", "def g"),
        ("return A", 'return "A" and A'),
        ("print(name)", "print(x)"),
    ],
)
def test_code_changes_the_source_fingerprint(tmp_path, before, after):
    assert before in CODE
    assert meaning(tmp_path, CODE) != meaning(tmp_path, CODE.replace(before, after))


def meaning(tmp_path, code):
    file = tmp_path / "module.py"
    file.write_text(code, encoding="utf-8")
    return fingerprint._meaning(file)


@pytest.mark.parametrize(
    ("where", "counts"),
    [
        ("method/losses.py", True),
        ("networks/heads.py", True),
        ("new.py", True),
        ("new/parsing.py", True),
        ("config/parsing.py", False),
        ("planning/trajectory.py", False),
        ("subject.py", False),
    ],
)
def test_the_source_fingerprint_covers_the_modules_that_compute_an_epoch(
    tmp_path, monkeypatch, where, counts
):
    for name in ("method/losses.py", "networks/heads.py", "config/parsing.py", "subject.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a = 1\n", encoding="utf-8")
    monkeypatch.setattr(fingerprint, "__file__", str(tmp_path / "planning" / "fingerprint.py"))
    before = fingerprint.source_fingerprint.__wrapped__()
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("a = 2\n", encoding="utf-8")
    assert (fingerprint.source_fingerprint.__wrapped__() != before) is counts


def test_another_source_makes_every_epoch_new(monkeypatch):
    before = keys(BASE)
    monkeypatch.setattr(fingerprint, "source_fingerprint", lambda: "another")
    assert not set(before) & set(keys(BASE))


def test_another_checkpoint_makes_every_epoch_new(tmp_path):
    file = tmp_path / "encoder.safetensors"
    settings = BASE | {"encoder.checkpoint": str(file), "encoder.channels": "gray"}
    file.write_bytes(b"weights")
    before = keys(settings)
    assert phases(chain(settings)) == "wwwwjjjj"  # no pre-training
    file.write_bytes(b"other weights")
    assert not set(before) & set(keys(settings))


def test_the_cost_of_a_link_is_that_of_its_phase():
    assert {link.phase: link.cost for link in chain(BASE)} == {
        phase: trajectory.COST[phase] for phase in (PRETRAIN, WARMUP, JOINT)
    }
    assert chain(BASE | {"method": "ce"})[-1].cost == trajectory.COST[EVALUATE]
    dear = {
        link.phase: link.cost - trajectory.COST[link.phase]
        for settings in (BASE, STAGED)
        for link in chain(settings | {"denoiser.name": "unet1d"})
    }
    assert dear == pytest.approx(
        {
            PRETRAIN: 0,
            WARMUP: trajectory.UNET_COST,
            JOINT: trajectory.UNET_COST,
            DIFFUSION: trajectory.UNET_COST,
            HEAD: 0,
        }
    )


def test_a_download_changes_no_key(tmp_path):
    """A study that is to fetch CIFAR is planned before it is there, and its workers find the plan still true."""
    settings = {
        "data.source": "cifar10",
        "data.path": str(tmp_path),
        "data.download": True,
        "data.imbalance_factor": 100,
        "pretraining.epochs": 1,
    }
    before = chain(settings)[0].key
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"what came")
    assert chain(settings)[0].key == before
    assert chain(settings | {"data.source": "cifar100"})[0].key != before
