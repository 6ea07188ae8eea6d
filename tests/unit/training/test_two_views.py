"""Two views of each image: what a joint step learns from either, against autograd code of its own.

The whole data set is one batch, so that an epoch is one step.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny_trials import (
    JOINT,
    MemoryStore,
    advance,
    at_the_thaw,
    chain,
    config_of,
    records,
    run,
    trial_at,
    warmed_up,
)

from core.config.parsing import parse
from core.method.routing import combine
from core.planning.trajectory import chain as planned
from core.randomness import generator, mixing_shares
from core.training import epochs, state
from core.training.epochs import joint_epoch
from core.training.views import Consistency, boxes

EPOCH = 3
VIEWS = {"losses.consistency": 0.8, "mixup": 1.0}
SETTINGS = JOINT | {
    "epochs": EPOCH,
    "data.augmentation": "none",
    "batch_size": 512,
    "losses.generated": 0,
}
PLAIN = JOINT | {"losses.consistency": 1.0}  # two crops
BOTH = JOINT | VIEWS


@pytest.fixture(scope="module")
def warmed():
    return warmed_up(SETTINGS)


def trial_at_the_thaw(warmed, **changes):
    return at_the_thaw(SETTINGS, warmed, **changes)


def crops(images, gen):
    """Padded by one black pixel and cropped, image by image; normalised."""
    down, right = torch.randint(0, 3, (2, len(images)), generator=gen)
    padded = F.pad(images, (1,) * 4)
    return (
        torch.stack(
            [p[:, d : d + 8, r : r + 8] for p, d, r in zip(padded, down.tolist(), right.tolist())]
        ).float()
        / 127.5
        - 1
    )


def views(config, images, labels):
    """First and second view, minor labels, and each image's share of its own in either."""
    gens = [generator(0, purpose, EPOCH) for purpose in ("augmentation", "second view")]
    if not config.mixup:
        return (
            crops(images, gens[0]),
            crops(images, gens[1]),
            labels,
            torch.ones(len(images)),
            torch.ones(len(images)),
        )
    x = images.float() / 127.5 - 1
    share = mixing_shares(config.mixup, len(x), 0, "mixup", EPOCH)
    share = torch.maximum(share, 1 - share)
    partner = torch.randperm(len(x), generator=generator(0, "mixup partners", EPOCH))
    found, kept = boxes(share, torch.rand(len(x), 2, generator=generator(0, "cutmix", EPOCH)), 8, 8)
    second = x.clone()
    for i, (top, bottom, left, right) in enumerate(found.tolist()):
        second[i, :, top:bottom, left:right] = x[partner[i], :, top:bottom, left:right]
    part = share[:, None, None, None]
    return part * x + (1 - part) * x[partner], second, labels[partner], share, kept


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def assert_near(actual, expected, tolerance=5e-6):
    assert expected.norm() > 1e-4
    assert (actual - expected).norm() <= tolerance * expected.norm(), float(
        (actual - expected).norm() / expected.norm()
    )


@pytest.mark.parametrize(
    "kind", [{"mixup": 1.0}, {"mixup": 0.2}, {"data.augmentation": "crop"}], ids=str
)
@pytest.mark.parametrize("rule", ["summed", "decoupled", "stopgrad", "pcgrad"])
def test_each_module_gets_the_gradients_of_both_views(rule, kind, warmed, monkeypatch):
    trial = trial_at_the_thaw(
        warmed, routing=rule, **{"losses.consistency": 0.8, "losses.real": 0.7}, **kind
    )
    learner = trial.learner
    encoder, head = copy.deepcopy(learner.encoder).train(), learner.head
    images, labels = trial.dataset.train
    order = torch.randperm(len(labels), generator=generator(0, "order", EPOCH))
    y, n = labels[order], len(labels)
    first, second, y_minor, share, kept = views(learner.config, images[order], y)
    z = encoder(torch.cat([first, second]).to(memory_format=torch.channels_last))
    targets = [
        s[:, None] * F.one_hot(y, 10) + (1 - s[:, None]) * F.one_hot(y_minor, 10)
        for s in (share, kept)
    ]
    pure = share >= 0.95
    real = -0.7 * (torch.cat(targets) * head(z).log_softmax(1)).sum(1).mean()
    semantic = learner.semantic(
        learner.standardise(z[:n]),
        y,
        *learner.draw_noise(n, generator(0, "noise", EPOCH)),
        pure.float(),
    ).total
    learner.thaw()
    agreement = learner.consistency
    p, h = agreement.projector(z), agreement.predictor(agreement.projector(z))
    cosines = F.cosine_similarity(h, torch.cat([p[n:], p[:n]]).detach())
    consistency = -cosines.mean()
    at_latent = [
        torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (real, semantic, consistency)
    ]
    assert at_latent[1][n:].norm() == 0
    expected = combine(rule, *at_latent[:2]) + 0.8 * at_latent[2]
    expected = flat(torch.autograd.grad(z, list(encoder.parameters()), expected, retain_graph=True))
    of_head = flat(torch.autograd.grad(real, list(head.parameters()), retain_graph=True))
    of_agreement = flat(torch.autograd.grad(0.8 * consistency, list(agreement.parameters())))

    left = []
    monkeypatch.setattr(epochs, "update", lambda learner, *names: left.append(names))
    found = joint_epoch(learner, trial.dataset.train, EPOCH)
    assert left == [("encoder", "head", "denoiser", "consistency")]
    assert_near(flat(p.grad for p in learner.encoder.parameters()), expected)
    assert_near(flat(p.grad for p in head.parameters()), of_head)
    assert_near(flat(p.grad for p in agreement.parameters()), of_agreement)
    assert found.metrics["train/consistency_loss"] == pytest.approx(
        float(consistency.detach()), abs=1e-6
    )
    assert found.metrics["train/real_loss"] == pytest.approx(float(real.detach()) / 0.7, rel=1e-5)
    assert torch.allclose(found.latents, z[:n].detach()[pure], atol=1e-5) and torch.equal(
        found.labels, y[pure]
    )


@pytest.mark.parametrize(
    "change", [{}, {"mixup": 0.4}, {"head.name": "linear", "optim.name": "sgd", "optim.clip": 1.0}]
)
def test_without_it_the_first_view_is_the_only_one_and_the_same(change, monkeypatch):
    """The draws of the second view are its own: images, partners and noise of an arm without it are the same."""
    met = []
    for weight in (0.0, 1.0):
        settings, images = JOINT | change | {"losses.consistency": weight}, []
        step = epochs.joint_step

        def spy(learner, *inputs, step=step, images=images):
            images.append([None if x is None else x.clone() for x in inputs])
            return step(learner, *inputs)

        with monkeypatch.context() as patch:
            patch.setattr(epochs, "joint_step", spy)
            advance(settings, MemoryStore(), until=chain(settings)[4].key)
        met.append(images)
    for alone, both in zip(*met, strict=True):
        assert alone[-2:] == [None, None] and both[-2] is not None
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(alone[:4], both[:4]))
        assert not torch.equal(both[0], both[-2])


def test_projector_and_predictor_train_with_the_heads_settings():
    settings = PLAIN | {
        "optim.head_name": "sgd",
        "optim.head_weight_decay": 0.25,
        "optim.lr.head": 0.5,
        "optim.schedule": "cosine",
    }
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[4].key)
    learner = trial_at(settings, 0, store, 5).learner
    learner.set_rates({"encoder": 0.1, "head": 0.25, "denoiser": 0.1})
    group = learner.optimisers["consistency"].param_groups[0]
    assert isinstance(learner.optimisers["consistency"], torch.optim.SGD)
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.25)
    saved = state.from_bytes(store.load("state", chain(settings)[4].key))
    assert {name.split(".")[0] for name in saved} >= {"consistency", "encoder"}
    assert "optim.consistency.0.momentum_buffer" in saved


def test_they_learn_from_the_first_joint_epoch_on_and_not_before():
    store, links = run(PLAIN), chain(PLAIN)
    before, after = (state.from_bytes(store.load("state", links[i].key)) for i in (3, 6))
    assert not state.part("consistency", before)
    initial = run(PLAIN | {"optim.lr.head": 0.0}), chain(PLAIN | {"optim.lr.head": 0.0})
    still = state.part(
        "consistency", state.from_bytes(initial[0].load("state", initial[1][-1].key))
    )
    moved = state.part("consistency", after)
    assert moved.keys() == Consistency(64).state_dict().keys()
    assert all(not torch.equal(moved[name], value) for name, value in still.items())


def test_arms_with_and_without_it_share_their_warmup():
    store = MemoryStore()
    advance(JOINT, store)
    assert len(advance(BOTH, store)) == 3  # the joint epochs
    assert records(store, chain(BOTH)) == records(run(BOTH), chain(BOTH))


def test_an_epoch_of_two_views_costs_twice_as_much():
    costs = [
        [link.cost for link in planned(config_of(settings), 0, lambda key: None)]
        for settings in (JOINT, BOTH)
    ]
    assert costs[1][:4] == costs[0][:4] and costs[1][4:] == [2 * cost for cost in costs[0][4:]]


SAME = JOINT | {"data.augmentation": "none", "losses.consistency": 1.0}


@pytest.mark.parametrize(
    ("settings", "is_wrong"),
    [
        (SAME, True),
        (SAME | {"mixup": 0.1}, False),
        (SAME | {"data.augmentation": "crop"}, False),
        (SAME | {"method": "ce"}, False),
        (SAME | {"losses.consistency": 0}, False),
    ],
)
def test_two_views_that_are_the_same_are_refused(settings, is_wrong):
    faults = parse(settings)[1]
    assert [fault.key for fault in faults] == ["losses.consistency"] * is_wrong
    assert all("both views of an image would be the same" in fault.message for fault in faults)
