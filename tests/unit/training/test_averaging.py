"""The moving average of the weights: what it is, that it changes nothing else, and what is measured with it."""

import copy

import pytest
import torch
from tiny_trials import JOINT, MemoryStore, advance, chain, config_of, records, run, trial_at

from ablation.formatting import is_percent
from core.config.parsing import parse
from core.data import sources
from core.networks.encoders import build_encoder
from core.networks.heads import build_head
from core.training import state
from core.training.averaging import Average
from core.training.state import part

ROUNDING = 1e-6  # of float32 weights: relative, and absolute of those of order 1


def states_of(learner):
    return {
        f"{name}.{key}": value.clone()
        for name in ("encoder", "head")
        for key, value in getattr(learner, name).state_dict().items()
    }


@pytest.mark.parametrize("batchnorm", ["updating", "frozen"])
@pytest.mark.parametrize(
    "decay", [0.9, *(pytest.param(decay, marks=pytest.mark.long) for decay in (0.5, 0.999))]
)
def test_it_is_the_average_over_the_steps_since_the_thaw(decay, batchnorm):
    settings = JOINT | {
        "optim.ema": decay,
        "batchnorm": batchnorm,
        "batch_size": 512,
    }  # an epoch is one step
    store, links = MemoryStore(), chain(settings)
    advance(settings, store, until=links[3].key)  # the end of the warm-up
    trial = trial_at(settings, 0, store, 4)
    assert trial.learner.average is None
    expected = states_of(trial.learner)
    for link in links[4:]:
        trial.run(link)
        expected = {
            name: decay * expected[name] + (1 - decay) * value
            for name, value in states_of(trial.learner).items()
        }
    found = trial.learner.average.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.allclose(found[name], value, rtol=ROUNDING, atol=ROUNDING), name
            assert torch.equal(found[name], states_of(trial.learner)[name]) is (
                batchnorm == "frozen" and "running" in name
            )


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.75])
def test_a_step_mixes_weights_and_running_statistics_of_both_modules(decay):
    norm, head = torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)
    average = Average(norm, head)
    before = copy.deepcopy(average.state_dict())
    for module in (norm, head):
        for tensor in module.state_dict().values():
            tensor.add_(4)
    average.follow(norm, head, decay)
    for name in ("encoder.weight", "encoder.running_var", "head.bias"):
        assert torch.allclose(average.state_dict()[name], before[name] + 4 * (1 - decay))
    assert not average.encoder.training and not any(
        parameter.requires_grad for parameter in average.parameters()
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mixup": 0.4, "head.name": "linear"},
        pytest.param({"batchnorm": "frozen"}, marks=pytest.mark.long),
    ],
)
def test_the_rest_of_the_trial_is_the_same_with_and_without_it(change):
    off, on = JOINT | change, JOINT | change | {"optim.ema": 0.9}
    stores = {name: run(settings) for name, settings in (("off", off), ("on", on))}
    found = {
        name: [stores[name].record(link.key) for link in chain(settings)]
        for name, settings in (("off", off), ("on", on))
    }
    for without, averaged in zip(found["off"], found["on"]):
        added = {name for name in averaged["metrics"] if name.endswith("_ema")}
        assert bool(added) is (averaged["phase"] == "joint")
        assert {
            name: value for name, value in averaged["metrics"].items() if name not in added
        } == without["metrics"]
        assert averaged["vectors"] == without["vectors"] and averaged.get("hits") == without.get(
            "hits"
        )
    last = [
        state.from_bytes(stores[name].load("state", chain(settings)[-1].key))
        for name, settings in (("off", off), ("on", on))
    ]
    assert all(torch.equal(value, last[1][name]) for name, value in last[0].items())
    assert {name.split(".")[0] for name in last[1].keys() - last[0].keys()} == {"average"}


@pytest.mark.parametrize(
    ("decay", "seed"),
    [(0.9, 1), *(pytest.param(*each, marks=pytest.mark.long) for each in [(0.5, 0), (0.99, 2)])],
)
def test_its_metrics_are_the_accuracies_of_its_weights(decay, seed):
    settings = JOINT | {"optim.ema": decay, "optim.lr.encoder": 1e-2, "pretraining.epochs": 8}
    settings |= {"data.n_max": 24}  # classes of two groups
    store, links = run(settings, seed), chain(settings, seed)
    weights = state.from_bytes(store.load("state", links[-1].key))
    encoder, head = build_encoder("small-cnn", 1), build_head("wcdas", 64, 10, 30.0, True)
    encoder.load_state_dict(part("average.encoder", weights))
    head.load_state_dict(part("average.head", weights))
    test = sources.load(config_of(settings).data).test
    with torch.no_grad():
        hits = head(encoder.eval()((test.images / 255 - 0.5) / 0.5)).argmax(1) == test.labels
    found = store.record(links[-1].key)["metrics"]
    assert found["test/top1_ema"] == pytest.approx(100 * float(hits.double().mean()))
    assert found["test/few_ema"] == pytest.approx(
        100 * float(hits[test.labels >= 1].double().mean())
    )  # 24, 19, 16, ... images
    assert {name for name in found if name.endswith("_ema")} == {
        f"test/{name}_ema" for name in ("top1", "balanced_accuracy", "medium", "few")
    }


def test_averages_are_measured_where_raw_weights_are_and_read_as_percent():
    settings = JOINT | {"optim.ema": 0.9, "epochs": 6, "evaluate_every": 3}
    store = run(settings)
    found = [store.record(link.key)["metrics"] for link in chain(settings)]
    assert ["test/top1_ema" in metrics for metrics in found] == [False] * 4 + [True] + [
        False
    ] * 2 + [True]
    assert ["test/top1" in metrics for metrics in found] == [False] * 4 + [True] + [False] * 2 + [
        True
    ]
    assert (
        is_percent("test/top1_ema")
        and is_percent("test/few_ema")
        and not is_percent("train/real_loss_ema")
    )


def test_arms_with_and_without_it_share_their_warmup():
    store, averaged = MemoryStore(), JOINT | {"optim.ema": 0.9}
    advance(JOINT, store)
    assert len(advance(averaged, store)) == 3  # the joint epochs
    assert records(store, chain(averaged)) == records(run(averaged), chain(averaged))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1, "1 is too large; less than 1"),
        (1.5, "1.5 is too large; less than 1"),
        (-0.1, "-0.1 is too small; at least 0"),
        ("x", "'x' is not a number"),
    ],
)
def test_a_decay_is_below_one(value, says):
    assert [(fault.key, fault.message) for fault in parse({"optim.ema": value})[1]] == [
        ("optim.ema", says)
    ]
