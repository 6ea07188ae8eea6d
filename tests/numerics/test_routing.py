"""What the encoder gets of two gradients, by each rule."""

import pytest
import torch

from core.method.routing import RULES, combine, conflict

EXACT = 1e-10  # float64


@pytest.fixture
def gradients():
    """real and semantic (8, 5) in float64, which conflict."""
    rng = torch.Generator().manual_seed(0)
    real, other = torch.randn(2, 8, 5, generator=rng, dtype=torch.float64)
    return real, other - 1.5 * real


def inner(a, b):
    return float((a * b).sum())


def test_summed_adds_both(gradients):
    real, semantic = gradients
    assert torch.equal(combine("summed", real, semantic), real + semantic)


def test_decoupled_passes_the_semantic_gradient_alone(gradients):
    real, semantic = gradients
    assert torch.equal(combine("decoupled", real, semantic), semantic)


def test_stopgrad_passes_the_real_gradient_alone(gradients):
    real, semantic = gradients
    assert torch.equal(combine("stopgrad", real, semantic), real)


def test_pcgrad_leaves_agreeing_gradients_alone(gradients):
    real, semantic = gradients[0], -gradients[1]
    assert inner(real, semantic) > 0
    assert torch.equal(combine("pcgrad", real, semantic), real + semantic)


def test_pcgrad_leaves_orthogonal_gradients_alone():
    real, semantic = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.equal(combine("pcgrad", real, semantic), real + semantic)


def test_pcgrad_sums_what_is_left_of_each_after_dropping_its_share_along_the_other(gradients):
    real, semantic = gradients
    assert inner(real, semantic) < 0

    def off(a, b):  # a without its component along the unit vector of b
        unit = b.flatten() / b.norm()
        return a - ((unit @ a.flatten()) * unit).view_as(a)

    real_off, semantic_off = off(real, semantic), off(semantic, real)
    found = combine("pcgrad", real, semantic)
    torch.testing.assert_close(found, real_off + semantic_off, rtol=EXACT, atol=EXACT)
    assert inner(real_off, semantic) == pytest.approx(0, abs=EXACT)
    assert inner(semantic_off, real) == pytest.approx(0, abs=EXACT)


def test_a_step_along_pcgrad_worsens_neither_loss(gradients):
    real, semantic = gradients
    found = combine("pcgrad", real, semantic)
    assert inner(found, real) >= 0 and inner(found, semantic) >= 0
    assert inner(combine("summed", real, semantic), real) < 0  # which the plain sum does here


def test_pcgrad_of_opposite_gradients_is_nothing(gradients):
    real, _ = gradients
    found = combine("pcgrad", real, -3 * real)
    torch.testing.assert_close(found, torch.zeros_like(real), rtol=0, atol=EXACT)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vanishing", ["real", "semantic", "both"])
def test_a_vanishing_gradient_is_safe_under_every_rule(rule, vanishing, gradients):
    real, semantic = (x.float() for x in gradients)
    real = torch.zeros_like(real) if vanishing in ("real", "both") else real
    semantic = torch.zeros_like(semantic) if vanishing in ("semantic", "both") else semantic
    expected = {"decoupled": semantic, "stopgrad": real}.get(rule, real + semantic)
    assert torch.equal(combine(rule, real, semantic), expected)
    assert float(conflict(real, semantic).cosine) == 0


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_changes_the_gradients_it_is_given(rule, gradients):
    real, semantic = gradients
    before = real.clone(), semantic.clone()
    combine(rule, real, semantic)
    assert torch.equal(real, before[0]) and torch.equal(semantic, before[1])


def test_an_unknown_rule_is_refused_with_those_there_are(gradients):
    with pytest.raises(ValueError, match="'sumed': one of summed, decoupled, stopgrad, pcgrad"):
        combine("sumed", *gradients)


def test_conflict_is_the_cosine_over_the_whole_batch_and_both_norms(gradients):
    real, semantic = gradients
    found = conflict(real, semantic)
    expected = torch.cosine_similarity(real.flatten(), semantic.flatten(), dim=0)
    assert float(found.cosine) == pytest.approx(float(expected), rel=EXACT)
    assert float(found.real_norm) == pytest.approx(float(real.square().sum().sqrt()), rel=EXACT)
    assert float(found.semantic_norm) == pytest.approx(
        float(semantic.square().sum().sqrt()), rel=EXACT
    )


@pytest.mark.parametrize("factor, cosine", [(1.0, 1), (1e-4, 1), (-1.0, -1), (-1e4, -1)])
def test_conflict_of_parallel_gradients_is_one_of_the_bounds(factor, cosine, gradients):
    real = gradients[0].float()
    assert float(conflict(real, factor * real).cosine) == pytest.approx(cosine, abs=1e-6)
