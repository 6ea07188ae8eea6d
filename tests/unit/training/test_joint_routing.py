"""Which loss reaches which module in a joint step, against autograd code that knows nothing of routing.

The whole data set is one batch, so that an epoch is one step.
"""

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tiny_trials import JOINT, MemoryStore, advance, at_the_thaw, chain, warmed_up

from core.randomness import generator, mixing_shares
from core.subject import SUBJECT
from core.training import epochs
from core.training.encoding import encode
from core.training.epochs import joint_epoch

RULES = ("summed", "decoupled", "stopgrad", "pcgrad")
EPOCH = 3
N_GENERATED = 48
WEIGHTS = {
    "losses.real": 0.7,
    "losses.semantic": 1.3,
    "losses.generated": 0.4,
    "losses.prototype": 0.2,
    "losses.radius": 0.3,
}
SETTINGS = JOINT | WEIGHTS | {
    "epochs": EPOCH, "data.augmentation": "none", "batch_size": 512, "generation.batch_size": N_GENERATED, "optim.lr.denoiser": 0.01,
    "head.scale": 30.0,  # steep: the losses conflict
}  # fmt: skip


class Gradients(NamedTuple):
    """Of each module's parameters, flat."""

    encoder: torch.Tensor
    head: torch.Tensor
    denoiser: torch.Tensor


@pytest.fixture(scope="module")
def warmed():
    return warmed_up(SETTINGS)


def trial_at_the_thaw(warmed, **changes):
    return at_the_thaw(SETTINGS, warmed, EPOCH, **changes)


def step(trial, monkeypatch) -> Gradients:
    """What a joint step leaves in `grad`, nothing updated."""
    learner, left = trial.learner, []
    monkeypatch.setattr(epochs, "update", lambda learner, *names: left.append(names))
    joint_epoch(learner, trial.dataset.train, EPOCH)
    assert left == [("encoder", "head", "denoiser")]
    return Gradients(
        *(flat(p.grad for p in getattr(learner, name).parameters()) for name in Gradients._fields)
    )


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


class Terms(NamedTuple):
    """The losses of the same step, weights included, as functions of one graph."""

    encoder: torch.nn.Module
    head: torch.nn.Module
    denoiser: torch.nn.Module
    z: torch.Tensor
    real: torch.Tensor
    semantic: torch.Tensor
    generated: torch.Tensor


def terms(trial, training=True) -> Terms:
    """Written out: DESIGN's losses on the images of the batch, with the graph through the encoder."""
    learner = trial.learner
    encoder, head, denoiser = (
        copy.deepcopy(getattr(learner, name)).train() for name in Gradients._fields
    )
    encoder.train(training)
    images, labels = trial.dataset.train
    order = torch.randperm(len(labels), generator=generator(0, "order", EPOCH))
    y = labels[order]
    x = ((images[order].float() - 127.5) / 127.5).to(memory_format=torch.channels_last)
    if learner.config.mixup:
        share = mixing_shares(learner.config.mixup, len(y), 0, "mixup", EPOCH)
        share = share.where(share > 0.5, 1 - share)
        partner = torch.randperm(len(y), generator=generator(0, "mixup partners", EPOCH))
        z = encoder(
            torch.stack(
                [s * own + (1 - s) * other for s, own, other in zip(share, x, x[partner])]
            ).to(memory_format=torch.channels_last)
        )
        targets = share[:, None] * F.one_hot(y, 10) + (1 - share[:, None]) * F.one_hot(
            y[partner], 10
        )
        real = (-head(z).log_softmax(1) * targets).sum(1).mean()
        pure = share >= 0.95
        assert 3 <= pure.sum() < len(y) / 2
    else:
        pure = torch.ones(len(y), dtype=torch.bool)
        z = encoder(x)
        real = F.cross_entropy(head(z), y)

    chosen = torch.randint(
        len(learner.pool.labels), (N_GENERATED,), generator=generator(0, "pool", EPOCH)
    )
    mean, std = (
        learner.mean.clone(),
        learner.std.clone(),
    )  # a step changes them in place, and the geometry
    generated = F.cross_entropy(
        head((learner.pool.latents[chosen] * std + mean).relu()), learner.pool.labels[chosen]
    )

    x = (z - mean) / std
    noise_generator = generator(0, "noise", EPOCH)
    t = torch.randint(len(learner.levels), (len(y),), generator=noise_generator)
    noise = torch.randn(x.shape, generator=noise_generator)
    level = learner.levels[t][:, None]
    x0 = denoiser(level.sqrt() * x + (1 - level).sqrt() * noise, t, y)
    x, x0, y, level = x[pure], x0[pure], y[pure], level[pure]
    clear = level[:, 0] >= 0.5
    prototypes, radii, estimate_radii = (tensor.clone() for tensor in learner.geometry)
    diffusion = F.mse_loss(x0, x)
    prototype = F.mse_loss(x, prototypes[y])
    radius = equal_radius(x, y, prototypes, radii) + equal_radius(
        x0[clear], y[clear], prototypes, estimate_radii, radii.mean()
    )
    semantic = (
        diffusion + WEIGHTS["losses.prototype"] * prototype + WEIGHTS["losses.radius"] * radius
    )
    return Terms(
        encoder, head, denoiser, z,
        WEIGHTS["losses.real"] * real, WEIGHTS["losses.semantic"] * semantic, WEIGHTS["losses.generated"] * generated,
    )  # fmt: skip


def over_all_samples(trial, terms):
    """The mean of the classification loss over training images and pool, each with its weight."""
    n_real, n_generated = len(trial.dataset.train.labels), len(trial.learner.pool.labels)
    return (n_real * terms.real + n_generated * terms.generated) / (n_real + n_generated)


def equal_radius(x, y, prototypes, tracked, common=None, momentum=0.9):
    common = tracked.mean() if common is None else common
    terms = []
    for c in y.unique():
        radius = (x[y == c] - prototypes[c]).norm(dim=1).mean()
        if (y == c).sum() == 1:
            radius = momentum * tracked[c] + (1 - momentum) * radius
        terms.append((radius / common - 1) ** 2)
    return torch.stack(terms).mean()


def gradient(loss, module, **kwargs):
    return flat(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, **kwargs))


def expected_at_encoder(rule, terms):
    if rule == "summed":
        return gradient(terms.real + terms.semantic, terms.encoder)  # plain backward of the sum
    if rule == "decoupled":
        return gradient(terms.semantic, terms.encoder)
    if rule == "stopgrad":
        return gradient(terms.real, terms.encoder)
    real, semantic = (
        torch.autograd.grad(loss, terms.z, retain_graph=True)[0]
        for loss in (terms.real, terms.semantic)
    )
    inner = (real * semantic).sum()
    if inner < 0:
        real, semantic = (
            real - inner / semantic.norm() ** 2 * semantic,
            semantic - inner / real.norm() ** 2 * real,
        )
    return gradient(terms.z, terms.encoder, grad_outputs=real + semantic)


def assert_near(actual, expected, tolerance=5e-6):
    """Relative to the norm of the whole gradient: float32, and losses whose sums are taken in another order."""
    assert expected.norm() > 1e-4  # not trivially equal
    assert (actual - expected).norm() <= tolerance * expected.norm(), float(
        (actual - expected).norm() / expected.norm()
    )


@pytest.mark.parametrize("mixup", [0.0, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_each_module_gets_the_gradient_that_the_rule_says(rule, mixup, warmed, monkeypatch):
    trial = trial_at_the_thaw(warmed, routing=rule, mixup=mixup)
    wanted = terms(trial)  # before the step, which moves running statistics
    found = step(trial, monkeypatch)
    assert_near(found.encoder, expected_at_encoder(rule, wanted))
    assert_near(found.head, gradient(over_all_samples(trial, wanted), wanted.head))
    assert_near(found.denoiser, gradient(wanted.semantic, wanted.denoiser))


def test_summed_routing_is_the_plain_backward_of_the_summed_loss(warmed, monkeypatch):
    """The same losses, so that nothing but the routing can differ."""
    trial = trial_at_the_thaw(warmed, routing="summed")
    learner, wanted = trial.learner, terms(trial)
    y = trial.dataset.train.labels[
        torch.randperm(len(trial.dataset.train.labels), generator=generator(0, "order", EPOCH))
    ]
    semantic = learner.semantic(
        learner.standardise(wanted.z), y, *learner.draw_noise(len(y), generator(0, "noise", EPOCH))
    ).total
    expected = gradient(wanted.real + WEIGHTS["losses.semantic"] * semantic, wanted.encoder)
    assert_near(step(trial, monkeypatch).encoder, expected, tolerance=1e-6)


def test_the_rules_differ_where_the_losses_conflict(monkeypatch):
    settings = SETTINGS | {"data.n_max": 24}
    warmed = warmed_up(settings)
    found = {
        rule: step(at_the_thaw(settings, warmed, EPOCH, routing=rule), monkeypatch).encoder
        for rule in RULES
    }
    for a in RULES:
        for b in RULES:
            if a < b and {a, b} != {"pcgrad", "summed"}:
                assert (found[a] - found[b]).norm() > 0.01 * found[a].norm()
    wanted = terms(at_the_thaw(settings, warmed, EPOCH))
    real, semantic = (
        torch.autograd.grad(loss, wanted.z, retain_graph=True)[0]
        for loss in (wanted.real, wanted.semantic)
    )
    assert torch.equal(found["pcgrad"], found["summed"]) is bool((real * semantic).sum() >= 0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("term", ["real", "semantic", "generated"])
def test_a_term_that_does_not_reach_a_module_changes_no_bit_of_its_gradient(
    term, rule, warmed, monkeypatch
):
    """A term's weight is tripled: what it does not reach stays as it was, exactly."""
    before = step(trial_at_the_thaw(warmed, routing=rule), monkeypatch)
    after = step(
        trial_at_the_thaw(
            warmed, routing=rule, **{f"losses.{term}": 3 * WEIGHTS[f"losses.{term}"]}
        ),
        monkeypatch,
    )
    changed = {
        name
        for name in Gradients._fields
        if not torch.equal(getattr(before, name), getattr(after, name))
    }
    encoder = {"real": rule != "decoupled", "semantic": rule != "stopgrad", "generated": False}[
        term
    ]
    module = {"real": "head", "semantic": "denoiser", "generated": "head"}[term]
    assert changed == {module} | ({"encoder"} if encoder else set())


@pytest.mark.parametrize(("rule", "n_walks"), [*((rule, 1) for rule in RULES), ("alternating", 2)])
def test_the_encoder_is_walked_backward_once_and_for_alternating_twice(
    rule, n_walks, warmed, monkeypatch
):
    trial = trial_at_the_thaw(warmed, routing=rule)
    walks = []
    trial.learner.encoder.convs[0].weight.register_post_accumulate_grad_hook(
        lambda weight: walks.append(1)
    )
    monkeypatch.setattr(epochs, "measures_gradients", lambda *args: False)
    monkeypatch.setattr(epochs, "update", lambda learner, *names: None)
    joint_epoch(trial.learner, trial.dataset.train, EPOCH)
    assert len(walks) == n_walks


@pytest.fixture(scope="module")
def warmed_by():
    """Stores in which the warm-up is done with an optimiser."""
    stores = {}

    def warm(optim):
        key = tuple(optim.items())
        if key not in stores:
            stores[key] = warmed_up(SETTINGS | optim)
        return stores[key]

    return warm


@pytest.mark.parametrize("clip", [None, 0.3, 1e4])
@pytest.mark.parametrize(
    "optim",
    [
        {"optim.name": "adam"},
        {"optim.name": "adamw", "optim.weight_decay": 0.1},
        {"optim.name": "sgd"},
    ],
    ids=lambda optim: optim["optim.name"],
)
def test_alternating_steps_with_the_classification_gradients_and_then_with_the_semantic_ones(
    optim, clip, warmed_by
):
    trial = at_the_thaw(
        SETTINGS | optim, warmed_by(optim), EPOCH, **{"routing": "alternating", "optim.clip": clip}
    )
    learner = trial.learner
    wanted = terms(trial)
    names = Gradients._fields
    modules, optimisers = copy.deepcopy(
        ({name: getattr(learner, name) for name in names}, learner.optimisers)
    )
    taken = [
        {
            "encoder": (wanted.real, wanted.encoder),
            "head": (over_all_samples(trial, wanted), wanted.head),
        },
        {
            "encoder": (wanted.semantic, wanted.encoder),
            "denoiser": (wanted.semantic, wanted.denoiser),
        },
    ]
    taken = [
        {
            name: torch.autograd.grad(loss, list(of.parameters()), retain_graph=True)
            for name, (loss, of) in each.items()
        }
        for each in taken
    ]
    for each in taken:
        for name, gradients in each.items():
            for parameter, gradient in zip(modules[name].parameters(), gradients):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(modules[name].parameters(), clip)
            optimisers[name].step()
    before = {
        name: flat(p.detach().clone() for p in getattr(learner, name).parameters())
        for name in names
    }
    metrics = joint_epoch(learner, trial.dataset.train, EPOCH).metrics
    for name in names:
        found, expected = (
            flat(p.detach() for p in module.parameters()) - before[name]
            for module in (getattr(learner, name), modules[name])
        )
        assert_near(
            found, expected, tolerance=2e-3
        )  # Adam divides by gradients that rounding alone may have made
    together = [a + b for a, b in zip(taken[0]["encoder"], taken[1]["encoder"])]
    assert metrics["grad/encoder"] == pytest.approx(float(flat(together).norm()), rel=1e-5)
    assert all(p.grad is None for name in names for p in getattr(learner, name).parameters())


def test_the_plans_two_backward_passes_with_a_step_between_them_raise_an_error(warmed):
    wanted = terms(trial_at_the_thaw(warmed))
    optimiser = torch.optim.Adam(
        [p for name in Gradients._fields for p in getattr(wanted, name).parameters()]
    )
    wanted.real.backward(retain_graph=True)
    optimiser.step()
    optimiser.zero_grad()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        wanted.semantic.backward()


@pytest.mark.parametrize("n_chunks", [2, 5, 512])
def test_with_frozen_batchnorm_alternating_in_chunks_is_that_of_the_whole_batch(
    n_chunks, warmed, monkeypatch
):
    found = []
    for n in (1, n_chunks):
        trial, steps = trial_at_the_thaw(warmed, routing="alternating", batchnorm="frozen"), []
        trial.learner.n_chunks = n
        monkeypatch.setattr(
            epochs,
            "update",
            lambda learner, *names, steps=steps: steps.append(
                (names, flat(p.grad for p in learner.encoder.parameters()))
            ),
        )
        joint_epoch(trial.learner, trial.dataset.train, EPOCH)
        assert [names for names, _ in steps] == [("encoder", "head"), ("encoder", "denoiser")]
        found.append([gradient for _, gradient in steps])
    for whole, split in zip(*found):
        assert_near(split, whole, tolerance=2e-6)


def test_what_is_measured_at_the_latent_is_the_conflict_of_the_two_losses(warmed, monkeypatch):
    trial = trial_at_the_thaw(warmed)
    wanted = terms(trial)
    real, semantic = (
        torch.autograd.grad(loss, wanted.z, retain_graph=True)[0]
        for loss in (wanted.real, wanted.semantic)
    )
    monkeypatch.setattr(epochs, "update", lambda *args: None)
    metrics = joint_epoch(trial.learner, trial.dataset.train, EPOCH).metrics
    assert metrics["grad/real_at_latent"] == pytest.approx(float(real.norm()), rel=1e-5)
    assert metrics["grad/semantic_at_latent"] == pytest.approx(float(semantic.norm()), rel=1e-5)
    cosine = F.cosine_similarity(real.flatten(), semantic.flatten(), dim=0)
    assert metrics["grad/conflict_cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert metrics["grad/head"] == pytest.approx(
        float(gradient(over_all_samples(trial, wanted), wanted.head).norm()), rel=1e-5
    )


@pytest.mark.parametrize("n_chunks", [1, 3])
@pytest.mark.parametrize("rule", [*RULES, "alternating"])
def test_each_losss_own_gradient_is_measured_at_the_parameters_that_it_reaches(
    rule, n_chunks, warmed, monkeypatch
):
    trial = trial_at_the_thaw(warmed, routing=rule, batchnorm="frozen")
    trial.learner.encoder.eval()
    wanted = terms(trial, training=False)
    trial.learner.n_chunks = n_chunks
    monkeypatch.setattr(epochs, "update", lambda *args: None)
    metrics = joint_epoch(trial.learner, trial.dataset.train, EPOCH).metrics
    real, semantic = (
        gradient(wanted.real, wanted.encoder),
        gradient(wanted.semantic, wanted.encoder),
    )
    assert metrics["grad/encoder_real"] == pytest.approx(float(real.norm()), rel=1e-5)
    assert metrics["grad/encoder_semantic"] == pytest.approx(float(semantic.norm()), rel=1e-5)
    cosine = F.cosine_similarity(real, semantic, dim=0)
    assert metrics["grad/conflict_cosine_parameters"] == pytest.approx(float(cosine), abs=1e-5)
    n_real, n_generated = len(trial.dataset.train.labels), len(trial.learner.pool.labels)
    for name, loss, n in (
        ("real", wanted.real, n_real),
        ("generated", wanted.generated, n_generated),
    ):
        expected = gradient(n / (n_real + n_generated) * loss, wanted.head)
        assert metrics[f"grad/head_{name}"] == pytest.approx(float(expected.norm()), rel=1e-5)


APART = {
    "grad/encoder_real",
    "grad/encoder_semantic",
    "grad/conflict_cosine_parameters",
    "grad/head_real",
    "grad/head_generated",
}


@pytest.mark.parametrize(
    ("changes", "n_chunks"),
    [
        ({}, 1),
        ({"routing": "summed", "batch_size": 16}, 1),
        ({"routing": "alternating", "batch_size": 16}, 1),
        ({"routing": "pcgrad", "mixup": 0.4}, 1),
        ({"batch_size": 16}, 3),
    ],
)
def test_measuring_changes_no_bit_of_the_training(changes, n_chunks, warmed, monkeypatch):
    found = []
    for measures in (True, False):
        monkeypatch.setattr(epochs, "measures_gradients", lambda *args, measures=measures: measures)
        trial = trial_at_the_thaw(warmed, **{"data.augmentation": "crop"}, **changes)
        trial.learner.n_chunks = n_chunks
        done = [
            joint_epoch(trial.learner, trial.dataset.train, epoch) for epoch in (EPOCH, EPOCH + 1)
        ]
        state = {name: tensor.clone() for name, tensor in trial.learner.state().items()}
        found.append(([each.metrics for each in done], [each.latents for each in done], state))
    (measured, latents, state), (plain, plain_latents, plain_state) = found
    assert [each.keys() - other.keys() for each, other in zip(measured, plain)] == [APART, APART]
    assert [{name: each[name] for name in other} for each, other in zip(measured, plain)] == plain
    assert all(torch.equal(a, b) for a, b in zip(latents, plain_latents))
    assert state.keys() == plain_state.keys()
    assert [
        name
        for name in state
        if not torch.equal(state[name], plain_state[name]) and not state[name].isnan().all()
    ] == []


@pytest.mark.parametrize(("mixup", "batch_size"), [(0.0, 512), (0.0, 16), (0.2, 16)])
def test_diagnostics_take_an_image_once_however_often_balanced_batches_draw_it(
    mixup, batch_size, warmed, monkeypatch
):
    changes = {"batching": "balanced", "batchnorm": "frozen"}
    trial = trial_at_the_thaw(warmed, mixup=mixup, batch_size=batch_size, **changes)
    learner, train = trial.learner, trial.dataset.train
    monkeypatch.setattr(epochs, "update", lambda *args: None)
    drawn = torch.cat(epochs.order(learner, train.labels, EPOCH))
    if mixup:
        # two of three are whole images
        shares = torch.ones(len(drawn)).index_fill(0, torch.arange(0, len(drawn), 3), 0.5)
        monkeypatch.setattr(epochs, "mixup_shares", lambda *args: shares)
        drawn = drawn[shares == 1]
    images = drawn.unique()
    assert 1 < len(images) < len(drawn)
    found = joint_epoch(learner, train, EPOCH)
    assert torch.equal(found.labels.sort()[0], train.labels[images])
    expected = encode(learner.encoder, train.images[images], learner.config)
    apart = torch.cdist(found.latents.double(), expected.double())
    assert sorted(apart.argmin(1).tolist()) == list(range(len(images)))
    assert apart.min(1)[0].max() < 1e-4 * expected.norm(dim=1).max()


@pytest.mark.parametrize(
    ("every", "measured"), [(1, [3, 4, 5]), (2, [4, 5]), (3, [3, 5]), (10, [5])]
)
def test_gradients_are_measured_every_so_many_epochs_and_in_the_last(every, measured):
    settings = JOINT | {"measure_gradients_every": every}
    store, links = MemoryStore(), chain(settings)
    advance(settings, store)
    found = {
        link.epoch: store.record(link.key)["metrics"] for link in links if link.phase == "joint"
    }
    assert [
        epoch for epoch, metrics in found.items() if "grad/conflict_cosine_parameters" in metrics
    ] == measured


@pytest.mark.parametrize(
    ("batch_size", "n_batches", "n_measured"), [(512, 1, 1), (8, 8, 1), (3, 21, 2)]
)
def test_a_tenth_of_the_batches_is_measured(batch_size, n_batches, n_measured, warmed, monkeypatch):
    trial, seen = trial_at_the_thaw(warmed, batch_size=batch_size), []
    taken = epochs.joint_step

    def joint_step(*inputs, measures=False):
        seen.append(measures)
        return taken(*inputs, measures=measures)

    monkeypatch.setattr(epochs, "joint_step", joint_step)
    joint_epoch(trial.learner, trial.dataset.train, EPOCH)
    assert len(seen) == n_batches and seen == sorted(seen, reverse=True) and sum(seen) == n_measured


def mixed(shares, **changes):
    """Settings under mixup, and a stand-in for the shares that are drawn."""
    return {"mixup": 1.0, **changes}, lambda alpha, n, *purpose: torch.tensor((shares * n)[:n])


@pytest.mark.parametrize("shares", [[1.0, 0.5, 0.6], [0.96, 0.7, 0.3, 0.03], [0.95, 0.9499]])
def test_what_is_followed_is_that_of_pure_images_alone(shares, warmed, monkeypatch):
    """Blends are there for the classification loss, and batch normalisation."""
    changes, draw = mixed(shares)
    monkeypatch.setattr(epochs, "mixing_shares", draw)
    trial = trial_at_the_thaw(warmed, **changes)
    learner, followed = trial.learner, []
    monkeypatch.setattr(
        type(learner),
        "track_latents",
        lambda learner, latents, y, used: followed.append((latents, y, used)),
    )
    found = joint_epoch(learner, trial.dataset.train, EPOCH)
    (latents, y, used), n = followed[0], len(trial.dataset.train.labels)
    major = [max(share, 1 - share) for share in (shares * n)[:n]]
    assert used.tolist() == [float(share >= 0.95) for share in major] and 0 < used.sum() < n
    assert torch.equal(found.latents, latents[used.bool()]) and torch.equal(
        found.labels, y[used.bool()]
    )


def test_tracking_is_blind_to_samples_that_do_not_count(warmed):
    gen, n = torch.Generator().manual_seed(0), 20
    latents, y = torch.rand(n, 64, generator=gen), torch.randint(10, (n,), generator=gen)
    found = []
    for rows, used in (
        (slice(0, 12), None),
        (slice(0, n), (torch.arange(n) < 12).float()),
        (slice(12, n), torch.zeros(n - 12)),
    ):
        learner = trial_at_the_thaw(warmed).learner
        before = [tensor.clone() for tensor in (learner.mean, learner.std, *learner.geometry)]
        learner.track_latents(latents[rows], y[rows], used)
        found.append([learner.mean, learner.std, *learner.geometry])
    for plain, masked, none, start in zip(*found, before):
        torch.testing.assert_close(masked, plain, rtol=1e-5, atol=1e-6)
        assert torch.equal(none, start)
    assert not torch.equal(found[0][0], before[0]) and not torch.equal(found[0][2], before[2])


@pytest.mark.parametrize("standardisation", ["tracked", "batch"])
def test_only_standardised_by_its_batch_no_gradient_moves_all_latents_alike(
    standardisation, warmed, monkeypatch
):
    semantic = []
    monkeypatch.setattr(epochs, "combine", lambda rule, real, own: semantic.append(own) or real)
    trial = trial_at_the_thaw(warmed, standardisation=standardisation)
    joint_epoch(trial.learner, trial.dataset.train, EPOCH)
    assert semantic
    for gradient in semantic:
        apart = gradient.sum(0).norm() / gradient.abs().sum(0).norm()
        assert (float(apart) < 1e-3) is (standardisation == "batch")


@pytest.mark.parametrize("standardisation", ["tracked", "batch"])
def test_a_batch_without_a_pure_image_has_no_semantic_gradient_and_dilutes_no_mean(
    standardisation, warmed, monkeypatch
):
    changes, draw = mixed([0.5] * 32 + [1.0] * 32, batch_size=16, standardisation=standardisation)
    monkeypatch.setattr(epochs, "mixing_shares", draw)
    trial, each = trial_at_the_thaw(warmed, **changes), []
    taken = epochs.joint_step
    monkeypatch.setattr(
        epochs,
        "joint_step",
        lambda *inputs, **options: (
            each.append(taken(*inputs, **options)[0]) or (each[-1], inputs[1][:, None])
        ),
    )
    metrics = joint_epoch(trial.learner, trial.dataset.train, EPOCH).metrics
    assert len(each) == 4
    for one in each[:2]:
        assert (
            float(one["grad/semantic_at_latent"])
            == float(one["grad/denoiser"])
            == float(one["train/diffusion_loss"])
            == 0
        )
        assert float(one["train/real_loss"]) > 0 and "grad/encoder_real" not in one
    for name in epochs.OF_PURE:
        assert metrics[name] == pytest.approx(sum(float(one[name]) for one in each[2:]) / 2), name
    assert metrics["train/real_loss"] == pytest.approx(
        sum(float(one["train/real_loss"]) for one in each) / 4
    )
    assert "grad/encoder_real" in each[2] and metrics["grad/encoder_real"] == pytest.approx(
        float(each[2]["grad/encoder_real"])
    )


@pytest.mark.parametrize("alpha", [0.2, 1.0, 60.0])
def test_under_mixup_the_metrics_that_are_foretold_are_among_those_of_the_last_epoch(alpha):
    settings = JOINT | {"mixup": alpha, "epochs": 3}
    store, links = MemoryStore(), chain(settings)
    advance(settings, store)
    found = store.record(links[-1].key)["metrics"]
    assert SUBJECT.metrics(settings) <= found.keys()
    assert ("grad/conflict_cosine" in found) is (alpha <= 1)  # of 60, no image is pure
