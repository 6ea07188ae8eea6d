"""CutMix against a loop over pixels, and the consistency loss against its formula and its limits."""

import math

import pytest
import torch

from core.training.views import Consistency, boxes, consistency_loss, cutmix

SINGLE = 1e-6  # absolute, of cosines and shares in float32


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (5, 9)])
def test_pixels_come_from_the_box_of_the_other_image_and_from_nowhere_else(height, width):
    images, others = torch.rand(2, 20, 3, height, width, generator=seeded())
    found, kept = boxes(
        torch.rand(20, generator=seeded(1)), torch.rand(20, 2, generator=seeded(2)), height, width
    )
    mixed = cutmix(images, others, found)
    for i, (box, share) in enumerate(zip(found, kept)):
        top, bottom, left, right = box.tolist()
        assert 0 <= top <= bottom <= height and 0 <= left <= right <= width
        n_own = 0
        for y in range(height):
            for x in range(width):
                is_inside = top <= y < bottom and left <= x < right
                n_own += not is_inside
                assert torch.equal(mixed[i, :, y, x], (others if is_inside else images)[i, :, y, x])
        assert share == pytest.approx(n_own / (height * width), abs=SINGLE)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.99, 1.0])
def test_a_box_inside_the_image_has_the_area_that_was_drawn(share):
    """Up to half a pixel at each of its sides."""
    (box,), (kept,) = boxes(torch.tensor([share]), torch.tensor([[0.5, 0.5]]), 32, 32)
    side = 32 * math.sqrt(1 - share)
    assert abs(int(box[1] - box[0]) - side) <= 1 and abs(int(box[3] - box[2]) - side) <= 1
    assert kept == pytest.approx(share, abs=2 * side / 32**2 + 1 / 32**2)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.0, 0.5), (0.999, 0.999)])
def test_a_box_that_is_clipped_leaves_more_than_was_drawn(centre):
    _, kept = boxes(torch.tensor([0.5]), torch.tensor([centre]), 32, 32)
    assert kept > 0.6


def test_memory_stays_channels_last():
    images = torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    found, _ = boxes(torch.full((4,), 0.6), torch.full((4, 2), 0.5), 8, 8)
    assert cutmix(images, images.flip(0), found).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_loss_is_the_symmetrised_negative_cosine(seed):
    p1, p2, z1, z2 = torch.randn(4, 7, 5, generator=seeded(seed))
    cosines = [
        sum(a * b) / (a.norm() * b.norm()) for p, z in ((p1, z2), (p2, z1)) for a, b in zip(p, z)
    ]
    assert consistency_loss(p1, p2, z1, z2) == pytest.approx(-float(sum(cosines)) / 14, abs=SINGLE)
    assert consistency_loss(3 * z2, z1 / 7, z1, z2) == pytest.approx(-1, abs=SINGLE)
    assert consistency_loss(-z2, -z1, z1, z2) == pytest.approx(1, abs=SINGLE)


def test_targets_get_no_gradient():
    p1, p2, z1, z2 = (torch.randn(7, 5, generator=seeded(i), requires_grad=True) for i in range(4))
    consistency_loss(p1, p2, z1, z2).backward()
    assert z1.grad is None and z2.grad is None and p1.grad.norm() > 0 and p2.grad.norm() > 0


def test_both_views_and_all_its_weights_learn_and_the_views_are_alike():
    consistency = Consistency(16)
    first, second = (torch.randn(8, 16, generator=seeded(i), requires_grad=True) for i in range(2))
    loss = consistency(first, second)
    loss.backward()
    assert first.grad.norm() > 0 and second.grad.norm() > 0
    assert all(
        parameter.grad is not None and parameter.grad.norm() > 0
        for parameter in consistency.parameters()
    )
    assert torch.allclose(consistency(second, first), loss, atol=SINGLE)


def test_latents_of_zero_give_finite_gradients():
    consistency = Consistency(16)
    consistency.projector.bias.data.zero_()
    first = torch.zeros(8, 16, requires_grad=True)
    consistency(first, torch.zeros(8, 16)).backward()
    assert first.grad.isfinite().all()
