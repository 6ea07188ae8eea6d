"""`experiments/cifar10-lt.yaml` on a tiny CIFAR-10 in torchvision's own format: nobody's files but torchvision's."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision

from ablation.grid.load import experiment_settings, load_study
from ablation.planning.plan import build_plan
from ablation.storage.cache import DiskStore
from ablation.storage.runs import RunFolder
from ablation.subject.loading import load_subject
from core.config.parsing import parse
from core.data import sources
from core.subject import SUBJECT

ROOT = Path(__file__).parents[3]
PER_CLASS = 20
TINY = ["data.n_max=20", "data.imbalance_factor=10", "encoder.name=resnet20", "pretraining.epochs=1", "pretraining.batch_size=16",
        "epochs=2", "batch_size=16", "warmup.epochs=1", "denoiser.width=16", "denoiser.blocks=1", "generation.steps=2"]  # fmt: skip


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """data/cifar-10-batches-py with a few images of each class, and torchvision told their checksums."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def batch(n: int) -> dict:
        labels = np.arange(n) % 10
        return {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            "labels": rng.permutation(labels).tolist(),
        }

    meta = {"label_names": [f"class{c}" for c in range(10)]}
    contents = {f"data_batch_{i}": batch(PER_CLASS * 2) for i in range(1, 6)} | {
        "test_batch": batch(30),
        "batches.meta": meta,
    }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cls = torchvision.datasets.CIFAR10
    monkeypatch.setattr(
        cls, "train_list", [[name, sums[name]] for name in sums if name.startswith("data")]
    )
    monkeypatch.setattr(cls, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(
        cls, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABLATE_DATA", raising=False)
    return folder


def test_the_experiment_is_the_usual_long_tail():
    settings = experiment_settings(ROOT / "experiments" / "cifar10-lt.yaml", [], SUBJECT)
    assert SUBJECT.describe(settings)["class_counts"] == [
        5000,
        2997,
        1796,
        1077,
        645,
        387,
        232,
        139,
        83,
        50,
    ]
    assert settings["data.download"] is True and "encoder.checkpoint" not in settings


def test_it_is_planned_before_anything_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = load_study(ROOT / "experiments" / "fixes.yaml", "cifar10-lt", [], "1", load_subject)
    assert build_plan(study, DiskStore(Path("cache")), RunFolder(Path("runs"))).n_naive() > 0
    assert not any(tmp_path.iterdir())


def test_it_is_read_made_long_tailed_and_trained_on(cifar, tmp_path):
    settings = experiment_settings(ROOT / "experiments" / "cifar10-lt.yaml", TINY, SUBJECT)
    config, _ = parse(settings)
    loaded = sources.load(config.data)
    assert (
        loaded.class_counts.tolist()
        == SUBJECT.describe(settings)["class_counts"]
        == [20, 15, 11, 9, 7, 5, 4, 3, 2, 2]
    )
    assert loaded.class_names == [f"class{c}" for c in range(10)] and len(loaded.test.labels) == 30
    records = []
    SUBJECT.advance(
        settings, 0, None, DiskStore(tmp_path / "cache"), lambda key, record: records.append(record)
    )
    assert [(record["phase"], record["epoch"]) for record in records] == [
        ("pretrain", 1),
        ("warmup", 1),
        ("joint", 2),
    ]
    assert 0 <= records[-1]["metrics"]["test/top1"] <= 100
