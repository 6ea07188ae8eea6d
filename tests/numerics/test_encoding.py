"""Latents of training images as LDMLR's code encodes them: batch statistics, augmentation, no first ReLU."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.config.schema import Config, Data, Encoding, Staged
from core.networks.encoders import build_encoder, drop_first_relu
from core.training.encoding import encode, encode_for_training

NEAR = (
    1e-4  # absolute, float32 through twenty layers in another order of operations; latents reach 3
)
SINGLE = 1e-6  # one operation in another order


def config_of(augmentation="crop-flip", padding=4, **encoding):
    staged = Staged(encoding=Encoding(**encoding))
    return Config(
        method="staged",
        data=Data(augmentation=augmentation, padding=padding, mean=(0.4,), std=(0.3,)),
        staged=staged,
    )


def images(n, size=8, channels=1):
    return torch.randint(
        256,
        (n, channels, size, size),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(n),
    )


def trained(name, n_channels=1, size=8):
    """An encoder whose running statistics are none of a batch's."""
    torch.manual_seed(0)
    encoder = build_encoder(name, n_channels)
    encoder(2 * torch.randn(16, n_channels, size, size))
    return encoder.eval()


def batch_normalised(x, norm):
    """By mean and biased variance of the batch, written out."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight.view(
        1, -1, 1, 1
    ) + norm.bias.view(1, -1, 1, 1)


def original_latents(encoder, x):
    """What the original's chain of children computes in train mode: its blocks end in ReLUs, its stem does not."""
    x = batch_normalised(F.conv2d(x, encoder.conv1.weight, padding=1), encoder.bn1)
    for block in [*encoder.layer1, *encoder.layer2, *encoder.layer3]:
        inner = batch_normalised(
            F.conv2d(x, block.conv1.weight, stride=block.stride, padding=1), block.bn1
        ).clamp(min=0)
        inner = batch_normalised(F.conv2d(inner, block.conv2.weight, padding=1), block.bn2)
        if block.n_padded:
            zeros = torch.zeros(len(x), block.n_padded // 2, *inner.shape[2:])
            x = torch.cat([zeros, x[:, :, :: block.stride, :: block.stride], zeros], dim=1)
        x = (inner + x).clamp(min=0)
    return x.mean((2, 3))


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_the_originals_encoding_is_an_independent_forward_with_batch_statistics_and_no_first_relu(
    scale,
):
    encoder, pictures = trained("resnet20"), images(40)
    encoder.bn1.weight.mul_(scale)
    config = config_of(statistics="batch", first_relu=False)
    found = encode_for_training(encoder, pictures, config, 0)
    torch.testing.assert_close(
        found, original_latents(encoder, (pictures / 255 - 0.4) / 0.3), rtol=0, atol=NEAR
    )
    with_relu = encode_for_training(
        encoder, pictures, replace(config, staged=Staged(encoding=Encoding(statistics="batch"))), 0
    )
    assert (found - with_relu).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "norm", "after"),
    [
        ("resnet20", "bn1", "layer1"),
        ("small-cnn", "norms.0", "convs.1"),
        ("torchvision-resnet18", "body.bn1", "body.maxpool"),
    ],
)
def test_dropping_the_first_relu_hands_the_first_norms_output_on_as_it_is(name, norm, after):
    encoder, seen = trained(name, size=32), {}
    state = encoder.state_dict().keys()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with_relu = encoder(x)
    drop_first_relu(encoder)
    encoder.get_submodule(norm).register_forward_hook(
        lambda module, inputs, output: seen.update(norm=output.clone())
    )
    encoder.get_submodule(after).register_forward_pre_hook(
        lambda module, inputs: seen.update(after=inputs[0].clone())
    )
    without = encoder(x)
    assert (seen["after"] < 0).any() and torch.equal(seen["norm"], seen["after"])
    assert not torch.equal(with_relu, without)
    assert encoder.state_dict().keys() == state


class Witness(nn.Module):
    """An encoder that notes what it meets: the latent is the mean of the left and of the right half of the image."""

    n_latents = 2

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.met = []  # shared with its copies

    def __deepcopy__(self, memo):
        other = Witness()
        other.met, other.norm = self.met, copy.deepcopy(self.norm, memo)
        return other

    def forward(self, x):
        self.met.append((self.training, x.clone()))
        self.norm(x)
        return torch.stack([half.mean((1, 2, 3)) for half in x.chunk(2, dim=3)], dim=1)


def numbered(n):
    """Images that are their number on the left and black on the right."""
    pictures = torch.zeros(n, 1, 4, 4, dtype=torch.uint8)
    pictures[:, :, :, :2] = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)
    return pictures


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_every_image_is_met_once_in_shuffled_batches_of_64_and_its_latent_is_put_in_its_place(
    statistics,
):
    witness, pictures, config = Witness().eval(), numbered(150), config_of(statistics=statistics)
    before = copy.deepcopy(witness.norm.state_dict())
    latents = encode_for_training(witness, pictures, config, 0)
    expected = (torch.stack([pictures[:, 0, 0, 0], pictures[:, 0, 0, 3]], dim=1) / 255 - 0.4) / 0.3
    torch.testing.assert_close(latents, expected, rtol=SINGLE, atol=SINGLE)
    assert [len(x) for _, x in witness.met] == [64, 64, 22]
    assert {training for training, _ in witness.met} == {statistics == "batch"}
    met = torch.cat([x[:, 0, 0, 0] for _, x in witness.met])
    assert not torch.equal(met, met.sort().values)
    assert all(
        torch.equal(before[name], value) for name, value in witness.norm.state_dict().items()
    )  # the encoder itself is left alone
    assert not witness.training


def test_augmented_images_are_drawn_once_each_with_their_own_flip():
    pictures = numbered(150)[1:]  # a black image has no side
    plain = encode_for_training(Witness(), pictures, config_of(padding=0), 0)
    drawn = encode_for_training(Witness(), pictures, config_of(padding=0, augmented=True), 0)
    flipped = (drawn != plain).any(1)
    assert torch.equal(torch.where(flipped[:, None], drawn.flip(1), drawn), plain)
    assert 50 < flipped.sum() < 100  # 149 coins, four standard deviations


@pytest.mark.parametrize("name", ["small-cnn", "resnet20"])
def test_with_everything_as_it_is_the_latents_are_those_of_eval_mode(name):
    encoder, pictures, config = trained(name), images(100), config_of()
    torch.testing.assert_close(
        encode_for_training(encoder, pictures, config, 0),
        encode(encoder, pictures, config),
        rtol=0,
        atol=NEAR,
    )


@pytest.mark.parametrize("encoding", [{"statistics": "batch"}, {"augmented": True}])
def test_the_encoding_is_its_seeds_alone(encoding):
    encoder, pictures, config = trained("small-cnn"), images(100), config_of(**encoding)
    first, again, other = (
        encode_for_training(encoder, pictures, config, seed) for seed in (0, 0, 1)
    )
    torch.rand(3)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.allclose(first, encode(encoder, pictures, config), atol=0.01)
    assert not first.requires_grad
