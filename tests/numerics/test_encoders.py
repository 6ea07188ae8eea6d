"""Encoders against the original's recorded outputs, published sizes, and files that must not load."""

import os
import pickle
import tarfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch import nn

from core.data.augment import normalise
from core.networks.encoders import BasicBlock, build_encoder, load_checkpoint

GOLDEN = 1e-4  # absolute, float32 through 32 layers on another machine; latents reach 3, logits 20
MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)


def archived_images(archive, names):
    """test/<name> of each, as stored in the file: (N, 3, 32, 32) uint8."""
    wanted, found = {f"test/{name}" for name in names}, {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.split("/", 1)[-1]
            if name in wanted:
                found[name] = torch.from_numpy(
                    np.array(Image.open(tar.extractfile(member)))
                ).permute(2, 0, 1)
            if len(found) == len(wanted):
                break
    return torch.stack([found[f"test/{name}"] for name in names])


@pytest.mark.data
@torch.no_grad()
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_golden_latents_and_logits_of_the_shipped_encoder(reference_data, name):
    golden = np.load(reference_data / "golden" / f"encoder_{name}_if100.npz")
    images = archived_images(
        reference_data / "data" / f"{name}-lt-if100.tar.gz", golden["image"].tolist()
    )
    encoder = build_encoder("resnet32", 3).eval()
    head = load_checkpoint(
        str(reference_data / "pretrained" / f"resnet32_{name}_lt001.checkpoint"), encoder
    )
    latents = encoder(normalise(images, MEAN, STD))
    torch.testing.assert_close(latents, torch.from_numpy(golden["latent"]), rtol=0, atol=GOLDEN)
    logits = latents @ head["weight"].T + head["bias"]
    torch.testing.assert_close(logits, torch.from_numpy(golden["logits"]), rtol=0, atol=GOLDEN)


@pytest.mark.parametrize(
    "depth, n_parameters", [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_cifar_resnets_have_their_published_number_of_parameters(depth, n_parameters):
    encoder = build_encoder(f"resnet{depth}", 3)
    assert sum(p.numel() for p in encoder.parameters()) + (64 + 1) * 10 == n_parameters


@torch.no_grad()
def test_option_a_shortcut_slices_positions_and_pads_channels_on_both_sides():
    block = BasicBlock(16, 32, 2).eval()
    block.conv1.weight.zero_(), block.conv2.weight.zero_()
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


@torch.no_grad()
@pytest.mark.parametrize(
    "name, n_channels, size, n_latents",
    [
        ("resnet20", 3, 32, 64),
        ("resnet20", 1, 28, 64),
        ("small-cnn", 1, 8, 64),
        ("small-cnn", 3, 16, 64),
    ],
)
def test_an_image_becomes_one_latent_of_the_declared_size(name, n_channels, size, n_latents):
    torch.manual_seed(0)
    encoder = build_encoder(name, n_channels).eval()
    latents = encoder(torch.randn(2, n_channels, size, size))
    assert encoder.n_latents == n_latents
    assert latents.shape == (2, n_latents) and latents.dtype == torch.float32
    assert latents.isfinite().all() and not torch.equal(latents[0], latents[1])


@pytest.mark.parametrize(
    "name, n_channels, n_latents",
    [("resnet18", 3, 512), ("resnet34", 1, 512), ("resnet50", 3, 2048)],
)
def test_torchvision_backbones_declare_their_latents(name, n_channels, n_latents):
    with torch.device("meta"):  # shapes without numbers: initial weights take seconds
        encoder = build_encoder(f"torchvision-{name}", n_channels)
        assert encoder(torch.zeros(2, n_channels, 64, 64)).shape == (2, n_latents)
    assert encoder.n_latents == n_latents


@pytest.fixture
def trained():
    """A small CNN whose running statistics and weights are none of the initial ones, and a head."""
    torch.manual_seed(0)
    encoder, head = build_encoder("small-cnn", 1), nn.Linear(64, 10)
    encoder(torch.randn(16, 1, 8, 8))
    return encoder.eval(), head


def with_head(encoder, head):
    return encoder.state_dict() | {f"fc.{name}": value for name, value in head.state_dict().items()}


@pytest.mark.parametrize("layout", ["safetensors", "plain", "nested"])
def test_saved_weights_load_into_a_fresh_encoder_bit_for_bit(layout, trained, tmp_path):
    encoder, head = trained
    weights = with_head(encoder, head)
    if layout == "safetensors":
        file = tmp_path / "encoder.safetensors"
        safetensors.torch.save_file(weights, file)
    else:
        file = tmp_path / "encoder.checkpoint"
        torch.save({"state_dict": {"model": weights}} if layout == "nested" else weights, file)
    torch.manual_seed(1)
    fresh = build_encoder("small-cnn", 1).eval()
    loaded_head = load_checkpoint(str(file), fresh)
    assert fresh.state_dict().keys() == encoder.state_dict().keys()
    assert all(
        torch.equal(value, fresh.state_dict()[name]) for name, value in encoder.state_dict().items()
    )
    assert loaded_head.keys() == {"weight", "bias"}
    assert torch.equal(loaded_head["weight"], head.weight) and torch.equal(
        loaded_head["bias"], head.bias
    )


def test_a_file_without_a_head_gives_none(trained, tmp_path):
    safetensors.torch.save_file(trained[0].state_dict(), tmp_path / "encoder.safetensors")
    assert (
        load_checkpoint(str(tmp_path / "encoder.safetensors"), build_encoder("small-cnn", 1)) == {}
    )


@torch.no_grad()
def test_torchvisions_own_weights_load_and_give_torchvisions_logits(tmp_path):
    torch.manual_seed(0)
    original = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    encoder = build_encoder("torchvision-resnet18", 3).eval()
    head = load_checkpoint(str(tmp_path / "resnet18.pth"), encoder)
    images = torch.randn(2, 3, 64, 64)
    latents = encoder(images)
    torch.testing.assert_close(
        latents @ head["weight"].T + head["bias"], original(images), rtol=1e-5, atol=1e-5
    )
    safetensors.torch.save_file(encoder.state_dict(), tmp_path / "own.safetensors")
    encoder.body.conv1.weight.zero_()
    assert load_checkpoint(str(tmp_path / "own.safetensors"), encoder) == {}
    assert torch.equal(encoder(images), latents)


@pytest.mark.parametrize(
    "stored, wanted",
    [
        (("resnet20", 3), ("resnet32", 3)),
        (("resnet20", 3), ("resnet20", 1)),
        (("small-cnn", 3), ("resnet20", 3)),
    ],
)
def test_another_encoders_weights_are_refused_and_nothing_is_loaded(stored, wanted, tmp_path):
    torch.manual_seed(0)
    safetensors.torch.save_file(build_encoder(*stored).state_dict(), tmp_path / "other.safetensors")
    encoder = build_encoder(*wanted)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"other\.safetensors' does not hold this encoder's weights"
    ):
        load_checkpoint(str(tmp_path / "other.safetensors"), encoder)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Armed:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_code_in_a_checkpoint_is_refused_and_not_run(trained, tmp_path):
    file, ran = tmp_path / "armed.checkpoint", tmp_path / "ran"
    torch.save({"state_dict": {"model": with_head(*trained)}, "extra": Armed(ran)}, file)
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        load_checkpoint(str(file), build_encoder("small-cnn", 1))
    assert not ran.exists()
    torch.load(file, weights_only=False)
    assert ran.exists()  # so the file was armed
