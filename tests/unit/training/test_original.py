"""The staged baseline as the original code has it: which optimiser, which batches and which latents are used where."""

import pytest
import torch
import torch.nn.functional as F
from tiny_trials import (
    JOINT,
    ORIGINAL,
    STAGED,
    MemoryStore,
    advance,
    chain,
    config_of,
    run,
    trial_at,
)

from core.config.schema import BASELINES
from core.planning.trajectory import rates
from core.training import staged
from core.training.encoding import latents_from_bytes
from core.training.state import from_bytes, part

SINGLE = (
    1e-6  # absolute, float32 arithmetic in another order; the updates are a thousand times larger
)


def learner_at(settings, phase):
    """The learner as it stands before the first epoch of a phase, its rates set; and the link."""
    links, store = chain(settings), MemoryStore()
    i = [link.phase for link in links].index(phase)
    advance(settings, store, until=links[i - 1].key)
    learner = trial_at(settings, 0, store, i).learner
    learner.set_rates(rates(config_of(settings), phase, links[i].epoch))
    return learner


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def batch(n=12):
    rng = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, 64, generator=rng),
        torch.arange(n) % 10,
        torch.randint(50, (n,), generator=rng),
        torch.randn(n, 64, generator=rng),
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_denoiser_descends_by_sgd_with_the_rate_that_is_set(momentum, monkeypatch):
    learner = learner_at(
        ORIGINAL
        | {"optim.lr.denoiser": 0.05, "optim.weight_decay": 0.1, "optim.momentum": momentum},
        "diffusion",
    )
    before, gradients = parameters(learner.denoiser), []

    def spy(learner, *names):
        assert names == ("denoiser",)
        gradients.append({name: p.grad.clone() for name, p in learner.denoiser.named_parameters()})
        update(learner, *names)

    update = staged.update
    monkeypatch.setattr(staged, "update", spy)
    expected, velocity = (
        dict(before),
        {name: torch.zeros_like(value) for name, value in before.items()},
    )
    for _ in range(2):
        staged.diffusion_step(learner, *batch())
        for name, gradient in gradients[-1].items():
            velocity[name] = momentum * velocity[name] + gradient + 0.1 * expected[name]
            expected[name] = expected[name] - 0.05 * velocity[name]
    after = parameters(learner.denoiser)
    assert any((after[name] - before[name]).abs().max() > 1e-3 for name in before)
    for name, value in after.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=SINGLE)


def test_the_head_descends_by_adam_with_its_own_weight_decay():
    settings = ORIGINAL | {
        "optim.head_weight_decay": 0.5,
        "optim.weight_decay": 0.0,
        "optim.momentum": 0.9,
    }
    learner = learner_at(settings, "head")
    z, y, *_ = batch()
    reference = torch.nn.Linear(64, 10)
    reference.load_state_dict(learner.head.state_dict())
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3, weight_decay=0.5)
    for _ in range(3):
        staged.head_step(learner, z, y)
        F.cross_entropy(reference(z), y).backward()
        adam.step()
        adam.zero_grad()
    torch.testing.assert_close(learner.head.weight, reference.weight, rtol=0, atol=SINGLE)


def test_modules_without_a_setting_of_their_own_keep_the_common_one():
    learner = trial_at(
        JOINT
        | {
            "optim.name": "sgd",
            "optim.denoiser_name": "adamw",
            "optim.weight_decay": 0.2,
            "optim.head_weight_decay": 0.3,
        },
        0,
        MemoryStore(),
        0,
    ).learner
    found = {
        name: (type(o).__name__, o.param_groups[0]["weight_decay"])
        for name, o in learner.optimisers.items()
    }
    assert found == {"encoder": ("SGD", 0.2), "head": ("SGD", 0.3), "denoiser": ("AdamW", 0.2)}


def test_head_and_denoiser_take_batches_of_their_own_size(monkeypatch):
    met = {"diffusion_step": [], "head_step": []}
    for name, sizes in met.items():
        step = getattr(staged, name)
        monkeypatch.setattr(
            staged,
            name,
            lambda learner, z, *rest, step=step, sizes=sizes: (
                sizes.append(len(z)),
                step(learner, z, *rest),
            )[1],
        )
    run(
        ORIGINAL
        | {
            "batch_size": 32,
            "staged.head_batch_size": 48,
            "staged.diffusion_epochs": 1,
            "staged.head_epochs": 1,
        }
    )
    assert met["diffusion_step"][0] == 32 and met["head_step"][0] == 48
    met["head_step"].clear()
    run(
        ORIGINAL
        | {
            "staged.batching": "balanced",
            "staged.generation": False,
            "staged.head_batch_size": 20,
            "staged.head_epochs": 1,
        }
    )
    assert met["head_step"][0] == 20


# --- latents


def stored_latents(store):
    return [
        latents_from_bytes(data, "cpu") for (kind, _), data in store.items() if kind == "latents"
    ]


def test_encodings_lie_beside_each_other_in_the_store_and_share_the_test_latents():
    store = MemoryStore()
    ways = [
        {},
        {"staged.encoding.statistics": "batch"},
        {"staged.encoding.augmented": True},
        {"staged.encoding.first_relu": False},
    ]
    for way in ways:
        advance(STAGED | {"staged.generation": False} | way, store)
    found = stored_latents(store)
    assert len(found) == len(ways)
    assert all(torch.equal(latents.test, found[0].test) for latents in found)
    assert all(
        not torch.allclose(a.train, b.train, atol=0.01)
        for i, a in enumerate(found)
        for b in found[:i]
    )
    joint = JOINT | ways[1]  # finds the clean ones, and is not changed by the setting
    advance(joint, store, until=chain(joint)[2].key)
    assert len(stored_latents(store)) == len(ways) and torch.equal(
        trial_at(joint, 0, store, 2).latents.train, found[0].train
    )


def test_a_trial_trains_on_its_encoding_and_is_judged_on_clean_test_latents():
    store = run(ORIGINAL)
    clean = trial_at(STAGED, 0, run(STAGED), 2)
    trial = trial_at(ORIGINAL, 0, store, 2)
    (latents,) = stored_latents(store)
    assert torch.equal(trial.latents.train, latents.train) and not torch.allclose(
        latents.train, clean.latents.train, atol=0.01
    )
    assert torch.equal(latents.test, clean.latents.test)
    links = chain(ORIGINAL)
    last, weights = (
        store.record(links[-1].key),
        part("head", from_bytes(store.load("state", links[-1].key))),
    )
    logits = clean.latents.test @ weights["weight"].T + weights["bias"]
    accuracy = 100 * (logits.argmax(1) == clean.dataset.test.labels).double().mean()
    assert last["metrics"]["test/top1"] == pytest.approx(float(accuracy))
    assert last["metrics"]["diag/latent_drift"] == pytest.approx(
        0, abs=1e-6
    )  # of test images, which the encoding leaves alone
    z = latents.train[trial.dataset.train.labels == 0]
    radius = (z - z.mean(0)).norm(dim=1).mean() * (len(z) / (len(z) - 1)) ** 0.5
    assert last["vectors"]["diag/train_radius"][0] == pytest.approx(
        float(radius), rel=1e-4
    )  # as the epoch met them


@pytest.mark.parametrize("scaling", ["unit", "standardised"])
def test_generated_latents_reach_the_head_in_the_encoders_coordinates(scaling, monkeypatch):
    learner, met = learner_at(ORIGINAL | {"diffusion.scaling": scaling}, "head"), []
    torch.nn.init.zeros_(learner.denoiser.leave.weight)
    torch.nn.init.constant_(learner.denoiser.leave.bias, 9)  # far outside of what the clamp allows
    learner.refresh_pool(3)
    monkeypatch.setattr(
        learner, "repeated", lambda step: lambda z, y: met.extend(z) or {"n": torch.zeros(())}
    )
    real = torch.zeros(5, 64)
    staged.head_epoch(learner, real, torch.zeros(5, dtype=torch.int64), 1)
    generated = torch.stack([z for z in met if z.any()])
    assert len(generated) == len(learner.pool.labels) == len(met) - 5
    expected = torch.ones(64) if scaling == "unit" else 9 * learner.std + learner.mean
    torch.testing.assert_close(generated, expected.expand_as(generated))


def test_the_encoder_is_left_as_the_pretraining_left_it():
    store, links = run(ORIGINAL), chain(ORIGINAL)
    before, after = (
        part("encoder", from_bytes(store.load("state", links[i].key))) for i in (1, -1)
    )
    assert before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) for name in before
    )


def test_the_repaired_baseline_is_none_of_this():
    config = config_of(JOINT | BASELINES["ldmlr"])
    assert (
        config.diffusion.scaling,
        config.optim.denoiser_name,
        config.optim.head_weight_decay,
    ) == ("standardised", None, None)
    assert (
        config.head_batch_size == config.batch_size
        and config.staged.encoding == type(config.staged.encoding)()
    )
