"""Strong augmentation of batches against torchvision's functions, image by image."""

import math

import pytest
import torch
from torchvision.transforms import functional as reference

from core.config.parsing import parse
from core.config.schema import Data
from core.data import strong as module
from core.data.augment import normalise
from core.data.strong import CHANGES, NARROW, OPERATIONS, WIDE, cutout, places, strong
from core.training.encoding import augmented, grey

RGB = (0.299, 0.587, 0.114)
SIDE = 16
ROUNDED = 1.01  # torchvision rounds what it computes, and blends, to whole numbers
STRENGTHS = (-1.0, -0.4, 0.0, 0.3, 0.9)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(n, side=SIDE, channels=3, seed=5):
    """Smooth pictures, so that a grey, a mean and a blur differ from each other."""
    coarse = torch.rand(n, channels, 4, 4, generator=seeded(seed)) * 255
    return (
        torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        .round()
        .to(torch.uint8)
    )


def changed(name, images, strength, ranges=WIDE):
    value = torch.full((len(images), 1, 1, 1), strength)
    return CHANGES[name](images.float(), value, RGB, ranges)


@pytest.mark.parametrize("ranges, change", [(WIDE, 0.99), (NARROW, 0.9)])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(
    "name, function",
    [
        ("brightness", reference.adjust_brightness),
        ("colour", reference.adjust_saturation),
        ("contrast", reference.adjust_contrast),
        ("sharpness", reference.adjust_sharpness),
    ],
)
def test_enhancements_are_torchvisions(name, function, strength, ranges, change):
    images = some_images(6)
    expected = torch.stack([function(image, 1 + change * strength) for image in images])
    torch.testing.assert_close(
        changed(name, images, strength, ranges), expected.float(), rtol=0, atol=2 * ROUNDED
    )


@pytest.mark.parametrize(
    "ranges, strength, bits",
    [
        (WIDE, 0.0, 8),
        (WIDE, 0.5, 5),
        (WIDE, -0.5, 5),
        (WIDE, 1.0, 2),
        (WIDE, -1.0, 2),
        (NARROW, 0.5, 6),
        (NARROW, -1.0, 4),
    ],
)
def test_posterising_keeps_the_highest_bits(ranges, strength, bits):
    images = some_images(6)
    found = changed("posterise", images, strength, ranges)
    assert torch.equal(found, reference.posterize(images, bits).float())


@pytest.mark.parametrize("strength", [0.0, 0.4, -0.4, 1.0])
def test_solarising_inverts_what_is_brighter_than_the_threshold(strength):
    images = some_images(6)
    expected = reference.solarize(images, 255 * (1 - abs(strength)))
    assert torch.equal(changed("solarise", images, strength), expected.float())


def test_autocontrast_stretches_every_channel_and_leaves_a_plain_one_alone():
    images = some_images(6)
    images[0, 1] = 77
    found = changed("autocontrast", images, 0.5)
    torch.testing.assert_close(found, reference.autocontrast(images).float(), rtol=0, atol=ROUNDED)
    assert (found[0, 1] == 77).all()


def moved(name, images, strength, ranges=WIDE):
    """The batch with all its images under one geometric operation."""
    n, _, height, width = images.shape
    groups = {other: slice(0, n) if other == name else slice(0, 0) for other in OPERATIONS}
    rows, columns, is_inside = places(groups, torch.full((n,), strength), height, width, ranges)
    batch = torch.arange(n)[:, None, None]
    return (images.permute(0, 2, 3, 1)[batch, rows, columns] * is_inside[..., None]).permute(
        0, 3, 1, 2
    )


@pytest.mark.parametrize("ranges, angle", [(WIDE, 135), (NARROW, 30)])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("side", [16, 9])
def test_rotations_are_torchvisions_but_for_pixels_that_lie_between_two(
    strength, side, ranges, angle
):
    images = some_images(4, side)
    expected = reference.rotate(images, -angle * strength)
    assert (moved("rotate", images, strength, ranges) == expected).float().mean() > 0.97


@pytest.mark.parametrize("ranges, shear", [(WIDE, 0.99), (NARROW, 0.3)])
@pytest.mark.parametrize("axis, name", [(0, "shear-x"), (1, "shear-y")])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_shears_are_torchvisions(axis, name, strength, ranges, shear):
    images = some_images(4)
    angles = [0.0, 0.0]
    angles[axis] = math.degrees(math.atan(shear * strength))
    expected = reference.affine(images, 0.0, [0, 0], 1.0, angles)
    flipped = reference.affine(images, 0.0, [0, 0], 1.0, [-angle for angle in angles])
    found = moved(name, images, strength, ranges)
    assert max((found == expected).float().mean(), (found == flipped).float().mean()) > 0.97


@pytest.mark.parametrize("strength, pixels", [(0.25, 4), (-0.5, -8), (0.0, 0), (1.0, 16)])
def test_translations_move_by_whole_pixels_and_bring_in_black(strength, pixels):
    images = some_images(4).clamp(min=1)
    columns = torch.arange(SIDE) + pixels
    inside = (columns >= 0) & (columns < SIDE)
    expected = images[:, :, :, columns.clamp(0, SIDE - 1)] * inside
    assert torch.equal(moved("translate-x", images, strength), expected)
    assert torch.equal(moved("translate-y", images.mT, strength), expected.mT)


@pytest.mark.parametrize("name", ["translate-x", "translate-y"])
def test_narrow_ranges_move_by_10_of_32_pixels_at_most(name):
    images = some_images(2, 32).clamp(min=1)
    seen = (moved(name, images, 1.0, NARROW) > 0).flatten(1).float().mean(1)
    assert (seen == 22 / 32).all()


def test_cutout_takes_a_square_of_half_the_side_clipped_at_the_border():
    centre = torch.tensor([[0.5, 0.0, 0.99], [0.5, 0.0, 0.5]])
    kept = cutout(centre, 32, 32)
    assert kept.shape == (3, 1, 32, 32)
    assert (kept[0, 0, 8:24, 8:24] == 0).all() and kept[0].sum() == 32 * 32 - 16 * 16
    assert (kept[1, 0, :8, :8] == 0).all() and kept[1].sum() == 32 * 32 - 8 * 8
    assert kept[2].sum() == 32 * 32 - 9 * 16


@pytest.mark.parametrize("kind, ranges", [("strong", WIDE), ("medium", NARROW)])
def test_the_encoder_meets_operations_of_its_ranges_and_the_mean_where_cut_out(kind, ranges):
    settings = {
        "data.source": "folder",
        "data.path": "images",
        "data.augmentation": kind,
        "data.channels": "rgb",
        "data.mean": [0.1, 0.5, 0.9],
    }
    config, faults = parse(settings)
    assert not faults
    images = some_images(26)
    found = augmented(images, config, seeded())
    expected, kept = strong(images, config.data.padding, RGB, seeded(), 0, ranges)
    expected = normalise(expected, config.data.mean, config.data.std) * kept
    assert torch.equal(found, expected)
    assert (found[(kept == 0).expand_as(found)] == 0).all()
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("n, channels, side", [(1, 3, 8), (5, 1, 8), (13, 3, 2), (130, 3, 16)])
def test_any_batch_keeps_its_shape_and_its_range(n, channels, side):
    images = some_images(n, side, channels)
    before = images.clone()
    weights = RGB if channels == 3 else (1.0,)
    found, kept = strong(images, 2, weights, seeded())
    assert found.shape == images.shape and kept.shape == (n, 1, side, side)
    assert float(found.min()) >= 0 and float(found.max()) <= 255.001
    assert torch.equal(images, before)


def test_every_image_meets_every_operation_alike_often(monkeypatch):
    """Each operation leaves a mark of its own on an image that nothing else changes."""
    n, times = 26, 200
    images = torch.full((n, 3, 8, 8), 255, dtype=torch.uint8)
    marks = {name: float(i + 1) for i, name in enumerate(CHANGES)}
    leave = {
        name: (lambda pixels, strength, grey, ranges, mark=mark: torch.full_like(pixels, mark))
        for name, mark in marks.items()
    }
    monkeypatch.setattr(module, "CHANGES", leave)
    generator = seeded()
    met = torch.zeros(n, len(OPERATIONS))
    for _ in range(times):
        found, _ = strong(images, 0, RGB, generator)
        values = found.flatten(1).amax(1)
        for name, mark in marks.items():
            met[:, OPERATIONS.index(name)] += values == mark
    met = met[:, [OPERATIONS.index(name) for name in CHANGES]]
    expected = times / len(OPERATIONS)
    assert (met.sum(0) == n * expected).all()
    assert (met - expected).abs().max() < 5 * expected**0.5


def test_strengths_crops_flips_and_squares_are_the_generators():
    images = some_images(26)
    first, again, other = (strong(images, 2, RGB, seeded(s)) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_without_operation_and_cutout_it_is_the_crop_and_flip():
    from core.data.augment import crop_and_flip

    images = some_images(130)
    found, _ = strong(images, 2, RGB, seeded())
    expected = crop_and_flip(images, 2, True, seeded()).float()
    alike = (found == expected).flatten(1).all(1)
    # Identity, and here and there an operation that is too weak to show.
    assert 10 <= int(alike.sum()) <= 40


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"channels": "rgb"}, RGB),
        ({"channels": "bgr"}, RGB[::-1]),
        ({"channels": "bgr", "flip_channels": True}, RGB),
        ({"channels": "rgb", "flip_channels": True}, RGB[::-1]),
        ({"channels": "gray"}, (1.0,)),
    ],
)
def test_grey_follows_the_order_of_the_channels_as_loaded(settings, expected):
    assert grey(Data(**settings), len(expected)) == expected


def test_images_of_one_channel_are_their_own_grey_whatever_the_files_are_said_to_hold():
    config, faults = parse({"data.augmentation": "strong"})  # digits, rgb by default
    assert not faults and config.data.channels == "rgb"
    found = augmented(some_images(26, 8, 1), config, seeded())
    assert found.shape == (26, 1, 8, 8) and found.isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 8, 20])
def test_small_batches_meet_every_operation_in_turn(n, monkeypatch):
    sizes = dict.fromkeys(OPERATIONS, 0)
    monkeypatch.setattr(
        module, "places", lambda groups, *a: counted(groups, sizes) or places(groups, *a)
    )
    for turn in range(2 * len(OPERATIONS)):
        strong(some_images(n, 8), 1, RGB, seeded(), turn)
    assert set(sizes.values()) == {2 * n}


def counted(groups, sizes):
    for name, group in groups.items():
        sizes[name] += group.stop - group.start
