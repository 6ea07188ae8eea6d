"""Encoders batched into one model, on CPU tensors; see `benchmarks/stacked.py`."""

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "stacked.py"


@pytest.fixture(scope="module")
def stacked():
    spec = importlib.util.spec_from_file_location("stacked", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "side"), [("small-cnn", 8), ("resnet8", 16)])
def test_batched_encoders_have_the_gradients_that_each_has_alone(stacked, name, side):
    assert stacked.difference(name, side) < 1e-4


def test_each_batched_encoder_trains_as_alone(stacked):
    images = torch.randn(2, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    both = stacked.training_step(stacked.encoders(2, "small-cnn"), "float32")
    alone = [stacked.training_step([e], "float32") for e in stacked.encoders(2, "small-cnn")]
    for _ in range(3):
        total = both(images)
        parts = [step(images[[i]]) for i, step in enumerate(alone)]
        torch.testing.assert_close(total, parts[0] + parts[1])
