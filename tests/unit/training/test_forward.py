"""The encoder's pass in training: weights cast by one call, chunk by chunk, and compiled."""

import functools

import pytest
import torch
from tiny_trials import JOINT, MemoryStore, chain, config_of, trial_at

from core.config.schema import Config
from core.device import compiler, forward
from core.device.chunks import Passes
from core.device.compiler import has_compiler
from core.device.forward import Forward
from core.networks.encoders import build_encoder
from core.planning import trajectory
from core.subject import SUBJECT

BFLOAT16 = JOINT | {"precision": "bfloat16", "batch_size": 13}


@pytest.fixture
def casts_at_once(monkeypatch):
    monkeypatch.setattr(forward, "CAST_AT_ONCE", ("cpu",))


def gradients(config: Config, n_chunks: int, name: str = "small-cnn", n_passes: int = 1):
    """Latents, gradients and running statistics of an encoder after backward passes."""
    gen = torch.Generator().manual_seed(0)
    encoder = build_encoder(name, 1).to(memory_format=torch.channels_last)
    for parameter in encoder.parameters():
        parameter.data = torch.empty_like(parameter).normal_(generator=gen) / 5
    images, gradient = (torch.randn(13, *s, generator=gen) for s in ((1, 8, 8), (64,)))
    passes = Passes(Forward(encoder.train(), config), images, n_chunks)
    for _ in range(n_passes):
        passes.backward(gradient, keep=True)
    return [passes.latents, *(p.grad for p in encoder.parameters()), *encoder.buffers()]


@pytest.mark.parametrize(
    ("name", "n_chunks", "n_passes"),
    [("small-cnn", 1, 1), ("small-cnn", 3, 1), ("small-cnn", 1, 2), ("resnet8", 1, 1)],
)
def test_weights_that_are_cast_at_once_learn_to_the_bit_as_by_autocast(
    name, n_chunks, n_passes, monkeypatch
):
    config = config_of(BFLOAT16)
    expected = gradients(config, n_chunks, name, n_passes)
    monkeypatch.setattr(forward, "CAST_AT_ONCE", ("cpu",))
    found = gradients(config, n_chunks, name, n_passes)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("extra", [{}, {"optim.sam": 0.05}, {"routing": "alternating"}])
def test_a_trial_whose_weights_are_cast_at_once_is_the_same_to_the_bit(extra, monkeypatch):
    settings, found = BFLOAT16 | extra, []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(forward, "CAST_AT_ONCE", devices)
        trial = trial_at(settings, 0, MemoryStore(), 0)
        found.append([trial.run(link).metrics for link in chain(settings)])
        assert bool(trial.learner.forward.copies) is bool(devices)
    assert found[0] == found[1]


def test_copies_are_of_the_weights_at_each_step(casts_at_once):
    own = Forward(build_encoder("small-cnn", 1), config_of(BFLOAT16))
    assert [c.dim() for c in own.copies] == [4, 4, 4]
    images = torch.ones(4, 1, 8, 8)
    own.begin()
    before = own(images)
    with torch.no_grad():
        own.encoder.convs[0].weight.mul_(-1)
    assert torch.equal(own(images), before)
    own.begin()
    assert not torch.equal(own(images), before)


def test_nothing_is_copied_in_float32(casts_at_once):
    assert not Forward(build_encoder("small-cnn", 1), config_of(JOINT)).copies


def test_without_a_compiler_the_encoder_runs_as_it_is_and_a_line_says_so(monkeypatch, caplog):
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(forward, "has_compiler", has_compiler.__wrapped__)
    own = Forward(build_encoder("small-cnn", 1), config_of(JOINT | {"compile": True}))
    assert isinstance(own.compute, functools.partial)
    assert "there is no C++ compiler here" in caplog.text


@pytest.mark.long
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
@pytest.mark.parametrize(
    ("precision", "devices"), [("float32", ()), ("bfloat16", ()), ("bfloat16", ("cpu",))]
)
def test_a_compiled_encoder_learns_the_same_but_for_rounding(precision, devices, monkeypatch):
    monkeypatch.setattr(forward, "CAST_AT_ONCE", devices)
    settings = JOINT | {"batch_size": 13, "precision": precision}
    expected = gradients(config_of(settings), 1, n_passes=2)
    found = gradients(config_of(settings | {"compile": True}), 1, n_passes=2)
    near = 1e-4 if precision == "float32" else 0.05
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b.float()).norm() <= near * b.float().norm() + 1e-6


@pytest.mark.long
@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler here")
def test_gradients_of_each_loss_are_measured_after_an_epoch_without(monkeypatch):
    # what an earlier run has compiled may have been compiled for two passes
    monkeypatch.setattr(torch.compiler.config, "force_disable_caches", True)
    settings = JOINT | {"precision": "bfloat16", "compile": True, "measure_gradients_every": 4}
    trial = trial_at(settings, 0, MemoryStore(), 0)
    found = [trial.run(link).metrics for link in chain(settings)]
    is_measured = ["grad/conflict_cosine_parameters" in m for m in found if "grad/head" in m]
    assert False in is_measured and True in is_measured[is_measured.index(False) :]


def test_only_joint_epochs_depend_on_compilation(monkeypatch):
    monkeypatch.setattr(trajectory, "has_compiler", lambda: True)
    keys = {
        compiled: {
            (link.phase, link.epoch): link.key for link in chain(JOINT | {"compile": compiled})
        }
        for compiled in (False, True)
    }
    for (phase, epoch), key in keys[False].items():
        assert (keys[True][phase, epoch] == key) is (phase != "joint")


@pytest.mark.parametrize("is_there", [True, False])
def test_epochs_that_no_compiler_could_compile_are_uncompiled_ones(is_there, monkeypatch):
    monkeypatch.setattr(trajectory, "has_compiler", lambda: is_there)
    monkeypatch.setattr("core.subject.has_compiler", lambda: is_there)
    settings = JOINT | {"compile": True}
    assert (chain(settings) == chain(JOINT)) is not is_there
    # by which nodes of a cluster are compared, and what a report shows
    told = {"C++ compiler": "found" if is_there else "missing"}
    assert SUBJECT.describe(settings)["versions"] == SUBJECT.describe(JOINT)["versions"] | told
