"""Crop, flip and normalisation of batches against a loop over images."""

import pytest
import torch

from core.data.augment import crop_and_flip, normalise

SINGLE = 1e-5  # absolute; normalised pixels are of order 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.randint(1, 256, (32, 3, 8, 6), generator=seeded(5), dtype=torch.uint8)


def padded(image, padding):
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    canvas[:, padding : padding + height, padding : padding + width] = image
    return canvas


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [1, 4])
def test_crops_are_those_of_a_loop_over_images_given_the_same_draws(images, padding, flip):
    n, _, height, width = images.shape
    rng = seeded()
    down, right = torch.randint(0, 2 * padding + 1, (2, n), generator=rng)
    flipped = torch.rand(n, generator=rng) < 0.5 if flip else torch.zeros(n)
    found = crop_and_flip(images, padding, flip, seeded())
    assert found.shape == images.shape and found.dtype == torch.uint8
    for i, (r, c) in enumerate(zip(down.tolist(), right.tolist())):
        crop = padded(images[i], padding)[:, r : r + height, c : c + width]
        assert torch.equal(found[i], crop.flip(2) if flipped[i] else crop)


def test_no_padding_and_no_flip_is_the_identity(images):
    assert torch.equal(crop_and_flip(images, 0, False, seeded()), images)


def test_a_flip_alone_mirrors_about_half_of_the_images_left_to_right(images):
    many = images[:1].expand(1000, -1, -1, -1)
    found = crop_and_flip(many, 0, True, seeded())
    same, mirrored = (
        (found == other).flatten(1).all(1) for other in (images[0], images[0].flip(2))
    )
    assert (same ^ mirrored).all()
    assert int(mirrored.sum()) == pytest.approx(500, abs=5 * 250**0.5)


def test_every_image_has_its_own_offset_and_every_offset_occurs():
    dots = torch.zeros(2000, 1, 5, 5, dtype=torch.uint8)
    dots[:, :, 2, 2] = 255  # never cropped off at padding 2
    found = crop_and_flip(dots, 2, False, seeded())
    places = found.flatten(1).argmax(1)
    assert torch.equal(found.flatten(1).count_nonzero(1), torch.ones(2000, dtype=torch.int64))
    times = torch.bincount(places, minlength=25)
    assert (times - 2000 / 25).abs().max() < 5 * (2000 / 25) ** 0.5


def test_draws_are_the_generators_and_the_input_is_left_as_it_was(images):
    before = images.clone()
    first, again, other = (crop_and_flip(images, 4, True, seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before)


def test_normalisation_is_per_channel_of_pixels_in_zero_to_one(images):
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.25, 0.5)
    before = images.clone()
    found = normalise(images, mean, std)
    assert found.dtype == torch.float32
    for c in range(3):
        torch.testing.assert_close(
            found[:, c], (images[:, c].float() / 255 - mean[c]) / std[c], rtol=0, atol=SINGLE
        )
    assert torch.equal(images, before)


def test_one_mean_and_one_deviation_serve_all_channels(images):
    assert torch.equal(
        normalise(images, (0.5,), (0.25,)), normalise(images, (0.5,) * 3, (0.25,) * 3)
    )
