"""Heads: shapes, scales, and what their logits depend on."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.method.wcdas import wcdas_logits
from core.networks.heads import Scale, build_head

SINGLE = 1e-6  # relative, float32
NAMES = ("linear", "cosine", "wcdas")


def head_of(name, scale=30.0, trainable=True):
    torch.manual_seed(0)
    return build_head(name, 16, 5, scale, trainable)


@pytest.fixture
def latents():
    return torch.randn(7, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_head_gives_one_logit_per_class_and_trains(name, latents):
    head = head_of(name)
    logits = head(latents)
    assert logits.shape == (7, 5)
    F.cross_entropy(logits, torch.arange(7) % 5).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("value", [1.001, 1.5, 2.0, 30.0, 250.0])
def test_trainable_scale_starts_at_its_value(value):
    scale = Scale(value, trainable=True)
    assert scale().item() == pytest.approx(value, rel=SINGLE)
    assert math.log1p(math.exp(scale.raw.item())) + 1 == pytest.approx(value, rel=SINGLE)


def test_trainable_scale_never_falls_below_one():
    scale = Scale(30.0, trainable=True)
    with torch.no_grad():
        scale.raw.fill_(-100.0)
    assert scale().item() == 1.0


def test_fixed_scale_is_exact_and_has_no_parameter():
    scale = Scale(250.0, trainable=False)
    assert scale() == 250.0
    assert list(scale.parameters()) == [] and scale.state_dict() == {}


@pytest.mark.parametrize("name, n_parameters", [("linear", 85), ("cosine", 81), ("wcdas", 86)])
def test_heads_hold_the_parameters_of_their_formula_and_no_more(name, n_parameters):
    assert sum(p.numel() for p in head_of(name).parameters()) == n_parameters
    fixed = sum(p.numel() for p in head_of(name, trainable=False).parameters())
    assert fixed == n_parameters - (name != "linear")


@pytest.mark.parametrize("name", ["cosine", "wcdas"])
def test_angular_heads_ignore_the_length_of_a_latent(name, latents):
    head = head_of(name)
    torch.testing.assert_close(head(latents), head(13 * latents), rtol=1e-5, atol=1e-5)


def test_cosine_logit_is_scale_times_cosine_similarity(latents):
    head = head_of("cosine")
    expected = 30 * F.cosine_similarity(latents[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(latents), expected, rtol=1e-5, atol=1e-5)
    aligned = head(head.weight.detach())
    torch.testing.assert_close(aligned.diag(), torch.full((5,), 30.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("trainable", [True, False])
def test_wcdas_head_is_the_pure_function_of_its_parameters(latents, trainable):
    head = head_of("wcdas", trainable=trainable)
    expected = wcdas_logits(latents, head.weight, head.concentration_logit, 30.0)
    torch.testing.assert_close(head(latents), expected, rtol=1e-5, atol=1e-5)


def test_wcdas_concentrations_start_at_one_half_and_carry_no_gradient():
    concentrations = head_of("wcdas").concentrations
    assert concentrations.tolist() == [0.5] * 5 and not concentrations.requires_grad
