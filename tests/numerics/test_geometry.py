"""Class means, prototypes and the equal-radius constraint against loops, by hand, and by finite differences."""

import pytest
import torch

from core.method.geometry import (
    class_means,
    distances,
    prototype_loss,
    radius_loss,
    track,
    unbiased_radii,
    within_class_covariance,
)

EXACT = 1e-10  # float64; the term under the root of a distance is 1e-12
MOMENTUM = 0.9


@pytest.fixture
def batch():
    """latents (12, 3), labels (12,) of five classes: class 3 has one sample and class 4 none; in float64."""
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 3, generator=rng, dtype=torch.float64)
    prototypes = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    return latents, torch.tensor([0, 0, 1, 2, 0, 1, 1, 2, 2, 0, 3, 0]), prototypes


@pytest.fixture
def tracked():
    return torch.tensor([1.0, 2.0, 1.5, 0.5, 3.0], dtype=torch.float64)


USED = torch.tensor(
    [1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1]
)  # leaves class 1 one sample and class 3 none
ONE_CLASS = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0])


def members(values, labels, c, used=None):
    return [
        v
        for i, (v, y) in enumerate(zip(values, labels.tolist()))
        if y == c and (used is None or used[i])
    ]


@pytest.mark.parametrize("used", [None, USED])
def test_class_means_are_those_of_a_loop_and_zero_where_a_class_is_absent(batch, used):
    latents, labels, _ = batch
    means, counts = class_means(latents, labels, 5, used)
    for c in range(5):
        mine = members(latents, labels, c, used)
        expected = torch.stack(mine).mean(0) if mine else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(means[c], expected, rtol=EXACT, atol=0)
        assert counts[c] == len(mine)


def test_class_means_of_scalars_are_scalars(batch):
    latents, labels, _ = batch
    means, _ = class_means(latents, labels, 5)
    torch.testing.assert_close(class_means(latents[:, 0], labels, 5)[0], means[:, 0])


def test_class_means_have_the_gradient_of_finite_differences(batch):
    latents, labels, _ = batch
    assert torch.autograd.gradcheck(
        lambda z: class_means(z, labels, 5, USED)[0], latents.requires_grad_()
    )


def test_distances_are_euclidean(batch):
    latents, labels, prototypes = batch
    expected = torch.linalg.vector_norm(latents - prototypes[labels], dim=1)
    torch.testing.assert_close(distances(*batch), expected, rtol=EXACT, atol=0)


def test_a_latent_on_its_prototype_has_a_gradient_of_zero():
    latents = torch.ones(2, 3, requires_grad=True)
    distances(latents, torch.tensor([0, 1]), torch.ones(2, 3)).sum().backward()
    assert torch.equal(latents.grad, torch.zeros(2, 3))


def test_prototype_loss_is_the_mean_square_per_dimension():
    latents = torch.tensor([[1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    labels, prototypes = torch.tensor([0, 1, 1]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    squares = [1 / 2, 4 / 2, (25 + 16) / 2]
    assert float(prototype_loss(latents, labels, prototypes)) == pytest.approx(sum(squares) / 3)


@pytest.mark.parametrize("n", [2, 3, 8, 50])
def test_radii_around_a_mean_of_the_same_samples_are_corrected_for_it(n):
    """1,000 classes of n samples from a normal distribution of 64 dimensions, whose radius is known."""
    rng = torch.Generator().manual_seed(n)
    latents = torch.randn(1000 * n, 64, generator=rng)
    labels = torch.arange(1000).repeat_interleave(n)
    means, counts = class_means(latents, labels, 1000)
    raw, _ = class_means(distances(latents, labels, means), labels, 1000)
    radius = float(distances(latents, labels, torch.zeros(1000, 64)).mean())
    assert float(raw.mean()) < radius * (1 - 0.4 / n)
    assert float(unbiased_radii(raw, counts).mean()) == pytest.approx(radius, rel=0.01)


def test_a_class_of_one_borrows_the_mean_corrected_radius_of_the_others():
    radii, counts = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([2.0, 1.0, 5.0])
    first, last = 3 * 2**0.5, 4 * 1.25**0.5
    assert unbiased_radii(radii, counts).tolist() == pytest.approx(
        [first, (first + last) / 2, last]
    )


def radius_loss_by_loop(latents, labels, prototypes, tracked, used=None, common=None):
    common, terms = common or sum(tracked.tolist()) / len(tracked), []
    for c in range(len(tracked)):
        mine = members(latents, labels, c, used)
        if not mine:
            continue
        radius = sum(float((z - prototypes[c]).norm()) for z in mine) / len(mine)
        if len(mine) == 1:
            radius = MOMENTUM * float(tracked[c]) + (1 - MOMENTUM) * radius
        terms.append((radius / common - 1) ** 2)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("common", [None, 0.7])
@pytest.mark.parametrize("used", [None, USED, ONE_CLASS])
def test_radius_loss_is_that_of_a_loop_over_the_classes_present(batch, tracked, used, common):
    given = None if common is None else torch.tensor(common, dtype=torch.float64)
    found = float(radius_loss(*batch, tracked, MOMENTUM, used, given))
    expected = radius_loss_by_loop(*batch, tracked, used, common)
    assert found == pytest.approx(expected, rel=EXACT)


def on_spheres(radii):
    """Four latents of each class, at distance radii[c] from its prototype."""
    labels = torch.arange(len(radii)).repeat_interleave(4)
    prototypes = 8 * torch.eye(len(radii), 4)
    directions = torch.cat([torch.eye(4)] * len(radii))
    return (
        prototypes[labels] + torch.tensor(radii)[labels][:, None] * directions,
        labels,
        prototypes,
    )


def test_radius_loss_is_exactly_zero_at_equal_radii():
    latents, labels, prototypes = on_spheres([2.0, 2.0, 2.0])
    assert float(radius_loss(latents, labels, prototypes, torch.full((3,), 2.0), MOMENTUM)) == 0


@pytest.mark.parametrize(
    "radii", [[2.0, 2.0, 2.01], [1.0, 2.0, 3.0], [0.0, 2.0, 2.0], [4.0, 4.0, 4.0]]
)
def test_radius_loss_is_positive_away_from_the_common_radius(radii):
    latents, labels, prototypes = on_spheres(radii)
    assert float(radius_loss(latents, labels, prototypes, torch.full((3,), 2.0), MOMENTUM)) > 1e-6


def test_radius_loss_without_a_sample_that_counts_is_zero(batch, tracked):
    assert float(radius_loss(*batch, tracked, MOMENTUM, torch.zeros(12))) == 0


def test_descending_the_radius_loss_shrinks_wide_classes_and_widens_narrow_ones():
    latents, labels, prototypes = on_spheres([1.0, 2.0, 3.0])
    latents.requires_grad_()
    radius_loss(latents, labels, prototypes, torch.full((3,), 2.0), MOMENTUM).backward()
    moved, _ = class_means(distances(latents - 0.1 * latents.grad, labels, prototypes), labels, 3)
    before, _ = class_means(distances(latents, labels, prototypes), labels, 3)
    assert (moved - before).detach().sign().tolist() == [1, 0, -1]


@pytest.mark.parametrize("used", [None, USED])
def test_losses_have_the_gradients_of_finite_differences(batch, tracked, used):
    latents, labels, prototypes = batch
    latents.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: radius_loss(z, labels, prototypes, tracked, MOMENTUM, used), latents
    )
    assert torch.autograd.gradcheck(lambda z: prototype_loss(z, labels, prototypes), latents)


def test_radius_loss_has_a_finite_gradient_where_a_lone_latent_is_its_prototype():
    latents = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    labels, prototypes = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    radius_loss(latents, labels, prototypes, torch.ones(2), MOMENTUM).backward()
    assert latents.grad.isfinite().all()
    assert not latents.grad[:2].any() and latents.grad[2].any()


def test_no_gradient_reaches_prototypes_or_tracked_radii(batch, tracked):
    latents, labels, prototypes = (
        x.requires_grad_() if x.is_floating_point() else x for x in batch
    )
    tracked.requires_grad_()
    (
        radius_loss(latents, labels, prototypes, tracked, MOMENTUM)
        + prototype_loss(latents, labels, prototypes)
    ).backward()
    assert latents.grad.any()
    assert prototypes.grad is None and tracked.grad is None


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_tracking_is_an_exponential_moving_average_over_the_classes_present(shape):
    start, batch_means = (
        torch.zeros(shape, dtype=torch.float64),
        torch.full(shape, 2.5, dtype=torch.float64),
    )
    counts, tracked = torch.tensor([5.0, 1.0, 0.0]), start
    for n in range(1, 4):
        tracked = track(tracked, batch_means, counts, MOMENTUM)
        assert tracked[:2].flatten().tolist() == pytest.approx(
            [2.5 * (1 - MOMENTUM**n)] * tracked[:2].numel(), rel=EXACT
        )
    assert torch.equal(tracked[2], start[2])


def test_tracking_carries_no_gradient():
    means = torch.ones(3, requires_grad=True)
    assert not track(torch.zeros(3), means, torch.ones(3), MOMENTUM).requires_grad


def test_the_covariance_within_classes_is_that_of_the_classes_in_use():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 30 + [2] * 20)
    latents = torch.randn(90, 3, generator=generator) * (1 + labels[:, None])
    prototypes, _ = class_means(latents, labels, 3)
    used = torch.tensor([True, False, True])
    found, n = within_class_covariance(latents, labels, prototypes, used)
    parts = [
        torch.cov(latents[labels == c].T, correction=0) * int((labels == c).sum()) for c in (0, 2)
    ]
    torch.testing.assert_close(found, sum(parts) / 60)
    assert int(n) == 60
    nothing, none = within_class_covariance(latents[40:70], labels[40:70], prototypes, used)
    assert not nothing.any() and int(none) == 0
    lone, one = within_class_covariance(latents, labels, prototypes, used, torch.arange(90) == 3)
    apart = latents[3] - prototypes[0]
    torch.testing.assert_close(lone, torch.outer(apart, apart))
    assert int(one) == 1
