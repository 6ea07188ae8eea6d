"""Metrics by hand and against loops."""

import math

import pytest
import torch

from ablation.analysis.effects import unpacked
from core.method.metrics import (
    compensate_label_shift,
    evaluate,
    expected_calibration_error,
    group_masks,
    packed_hits,
    per_class_accuracy,
    top1,
)

SINGLE = 1e-5  # relative, float32


def confident(confidences, predictions):
    """Logits (N, 2) whose softmax gives each prediction its confidence."""
    logits = torch.zeros(len(confidences), 2, dtype=torch.float64)
    for row, p, c in zip(logits, confidences, predictions):
        row[c] = math.log(p / (1 - p))
    return logits


def test_top1_counts_hits_in_percent():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0]])
    assert float(top1(logits, torch.tensor([0, 1, 2, 0]))) == 50


def test_per_class_accuracy_is_over_the_images_of_each_class():
    predictions, labels = torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1])
    found = per_class_accuracy(predictions, labels, 3)
    assert found[:2].tolist() == pytest.approx([200 / 3, 50]) and found[2].isnan()


def test_compensation_divides_the_probabilities_by_the_class_prior():
    logits = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([500, 100, 30, 5])
    divided = logits.softmax(1) / (counts / counts.sum())
    found = compensate_label_shift(logits, counts)
    torch.testing.assert_close(
        found.softmax(1), divided / divided.sum(1, keepdim=True), rtol=SINGLE, atol=1e-7
    )
    assert torch.equal(found.argmax(1), divided.argmax(1))
    assert not torch.equal(found.argmax(1), logits.argmax(1))


def test_compensation_under_a_balanced_prior_changes_no_probability():
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        compensate_label_shift(logits, torch.full((4,), 7)).softmax(1), logits.softmax(1)
    )


def test_calibration_error_of_a_constructed_case():
    # ten at 0.95 of which 8 are right, ten at 0.65 of which 9 are: (10 * 0.15 + 10 * 0.25) / 20
    logits = confident([0.95] * 10 + [0.65] * 10, [0] * 20)
    labels = torch.tensor([0] * 8 + [1] * 2 + [0] * 9 + [1])
    assert float(expected_calibration_error(logits, labels)) == pytest.approx(20)


def test_calibration_error_cancels_within_a_bin_and_not_across_bins():
    # 0.70 always wrong, 0.72 always right: one bin of fifteen, (0.6667, 0.7333]
    labels = torch.tensor([1, 0])
    assert float(
        expected_calibration_error(confident([0.70, 0.72], [0, 0]), labels)
    ) == pytest.approx((0.70 - 0.28) / 2 * 100)
    # 0.72 and 0.75 lie in two
    assert float(
        expected_calibration_error(confident([0.72, 0.75], [0, 0]), labels)
    ) == pytest.approx((0.72 + 0.25) / 2 * 100)


def test_calibration_error_is_that_of_a_loop_over_bins():
    """Confidences from 1/40 up, and on the edges 1/8, 1/4, 1/2 and 1 of the bins to their left."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.linspace(0, 5, 300)[:, None] * torch.randn(300, 40, generator=rng)
    logits = logits.double()
    for row, n in zip(logits, [1, 1, 2, 2, 2, 4, 4, 8, 8, 8] * 3):
        row[:] = -torch.inf
        row[:n] = 0
    confidence, predictions = logits.softmax(1).max(1)
    # all right in one bin and wrong in the next, so that gaps of two bins would cancel
    is_right = (8 * confidence).ceil() % 2 == 1
    labels = torch.where(is_right, predictions, (predictions + 1) % 40)
    total = 0.0
    for b in range(8):
        mine = (confidence > b / 8) & (confidence <= (b + 1) / 8)
        if mine.any():
            total += (
                int(mine.sum())
                / 300
                * abs(
                    float((predictions == labels)[mine].double().mean() - confidence[mine].mean())
                )
            )
    assert float(expected_calibration_error(logits, labels, n_bins=8)) == pytest.approx(100 * total)


def test_calibration_error_of_certainty_is_the_error_rate():
    logits = torch.tensor([[1000.0, 0.0]] * 4)
    assert float(expected_calibration_error(logits, torch.tensor([0, 0, 0, 1]))) == pytest.approx(
        25
    )


def test_many_is_above_100_images_few_below_20_and_medium_the_rest():
    masks = group_masks(torch.tensor([101, 100, 20, 19, 1, 5000]))
    assert {name: mask.nonzero().flatten().tolist() for name, mask in masks.items()} == {
        "many": [0, 5],
        "medium": [1, 2],
        "few": [3, 4],
    }


def test_hits_are_packed_class_by_class_in_the_order_of_the_test_set():
    labels = torch.tensor([1, 0, 0, 1, 1])
    logits = torch.eye(3)[
        [1, 0, 1, 0, 1]
    ]  # class 0: right, wrong; class 1: right, wrong, right; class 2: no image
    assert packed_hits(logits, labels, 3) == "2:80 3:a0 0:"


@pytest.mark.parametrize("n", [1, 8, 9, 100])
def test_hits_read_back_are_those_that_were_packed(n):
    rng = torch.Generator().manual_seed(n)
    logits, labels = torch.randn(n, 4, generator=rng), torch.randint(4, (n,), generator=rng)
    found = unpacked(packed_hits(logits, labels, 4))
    for label, hits in enumerate(found):
        assert hits.tolist() == (logits.argmax(1) == label)[labels == label].tolist()
    assert 100 * sum(map(sum, found)) / n == pytest.approx(float(top1(logits, labels)))
    accuracies = [100 * hits.mean() if len(hits) else math.nan for hits in found]
    assert accuracies == pytest.approx(
        per_class_accuracy(logits.argmax(1), labels, 4).tolist(), nan_ok=True
    )


def test_ten_thousand_images_take_a_quarter_of_as_many_characters():
    assert (
        len(packed_hits(torch.eye(10).repeat(1000, 1), torch.arange(10).repeat(1000), 10))
        == 2500 + 10 * len("1000:") + 9
    )


def test_evaluation_by_hand():
    logits = torch.tensor(
        [[4.0, 0, 0], [4.0, 0, 0], [0, 4.0, 0], [4.0, 0, 3.9], [0, 0, 4.0], [4.0, 3.9, 0]]
    )
    labels = torch.tensor([0, 0, 1, 2, 2, 1])
    scalars, vectors = evaluate(
        logits, labels, torch.tensor([900, 90, 10]), torch.tensor([0.9, 0.09, 0.01])
    )
    assert vectors["test/per_class"] == pytest.approx([100, 50, 50])
    assert scalars.keys() == {
        "test/top1", "test/top1_compensated", "test/balanced_accuracy", "test/ece", "test/many", "test/medium", "test/few",
    }  # fmt: skip
    assert (scalars["test/many"], scalars["test/medium"], scalars["test/few"]) == pytest.approx(
        (100, 50, 50)
    )
    assert (scalars["test/top1"], scalars["test/balanced_accuracy"]) == pytest.approx(
        (400 / 6, 400 / 6)
    )
    assert scalars["test/top1_compensated"] == pytest.approx(
        600 / 6 - 200 / 6
    )  # two near misses won, two head images lost


def test_balanced_accuracy_weighs_classes_alike():
    scalars, _ = evaluate(
        torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0], [1.0, 0]]),
        torch.tensor([0, 0, 0, 1]),
        torch.tensor([30, 10]),
        None,
    )
    assert (scalars["test/top1"], scalars["test/balanced_accuracy"]) == pytest.approx((75, 50))


def test_groups_without_classes_are_left_out():
    scalars, _ = evaluate(torch.eye(2), torch.tensor([0, 1]), torch.tensor([500, 400]), None)
    assert "test/many" in scalars and not {"test/medium", "test/few"} & scalars.keys()


def test_group_accuracies_average_to_top1_over_their_images():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 6, generator=rng), torch.randint(6, (200,), generator=rng)
    counts = torch.tensor([500, 200, 60, 20, 19, 3])
    scalars, _ = evaluate(logits, labels, counts, None)
    assert "test/top1_compensated" not in scalars
    shares = {
        name: float(mask[labels].double().mean()) for name, mask in group_masks(counts).items()
    }
    assert sum(shares[name] * scalars[f"test/{name}"] for name in shares) == pytest.approx(
        scalars["test/top1"]
    )
