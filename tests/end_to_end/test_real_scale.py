"""What takes minutes: the real test set, and a whole study computed twice. Run with `pytest -m slow`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ablation.grid.load import experiment_settings
from ablation.storage.cache import DiskStore
from core.subject import SUBJECT

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.mark.data
def test_the_shipped_cifar10_encoder_reaches_the_accuracy_measured_with_the_original_code(
    reference_data, monkeypatch, tmp_path
):
    """On all 10,000 test images: 72.49 % top-1 and 80.86 % with label shift compensated."""
    monkeypatch.chdir(tmp_path)
    settings = experiment_settings(
        ROOT / "experiments" / "cifar10-lt-if100.yaml", ["method=ce", "threads=2"], SUBJECT
    )
    records = []
    SUBJECT.advance(
        settings, 0, None, DiskStore(tmp_path), lambda key, record: records.append(record)
    )
    metrics = records[-1]["metrics"]
    assert metrics["test/top1"] == pytest.approx(72.49, abs=0.05)
    assert metrics["test/top1_compensated"] == pytest.approx(80.86, abs=0.05)


def test_the_fixes_study_is_the_same_bits_shared_and_alone(tmp_path):
    """Every metric of every epoch of every trial, shared by two workers or computed alone by one at a time."""
    histories = []
    for name, options in (("shared", ["--jobs", "2"]), ("alone", ["--jobs", "2", "--no-share"])):
        folder = tmp_path / name
        shutil.copytree(ROOT / "experiments", folder / "experiments")
        command = [
            sys.executable,
            "-m",
            "ablation",
            "run",
            "--grid",
            "experiments/fixes.yaml",
            "--offline",
            *options,
        ]
        subprocess.run(
            command, cwd=folder, env={**os.environ}, check=True, capture_output=True, timeout=1800
        )
        histories.append(pd.read_csv(folder / "reports" / "fixes" / "history.csv"))
    assert len(histories[0]) > 3000
    pd.testing.assert_frame_equal(*histories, check_exact=True)
