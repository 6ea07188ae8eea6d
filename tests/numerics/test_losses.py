"""The semantic loss of a batch: its parts, what counts, and where its gradient goes."""

import pytest
import torch

from core.method.diffusion import add_noise, alpha_bars, estimate_x0, target
from core.method.geometry import distances, prototype_loss, radius_loss
from core.method.losses import (
    Geometry,
    Weights,
    diffusion_loss,
    logit_adjustment,
    semantic_loss,
    standardised,
)

EXACT = 1e-10  # float64
N, D, C = 12, 4, 3
OBJECTIVES = ("x0", "noise", "v")
BOTH = Weights(prototype=0.3, radius=0.7, momentum=0.9)
CLEAR, NOISY = [0.5, 0.6, 0.8, 0.9, 0.95, 0.99], [0.49, 0.4, 0.3, 0.1, 0.01, 1e-4]


class Case:
    """A batch in float64 whose first half has at least as much signal as noise, and a linear denoiser."""

    def __init__(self, levels=None):
        rng = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        self.latents, self.noise = normal(N, D).requires_grad_(), normal(N, D)
        self.labels = torch.arange(N) % C
        self.alpha_bar = torch.tensor(
            CLEAR + NOISY if levels is None else levels, dtype=torch.float64
        )[:, None]
        self.t = torch.arange(N)
        self.matrix = normal(D, D).requires_grad_()
        self.geometry = Geometry(normal(C, D), normal(C).exp(), normal(C).exp())
        self.added = torch.zeros(N, D, dtype=torch.float64)  # to the denoiser's output

    def denoise(self, noisy, t, labels):
        assert torch.equal(t, self.t) and torch.equal(labels, self.labels)
        return noisy @ self.matrix + self.added

    def loss(
        self, objective="x0", weighting="uniform", weights=BOTH, denoise=None, latents=None, common=None
    ):  # fmt: skip
        latents = self.latents if latents is None else latents
        return semantic_loss(
            denoise or self.denoise, objective, weighting, latents, self.labels,
            self.alpha_bar, self.t, self.noise, self.geometry, weights, common,
        )  # fmt: skip

    def estimates(self, objective):
        noisy = add_noise(self.latents, self.noise, self.alpha_bar)
        return estimate_x0(
            objective, self.denoise(noisy, self.t, self.labels), noisy, self.alpha_bar
        )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_total_is_the_weighted_sum_of_its_parts(objective):
    found = Case().loss(objective)
    assert found.total.item() == pytest.approx(
        (found.diffusion + 0.3 * found.prototype + 0.7 * found.radius).item(), rel=EXACT
    )
    assert min(found.diffusion.item(), found.prototype.item(), found.radius.item()) > 0


@pytest.mark.parametrize("given", [None, torch.tensor(0.6, dtype=torch.float64)])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_are_those_of_real_latents_and_of_clear_estimates(objective, given):
    case = Case()
    found, geometry, half = case.loss(objective, common=given), case.geometry, slice(0, N // 2)
    common = geometry.radii.mean() if given is None else given
    x0, y = case.estimates(objective)[half], case.labels[half]
    prototype = prototype_loss(case.latents, case.labels, geometry.prototypes)
    radius = sum(
        radius_loss(z, labels, geometry.prototypes, tracked, 0.9, common=common)
        for z, labels, tracked in (
            (case.latents, case.labels, geometry.radii),
            (x0, y, geometry.estimate_radii),
        )
    )
    assert found.prototype.item() == pytest.approx(prototype.item(), rel=EXACT)
    assert found.radius.item() == pytest.approx(radius.item(), rel=EXACT)
    apart = distances(x0, y, geometry.prototypes)
    means, counts = found.estimate_means
    assert counts.tolist() == [2, 2, 2]
    assert means.tolist() == pytest.approx(
        [apart[y == c].mean().item() for c in range(C)], rel=EXACT
    )


@pytest.mark.parametrize(
    "weights, off",
    [((0, 0.7), {"prototype"}), ((0.3, 0), {"radius"}), ((0, 0), {"prototype", "radius"})],
)
def test_a_term_of_weight_zero_is_none_and_not_computed(weights, off):
    found, full = Case().loss(weights=Weights(*weights, 0.9)), Case().loss()
    expected = full.diffusion
    for name, weight in zip(("prototype", "radius"), weights):
        if name in off:
            assert getattr(found, name) is None
        else:
            assert getattr(found, name).item() == pytest.approx(
                getattr(full, name).item(), rel=EXACT
            )
            expected = expected + weight * getattr(full, name)
    assert (found.estimate_means is None) == ("radius" in off)
    assert found.total.item() == pytest.approx(expected.item(), rel=EXACT)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_estimates_from_mostly_noise_do_not_count(objective):
    case, wild = Case(), Case()
    wild.added[N // 2 :] = 100
    before, after = case.loss(objective), wild.loss(objective)
    assert (
        after.prototype.item() == before.prototype.item()
        and after.radius.item() == before.radius.item()
    )
    assert all(torch.equal(a, b) for a, b in zip(after.estimate_means, before.estimate_means))
    assert after.diffusion.item() > before.diffusion.item()  # it counts all timesteps


def test_a_batch_of_mostly_noise_leaves_the_terms_of_real_latents():
    case = Case(NOISY + NOISY)
    found, geometry = case.loss(), case.geometry
    assert found.prototype.item() == pytest.approx(
        prototype_loss(case.latents, case.labels, geometry.prototypes).item()
    )
    expected = radius_loss(case.latents, case.labels, geometry.prototypes, geometry.radii, 0.9)
    assert found.radius.item() == pytest.approx(expected.item())
    assert not found.estimate_means[1].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", ["uniform", "snr"])
def test_a_perfect_denoiser_has_no_diffusion_loss(objective, weighting):
    case = Case()
    found = case.loss(
        objective,
        weighting,
        denoise=lambda *_: target(objective, case.latents, case.noise, case.alpha_bar),
    )
    assert found.diffusion.item() == 0


def test_diffusion_loss_of_pure_noise_estimated_as_nothing_is_its_variance():
    noise = torch.randn(2000, 16, generator=torch.Generator().manual_seed(0))
    level = torch.full((2000, 1), 0.3)
    found = diffusion_loss(
        torch.zeros_like(noise), torch.zeros_like(noise), noise, level, "noise", "uniform"
    )
    assert float(found) == pytest.approx(1.0, abs=0.04)  # five standard errors
    weighted = diffusion_loss(torch.zeros_like(noise), noise, noise, level, "x0", "snr")
    assert float(weighted) == pytest.approx(0.3 / 0.7 * float(noise.square().mean()), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", ["uniform", "snr"])
def test_gradient_with_respect_to_latents_and_denoiser_is_that_of_finite_differences(
    objective, weighting
):
    case = Case()

    def total(latents, matrix):
        return case.loss(
            objective, weighting, denoise=lambda z, t, y: z @ matrix, latents=latents
        ).total

    assert torch.autograd.gradcheck(total, (case.latents, case.matrix))


@pytest.mark.parametrize(
    ("part", "shapes_denoiser"), [("diffusion", True), ("radius", True), ("prototype", False)]
)
def test_every_part_reaches_the_latents_none_the_geometry_and_the_prototype_term_not_the_denoiser(
    part, shapes_denoiser
):
    """On the denoiser's estimates, the prototype term would pull what is generated to the class means."""
    case = Case()
    for tensor in case.geometry:
        tensor.requires_grad_()
    getattr(case.loss(), part).backward()
    assert case.latents.grad.any()
    assert (case.matrix.grad is not None and bool(case.matrix.grad.any())) is shapes_denoiser
    assert all(tensor.grad is None for tensor in case.geometry)


def test_what_is_tracked_carries_no_gradient():
    assert not any(tensor.requires_grad for tensor in Case().loss().estimate_means)


def test_the_first_step_from_a_class_of_one_is_finite():
    """A lone latent is its own prototype, which a plain square root would turn into NaN."""
    torch.manual_seed(0)
    latents = torch.randn(1, D, requires_grad=True)
    geometry = Geometry(latents.detach().clone(), torch.ones(1), torch.ones(1))
    level = alpha_bars("cosine", 1000)[:1, None]
    found = semantic_loss(
        lambda z, t, y: latents.detach(), "x0", "snr", latents, torch.tensor([0]),
        level, torch.tensor([0]), torch.randn(1, D), geometry, BOTH,
    )  # fmt: skip
    found.total.backward()
    assert found.total.isfinite() and latents.grad.isfinite().all()


def test_latents_standardised_by_their_batch_cannot_be_shrunk():
    latents = torch.randn(40, 3, dtype=torch.float64) * torch.tensor([0.5, 1.0, 7.0]) + 4
    found = standardised(latents)
    torch.testing.assert_close(
        found.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        found.std(0, correction=0), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5
    )
    scale = torch.ones(3, dtype=torch.float64, requires_grad=True)
    standardised(latents * scale).pow(4).sum().backward()
    assert (
        scale.grad.abs().max() < 0.02
    )  # of a loss of hundreds: what the small term under the root leaves


def test_a_dimension_in_which_a_batch_agrees_is_standardised_to_zero():
    latents = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    assert standardised(latents)[:, 1].tolist() == [0, 0]


def test_adjusted_logits_add_the_logarithm_of_the_prior():
    counts = torch.tensor([80, 15, 5])
    torch.testing.assert_close(
        logit_adjustment(counts, 2.0).exp(), torch.tensor([0.8, 0.15, 0.05]) ** 2
    )
    assert not logit_adjustment(counts, 0.0).any()
    # equal evidence for all classes, read off as a balanced posterior: the loss of the prior itself
    assert torch.allclose(logit_adjustment(counts, 1.0).softmax(0), counts / 100)
    # a class without images leaves the logits finite
    assert logit_adjustment(torch.tensor([3, 0]), 1.0).isfinite().all()
    assert not logit_adjustment(torch.tensor([3, 0]), 0.0)[1].any()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", ["uniform", "snr"])
@pytest.mark.parametrize("rows", [[0, 1, 7], [0, 2, 4, 6, 8, 10], [5]])
def test_samples_that_do_not_count_are_as_if_they_were_not_there(rows, weighting, objective):
    case = Case()
    used = torch.zeros(N, dtype=torch.float64)
    used[rows] = 1
    masked = semantic_loss(
        case.denoise, objective, weighting, case.latents, case.labels, case.alpha_bar, case.t, case.noise, case.geometry, BOTH, used=used
    )  # fmt: skip
    alone = semantic_loss(
        lambda noisy, t, labels: noisy @ case.matrix, objective, weighting, case.latents[rows], case.labels[rows],
        case.alpha_bar[rows], case.t[rows], case.noise[rows], case.geometry, BOTH,
    )  # fmt: skip
    for name in ("total", "diffusion", "prototype", "radius"):
        assert getattr(masked, name).item() == pytest.approx(getattr(alone, name).item(), rel=EXACT)
    for found, expected in zip(masked.estimate_means, alone.estimate_means):
        assert torch.allclose(found, expected, rtol=EXACT)
    found, expected = (
        torch.autograd.grad(one.total, (case.latents, case.matrix)) for one in (masked, alone)
    )
    assert all(torch.allclose(a, b, rtol=EXACT, atol=1e-12) for a, b in zip(found, expected))


def test_a_batch_in_which_no_sample_counts_has_losses_and_gradients_of_zero():
    case = Case()
    found = semantic_loss(
        case.denoise, "x0", "snr", case.latents, case.labels, case.alpha_bar, case.t, case.noise, case.geometry, BOTH,
        used=torch.zeros(N, dtype=torch.float64),
    )  # fmt: skip
    assert [
        getattr(found, name).item() for name in ("total", "diffusion", "prototype", "radius")
    ] == [0, 0, 0, 0]
    assert not any(
        gradient.any() for gradient in torch.autograd.grad(found.total, (case.latents, case.matrix))
    )


@pytest.mark.parametrize("rows", [[0, 1, 7], [0, 2, 4, 6, 8, 10], list(range(N))])
def test_standardising_takes_mean_and_deviation_of_the_samples_that_count(rows):
    latents, used = Case().latents.detach(), torch.zeros(N, dtype=torch.float64)
    used[rows] = 1
    assert torch.allclose(standardised(latents, used)[rows], standardised(latents[rows]), rtol=1e-9)
