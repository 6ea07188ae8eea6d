"""WCDAS against the wrapped Cauchy's other definitions, its limits, finite differences and the original code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.method.wcdas import wcdas_logits

EXACT = 1e-10  # relative, both sides in float64
GOLDEN = 1e-3  # relative to the largest entry: the original writes 3.14 for pi
GOLDEN_SAME_PI = 1e-5  # the same once pi is 3.14 here too: float32
SETTINGS = ("trainable", "imagenet", "fixed_scale")


@pytest.fixture
def inputs():
    """latents (6, 4), weight (3, 4), concentration logits (3,), in float64."""
    rng = torch.Generator().manual_seed(0)
    latents, weight = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (6, 3))
    return latents, weight, torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64)


def logit_of(gamma):
    return torch.tensor([math.log(gamma / (1 - gamma))], dtype=torch.float64)


def on_the_circle(angles):
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_density_is_the_wrapped_cauchys_fourier_series(inputs):
    latents, weight, concentration_logit = inputs
    gamma = concentration_logit.sigmoid()
    theta = (F.normalize(latents) @ F.normalize(weight).T).acos()
    series = (1 + 2 * sum(gamma**k * (k * theta).cos() for k in range(1, 300))) / (2 * math.pi)
    torch.testing.assert_close(wcdas_logits(*inputs, 30.0), 30 * series, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.9])
def test_density_integrates_to_one_over_the_circle(gamma):
    angles = torch.arange(1000, dtype=torch.float64) * (2 * math.pi / 1000)
    density = wcdas_logits(on_the_circle(angles), on_the_circle(angles[:1]), logit_of(gamma), 1.0)
    assert float(density.sum() * 2 * math.pi / 1000) == pytest.approx(1, rel=EXACT)


def test_vanishing_concentration_makes_every_logit_scale_over_two_pi(inputs):
    latents, weight, _ = inputs
    logits = wcdas_logits(latents, weight, torch.full((3,), -40.0, dtype=torch.float64), 30.0)
    torch.testing.assert_close(
        logits, torch.full_like(logits, 30 / (2 * math.pi)), rtol=EXACT, atol=0
    )


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.99])
def test_logits_stay_within_bounds_that_aligned_and_opposite_latents_reach(gamma):
    angles = torch.linspace(0, math.pi, 101, dtype=torch.float64)
    logits = wcdas_logits(
        5 * on_the_circle(angles), on_the_circle(angles[:1]), logit_of(gamma), 30.0
    )[:, 0]
    low, high = (
        30 / (2 * math.pi) * r for r in ((1 - gamma) / (1 + gamma), (1 + gamma) / (1 - gamma))
    )
    assert float(logits[0]) == pytest.approx(high, rel=EXACT)
    assert float(logits[-1]) == pytest.approx(low, rel=EXACT)
    assert (logits.diff() < 0).all()  # falls with the angle


def test_logits_do_not_depend_on_the_length_of_latent_or_weight(inputs):
    latents, weight, concentration_logit = inputs
    stretched = wcdas_logits(7 * latents, 0.1 * weight, concentration_logit, 30.0)
    torch.testing.assert_close(stretched, wcdas_logits(*inputs, 30.0), rtol=EXACT, atol=0)


def test_logits_are_proportional_to_the_scale(inputs):
    torch.testing.assert_close(
        wcdas_logits(*inputs, 60.0), 2 * wcdas_logits(*inputs, 30.0), rtol=EXACT, atol=0
    )


def test_gradients_agree_with_finite_differences(inputs):
    scale = torch.tensor(30.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        wcdas_logits, tuple(x.requires_grad_() for x in (*inputs, scale))
    )


@pytest.mark.parametrize("concentration_logit", [17.0, 40.0])
@pytest.mark.parametrize(
    "weight", [torch.eye(3), torch.randn(64, 64, generator=torch.Generator().manual_seed(0))]
)
def test_high_concentration_stays_finite_and_peaks_where_it_should(weight, concentration_logit):
    """Among random weights are some of a length that rounding lifts above 1."""
    latents = weight.clone().requires_grad_()
    logit = torch.full((len(weight),), concentration_logit, requires_grad=True)
    logits = wcdas_logits(latents, weight, logit, 30.0)
    logits.sum().backward()
    assert latents.grad.isfinite().all() and logit.grad.isfinite().all()
    # gamma ends at 0.9999
    peak = 30 / (2 * math.pi) * 2 / 1e-4
    assert logits.max().item() == pytest.approx(peak, rel=1e-5)
    assert (logits > 0).all() and (logits.diag() > 1000).all()


@pytest.mark.data
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("their_pi", [False, True])
def test_golden_logits_loss_and_gradients(reference_data, setting, their_pi):
    golden = np.load(reference_data / "golden" / "wcdas.npz")
    part = {
        name.split("/")[1]: torch.from_numpy(golden[name])
        for name in golden
        if name.startswith(f"{setting}/")
    }
    scale = 250.0 if setting == "fixed_scale" else F.softplus(part["scale_raw"]) + 1
    weight, concentration_logit = (
        part["weight"].requires_grad_(),
        part["concentration_logit"].requires_grad_(),
    )
    scale = scale * (math.pi / 3.14 if their_pi else 1)
    logits = wcdas_logits(part["latent"], weight, concentration_logit, scale)
    loss = F.cross_entropy(logits, part["label"])
    loss.backward()
    found = {
        "logits": logits,
        "loss": loss,
        "grad_weight": weight.grad,
        "grad_concentration_logit": concentration_logit.grad,
    }
    for name, value in found.items():
        golden_value = part[name]
        error = float((value.detach() - golden_value).abs().max() / golden_value.abs().max())
        assert error <= (GOLDEN_SAME_PI if their_pi else GOLDEN), name
