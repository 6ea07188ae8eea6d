"""The order of samples: every one once, or every class alike."""

import pytest
import torch

from core.data.batches import balanced_batches, batches


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "n, batch_size", [(100, 16), (96, 16), (97, 16), (5, 16), (17, 16), (3, 2), (2, 1)]
)
def test_an_epoch_meets_every_sample_once_and_no_batch_of_one(n, batch_size):
    found = batches(n, batch_size, seeded())
    assert torch.cat(found).sort().values.tolist() == list(range(n))
    assert all(len(part) == batch_size for part in found[:-1])
    assert 2 <= len(found[-1]) <= batch_size + 1 or batch_size == 1


@pytest.mark.parametrize(
    "n, sizes",
    [(97, [16, 16, 16, 16, 16, 17]), (98, [16, 16, 16, 16, 16, 16, 2]), (17, [17]), (1, [1])],
)
def test_a_last_batch_of_one_joins_the_one_before(n, sizes):
    assert [len(part) for part in batches(n, 16, seeded())] == sizes


def test_joining_changes_no_order():
    assert torch.equal(torch.cat(batches(97, 16, seeded())), torch.cat(batches(97, 32, seeded())))


def test_the_order_is_the_generators_and_not_sorted():
    order = torch.cat(batches(50, 8, seeded()))
    assert torch.equal(order, torch.cat(batches(50, 8, seeded())))
    assert not torch.equal(order, torch.cat(batches(50, 8, seeded(1))))
    assert order.tolist() != list(range(50))


@pytest.mark.parametrize("n", [33, 65, 97, 34])
def test_balanced_batches_end_in_no_batch_of_one(n):
    sizes = [len(part) for part in balanced_batches(torch.arange(n) % 3, 3, 32, seeded())]
    assert sum(sizes) == n and min(sizes) > 1


@pytest.fixture
def long_tail():
    """Labels of 300, 60 and 5 samples in no order."""
    labels = torch.tensor([0] * 300 + [1] * 60 + [2] * 5)
    return labels[torch.randperm(len(labels), generator=seeded(7))]


def test_balanced_batches_draw_every_class_alike(long_tail):
    rng = seeded()
    drawn = torch.cat([torch.cat(balanced_batches(long_tail, 3, 32, rng)) for _ in range(30)])
    shares = torch.bincount(long_tail[drawn], minlength=3) / len(drawn)
    five_errors = 5 * (1 / 3 * 2 / 3 / len(drawn)) ** 0.5
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=five_errors)


def test_balanced_batches_draw_every_sample_of_a_class_alike(long_tail):
    rng = seeded()
    drawn = torch.cat([torch.cat(balanced_batches(long_tail, 3, 32, rng)) for _ in range(60)])
    for c, n in enumerate((300, 60, 5)):
        members = (long_tail == c).nonzero().flatten()
        times = torch.bincount(drawn[long_tail[drawn] == c], minlength=len(long_tail))[
            members
        ].double()
        expected = times.sum() / n
        chi_square = float(((times - expected) ** 2 / expected).sum())
        assert abs(chi_square - (n - 1)) < 5 * (2 * (n - 1)) ** 0.5


def test_a_balanced_epoch_has_as_many_batches_as_a_natural_one(long_tail):
    assert [len(part) for part in balanced_batches(long_tail, 3, 50, seeded())] == [50] * 7 + [15]
