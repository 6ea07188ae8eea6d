"""Flat settings become a config; all that is wrong with them is said at once, in these words."""

import math
import re
from pathlib import Path

import pytest

import core.config.schema
from core.config.parsing import Fault, parse, to_tree
from core.config.schema import BASELINES, Config, Plateau
from core.subject import SUBJECT

FOLDER = {"data.source": "folder", "data.path": "images"}
CHECKPOINT = FOLDER | {"encoder.checkpoint": "encoder.safetensors"}

FAULTS = """
{"optim.lr.encodre": 0.001}
    unknown setting 'encodre' in 'optim.lr'; did you mean 'optim.lr.encoder'?
{"epoch": 3}
    unknown setting 'epoch'; did you mean 'epochs'?
{"optim.lr.xyz": 1}
    unknown setting 'xyz' in 'optim.lr'; choose from denoiser, encoder, head
{"warmpu.epochs": 3}
    unknown setting 'warmpu'; did you mean 'warmup'?
{"optim.lr": 0.001}
    'optim.lr' is a section; set one of its keys: encoder, head, denoiser
{"epochs.warmup": 3}
    'epochs' is a value and has no key 'warmup'
{"optim.lr.head.bias": 3}
    'optim.lr.head' is a value and has no key 'bias'
{"warmup.plateau": 5}
    5 is not a section; write {} for its defaults, or set its keys
{"epochs": "ten"}
    'ten' is not a whole number
{"epochs": 2.5}
    2.5 is not a whole number
{"epochs": True}
    True is not a whole number
{"epochs": None}
    None is not a whole number
{"epochs": math.inf}
    inf is not a whole number
{"optim.lr.head": "1e-3"}
    '1e-3' is not a number
{"optim.lr.head": False}
    False is not a number
{"optim.lr.head": math.nan}
    nan is not a finite number
{"losses.real": math.inf}
    inf is not a finite number
{"end_to_end": 1}
    1 is not a switch; write true or false
{"end_to_end": "maybe"}
    'maybe' is not a switch; write true or false
{"data.path": 3}
    3 is not a text
{"data.mean": [0.5, "grey"]}
    'grey' is not a number
{"pretraining.milestones": [10, 20.5]}
    20.5 is not a whole number
{"routing": "decopled"}
    'decopled' is not allowed; did you mean 'decoupled'? choose from summed, decoupled,
    alternating, stopgrad, pcgrad
{"head.name": "svm"}
    'svm' is not allowed; choose from linear, cosine, wcdas
{"head.name": 3}
    '3' is not allowed; choose from linear, cosine, wcdas
{"epochs": 0}
    0 is too small; at least 1
{"pretraining.lr": 0.0}
    0 is too small; more than 0
{"warmup.fraction": 1.5}
    1.5 is too large; at most 1
{"data.imbalance_factor": 0.5}
    0.5 is too small; at least 1
{"data.source": "folder"} -> data.path
    source 'folder' needs the path of a folder or .tar.gz archive with train/ and test/
{"data.source": "cifar100"} -> data.path
    source 'cifar100' needs the folder that torchvision keeps it in
{"data.channels": "gray", "data.flip_channels": True} -> data.flip_channels
    gray images have no red and blue to swap
FOLDER | {"data.split": "seed"} -> data.split
    seed, and no images are drawn: all that the files hold are used; set data.imbalance_factor,
    data.n_max or data.validation, or data.split: fixed
CHECKPOINT -> encoder.channels
    a checkpoint needs the channel order that it was trained on: rgb, bgr or gray
{"encoder.checkpoint": "encoder.safetensors", "encoder.channels": "rgb"} -> encoder.channels
    the encoder was trained on rgb and the images are loaded as gray; take an encoder that was
    trained on gray
CHECKPOINT | {"encoder.channels": "gray"}  -> encoder.channels
    the encoder was trained on gray and the images are loaded as rgb; take an encoder that was
    trained on rgb, or set data.channels: gray
{"pretraining.epochs": 0}
    0 leaves the encoder untrained; name an encoder.checkpoint or train it
{"warmup.fraction": None} -> warmup
    set one of epochs, fraction, plateau
{"epochs": 10, "warmup.epochs": 11} -> warmup.epochs
    11 is more than the 10 epochs of the trial
{"diffusion.steps": 20, "generation.steps": 21} -> generation.steps
    21 is more than the 20 of diffusion.steps
{"staged.encoding.augmented": True, "method": "staged", "data.augmentation": "none"}
    true, and data.augmentation is none: nothing would differ; set data.augmentation: crop,
    crop-flip, medium or strong, or staged.encoding.augmented: false
{"epochs": 20, "warmup.plateau.min_epochs": 21} -> warmup.plateau.min_epochs
    21 is more than the 20 epochs of the trial: the encoder would never thaw
{"epochs": 20, "warmup.plateau.window": 6} -> warmup.plateau.window
    6 is too large: two windows are compared, and the warm-up lasts 10 epochs at most
{"head.name": "cosine", "head.start": "pretrained"} -> head.start
    'pretrained' is the linear head of the pre-training, and head.name is cosine; choose
    random, or head.name: linear
{"standardisation": "batch", "diffusion.scaling": "unit"}
    batch does not go with diffusion.scaling: unit: latents would be drawn in other coordinates
    than the denoiser learns in; write standardisation: tracked, or diffusion.scaling: standardised
FOLDER | {"data.mean": [0.5, 0.5]} -> data.mean
    has 2 values; the images have 3 channels: write 1 or 3 values
{"data.mean": [0.5, 0.5, 0.5]}
    has 3 values; the images have 1 channel: write one value
{"data.channels": "bgr"}
    'bgr' changes nothing: the images of source 'digits' are gray; leave it out
{"data.channels": "gray", "data.source": "cifar10", "data.path": "files", "data.mean": [0.1, 0.2, 0.3]}
    'gray' changes nothing: the images of source 'cifar10' are rgb; leave it out
{"data.flip_channels": True}
    gray images have no red and blue to swap
{"data.std": [0.5, 0.5, 0.5], "data.channels": "gray"}
    has 3 values; the images have 1 channel: write one value
{"data.std": 0}
    0 is too small; more than 0
{"data.mean": []}
    the list is empty; at least one value
{"data.std": []}
    the list is empty; at least one value
"""


def faults():
    """(settings, key, message) of the table, where lines are settings, `->` a key, if it is another
    one than theirs, and below the message."""
    for block in re.split(r"\n(?! )", FAULTS.strip()):
        head, *message = block.splitlines()
        given, _, key = head.partition(" -> ")
        settings = eval(given, {"math": math, "FOLDER": FOLDER, "CHECKPOINT": CHECKPOINT})
        yield settings, key or next(iter(settings)), " ".join(line.strip() for line in message)


@pytest.mark.parametrize(("settings", "key", "message"), [*faults()])
def test_a_fault_names_the_value_and_what_is_allowed(settings, key, message):
    assert parse(settings)[1] == [Fault(key, message)]


@pytest.mark.parametrize("channels", [{}, {"data.channels": "gray"}, {"data.channels": "rgb"}])
def test_digits_are_gray_whether_or_not_the_settings_say_so(channels):
    encoder = {"encoder.checkpoint": "encoder.safetensors", "encoder.channels": "gray"}
    assert parse(channels | encoder)[1] == []


@pytest.mark.parametrize(
    ("files", "flip", "encoder", "loaded", "mend"),
    [
        ("bgr", False, "rgb", "bgr", "true"),
        ("rgb", False, "bgr", "rgb", "true"),
        ("rgb", True, "rgb", "bgr", "false"),
        ("bgr", True, "bgr", "rgb", "false"),
    ],
)
def test_a_channel_order_mismatch_says_how_to_mend_it(files, flip, encoder, loaded, mend):
    settings = CHECKPOINT | {
        "data.channels": files,
        "data.flip_channels": flip,
        "encoder.channels": encoder,
    }
    (fault,) = parse(settings)[1]
    assert fault.key == "encoder.channels"
    assert fault.message == (
        f"the encoder was trained on {encoder} and the images are loaded as {loaded}; "
        f"set data.flip_channels: {mend} "
        "(a swap of red and blue costs many points of accuracy, silently)"
    )
    assert (
        parse(settings | {"data.flip_channels": mend})[1] == []
    )  # the advice works, as YAML text too


def test_everything_wrong_is_reported_at_once_and_in_order():
    _, faults = parse(
        {
            "epoch": 3,
            "epochs": -1,
            "routing": "sum",
            "end_to_end": "on",
            "optim": {},
            "data.path": 7,
        }
    )
    assert [fault.key for fault in faults] == ["epoch", "epochs", "routing", "optim", "data.path"]
    _, faults = parse({"data.source": "folder", "warmup.epochs": 1000, "pretraining.epochs": 0})
    assert [fault.key for fault in faults] == ["data.path", "pretraining.epochs", "warmup.epochs"]


@pytest.mark.parametrize("word", ["on", "yes", "true", "On", "YES", True])
def test_words_for_a_switch(word):
    assert parse({"data.download": word})[0].data.download is True
    opposite = {"on": "off", "yes": "no", "true": "false", "On": "Off", "YES": "NO", True: False}
    assert parse({"end_to_end": opposite[word]})[0].end_to_end is False


@pytest.mark.parametrize("word", [{}, "on", "yes", True])
def test_an_optional_section_can_be_taken_with_its_defaults(word):
    assert parse({"warmup.plateau": word})[0].warmup.plateau == Plateau()


def test_numbers_take_the_type_of_their_setting():
    config, faults = parse(
        {"epochs": 12.0, "losses.real": 2, "data.mean": 0.25, "pretraining.milestones": [5.0, 7]}
    )
    assert not faults
    assert (config.epochs, type(config.epochs)) == (12, int)
    assert (config.losses.real, type(config.losses.real)) == (2.0, float)
    assert config.data.mean == (0.25,)
    assert config.pretraining.milestones == (5, 7) and all(
        type(m) is int for m in config.pretraining.milestones
    )


@pytest.mark.parametrize("nothing", [None, "none"])
def test_an_optional_setting_can_be_unset(nothing):
    assert (
        parse({"data.n_max": 5, "generation.batch_size": nothing})[0].generation.batch_size is None
    )
    assert parse({"data.n_max": 5} | {"data.n_max": nothing})[0].data.n_max is None


def warmup(settings):
    config, faults = parse(settings)
    assert not faults
    return config.warmup.epochs, config.warmup.fraction, config.warmup.plateau


def test_setting_one_kind_of_warmup_unsets_the_others():
    assert warmup({}) == (None, 0.25, None)
    assert warmup({"warmup.epochs": 5}) == (5, None, None)
    assert warmup({"warmup.epochs": 5, "warmup.fraction": 0.5}) == (None, 0.5, None)
    assert warmup({"warmup.epochs": 5, "warmup.plateau": {}}) == (None, None, Plateau())
    assert warmup({"warmup.plateau.window": 3}) == (None, None, Plateau(window=3))
    assert warmup({"warmup.plateau.window": 3, "warmup.plateau.tolerance": 0.1}) == (
        None,
        None,
        Plateau(window=3, tolerance=0.1),
    )
    assert warmup({"warmup.plateau": {}, "warmup.epochs": 0}) == (0, None, None)


def test_unsetting_one_kind_of_warmup_leaves_the_others():
    assert warmup({"warmup.epochs": 5, "warmup.fraction": None, "warmup.plateau": None}) == (
        5,
        None,
        None,
    )


def test_later_settings_win():
    assert parse({"optim.lr.head": 1, "epochs": 7} | {"optim.lr.head": 2})[0].optim.lr.head == 2
    assert warmup({"warmup.fraction": 0.5, "warmup.epochs": 3}) == (3, None, None)


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@pytest.mark.parametrize(
    "settings",
    [
        {},
        FOLDER | {"warmup.epochs": 3, "data.mean": [0.1, 0.2, 0.3], "end_to_end": "off"},
        {"warmup.plateau.window": 2, "head.name": "cosine", "data.n_max": 30},
        *BASELINES.values(),
    ],
)
def test_the_tree_of_a_config_parses_back_to_the_same_config(settings):
    config, faults = parse(settings)
    assert not faults
    assert parse(dict(flat(to_tree(config)))) == (config, [])


def test_the_defaults_and_the_baselines_have_no_fault():
    assert parse({}) == (Config(), [])
    for settings in BASELINES.values():
        assert parse(settings)[1] == []


@pytest.mark.parametrize("name", BASELINES)
def test_arms_that_correct_for_the_prior_go_with_every_baseline(name):
    assert parse({"losses.logit_adjustment": 1.0} | BASELINES[name])[1] == []


def test_a_comment_says_what_each_setting_means():
    lines = Path(core.config.schema.__file__).read_text(encoding="utf-8").splitlines()
    settings = [i for i, line in enumerate(lines) if re.match(r"    \w+: .* = (?!\w+\(\)$)", line)]
    assert len(settings) > 80
    assert all(lines[i - 1].startswith("    # ") for i in settings)


def test_every_default_lies_within_its_limits():
    tree = dict(flat(to_tree(Config())))
    for key, value in tree.items():
        assert parse({"warmup.fraction": 0.25, key: value})[1] == [], key


def test_a_plateau_that_nobody_waits_for_is_no_fault():
    settings = {"epochs": 4, "warmup.plateau": {}}
    assert [fault.key for fault in parse(settings)[1]] == ["warmup.plateau.min_epochs"]
    assert parse(settings | {"end_to_end": False})[1] == []
    assert parse(settings | {"method": "staged"})[1] == []
    assert parse(settings | {"epochs": 20})[1] == []  # two windows of 5 fit


def test_unit_scaling_goes_with_standardisation_by_batches_until_the_encoder_thaws():
    both = {"diffusion.scaling": "unit", "standardisation": "batch", "epochs": 20}
    until_a_plateau = {"warmup.plateau.max_fraction": 1}
    for settings in (both, both | {"warmup.epochs": 19}, both | until_a_plateau):
        assert [fault.key for fault in parse(settings)[1]] == ["standardisation"]
    for frozen in (
        {"end_to_end": False},
        {"warmup.epochs": 20},
        {"method": "staged"},
        until_a_plateau | {"end_to_end": False},
    ):
        assert parse(both | frozen)[1] == []


def test_only_a_staged_trial_asks_for_the_augmentation_of_its_latents():
    settings = {"staged.encoding.augmented": True, "data.augmentation": "none"}
    assert parse(settings)[1] == []
    assert [fault.key for fault in parse(settings | {"method": "staged"})[1]] == [
        "staged.encoding.augmented"
    ]
    for remedy in (
        {"data.augmentation": "crop"},
        {"data.augmentation": "crop-flip"},
        {"staged.encoding.augmented": False},
    ):
        assert parse(settings | {"method": "staged"} | remedy)[1] == []


def test_the_pretrained_network_as_it_is_asks_for_no_linear_head():
    assert parse({"method": "ce", "head.start": "pretrained"})[1] == []
    assert parse({"head.name": "linear", "head.start": "pretrained"})[1] == []


def test_ddpm_does_not_ask_for_ddims_steps():
    settings = {"diffusion.steps": 10, "generation.steps": 50}
    assert [fault.key for fault in parse(settings)[1]] == ["generation.steps"]
    assert parse(settings | {"generation.method": "ddpm"})[1] == []


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        (
            {"data.n_max": 500},
            "data.n_max",
            "class 0 has 128 training images and the profile asks for 500",
        ),
        ({"data.n_test": 174}, "data.n_test", "174 leaves a class without training images"),
        (
            {"data.n_test": 174, "data.imbalance_factor": 20, "data.n_max": 10},
            "data.n_test",
            "174 leaves a class without training images",
        ),
        (
            {"data.n_max": 500, "data.imbalance_factor": 100},
            "data.n_max",
            "class 0 has 128 training images and the profile asks for 500",
        ),
        (
            {"data.n_max": 10, "data.imbalance_factor": 20},
            "data.imbalance_factor",
            "leave the smallest class empty",
        ),
    ],
)
def test_images_that_are_not_there_are_noticed_before_anything_runs(settings, key, message):
    [fault] = SUBJECT.check({"data.channels": "gray", **settings})
    assert fault.key == key and message in fault.message
