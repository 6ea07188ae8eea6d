"""Trials on a GPU: recorded steps against plain ones, no step that waits, too little memory. `pytest -m gpu`, on a machine with one."""

import gc
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

SETTINGS = {
    "joint": JOINT
    | {
        "device": "cuda",
        "batch_size": 16,
        "epochs": 6,
        "generation.every": 1,
        "optim.schedule": "cosine",
    },
    "staged": STAGED
    | {"device": "cuda", "batch_size": 16, "staged.head_epochs": 4, "optim.schedule": "cosine"},
    "original": ORIGINAL
    | {
        "device": "cuda",
        "batch_size": 16,
        "staged.head_batch_size": 12,
        "staged.head_epochs": 4,
        "optim.schedule": "cosine",
    },
}
NEAR = 1e-3  # of losses, relative: kernels that add in no fixed order, over a few dozen steps


def losses(settings, recorded):
    """Training losses of every epoch."""
    trial, found = trial_at(settings, 0, MemoryStore(), 0), {}
    for link in chain(settings):
        if link.phase != "pretrain" and not recorded:
            trial.learner.record = None
        metrics = trial.run(link).metrics
        found |= {
            f"{link.phase} {link.epoch} {name}": value
            for name, value in metrics.items()
            if name.startswith("train/")
        }
    if recorded:
        assert any(repeated.recordings for repeated in trial.learner._repeated.values())
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_steps_train_as_plain_ones_do_and_follow_the_learning_rate(name):
    plain, recorded = (losses(SETTINGS[name], recorded) for recorded in (False, True))
    assert recorded == pytest.approx(plain, rel=NEAR, abs=NEAR)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(precision, monkeypatch):
    from core.training import divergence, epochs

    monkeypatch.setattr(divergence, "EVERY", 2)  # looks at the sums
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


def test_a_diverging_sum_is_seen_beside_the_work_of_the_gpu():
    from core.training.divergence import EVERY, Diverged, Means

    means = Means(config_of(SETTINGS["joint"]))
    with pytest.raises(Diverged, match="^grad/head is nan: the training diverged$"):
        for i in range(4 * EVERY):
            value = torch.full((), float("nan") if i == EVERY + 10 else 1.0, device="cuda")
            means.add({"train/real_loss": torch.ones((), device="cuda"), "grad/head": value})
            torch.cuda.synchronize()
    assert means.n == 2 * EVERY + 1


IN_LITTLE_MEMORY = JOINT | {
    "device": "cuda", "encoder.name": "resnet32", "batchnorm": "frozen", "batch_size": 512, "epochs": 7, "warmup.epochs": 1,
    "pretraining.epochs": 1, "optim.lr.encoder": 1e-5, "generation.every": 1, "generation.quota": "ldmlr", "generation.batch_size": 32,
    "diffusion.scaling": "unit",  # constant dimensions that come alive would make the loss jump
}  # fmt: skip


@pytest.fixture
def large_images(monkeypatch):
    """600 images of 32 x 32 pixels in place of the digits: a step with 512 of them takes about a gigabyte."""
    from core.data.sources import Dataset, Split
    from core.trial import run as trial

    gen = torch.Generator().manual_seed(0)
    parts = [
        Split(
            torch.randint(256, (n, 3, 32, 32), generator=gen, dtype=torch.uint8).cuda(),
            torch.arange(n).cuda() % 10,
        )
        for n in (600, 200)
    ]
    monkeypatch.setattr(
        trial, "load_dataset", lambda *_: Dataset(*parts, list(map(str, range(10))))
    )


@pytest.mark.parametrize("share", [0.6, 0.3])
def test_a_trial_that_runs_out_of_memory_learns_the_same_in_chunks(share, large_images):
    links = chain(IN_LITTLE_MEMORY)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = run(IN_LITTLE_MEMORY)
    needed = torch.cuda.max_memory_allocated()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        share * needed / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        store = MemoryStore()
        assert advance(IN_LITTLE_MEMORY, store) == [link.key for link in links]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    joint = [link for link in links if link.phase == "joint"]
    n_chunks = {store.record(link.key).get("accumulation") for link in joint}
    assert len(n_chunks) == 1 and n_chunks <= {2, 4, 8, 16, 32, 64}
    assert not any("accumulation" in whole.record(link.key) for link in links)
    for link in joint:
        found, expected = (
            {k: v for k, v in s.record(link.key)["metrics"].items() if k.startswith("train/")}
            for s in (store, whole)
        )
        assert found == pytest.approx(expected, rel=0.02, abs=1e-3)
