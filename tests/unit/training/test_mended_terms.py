"""Settings and estimates that once did nothing, or the wrong thing, without a word."""

import pytest
import torch
from tiny_trials import JOINT, STAGED, MemoryStore, advance, chain, config_of, trial_at

from core.config.parsing import parse
from core.config.schema import Diffusion, Generation
from core.method.diffusion import alpha_bars
from core.subject import SUBJECT
from core.training.pool import draw
from core.training.staged import head_step


def learner_of(settings):
    """Of a trial whose pre-training is done."""
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[1].key)
    return trial_at(settings, 0, store, 2).learner


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_a_staged_head_is_trained_with_adjusted_logits(tau):
    """With tau = 1 a head that is 0 predicts the prior, and no gradient reaches it."""
    learner = learner_of(STAGED | {"staged.generation": False, "losses.logit_adjustment": tau})
    for parameter in learner.head.parameters():
        torch.nn.init.zeros_(parameter)
    prior = learner.class_counts / learner.class_counts.sum()
    labels = torch.repeat_interleave(torch.arange(learner.n_classes), learner.class_counts)
    found = head_step(learner, torch.zeros(len(labels), learner.n_latents), labels)["grad/head"]
    expected = ((tau * prior.log()).softmax(0) - prior).norm()
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert (float(expected) < 1e-6) is (tau == 1)


@pytest.mark.parametrize("quota", ["balance", "ldmlr"])
def test_the_heads_of_joint_and_staged_trials_meet_the_same_prior(quota):
    priors = []
    for settings in (JOINT, STAGED):
        learner = learner_of(settings | {"generation.quota": quota})
        learner.refresh_pool(3)
        priors.append(learner.training_prior())
    assert priors[0] == pytest.approx(priors[1])
    assert (max(priors[0]) < 1.001 * min(priors[0])) is (quota == "balance")


def test_the_adjustment_follows_the_pool():
    learner = learner_of(JOINT | {"losses.logit_adjustment": 1.0})
    counts, before = learner.class_counts, learner.adjustment
    torch.testing.assert_close(before.softmax(0), counts / counts.sum())
    learner.refresh_pool(3)
    assert learner.adjustment is before  # a recorded step keeps to the tensor that it has met
    torch.testing.assert_close(before.softmax(0), torch.full_like(before, 0.1))
    assert learner.shares.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("n_per_batch", [1, 2, 5])
def test_tracked_radii_of_rare_classes_are_not_biased_low(n_per_batch):
    """Samples of a class of known radius, few in each batch."""
    learner = learner_of(JOINT)
    rng = torch.Generator().manual_seed(0)
    learner.mean.zero_()
    learner.std.fill_(1.0)
    learner.config = config_of(JOINT | {"diffusion.scaling": "unit"})  # statistics stay as they are
    learner.geometry.prototypes.zero_()
    radius = learner.n_latents**0.5
    learner.geometry.radii.fill_(radius)
    found = []
    for _ in range(400):
        latents = torch.randn(n_per_batch, learner.n_latents, generator=rng)
        learner.track_latents(latents, torch.zeros(n_per_batch, dtype=torch.int64))
        found.append(float(learner.geometry.radii[0]))
    mean = sum(found[100:]) / 300
    assert (
        0.98 * radius < mean < 1.05 * radius
    )  # 0.92 where the prototype takes in the sample first


@pytest.mark.parametrize("objective", ["noise", "v", "x0"])
def test_generation_by_a_poor_denoiser_stays_where_latents_are(objective):
    """Predicted noise that is off by a little is divided by next to nothing at the first timesteps."""
    levels = alpha_bars("cosine", 1000)

    def denoise(z, t, classes, batch):
        return z * 0.97

    diffusion = Diffusion(objective=objective)
    drawn = draw(
        denoise,
        diffusion,
        Generation(steps=20),
        levels,
        torch.tensor([20, 20]),
        8,
        torch.Generator().manual_seed(0),
        farthest=6.0,
    )
    assert drawn.latents.abs().max() < 10


@pytest.mark.parametrize("settings", [JOINT, STAGED])
def test_generated_latents_are_not_negative_where_the_encoders_are_not(settings):
    learner = learner_of(settings)
    assert learner.is_nonnegative
    learner.refresh_pool(3)
    learner.pool = learner.pool._replace(latents=learner.pool.latents - 2)
    raw = learner.pool.latents * learner.std + learner.mean
    assert (raw < 0).any() and (raw > 0).any()
    batch, _ = learner.generated_batch(torch.Generator().manual_seed(0))
    assert batch.min() == 0 < batch.max()


@pytest.mark.parametrize(
    ("settings", "is_fault"),
    [
        ({"batching": "balanced", "losses.generated": 0.0}, True),
        ({"method": "staged", "staged.batching": "balanced", "head.name": "linear"}, True),
        ({"batching": "balanced"}, False),
        ({"batching": "natural", "losses.generated": 0.0}, False),
        ({"method": "staged", "head.name": "linear"}, False),
    ],
)
def test_adjusting_a_prior_that_is_uniform_is_a_fault(settings, is_fault):
    faults = parse(JOINT | settings | {"losses.logit_adjustment": 1.0})[1]
    assert ([fault.key for fault in faults] == ["losses.logit_adjustment"]) is is_fault, faults


def test_radii_of_views_are_those_of_strongly_augmented_images_around_their_own_mean():
    settings = JOINT | {"losses.radius_from": "views"}
    learner, images = (learner_of(s) for s in (settings, JOINT))
    assert (learner.geometry.radii > 1.1 * images.geometry.radii).float().mean() > 0.7
    assert torch.equal(learner.geometry.prototypes, images.geometry.prototypes)
    assert float(learner.common_radius()) == pytest.approx(float(learner.geometry.radii.mean()))


@pytest.mark.parametrize("generated", [0.0, 1.0])
def test_a_staged_gaussian_pool_lies_around_its_classes_whatever_joint_arms_take_of_theirs(
    generated,
):
    learner = learner_of(STAGED | {"generation.method": "gaussian", "losses.generated": generated})
    learner.refresh_pool(1)
    pool, labels = learner.pool
    means = torch.stack([pool[labels == c].mean(0) for c in labels.unique()])
    assert (
        torch.corrcoef(
            torch.stack([means.flatten(), learner.geometry.prototypes[labels.unique()].flatten()])
        )[0, 1]
        > 0.8
    )


def test_the_covariance_that_a_gaussian_pool_borrows_follows_the_encoder():
    settings = JOINT | {"generation.method": "gaussian"}
    learner = learner_of(settings)
    assert learner_of(JOINT).covariance is None
    before, address = learner.covariance.clone(), learner.covariance.data_ptr()
    latents = (
        3 * torch.randn(64, learner.n_latents, generator=torch.Generator().manual_seed(0)).abs()
    )
    learner.track_latents(latents, torch.arange(64) % learner.n_classes)
    assert not torch.equal(learner.covariance, before)
    assert learner.covariance.data_ptr() == address


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "Every seed pre-trains an encoder of its own"),
        (
            {"encoder.checkpoint": "some/where.pt", "encoder.channels": "gray"},
            "one pretrained encoder, where.pt",
        ),
        ({}, "The images are the same."),
        (
            {"data.split": "seed"},
            "Every seed draws its own training and test images, the same for all arms, and"
            " pre-trains an encoder of its own",
        ),
        (
            {
                "data.split": "seed",
                "encoder.checkpoint": "some/where.pt",
                "encoder.channels": "gray",
            },
            "they differ in their training and test images, drawn anew for each seed",
        ),
    ],
)
def test_a_study_says_what_its_seeds_have_in_common(settings, says):
    assert says in SUBJECT.describe(JOINT | settings)["between_seeds"]
