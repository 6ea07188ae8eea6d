"""Baselines stand on the same encoder as the arms: pre-trained once, and encoding the data once."""

import pytest
from tiny_trials import JOINT, STAGED, MemoryStore, advance, chain, records, run

from core import trial

BASELINES = {
    "staged": STAGED,
    "staged, without generation": STAGED | {"staged.generation": False},
    "as it is": JOINT | {"method": "ce"},
    "frozen": JOINT | {"end_to_end": False},
}


@pytest.fixture(scope="module")
def arm() -> MemoryStore:
    """What an arm that is trained end to end leaves. For all tests: copy it before it changes."""
    return run(JOINT)


@pytest.mark.parametrize("settings", BASELINES.values(), ids=BASELINES.keys())
def test_a_baseline_takes_pretraining_and_latents_from_an_arm(settings, arm, monkeypatch):
    def encode(*_):
        raise AssertionError("the data were encoded again")

    links, alone, store = chain(settings), run(settings), MemoryStore(arm)
    monkeypatch.setattr(trial, "encode", encode)
    ran = advance(settings, store)
    n_pretrain = sum(link.phase == "pretrain" for link in links)
    assert n_pretrain == 2 and not set(ran) & {link.key for link in links[:n_pretrain]}
    assert records(store, links) == records(alone, links)


def test_an_arm_takes_pretraining_and_latents_from_a_baseline():
    store = run(STAGED)
    (latents,) = [entry for entry in store if entry[0] == "latents"]
    ran = advance(JOINT, store)
    assert [link.key in ran for link in chain(JOINT)] == [False] * 2 + [True] * 5
    assert [entry for entry in store if entry[0] == "latents"] == [latents]
