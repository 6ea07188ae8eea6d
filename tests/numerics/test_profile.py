"""The exponential profile against the counts of the published long-tailed sets."""

import pytest

from core.data.counting import exponential_counts


def test_cifar10_at_imbalance_100_has_the_published_counts():
    assert exponential_counts(5000, 10, 100) == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.mark.parametrize(
    "n_max, n_classes, factor, total",
    [
        (5000, 10, 100, 12_406),
        (500, 100, 100, 10_847),
        (5000, 10, 10, 20_431),
        (500, 100, 10, 19_573),
    ],
)
def test_totals_are_those_of_the_published_sets(n_max, n_classes, factor, total):
    assert sum(exponential_counts(n_max, n_classes, factor)) == total


@pytest.mark.parametrize("factor", [1, 10, 50, 100, 200])
@pytest.mark.parametrize("n_max, n_classes", [(5000, 10), (500, 100), (1000, 2)])
def test_counts_fall_from_the_largest_class_to_one_of_size_over_factor(n_max, n_classes, factor):
    counts = exponential_counts(n_max, n_classes, factor)
    assert len(counts) == n_classes
    assert counts[0] == n_max and counts[-1] == n_max // factor
    assert counts == sorted(counts, reverse=True)


def test_a_factor_of_one_is_balanced():
    assert exponential_counts(70, 4, 1) == [70] * 4


def test_a_single_class_keeps_all():
    assert exponential_counts(70, 1, 100) == [70]


def test_a_profile_that_empties_a_class_is_refused():
    assert exponential_counts(100, 3, 100)[-1] == 1
    with pytest.raises(ValueError, match="99 images.*factor of 100 leave the smallest class empty"):
        exponential_counts(99, 3, 100)
