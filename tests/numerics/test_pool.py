"""Generated latents: quotas, and a pool that holds what was asked for."""

import pytest
import torch

import core.training.pool
from core.config.schema import Diffusion, Generation
from core.method.diffusion import alpha_bars
from core.method.geometry import class_means, within_class_covariance
from core.training.pool import draw, draw_gaussian
from core.training.priors import quota

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_ldmlr_quota_is_a_fifth_of_the_class_and_five_at_least():
    assert quota("ldmlr", COUNTS) == [1000, 599, 359, 215, 129, 77, 46, 28, 17, 10]
    assert quota("ldmlr", [500, 28, 27, 12, 5, 1]) == [100, 6, 5, 5, 5, 5]


def test_balance_quota_fills_every_class_up_to_the_largest():
    assert [n + m for n, m in zip(quota("balance", COUNTS), COUNTS)] == [5000] * 10


def test_unknown_quotas_are_refused():
    with pytest.raises(ValueError, match="'ballance': ldmlr or balance"):
        quota("ballance", COUNTS)


def class_means_denoiser(noisy, t, labels, which):
    """A perfect x0 denoiser for classes that are one point each: 10 times the label."""
    return 10.0 * labels[which, None].expand_as(noisy)


def drawn(counts, method="ddim", seed=0, denoise=class_means_denoiser, **diffusion):
    generation, levels = Generation(method=method, steps=5), alpha_bars("cosine", 20)
    rng = torch.Generator().manual_seed(seed)
    return draw(
        denoise,
        Diffusion(steps=20, **diffusion),
        generation,
        levels,
        torch.tensor(counts),
        3,
        rng,
        farthest=10.0,
    )


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("batch", [4, 4096])
def test_a_pool_holds_its_quota_of_latents_of_each_class(method, batch, monkeypatch):
    monkeypatch.setattr(core.training.pool, "BATCH", batch)
    pool = drawn([3, 0, 5, 1], method)
    assert torch.bincount(pool.labels, minlength=4).tolist() == [3, 0, 5, 1]
    assert pool.latents.shape == (9, 3)
    assert torch.equal(pool.latents, 10.0 * pool.labels[:, None].expand(9, 3))


@pytest.mark.parametrize("method, n_calls", [("ddim", 5), ("ddpm", 20)])
def test_ddim_takes_the_steps_of_the_settings_and_ddpm_all(method, n_calls):
    calls = []

    def denoise(noisy, t, labels, which):
        calls.append(int(t[0]))
        return noisy

    drawn([2, 2], method, denoise=denoise)
    assert len(calls) == n_calls and (calls[0], calls[-1]) == (19, 0)


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
def test_a_pool_is_its_generators_and_carries_no_gradient(method):
    weight = torch.ones(3, requires_grad=True)

    def denoise(noisy, t, labels, which):
        return noisy * weight

    first, again, other = (drawn([4, 4], method, seed, denoise).latents for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not first.requires_grad


@pytest.mark.parametrize(
    ("objective", "scaling", "largest"),
    [("noise", "standardised", 10), ("noise", "unit", 1), ("x0", "unit", 1), ("x0", "standardised", 50)],
)  # fmt: skip
def test_estimates_are_clamped_to_what_real_latents_reach(objective, scaling, largest):
    """In units of their range where they are scaled to it; else only of predicted noise."""
    far = {"noise": -50.0, "x0": 50.0}[objective]
    pool = drawn(
        [4],
        denoise=lambda noisy, *_: torch.full_like(noisy, far),
        objective=objective,
        scaling=scaling,
    )
    assert torch.equal(pool.latents, torch.full((4, 3), float(largest)))


def test_every_condition_is_worked_out_once_a_step():
    shapes = []

    def denoise(noisy, t, labels, which):
        shapes.append((len(noisy), t.tolist(), labels.tolist(), which.tolist()))
        return noisy

    drawn([2, 0, 1], denoise=denoise)
    assert shapes[0] == (3, [19, 19, 19], [0, 1, 2], [0, 0, 2])


def test_an_empty_quota_gives_an_empty_pool():
    pool = drawn([0, 0])
    assert (
        pool.latents.shape == (0, 3)
        and pool.labels.shape == (0,)
        and pool.labels.dtype == torch.int64
    )


def test_a_gaussian_pool_has_the_means_and_the_covariance_that_it_is_given():
    n, scale = 20_000, torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.3, 0.1]])
    prototypes, covariance = torch.tensor([[0.0, 1.0, 2.0], [5.0, -5.0, 0.0]]), scale @ scale.T
    pool = draw_gaussian(
        prototypes, covariance, torch.tensor([n, n]), torch.Generator().manual_seed(0)
    )
    assert torch.bincount(pool.labels).tolist() == [n, n]
    means, _ = class_means(pool.latents, pool.labels, 2)
    torch.testing.assert_close(means, prototypes, rtol=0, atol=5 * 2.3 / n**0.5)
    everybody = torch.tensor([True, True])
    found, n_used = within_class_covariance(pool.latents, pool.labels, prototypes, everybody)
    assert int(n_used) == 2 * n
    torch.testing.assert_close(found, covariance, rtol=0, atol=5 * 4 * (1 / n) ** 0.5)


def test_a_gaussian_pool_is_its_generators_and_carries_no_gradient():
    prototypes = torch.zeros(2, 2, requires_grad=True)

    def latents(seed):
        generator = torch.Generator().manual_seed(seed)
        return draw_gaussian(prototypes, torch.eye(2), torch.tensor([3, 3]), generator).latents

    assert torch.equal(latents(0), latents(0)) and not torch.equal(latents(0), latents(1))
    assert not latents(0).requires_grad


def test_a_gaussian_pool_of_collapsed_latents_is_their_prototype():
    prototypes = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    generator = torch.Generator().manual_seed(0)
    pool = draw_gaussian(prototypes, torch.zeros(2, 2), torch.tensor([2, 1]), generator)
    assert torch.equal(pool.latents, prototypes[pool.labels])


def test_no_latents_are_drawn_where_none_are_asked_for():
    generator = torch.Generator().manual_seed(0)
    pool = draw_gaussian(torch.zeros(2, 2), torch.eye(2), torch.tensor([0, 0]), generator)
    assert pool.latents.shape == (0, 2) and len(pool.labels) == 0
