"""Denoisers: shapes, what they depend on, and the known flaw of the 1-D U-Net."""

import math

import pytest
import torch

from core.networks.denoisers import build_denoiser, timestep_embedding

SINGLE = 1e-4  # absolute, float32 through the U-Net; outputs are of order 1
FAR = 0.05  # a difference that no rounding explains
BLOCK = 8  # the U-Net halves a latent three times
N_LATENTS = 4 * BLOCK


@pytest.fixture(scope="module")
def denoisers():
    """Both, with weights that are none of the initial zeros."""
    torch.manual_seed(0)
    found = {name: build_denoiser(name, N_LATENTS, 5, 32, 2) for name in ("mlp", "unet1d")}
    for parameter in found["mlp"].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(1)
    return (
        torch.randn(6, N_LATENTS, generator=rng),
        torch.tensor([0, 1, 10, 400, 998, 999]),
        torch.tensor([0, 1, 2, 3, 4, 0]),
    )


def change(denoiser, before, after):
    with torch.no_grad():
        return (denoiser(*before) - denoiser(*after)).abs().amax(1)


@pytest.mark.parametrize("name", ["mlp", "unet1d"])
def test_output_has_the_shape_of_the_latents(name, denoisers, batch):
    with torch.no_grad():
        assert denoisers[name](*batch).shape == (6, N_LATENTS)


@pytest.mark.parametrize("name", ["mlp", "unet1d"])
def test_conditions_that_latents_share_count_for_each_of_them(name, denoisers, batch):
    which = torch.tensor([3, 0, 3, 1, 3, 0])
    noisy, t, labels = batch
    with torch.no_grad():
        shared, apart = (
            denoisers[name](noisy, t, labels, which),
            denoisers[name](noisy, t[which], labels[which]),
        )
    torch.testing.assert_close(shared, apart, rtol=0, atol=SINGLE)


@pytest.mark.parametrize("name", ["mlp", "unet1d"])
def test_every_parameter_and_the_latents_get_a_gradient(name, batch):
    torch.manual_seed(0)
    denoiser, (noisy, t, labels) = build_denoiser(name, 16, 5, 32, 2), batch
    noisy = noisy[:, :16].clone().requires_grad_()
    denoiser(noisy, t, labels).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())
    assert noisy.grad.isfinite().all() and noisy.grad.any(1).all()


@pytest.mark.parametrize("name", ["mlp", "unet1d"])
def test_output_depends_on_latents_timestep_and_label(name, denoisers, batch):
    noisy, t, labels = batch
    others = (noisy + 1, t, labels), (noisy, 999 - t, labels), (noisy, t, (labels + 1) % 5)
    with torch.no_grad():
        before = denoisers[name](*batch)
        for other in others:
            assert ((denoisers[name](*other) - before).abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("name", ["mlp", "unet1d"])
def test_each_latent_is_denoised_by_itself(name, denoisers, batch):
    with torch.no_grad():
        together = denoisers[name](*batch)
        alone = torch.cat([denoisers[name](*(x[i : i + 1] for x in batch)) for i in (0, 3)])
    torch.testing.assert_close(alone, together[[0, 3]], rtol=0, atol=SINGLE)


def test_the_mlp_starts_without_using_its_condition(batch):
    torch.manual_seed(0)
    denoiser, (noisy, t, labels) = build_denoiser("mlp", N_LATENTS, 5, 32, 2), batch
    assert (change(denoiser, batch, (noisy, 999 - t, (labels + 1) % 5)) == 0).all()  # adaLN-zero


def permutation_of_blocks():
    order = torch.tensor([2, 0, 3, 1])
    return (order[:, None] * BLOCK + torch.arange(BLOCK)).flatten()


def equivariance_error(denoiser, batch, order):
    """How far permuting dimensions before differs from permuting them after."""
    noisy, t, labels = batch
    with torch.no_grad():
        return float(
            (denoiser(noisy[:, order], t, labels) - denoiser(noisy, t, labels)[:, order])
            .abs()
            .max()
        )


def test_the_unet_cannot_tell_blocks_of_dimensions_apart(denoisers, batch):
    assert equivariance_error(denoisers["unet1d"], batch, permutation_of_blocks()) < SINGLE


def test_the_unet_tells_dimensions_within_a_block_apart(denoisers, batch):
    assert equivariance_error(denoisers["unet1d"], batch, torch.arange(N_LATENTS).roll(1)) > FAR


@pytest.mark.parametrize("order", [permutation_of_blocks(), torch.arange(N_LATENTS).roll(1)])
def test_the_mlp_tells_all_dimensions_apart(denoisers, batch, order):
    noisy, t, labels = batch
    assert equivariance_error(denoisers["mlp"], batch, order) > FAR
    assert (
        change(denoisers["mlp"], batch, (noisy[:, order], t, labels)) > FAR
    ).all()  # nor is it blind to order


def test_the_unet_refuses_latents_that_it_cannot_halve():
    assert build_denoiser("unet1d", 16, 3, 0, 0) is not None
    for n_latents in (12, 60, 63):
        with pytest.raises(ValueError, match=f"{n_latents} is not a multiple of 8"):
            build_denoiser("unet1d", n_latents, 3, 0, 0)


def test_timestep_embedding_is_the_transformers():
    embedding = timestep_embedding(torch.tensor([0, 7, 999]), 16).double()
    for row, t in zip(embedding, (0, 7, 999)):
        angles = [t * 10_000 ** (-i / 7) for i in range(8)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert row.tolist() == pytest.approx(expected, abs=1e-4)  # angles reach 999 in float32


def test_the_mlp_works_at_an_odd_width(batch):
    assert build_denoiser("mlp", N_LATENTS, 5, 33, 1)(*batch).shape == (6, N_LATENTS)
