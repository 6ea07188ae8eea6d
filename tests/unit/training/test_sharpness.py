"""Sharpness-aware minimisation: one step against plain autograd code, what it leaves alone, exact restoring.

The whole data set is one batch, so that an epoch is one step.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_trials import JOINT, MemoryStore, advance, at_the_thaw, chain, records, run, warmed_up

from core.config.parsing import parse
from core.method.routing import combine
from core.randomness import generator
from core.training.epochs import joint_epoch
from core.training.sharpness import gradients_kept, perturbed

EPOCH = 3
RATES = {"encoder": 0.5, "head": 0.25, "denoiser": 0.125}
SETTINGS = JOINT | {
    "epochs": EPOCH, "data.augmentation": "none", "batch_size": 512, "losses.generated": 0, "optim.name": "sgd", "optim.momentum": 0,
    **{f"optim.lr.{name}": rate for name, rate in RATES.items()},
}  # fmt: skip


@pytest.fixture(scope="module")
def warmed():
    return warmed_up(SETTINGS)


def trial_at_the_thaw(warmed, **changes):
    return at_the_thaw(SETTINGS, warmed, **changes)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def gradients(trial, encoder, head, rule):
    """Of encoder and head at their weights, by name, from a graph through both."""
    learner = trial.learner
    images, labels = trial.dataset.train
    order = torch.randperm(len(labels), generator=generator(0, "order", EPOCH))
    x, y = (images[order].float() / 127.5 - 1).to(memory_format=torch.channels_last), labels[order]
    z = encoder(x)
    real = F.cross_entropy(head(z), y)
    draws = learner.draw_noise(len(y), generator(0, "noise", EPOCH))
    semantic = (
        learner.config.losses.semantic * learner.semantic(learner.standardise(z), y, *draws).total
    )
    at_latent = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (real, semantic)]
    names, parameters = zip(*encoder.named_parameters())
    of_encoder = torch.autograd.grad(z, parameters, combine(rule, *at_latent), retain_graph=True)
    names_of_head, of_head = zip(*head.named_parameters())
    of_head = torch.autograd.grad(real, of_head)
    return dict(zip(names, of_encoder)), dict(zip(names_of_head, of_head))


def moved(module, directions, length):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter += length * directions[name]


@pytest.mark.parametrize("batchnorm", ["updating", "frozen"])
@pytest.mark.parametrize("rho", [0.05, 0.5])
@pytest.mark.parametrize("rule", ["summed", "decoupled", "stopgrad", "pcgrad"])
def test_a_step_is_that_of_the_gradient_at_the_perturbed_weights(rule, rho, batchnorm, warmed):
    trial = trial_at_the_thaw(warmed, routing=rule, batchnorm=batchnorm, **{"optim.sam": rho})
    learner = trial.learner
    encoder, head = copy.deepcopy(learner.encoder), copy.deepcopy(learner.head)
    encoder.train(batchnorm == "updating")
    start = [weights(module) for module in (encoder, head)]
    first = gradients(trial, encoder, head, rule)
    norm = torch.stack([value.norm() for part in first for value in part.values()]).norm()
    for module, part in zip((encoder, head), first):
        moved(module, part, rho / norm)
    second = gradients(trial, encoder, head, rule)

    joint_epoch(learner, trial.dataset.train, EPOCH)
    for name, before, plain, sharp in zip(("encoder", "head"), start, first, second):
        found, rate = getattr(learner, name).state_dict(), RATES[name]
        expected = torch.cat([-rate * value.flatten() for value in sharp.values()])
        step = torch.cat([(found[key] - before[key]).flatten() for key in sharp])
        assert (step - expected).norm() <= 1e-4 * expected.norm()  # a difference of float32 weights
        unperturbed = torch.cat([-rate * value.flatten() for value in plain.values()])
        assert (step - unperturbed).norm() > 1e-3 * expected.norm()  # the perturbation matters


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"routing": "summed", "losses.consistency": 1.0, "mixup": 0.4},
        {"batchnorm": "frozen", "standardisation": "batch"},
    ],
)
def test_the_rest_of_the_step_is_that_of_the_first_pass(change, warmed):
    """Denoiser, statistics, what is tracked and what is reported: the same bits as without it."""
    plain, sharp = (trial_at_the_thaw(warmed, **change, **{"optim.sam": rho}) for rho in (0.0, 0.5))
    found = [joint_epoch(trial.learner, trial.dataset.train, EPOCH) for trial in (plain, sharp)]
    assert found[0].metrics == found[1].metrics and torch.equal(found[0].latents, found[1].latents)
    states = [trial.learner.state() for trial in (plain, sharp)]
    differing = {
        name for name, value in states[0].items() if not torch.equal(value, states[1][name])
    }
    trained = {
        f"{name}.{key}"
        for name in ("encoder", "head")
        for key, _ in getattr(plain.learner, name).named_parameters()
    }
    assert differing == trained
    norms = [
        module
        for module in sharp.learner.encoder.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    assert norms and all(norm.track_running_stats for norm in norms)


def test_an_encoder_that_no_loss_reaches_stays_where_it_is(warmed):
    trial = trial_at_the_thaw(
        warmed, routing="decoupled", **{"optim.sam": 0.5, "losses.semantic": 0.0}
    )
    before = dict(trial.learner.encoder.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in before.items()}
    head = weights(trial.learner.head)
    joint_epoch(trial.learner, trial.dataset.train, EPOCH)
    assert all(
        torch.equal(parameter, before[name])
        for name, parameter in trial.learner.encoder.named_parameters()
    )
    assert any(
        not torch.equal(value, head[name])
        for name, value in trial.learner.head.state_dict().items()
    )


@pytest.mark.parametrize("rho", [1e-8, 0.05, 3.0])
def test_weights_are_put_back_exactly(rho):
    first, second = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(i)) for i in range(2)
    )
    unused = torch.ones(2)
    first.grad, second.grad = torch.randn_like(first), torch.randn_like(second)
    norm = (first.grad.square().sum() + second.grad.square().sum()).sqrt()
    wanted = [tensor + rho * tensor.grad / norm for tensor in (first, second)]
    before = [tensor.clone() for tensor in (first, second, unused)]
    with perturbed([first, second, unused], rho):
        assert first.grad is None and torch.equal(unused, before[2])
        assert all(
            torch.allclose(tensor, want, atol=1e-6) for tensor, want in zip((first, second), wanted)
        )
    assert all(torch.equal(tensor, was) for tensor, was in zip((first, second, unused), before))


def test_weights_are_put_back_when_the_second_pass_fails():
    weight = torch.ones(3)
    weight.grad = torch.ones(3)
    with pytest.raises(RuntimeError), perturbed([weight], 1.0):
        raise RuntimeError("out of memory")
    assert torch.equal(weight, torch.ones(3))


def test_no_gradient_is_no_perturbation():
    weight = torch.ones(3)
    weight.grad = torch.zeros(3)
    with perturbed([weight], 1.0):
        assert torch.equal(weight, torch.ones(3))


def test_gradients_that_are_kept_are_those_of_before():
    a, b = torch.ones(3), torch.ones(2)
    a.grad = torch.full((3,), 7.0)
    with gradients_kept([a, b]):
        assert a.grad is None
        a.grad, b.grad = torch.ones(3), torch.ones(2)
    assert torch.equal(a.grad, torch.full((3,), 7.0)) and b.grad is None


def test_arms_with_and_without_it_share_their_warmup():
    store, sharp = MemoryStore(), JOINT | {"optim.sam": 0.05}
    advance(JOINT, store)
    assert len(advance(sharp, store)) == 3  # the joint epochs
    assert records(store, chain(sharp)) == records(run(sharp), chain(sharp))


def test_an_epoch_of_two_passes_costs_twice_as_much():
    costs = [
        [link.cost for link in chain(settings)]
        for settings in (
            JOINT,
            JOINT | {"optim.sam": 0.05},
            JOINT | {"optim.sam": 0.05, "losses.consistency": 1},
        )
    ]
    assert costs[0][:4] == costs[1][:4] == costs[2][:4]
    assert [b / a for a, b in zip(costs[0][4:], costs[1][4:])] == [2] * 3 and [
        b / a for a, b in zip(costs[0][4:], costs[2][4:])
    ] == [4] * 3


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-0.05, "-0.05 is too small; at least 0"),
        ("wide", "'wide' is not a number"),
        (True, "True is not a number"),
    ],
)
def test_a_radius_is_a_number_from_0(value, says):
    assert [(fault.key, fault.message) for fault in parse({"optim.sam": value})[1]] == [
        ("optim.sam", says)
    ]
