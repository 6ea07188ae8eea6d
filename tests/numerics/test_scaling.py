"""The denoiser's coordinates: standardised latents, or LDMLR's map of images in [0, 1] with its clamp."""

from dataclasses import replace

import pytest
import torch

from core.config.schema import Config, Diffusion, Generation
from core.method.diffusion import alpha_bars, generate
from core.networks.encoders import build_encoder
from core.training.learner import Learner
from core.training.pool import draw

SINGLE = 1e-6  # relative, one rounding in float32


def started(scaling, latents, labels):
    config = Config(diffusion=Diffusion(steps=20, scaling=scaling))
    learner = Learner(config, 0, build_encoder("small-cnn", 1), {}, torch.bincount(labels))
    learner.start(latents, labels)
    return learner


@pytest.fixture
def latents():
    """(60, 64), from 0 to 7 as ResNet latents are, of three classes."""
    rng = torch.Generator().manual_seed(0)
    return torch.rand(60, 64, generator=rng) ** 2 * 7, torch.arange(60) % 3


def test_unit_scaling_maps_x_to_2x_minus_1_and_back(latents):
    x, labels = latents
    learner = started("unit", x, labels)
    scaled = learner.standardise(x)
    assert torch.equal(scaled, 2 * x - 1)
    torch.testing.assert_close(scaled * learner.std + learner.mean, x, rtol=SINGLE, atol=SINGLE)
    assert torch.equal(scaled * learner.std + learner.mean, (scaled + 1) / 2)


def test_standardised_latents_have_mean_0_and_deviation_1_in_every_dimension(latents):
    x, labels = latents
    scaled = started("standardised", x, labels).standardise(x)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(64), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.std(0), torch.ones(64), rtol=1e-5, atol=0)


def test_prototypes_lie_in_the_denoisers_coordinates(latents):
    x, labels = latents
    for scaling in ("unit", "standardised"):
        learner = started(scaling, x, labels)
        expected = torch.stack([learner.standardise(x[labels == c]).mean(0) for c in range(3)])
        torch.testing.assert_close(learner.geometry.prototypes, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("scaling", "moves"), [("unit", False), ("standardised", True)])
def test_a_moving_encoder_moves_the_statistics_and_not_the_fixed_map(scaling, moves, latents):
    x, labels = latents
    learner = started(scaling, x, labels)
    before = learner.mean.clone(), learner.std.clone(), learner.geometry.prototypes.clone()
    learner.track_latents(x + 1, labels)
    assert [
        not torch.equal(a, b)
        for a, b in zip(before, (learner.mean, learner.std, learner.geometry.prototypes))
    ] == [moves, moves, True]


def clamped_ancestral_sampling(denoise, levels, start, rng):
    """Ho et al. 2020, eq. 7, from its two coefficients, with every estimate clamped to [-1, 1]."""
    z = start
    for t in reversed(range(len(levels))):
        level, before = levels[t], levels[t - 1] if t else torch.ones_like(levels[0])
        beta = 1 - level / before
        x0 = denoise(z, torch.full((len(z),), t)).clamp(-1, 1)
        mean = (
            beta * before.sqrt() / (1 - level) * x0
            + (1 - before) * (1 - beta).sqrt() / (1 - level) * z
        )
        deviation = (beta * (1 - before) / (1 - level)).sqrt()
        z = mean + (deviation * torch.randn(z.shape, generator=rng) if t else 0)
    return z


def test_generation_with_a_limit_is_clamped_ancestral_sampling():
    levels, start = (
        alpha_bars("cosine", 30).double(),
        torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double(),
    )
    denoise = lambda z, t: 1.7 * z + 0.3  # noqa: E731  leaves [-1, 1] at most steps
    found = generate(denoise, "x0", levels, start, 30, 1.0, torch.Generator().manual_seed(2), 1.0)
    expected = clamped_ancestral_sampling(denoise, levels, start, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    free = generate(denoise, "x0", levels, start, 30, 1.0, torch.Generator().manual_seed(2))
    assert found.abs().max() <= 1 < free.abs().max()
    assert not torch.allclose(
        found, free.clamp(-1, 1), atol=0.1
    )  # a clamp at the end alone is something else


@pytest.mark.parametrize("objective", ["x0", "noise", "v"])
def test_the_limit_holds_for_the_estimate_whatever_the_objective(objective):
    levels, start = (
        alpha_bars("cosine", 30),
        torch.randn(50, 4, generator=torch.Generator().manual_seed(1)),
    )

    def sure_of_3(z, t):
        signal, spread = levels[t[0]].sqrt(), (1 - levels[t[0]]).sqrt()
        return {
            "x0": torch.full_like(z, 3),
            "noise": (z - signal * 3) / spread,
            "v": (signal * z - 3) / spread,
        }[objective]

    assert torch.equal(
        generate(sure_of_3, objective, levels, start, 10, 0.0, None, 0.5),
        torch.full_like(start, 0.5),
    )


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_the_clamp_belongs_to_unit_scaling(method):
    def drawn(scaling):
        denoise = lambda noisy, t, labels, which: (4.0 * labels[which, None] - 2).expand_as(noisy)  # noqa: E731  -2, 2
        rng, diffusion = torch.Generator().manual_seed(0), Diffusion(steps=20, scaling=scaling)
        return (
            draw(
                denoise,
                diffusion,
                Generation(method=method, steps=5),
                alpha_bars("cosine", 20),
                torch.tensor([2, 2]),
                3,
                rng,
                farthest=5.0,
            )
            .latents[:, 0]
            .tolist()
        )

    assert drawn("standardised") == [-2, -2, 2, 2]
    assert drawn("unit") == [-1, -1, 1, 1]


def test_the_batch_of_a_pool_comes_back_to_the_encoders_coordinates(latents):
    learner = started("unit", *latents)
    learner.config = replace(learner.config, generation=Generation(quota="ldmlr", steps=3))
    learner.refresh_pool(1)
    found, _ = learner.generated_batch(torch.Generator().manual_seed(0))
    assert len(learner.pool.latents) == 15 and 0 <= found.min() and found.max() <= 1
