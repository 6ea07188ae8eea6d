"""Trials on a GPU: recorded steps against plain ones, and no step that waits. `pytest -m gpu`, on a machine with one."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
from tiny_trials import JOINT, ORIGINAL, STAGED, MemoryStore, chain, trial_at  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

SETTINGS = {
    "joint": JOINT | {"device": "cuda", "batch_size": 16, "epochs": 6, "generation.every": 1, "optim.schedule": "cosine"},
    "staged": STAGED | {"device": "cuda", "batch_size": 16, "staged.head_epochs": 4, "optim.schedule": "cosine"},
    "original": ORIGINAL | {"device": "cuda", "batch_size": 16, "staged.head_batch_size": 12, "staged.head_epochs": 4, "optim.schedule": "cosine"},
}
NEAR = 1e-3  # of losses, relative: kernels that add in no fixed order, over a few dozen steps


def losses(settings, recorded):
    """Training losses of every epoch."""
    trial, found = trial_at(settings, 0, MemoryStore(), 0), {}
    for link in chain(settings):
        if link.phase != "pretrain" and not recorded:
            trial.learner.record = None
        metrics = trial.run(link).metrics
        found |= {f"{link.phase} {link.epoch} {name}": value for name, value in metrics.items() if name.startswith("train/")}
    if recorded:
        assert any(repeated.recordings for repeated in trial.learner._repeated.values())
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_steps_train_as_plain_ones_do_and_follow_the_learning_rate(name):
    plain, recorded = (losses(SETTINGS[name], recorded) for recorded in (False, True))
    assert recorded == pytest.approx(plain, rel=NEAR, abs=NEAR)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(precision, monkeypatch):
    from core import epochs

    settings = SETTINGS["joint"] | {"precision": precision}
    trial = trial_at(settings, 0, MemoryStore(), 0)
    for link in chain(settings)[:6]:
        trial.run(link)
    torch.cuda.synchronize()
    monkeypatch.setattr(epochs.Means, "read", lambda means: {})
    torch.cuda.set_sync_debug_mode("error")
    try:
        epochs.warmup_epoch(trial.learner, trial.latents.train, trial.dataset.train.labels, 7)
        latents = epochs.joint_epoch(trial.learner, trial.dataset.train, 7).latents
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert latents.isfinite().all()
