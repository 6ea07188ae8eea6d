"""The class prior that a head is trained for, and what of it is left to correct."""

import pytest

from core.config.schema import Config, Losses, Staged
from core.training.priors import shares, training_prior, uncorrected_prior

COUNTS, POOL = [90, 9, 1], [0, 81, 89]


def config(method="joint", batching="natural", **losses):
    return Config(
        method=method, batching=batching, staged=Staged(batching=batching), losses=Losses(**losses)
    )


def test_topping_every_class_up_to_the_largest_makes_the_prior_uniform():
    for method in ("joint", "staged"):
        prior = training_prior(config(method), COUNTS, POOL)
        assert prior == pytest.approx([1 / 3] * 3)
        assert uncorrected_prior(config(method), prior) is None


@pytest.mark.parametrize("method", ["joint", "staged", "ce"])
def test_without_a_pool_it_is_that_of_the_images(method):
    prior = training_prior(config(method), COUNTS, [0, 0, 0])
    assert prior == pytest.approx([0.9, 0.09, 0.01])
    assert uncorrected_prior(config(method), prior) == pytest.approx(prior)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0, 3.0])
def test_the_weight_of_generated_latents_counts_each_of_them_so_often(weight):
    expected = [n + weight * m for n, m in zip(COUNTS, POOL)]
    assert training_prior(config(generated=weight), COUNTS, POOL) == pytest.approx(
        [x / sum(expected) for x in expected]
    )


def test_balanced_batches_have_a_uniform_prior_and_what_is_generated_on_top_has_not():
    assert training_prior(config(batching="balanced"), COUNTS, [0, 0, 0]) == pytest.approx(
        [1 / 3] * 3
    )
    assert training_prior(config("staged", "balanced"), COUNTS, POOL) == pytest.approx([1 / 3] * 3)
    assert training_prior(config(batching="balanced"), COUNTS, POOL)[2] > 1 / 3


@pytest.mark.parametrize(
    ("tau", "left"),
    [(0.0, [0.9, 0.09, 0.01]), (1.0, None), (0.5, [0.9**0.5, 0.09**0.5, 0.01**0.5])],
)
def test_what_logit_adjustment_has_corrected_is_not_corrected_twice(tau, left):
    found = uncorrected_prior(config(logit_adjustment=tau), [0.9, 0.09, 0.01])
    assert found == (None if left is None else pytest.approx([x / sum(left) for x in left]))


def test_the_adjusted_pretrained_network_has_nothing_left_to_correct():
    assert (
        uncorrected_prior(
            config("ce-adjusted"), training_prior(config("ce-adjusted"), COUNTS, [0, 0, 0])
        )
        is None
    )


@pytest.mark.parametrize("n_generated", [0, 30, 300])
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_the_mean_losses_weighted_by_their_shares_are_the_mean_over_all_samples(
    n_generated, weight
):
    real, generated = 2.0, 5.0
    a, b = shares(config(generated=weight), 100, n_generated)
    assert a * real + b * generated == pytest.approx(
        (100 * real + weight * n_generated * generated) / (100 + n_generated)
    )


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_a_class_that_nothing_is_drawn_of_has_no_prior_to_divide_by(tau):
    empty = config(real=0.0, logit_adjustment=tau)
    assert uncorrected_prior(empty, training_prior(empty, COUNTS, POOL)) is None
