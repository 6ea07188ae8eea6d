"""Diagnostics of latents: what each is invariant to, its extremes, and constructed cases."""

import math

import pytest
import torch

from core.method.diagnostics import (
    class_radii,
    drift,
    generated_to_real,
    linear_cka,
    one_nearest_neighbour_accuracy,
    spectrum,
)

EXACT = 1e-10  # float64
SINGLE = 1e-6  # absolute, float32
SAMPLED = 0.1  # statistics of 64 samples in 8 dimensions


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def latents(rng):
    return torch.randn(40, 6, generator=rng, dtype=torch.float64) * torch.arange(1, 7)


def rotation(n, rng):
    return torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64)).Q


def test_cka_is_one_for_itself_and_up_to_rotation_scale_and_shift(latents, rng):
    assert float(linear_cka(latents, latents)) == pytest.approx(1, rel=EXACT)
    assert float(linear_cka(latents, 3 * latents @ rotation(6, rng) + 5)) == pytest.approx(
        1, rel=EXACT
    )


def test_cka_is_its_kernel_formula_and_symmetric(latents, rng):
    other = latents[:, :4] + 5 * torch.randn(40, 4, generator=rng, dtype=torch.float64)
    centring = torch.eye(40, dtype=torch.float64) - 1 / 40
    k, other_k = (centring @ (z @ z.T) @ centring for z in (latents, other))
    expected = (k * other_k).sum() / ((k * k).sum() * (other_k * other_k).sum()).sqrt()
    assert 0.1 < float(expected) < 0.99
    assert float(linear_cka(latents, other)) == pytest.approx(float(expected), rel=EXACT)
    assert float(linear_cka(other, latents)) == pytest.approx(float(expected), rel=EXACT)


def test_cka_with_a_collapsed_encoding_is_zero(latents):
    assert float(linear_cka(latents, torch.full((40, 3), 0.1))) == pytest.approx(0, abs=EXACT)


def test_drift_is_zero_where_nothing_moved_and_blind_to_length(latents):
    assert float(drift(latents, latents)) == pytest.approx(0, abs=EXACT)
    assert float(drift(2 * latents, latents)) == pytest.approx(0, abs=EXACT)
    assert float(drift(latents.float(), latents.float())) == pytest.approx(0, abs=SINGLE)


def test_drift_is_one_at_right_angles_and_two_when_turned_round(latents):
    assert float(drift(-latents, latents)) == pytest.approx(2, rel=EXACT)
    angle = math.pi / 3
    turned = torch.tensor([[math.cos(angle), math.sin(angle)]]).expand(5, 2)
    assert float(drift(turned, torch.tensor([[1.0, 0.0]]).expand(5, 2))) == pytest.approx(
        0.5, abs=SINGLE
    )
    assert float(drift(torch.eye(4), torch.eye(4).roll(1, 0))) == 1


def test_effective_rank_of_an_isotropic_cloud_is_its_dimension(rng):
    points = torch.cat([torch.eye(5), -torch.eye(5)]).double() @ rotation(5, rng) + 3
    rank, variance = spectrum(points)
    assert float(rank) == pytest.approx(5, rel=EXACT)
    assert float(variance) == pytest.approx(1, rel=EXACT)


def test_effective_rank_of_a_line_is_one(rng):
    line = (
        torch.randn(30, 1, generator=rng, dtype=torch.float64)
        @ torch.ones(1, 5, dtype=torch.float64)
        + 2
    )
    rank, variance = spectrum(line)
    assert float(rank) == pytest.approx(1, rel=EXACT)
    assert float(variance) == pytest.approx(float(line.var(0, correction=0).sum()), rel=EXACT)


def test_effective_rank_counts_directions_by_their_share_of_variance():
    points = torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0])).double()
    shares = [9 / 20, 9 / 20, 1 / 20, 1 / 20]
    rank, _ = spectrum(torch.cat([points, -points]))
    assert float(rank) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=EXACT)


def test_total_collapse_has_no_variance_and_a_finite_rank():
    rank, variance = spectrum(torch.full((20, 4), 0.1))
    assert float(variance) == pytest.approx(0, abs=EXACT) and float(rank) == pytest.approx(
        1, abs=EXACT
    )


def test_class_radius_is_the_mean_distance_to_the_class_mean():
    latents = torch.tensor(
        [[1.0, 0], [-1, 0], [0, 3], [0, -3], [5, 5], [7, 5], [9, 9]], dtype=torch.float64
    )
    found = class_radii(latents, torch.tensor([0, 0, 0, 0, 1, 1, 2]), 4)
    # distances 2 and 1 to the means of 4 and 2 samples, with what the sample mean takes away put back
    assert found[:2].tolist() == pytest.approx([2 * (4 / 3) ** 0.5, 2**0.5], rel=EXACT)
    assert found[2:].isnan().all()  # one sample, none


def test_samples_of_one_distribution_cannot_be_told_apart(rng):
    real, generated = torch.randn(2, 400, 4, generator=rng)
    assert float(one_nearest_neighbour_accuracy(real, generated)) == pytest.approx(0.5, abs=SAMPLED)


def test_samples_far_apart_are_told_apart_always(rng):
    real, generated = torch.randn(2, 64, 4, generator=rng)
    assert float(one_nearest_neighbour_accuracy(real, generated + 100)) == 1


def test_copies_are_nearest_to_their_originals(rng):
    real = torch.randn(64, 4, generator=rng)
    assert float(one_nearest_neighbour_accuracy(real, real.clone())) == 0


def test_copies_are_recognised_in_a_collapsed_encoding_too(rng):
    real = 10 + 1e-3 * torch.randn(64, 64, generator=rng)
    assert float(one_nearest_neighbour_accuracy(real, real.clone())) == 0


def test_small_classes_do_not_look_tight(rng):
    """Many classes of 2 and one of 20,000 from one distribution have the same radius on average."""
    pairs = class_radii(
        torch.randn(4000, 8, generator=rng), torch.arange(2000).repeat_interleave(2), 2000
    ).mean()
    crowd = class_radii(
        torch.randn(20_000, 8, generator=rng), torch.zeros(20_000, dtype=torch.int64), 1
    )[0]
    assert float(pairs) == pytest.approx(float(crowd), rel=0.02)


def labelled(rng, n_per_class, n_classes=3, n_latents=8):
    labels = torch.arange(n_classes).repeat_interleave(n_per_class)
    return 20 * torch.eye(n_classes, n_latents)[labels] + torch.randn(
        len(labels), n_latents, generator=rng
    ), labels


def test_generated_latents_of_the_real_distribution_look_real(rng):
    real, labels = labelled(rng, 64)
    generated, _ = labelled(rng, 64)
    found = generated_to_real(real, labels, generated, labels, 3)
    assert found["gen/radius_ratio"].tolist() == pytest.approx([1] * 3, abs=SAMPLED)
    assert (
        found["gen/prototype_distance"] < 3 * (2 / 64) ** 0.5
    ).all()  # means of 64 differ by sqrt(2 / 64) per dimension
    assert found["gen/one_nn"].tolist() == pytest.approx([0.5] * 3, abs=2 * SAMPLED)


def test_generated_latents_that_are_wide_or_off_are_measured_so(rng):
    real, labels = labelled(rng, 20)
    means = torch.stack([real[labels == c].mean(0) for c in range(3)])[labels]
    found = generated_to_real(real, labels, means + 2 * (real - means) + 10, labels, 3)
    assert found["gen/radius_ratio"].tolist() == pytest.approx([2] * 3, rel=1e-4)
    expected = 10 * 8**0.5 / class_radii(real, labels, 3)
    assert found["gen/prototype_distance"].tolist() == pytest.approx(expected.tolist(), rel=1e-4)
    assert found["gen/one_nn"].tolist() == [1] * 3


def test_classes_with_fewer_than_two_latents_on_either_side_are_not_measured(rng):
    real, labels = labelled(rng, 4, n_classes=4)
    keep = torch.tensor([0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 13])  # class 1 has one real latent
    of_generated = torch.tensor(
        [0, 1, 2, 4, 5, 6, 8]
    )  # class 2 has one generated latent, class 3 none
    found = generated_to_real(real[keep], labels[keep], real[of_generated], labels[of_generated], 4)
    for values in found.values():
        assert values.shape == (4,)
        assert values.isfinite().tolist() == [True, False, False, False]
