"""What an epoch does and does not do: frozen modules, paired randomness, divergence, baselines, every option."""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from tiny_trials import (
    JOINT,
    PRETRAIN_AND_DATA,
    STAGED,
    MemoryStore,
    advance,
    chain,
    config_of,
    records,
    run,
    run_on_shared_epochs,
    trial_at,
)

from core.config.schema import BASELINES
from core.data import sources
from core.networks.encoders import build_encoder
from core.subject import SUBJECT
from core.training import epochs, pretraining, staged, state
from core.training.divergence import EVERY, Diverged
from core.training.encoding import augmented
from core.training.pool import Pool
from core.training.state import part
from core.trial import run as trial
from core.trial.run import require_head

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def states(settings, store=None):
    """The checkpoint after each link, where there is one: phase and epoch -> tensors."""
    store = run_on_shared_epochs(settings) if store is None else store
    links = chain(settings, store=store)
    return {
        (link.phase, link.epoch): state.from_bytes(store.load("state", link.key))
        for link in links
        if store.holds("state", link.key)
    }


def moved(a, b):
    """Names of the tensors that are not the same bits."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def metrics(store, links):
    return [store.record(link.key)["metrics"] for link in links]


# --- frozen means frozen


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        (JOINT, ("warmup", 2)),
        (JOINT | {"end_to_end": "off"}, ("warmup", 5)),
        (
            JOINT | {"end_to_end": "off", "batchnorm": "updating", "optim.weight_decay": 0.1},
            ("warmup", 5),
        ),
        (STAGED, ("head", 4)),
        (STAGED | {"staged.generation": False}, ("head", 2)),
        (JOINT | {"method": "ce"}, ("evaluate", 1)),
    ],
)
def test_a_frozen_encoder_keeps_every_parameter_and_buffer(settings, last):
    found = states(settings)
    before, after = part("encoder", found["pretrain", 2]), part("encoder", found[last])
    assert {name.rsplit(".", 1)[1] for name in before} == {"weight", "bias", *BUFFERS}
    assert not moved(before, after)
    assert not part("optim.encoder", found[last])  # its optimiser has not taken a step


def test_a_thawed_encoder_moves_with_its_running_statistics():
    found = states(JOINT)
    before, after = part("encoder", found["warmup", 2]), part("encoder", found["joint", 5])
    assert moved(before, after) == set(before)


@pytest.mark.parametrize("settings", [{}, {"routing": "summed"}, {"warmup.epochs": 0}])
def test_frozen_batchnorm_keeps_its_running_statistics_while_the_encoder_moves(settings):
    found = states(JOINT | {"batchnorm": "frozen"} | settings)
    before, after = part("encoder", found["pretrain", 2]), part("encoder", found["joint", 5])
    assert moved(before, after) == {name for name in before if not name.endswith(BUFFERS)}


def test_an_encoder_without_a_learning_rate_keeps_its_parameters():
    settings = JOINT | {"optim.lr.encoder": 0, "batchnorm": "frozen"}
    store = run(settings)
    found = states(settings, store)
    assert not moved(part("encoder", found["pretrain", 2]), part("encoder", found["joint", 5]))
    assert metrics(store, chain(settings))[-1]["diag/latent_drift"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("phase", "trained"),
    [
        ("warmup", {"head", "denoiser"}),
        ("joint", {"encoder", "head", "denoiser"}),
        ("head", {"head"}),
    ],
)
def test_each_phase_trains_its_modules_and_no_other(phase, trained, monkeypatch):
    settings = STAGED if phase == "head" else JOINT
    store, links = MemoryStore(), chain(settings)
    i = [link.phase for link in links].index(phase)
    advance(settings, store, until=links[i - 1].key)
    trial = trial_at(settings, 0, store, i)
    before = {
        name: {k: v.clone() for k, v in getattr(trial.learner, name).state_dict().items()}
        for name in ("encoder", "head", "denoiser")
    }
    trial.run(links[i])
    assert {
        name for name in before if moved(before[name], getattr(trial.learner, name).state_dict())
    } == trained


# --- randomness


def orders(settings, monkeypatch, seed=0, store=None):
    """The batches that each epoch met, in order. store: of the trial"""
    met = []

    def spy(make):
        def batches(*args):
            made = make(*args)
            met.append([batch.tolist() for batch in made])
            return made

        return batches

    with monkeypatch.context() as patch:
        for module in (epochs, pretraining, staged):
            patch.setattr(module, "batches", spy(module.batches))
        advance(settings, MemoryStore() if store is None else store, seed)
    return met


def test_under_one_seed_all_arms_meet_the_same_batches(monkeypatch):
    reference = orders(JOINT, monkeypatch)
    assert len(reference) == 7
    for other in (
        {"head.name": "linear", "routing": "summed", "optim.lr.head": 0.1},
        {"warmup.epochs": 4},
        {"denoiser.width": 24, "losses.generated": 0},
    ):
        assert orders(JOINT | other, monkeypatch) == reference
    assert orders(STAGED | {"staged.generation": False}, monkeypatch) == reference[:4]


def test_every_epoch_meets_every_image_once_in_an_order_of_its_own(monkeypatch):
    met = [[i for batch in epoch for i in batch] for epoch in orders(JOINT, monkeypatch)]
    n = len(met[0])
    assert all(sorted(epoch) == list(range(n)) for epoch in met)
    assert len({tuple(epoch) for epoch in met}) == len(met)


def test_seeds_differ_in_initial_weights_batches_and_results(monkeypatch):
    one, two = MemoryStore(), MemoryStore()
    met = zip(orders(JOINT, monkeypatch, 0, one), orders(JOINT, monkeypatch, 1, two))
    assert not any(a == b for a, b in met)
    a, b = (trial_at(JOINT, seed, MemoryStore(), 0) for seed in (0, 1))
    assert not torch.equal(
        a.pretraining.encoder.convs[0].weight, b.pretraining.encoder.convs[0].weight
    )
    assert not torch.equal(a.learner.head.weight, b.learner.head.weight)
    assert metrics(one, chain(JOINT, 0))[-1] != metrics(two, chain(JOINT, 1))[-1]


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_a_trial_depends_on_nothing_but_its_settings_and_its_seed(mixup):
    settings = JOINT | {
        "pretraining.mixup": mixup,
        "mixup": mixup,
        "data.augmentation": "crop-flip",
    }
    links, stores = chain(settings), []
    for _ in range(2):
        torch.rand(3)  # the global generator stands elsewhere
        before = torch.get_rng_state()
        stores.append(run(settings))
        assert torch.equal(torch.get_rng_state(), before)  # and is left alone
    assert records(stores[0], links) == records(stores[1], links)
    assert stores[0].load("state", links[-1].key) == stores[1].load("state", links[-1].key)


def test_mixup_changes_the_pretraining():
    plain, mixed = (
        states(PRETRAIN_AND_DATA | {"method": "ce", "pretraining.mixup": alpha})["pretrain", 2]
        for alpha in (0.0, 0.4)
    )
    assert moved(plain, mixed)


@pytest.mark.parametrize(
    ("key", "module"), [("mixup", epochs), ("pretraining.mixup", pretraining)], ids=str
)
def test_mixup_leaves_crops_as_they_are(key, module, monkeypatch):
    met = []
    for alpha in (0.0, 1.0):
        settings, images = JOINT | {key: alpha, "epochs": 3}, []

        def spy(*arguments, images=images, **named):
            images.append(augmented(*arguments, **named))
            return images[-1].clone()

        with monkeypatch.context() as patch:
            patch.setattr(module, "augmented", spy)
            run(settings)
        met.append(images)
    plain, mixed = met
    assert len(plain) > 1
    assert all(torch.equal(one, other) for one, other in zip(plain, mixed, strict=True))


# --- divergence


@pytest.mark.parametrize(
    ("changes", "metric", "where", "finished"),
    [
        ({"pretraining.lr": 1e30}, "pretrain/loss", "pretrain epoch 1", 0),
        (
            {"optim.lr.head": 1e38, "head.name": "linear"},
            r"(grad/head|train/real_loss)",
            "warmup epoch 1",
            2,
        ),
        ({"optim.lr.denoiser": 1e30}, r"(grad/denoiser|train/diffusion_loss)", "warmup epoch 1", 2),
        ({"optim.lr.encoder": 1e30}, r"(grad/\w+|train/\w+_loss)", "joint epoch 3", 4),
        (
            {"method": "staged", "optim.lr.denoiser": 1e30},
            r"(grad/denoiser|train/diffusion_loss)",
            "diffusion epoch 1",
            2,
        ),
        (
            {"method": "staged", "optim.lr.head": 1e38, "head.name": "linear"},
            r"(grad/head|train/real_loss)",
            "head epoch 6",
            7,
        ),
    ],
)
def test_a_diverged_epoch_is_an_error_that_says_what_and_where_and_leaves_no_record(
    changes, metric, where, finished
):
    settings, store = JOINT | {"optim.name": "sgd"} | changes, MemoryStore()
    with pytest.raises(
        Diverged, match=rf"^{metric} is (nan|-?inf) in {where}: the training diverged$"
    ) as caught:
        advance(settings, store)
    assert (
        f"{caught.value.phase} epoch {caught.value.epoch}" == where
        and re.fullmatch(metric, caught.value.metric)
        and not math.isfinite(caught.value.value)
    )
    held = [
        (store.holds("record", link.key), store.holds("state", link.key))
        for link in chain(settings)
    ]
    assert [record for record, _ in held].count(True) == finished and not any(
        state for _, state in held[finished:]
    )


def test_on_a_cpu_no_step_is_taken_after_the_first_that_diverges(monkeypatch):
    settings, losses = JOINT | {"batch_size": 8, "optim.name": "sgd", "optim.lr.denoiser": 1e30}, []
    monkeypatch.setattr(
        epochs.Means,
        "add",
        lambda means, values, add=epochs.Means.add: (losses.append(values), add(means, values)),
    )
    with pytest.raises(Diverged):
        advance(settings, MemoryStore())
    warmup = [
        float(values["train/diffusion_loss"])
        for values in losses
        if "train/diffusion_loss" in values
    ]
    assert len(warmup) < 5 < len(trial_at(settings, 0, MemoryStore(), 0).dataset.train.labels) // 8


MLP = config_of(JOINT)


def steps(values, config=MLP, name="train/real_loss"):
    means = epochs.Means(config)
    for value in values:
        means.add({name: torch.tensor(float(value))})
    return means


def test_a_finite_loss_has_exploded_when_its_mean_is_thousands_of_times_what_knowing_nothing_costs():
    for values in ([3e4] * 3, [0.5] * 10 + [1e7]):  # at the end of the epoch
        with pytest.raises(
            Diverged, match=r"^train/real_loss is \S+, above 10000: the training diverged$"
        ):
            steps(values).read()
    with pytest.raises(Diverged, match="above 10000"):  # in the midst of it
        steps([2e4] * EVERY)
    steps([2e4] * (EVERY - 1))
    assert steps([1e7] + [1.0] * 9).read() == {
        "train/real_loss": pytest.approx(1e6, rel=1e-4)
    }  # a spike that it recovers from


@pytest.mark.parametrize("steps_with", [[0, 1, 2], [1], [2], [0, 2]])
def test_a_mean_is_over_the_steps_that_have_a_value_of_its_name(steps_with):
    means = epochs.Means(MLP)
    for i, value in enumerate([1.0, 4.0, 7.0]):
        means.add(
            {"train/real_loss": torch.tensor(value)}
            | ({"grad/a": torch.tensor(10 * value)} if i in steps_with else {})
        )
    expected = sum(10 * [1, 4, 7][i] for i in steps_with) / len(steps_with)
    assert means.read() == {"train/real_loss": pytest.approx(4), "grad/a": pytest.approx(expected)}


def test_a_gpu_is_not_waited_for_and_its_sums_are_judged_once_they_are_there(monkeypatch):
    is_there, empty = [False], torch.empty
    monkeypatch.setattr(
        torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: None, query=lambda: is_there[0])
    )
    monkeypatch.setattr(torch, "empty", lambda n, pin_memory: empty(n))
    means = epochs.Means(MLP)
    means.sums, means.last, means.n = (
        {"train/real_loss": torch.tensor(1.0)},
        {"train/real_loss": torch.tensor(1.0)},
        EVERY,
    )  # as on a GPU, where `add` but looks
    means.counts.update(means.sums.keys())
    means._look()
    means.sums["train/real_loss"], means.n = torch.tensor(math.nan), 2 * EVERY
    means.sums["grad/encoder"] = means.last["grad/encoder"] = torch.tensor(
        1.0
    )  # a name that only later steps have
    means.counts.update(means.sums.keys())
    means._look()  # the first copy is not there yet: nothing to judge, and no second one
    is_there[0] = True
    means._look()  # the first was fine; the second is taken
    with pytest.raises(Diverged, match="^train/real_loss is nan"):
        means._look()


def test_a_loss_that_is_weighted_by_snr_may_be_larger_and_the_geometry_of_a_collapsed_encoder_as_large_as_it_likes():
    by_snr = config_of(JOINT | {"diffusion.weighting": "snr"})
    assert (
        steps([2e4], by_snr, "train/diffusion_loss").read()
        and steps([1e30], name="train/radius_loss").read()
        and steps([1e30], name="grad/encoder").read()
    )
    for config, value in ((MLP, 2e4), (by_snr, 2e6)):
        with pytest.raises(Diverged):
            steps([value], config, "train/diffusion_loss").read()


@pytest.mark.parametrize(("scaling", "is_result"), [("standardised", True), ("unit", False)])
def test_a_diffusion_loss_in_units_of_a_collapsed_encoder_is_a_result(
    scaling, is_result, monkeypatch
):
    """And comes back where the units do; what is not finite is none."""
    settings = JOINT | {"diffusion.scaling": scaling}
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[3].key)
    epoch = trial_at(settings, 0, store, 4)
    monkeypatch.setattr(
        epochs.Means,
        "add",
        lambda means, values, add=epochs.Means.add: add(
            means, values | {"train/diffusion_loss": torch.tensor(3e4)}
        ),
    )
    if is_result:
        assert epoch.run(chain(settings)[4]).metrics["train/diffusion_loss"] == pytest.approx(3e4)
    else:
        with pytest.raises(
            Diverged, match=r"^train/diffusion_loss is 3e\+04, above 10000 in joint epoch 3"
        ):
            epoch.run(chain(settings)[4])
    monkeypatch.undo()
    with pytest.raises(Diverged):
        epochs.Means(config_of(settings), encoder_moves=True).add(
            {"train/diffusion_loss": torch.tensor(math.inf)}
        )


def test_a_last_step_that_breaks_the_weights_leaves_no_record_though_every_loss_was_finite(
    monkeypatch,
):
    settings, store, links = (
        PRETRAIN_AND_DATA | {"method": "ce"},
        MemoryStore(),
        chain(PRETRAIN_AND_DATA | {"method": "ce"}),
    )
    epoch = pretraining.Pretraining.epoch

    def break_one(self, *args):
        found = epoch(self, *args)
        self.encoder.convs[1].weight.data[3, 2, 1, 1] = float("nan")
        return found

    monkeypatch.setattr(pretraining.Pretraining, "epoch", break_one)
    with pytest.raises(
        Diverged,
        match=r"^encoder.convs.1.weight is nan in pretrain epoch 1: the training diverged$",
    ):
        advance(settings, store)
    assert not any(store.holds(kind, link.key) for kind in ("record", "state") for link in links)


@pytest.mark.parametrize(
    ("settings", "n_done"),
    [(JOINT, 4), (STAGED | {"staged.generation": False}, 2), (JOINT | {"method": "ce"}, 2)],
)
def test_latents_that_are_not_finite_are_never_scored(settings, n_done, monkeypatch):
    store, links = MemoryStore(), chain(settings)
    advance(settings, store, until=links[n_done - 1].key)
    broken = trial_at(settings, 0, store, n_done)
    broken.latents.test[2, 5] = float("nan")  # of a frozen encoder
    monkeypatch.setattr(trial, "encode", lambda *_: broken.latents.test)  # of a thawed one
    with pytest.raises(
        Diverged, match=rf"logit is nan in {links[n_done].phase} epoch {links[n_done].epoch}"
    ):
        broken.run(links[n_done])
    monkeypatch.undo()
    for kind, key in [entry for entry in store if entry[0] == "latents"]:
        del store[kind, key]
    monkeypatch.setattr(trial, "encode", lambda *args: torch.full((3, 64), float("nan")))
    with pytest.raises(Diverged, match="the pretrained latent is nan"):
        _ = trial_at(settings, 0, store, 2).latents


def test_an_encoder_that_collapses_is_a_result():
    settings, store = JOINT | {"optim.lr.encoder": 0}, MemoryStore()
    links = chain(settings)
    advance(settings, store, until=links[3].key)
    collapsed = trial_at(settings, 0, store, 4)
    for parameter in collapsed.learner.encoder.norms[-1].parameters():
        torch.nn.init.zeros_(parameter)
    found = [collapsed.run(link).metrics for link in links[4:]]
    assert (
        found[-1]["diag/effective_rank"] == pytest.approx(1)
        and found[-1]["diag/total_variance"] == 0
    )
    assert found[-1]["test/top1"] == 10  # one class of ten


# --- baselines


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_runs_and_reports_its_accuracy(name):
    settings = JOINT | {"epochs": 3, "warmup.epochs": 1} | BASELINES[name]
    n_staged = 3
    if name == "ldmlr-original":  # each pass of its U-Net takes a second
        n_staged = 1
        settings |= {"staged.diffusion_epochs": 1, "staged.head_epochs": 1}
        settings |= {"diffusion.steps": 2, "data.n_max": 12}
    store, links = run_on_shared_epochs(settings), chain(settings)
    staged = ["diffusion"] * n_staged + ["head"] * n_staged
    others = {
        "ce": ["evaluate"],
        "ce-adjusted": ["evaluate"],
        "ldmlr": staged,
        "ldmlr-original": staged,
        "frozen-encoder": ["warmup"] * 3,
    }
    expected = others.get(name, ["head"] * 3)
    assert [link.phase for link in links] == ["pretrain"] * 2 + expected
    found = metrics(store, links)
    assert 0 <= found[-1]["test/top1"] <= 100
    assert {"test/ece", "test/few"} <= found[-1].keys()
    is_balanced = name in (
        "ce-adjusted",
        "frozen-encoder",
        "balanced-head",
        "balanced-head-original-encoding",
    )
    assert ("test/top1_compensated" in found[-1]) is not is_balanced
    assert SUBJECT.metrics(settings) <= found[-1].keys()
    assert ("test/top1_compensated" in SUBJECT.metrics(settings)) is not is_balanced
    for link, values in zip(links, found):
        assert ("test/top1" in values) is (link.phase in ("head", "evaluate", "warmup"))
        assert all(map(math.isfinite, values.values()))


@pytest.mark.parametrize("batching", ["natural", "balanced"])
def test_a_staged_head_meets_images_and_pool_once_each_or_every_class_alike(batching):
    drawn = []

    def step(latents, labels):
        assert torch.equal(latents[:, 0], labels.float())
        drawn.append(labels)
        return {"train/real_loss": torch.tensor(0.0)}

    labels = torch.tensor([0] * 270 + [1] * 30)
    learner = SimpleNamespace(
        config=config_of(STAGED | {"staged.batching": batching}),
        stream=lambda *_: torch.Generator().manual_seed(0),
        pool=Pool(torch.full((60, 2), 0.5), torch.full((60,), 1)),
        destandardise=lambda latents: 2 * latents,
        n_classes=2,
        head=torch.nn.Linear(2, 2),
        repeated=lambda _: step,
    )
    staged.head_epoch(learner, labels[:, None].expand(-1, 2).float(), labels, 1)
    n, ones = sum(map(len, drawn)), int(torch.cat(drawn).sum())
    assert n == 360
    assert ones == 90 if batching == "natural" else abs(ones - 180) < 40


def test_ce_is_the_accuracy_of_the_pretrained_network():
    settings = JOINT | {"method": "ce", "pretraining.epochs": 12, "pretraining.batch_size": 8}
    store, data = run_on_shared_epochs(settings), sources.load(config_of(settings).data)
    weights = states(settings, store)["pretrain", 12]
    encoder = build_encoder("small-cnn", 1).eval()
    encoder.load_state_dict(part("encoder", weights))
    with torch.no_grad():
        logits = (
            encoder((data.test.images / 255 - 0.5) / 0.5) @ weights["fc.weight"].T
            + weights["fc.bias"]
        )
    expected = 100 * (logits.argmax(1) == data.test.labels).double().mean()
    assert expected > 20  # chance is 10
    assert metrics(store, chain(settings))[-1]["test/top1"] == pytest.approx(float(expected))


def test_a_head_that_starts_from_the_pretrained_one_and_does_not_learn_is_ce():
    trained = JOINT | {"pretraining.epochs": 12, "pretraining.batch_size": 8}
    control, ce = (
        trained
        | BASELINES["ldmlr-no-generation"]
        | {"optim.lr.head": 0, "epochs": 2, "warmup.epochs": 0},
        trained | {"method": "ce"},
    )
    of_control, of_ce = (
        metrics(run_on_shared_epochs(one), chain(one))[-1] for one in (control, ce)
    )
    assert of_ce["test/top1"] > 20  # chance is 10
    assert {name: of_control[name] for name in of_ce} == of_ce


def test_ldmlr_trains_its_head_on_real_and_generated_latents():
    settings, store = (
        JOINT | BASELINES["ldmlr"] | {"staged.diffusion_epochs": 2, "staged.head_epochs": 1},
        MemoryStore(),
    )
    advance(settings, store)
    pool = part("pool", states(settings, store)["head", 3])
    counts = sources.load(config_of(settings).data).class_counts
    assert torch.bincount(pool["labels"]).tolist() == [
        max(round(0.2 * n), 5) for n in counts.tolist()
    ]
    assert pool["latents"].isfinite().all()


# --- one joint epoch under every option


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ({}, math.log(2) + 1),
        ({"head.name": "cosine"}, 30.0),
        ({"head.scale": 12.0}, 12.0),
        ({"head.name": "cosine", "head.scale": 12.0}, 12.0),
        ({"head.scale": None}, math.log(2) + 1),
    ],
)
def test_the_scale_of_a_head_starts_where_its_authors_start_or_as_it_is_set(
    head, expected, trainable
):
    settings = JOINT | {"pretraining.epochs": 1, "head.trainable_scale": trainable} | head
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[0].key)
    scale = trial_at(settings, 0, store, 1).learner.head.scale
    assert float(torch.as_tensor(scale()).detach()) == pytest.approx(expected, rel=1e-6)
    assert not trainable or expected > 2 or abs(float(scale.raw.detach())) < 1e-6  # softplus(0) + 1


OPTIONS = {
    "linear": {"head.name": "linear"},
    "linear, pretrained": {"head.name": "linear", "head.start": "pretrained"},
    "cosine head": {"head.name": "cosine"},
    "fixed scale": {"head.trainable_scale": False},
    "unet1d": {"denoiser.name": "unet1d", "data.n_max": 12},
    "noise": {"diffusion.objective": "noise"},
    "v": {"diffusion.objective": "v"},
    "snr": {"diffusion.weighting": "snr"},
    "linear schedule": {"diffusion.schedule": "linear"},
    "ddpm": {"generation.method": "ddpm"},
    "ldmlr quota": {"generation.quota": "ldmlr", "generation.batch_size": 8},
    "sgd": {"optim.name": "sgd"},
    "adamw": {"optim.name": "adamw", "optim.weight_decay": 0.1},
    "cosine rates": {"optim.schedule": "cosine"},
    "pcgrad": {"routing": "pcgrad"},
    "stopgrad": {"routing": "stopgrad"},
    "alternating": {"routing": "alternating"},
    "no generated": {"losses.generated": 0},
    "no semantic": {"losses.semantic": 0},
    "no real": {"losses.real": 0},
    "no geometry": {"losses.prototype": 0, "losses.radius": 0},
    "resnet20": {"encoder.name": "resnet20", "data.n_max": 12},
    "no augmentation": {"data.augmentation": "none"},
    "bfloat16": {"precision": "bfloat16"},
    "balanced batches": {"batching": "balanced"},
    "mixup": {"mixup": 0.4},
    "own standardisation": {"standardisation": "batch"},
    "adjusted logits": {"losses.logit_adjustment": 1.0},
    "radius of the many": {"losses.radius_from": "many"},
    "radius of views": {"losses.radius_from": "views"},
    "gaussian": {"generation.method": "gaussian"},
    "strong augmentation": {"data.augmentation": "strong"},
    "pretraining steps": {"pretraining.schedule": "step", "pretraining.milestones": [1]},
}


@pytest.mark.parametrize(
    "option",
    [
        # a baseline trains the U-Net in every run
        pytest.param(option, id=name, marks=pytest.mark.long if name == "unet1d" else [])
        for name, option in OPTIONS.items()
    ],
)
def test_every_option_trains_with_finite_metrics(option):
    settings = JOINT | {"epochs": 2, "warmup.epochs": 1, "generation.every": 1} | option
    store, links = run_on_shared_epochs(settings), chain(settings)
    assert links[-1].phase == "joint"
    last = metrics(store, links)[-1]
    assert all(map(math.isfinite, last.values()))
    assert 0 <= last["test/top1"] <= 100
    assert {
        "train/real_loss",
        "train/diffusion_loss",
        "grad/encoder",
        "grad/head",
        "grad/denoiser",
        "diag/latent_drift",
        "diag/effective_rank",
    } <= last.keys()
    assert ("train/generated_loss" in last) is ("losses.generated" not in option)
    assert all(
        tensor.isfinite().all() for name, tensor in states(settings, store)["joint", 2].items()
    )


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_test_set_is_evaluated_as_often_as_asked_and_at_the_end(every):
    settings = JOINT | {"evaluate_every": every}
    found = [
        m
        for m, link in zip(
            metrics(run_on_shared_epochs(settings), chain(settings)), chain(settings)
        )
        if link.phase != "pretrain"
    ]
    assert [e for e, m in enumerate(found, start=1) if "test/top1" in m] == sorted(
        {*range(every, 6, every), 5}
    )


# --- classes of one image


def test_a_class_of_one_image_has_a_finite_radius():
    settings = JOINT | {"data.n_max": 20, "data.imbalance_factor": 20}
    store = MemoryStore()
    advance(settings, store, until=chain(settings)[1].key)
    learner = trial_at(settings, 0, store, 2).learner
    assert learner.class_counts[-1] == 1
    radii = learner.geometry.radii
    assert radii.isfinite().all() and (radii > 0).all()
    several = learner.class_counts > 1
    assert radii[~several] == pytest.approx(
        float(radii[several].mean())
    )  # borrowed from the others
    advance(settings, store)
    last = metrics(store, chain(settings))[-1]
    assert all(map(math.isfinite, last.values()))
    assert all(
        t.isfinite().all() for t in part("geometry", states(settings, store)["joint", 5]).values()
    )


@pytest.mark.parametrize(
    ("settings", "needed_by"),
    [
        ({"method": "ce"}, "method ce"),
        ({"head.name": "linear", "head.start": "pretrained"}, "head.start: pretrained"),
    ],
)
def test_a_checkpoint_without_a_fitting_head_is_refused_where_the_head_is_needed(
    settings, needed_by
):
    config = config_of(JOINT | settings)
    like = {"weight": torch.zeros(10, 64), "bias": torch.zeros(10)}
    require_head(config, like, like)
    for head in ({}, {"weight": torch.zeros(7, 64), "bias": torch.zeros(7)}):
        with pytest.raises(
            ValueError, match=f"no linear head for these classes .*which {needed_by} needs"
        ):
            require_head(config, head, like)
    require_head(config_of(JOINT), {}, like)  # WCDAS starts afresh
