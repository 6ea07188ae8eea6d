"""Out of the device's memory: the same batches in chunks, from the last checkpoint, and said so."""

import copy
import gc
import math
import weakref

import pytest
import torch
from test_joint_routing import assert_near, step, trial_at_the_thaw
from test_joint_routing import warmed as warmed
from tiny_trials import JOINT, STAGED, MemoryStore, advance, chain, config_of, records, run

from core.data import sources
from core.data.augment import normalise
from core.device.chunks import Passes, chunks, most_chunks
from core.device.forward import Forward
from core.device.memory import is_out_of_memory
from core.networks.encoders import SmallCNN, build_encoder
from core.subject import SUBJECT
from core.training import encoding, pretraining
from core.trial import run as trial


class Device:
    """Has room for `room` images at once in a pass that is to be walked back, and for `room_in_eval` in one that is not."""

    def __init__(self, monkeypatch, room=math.inf, room_in_eval=math.inf):
        self.room, self.room_in_eval, self.n_failed = room, room_in_eval, 0
        forward = SmallCNN.forward

        def bounded(encoder, images):
            if len(images) > (self.room if torch.is_grad_enabled() else self.room_in_eval):
                self.n_failed += 1
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to hold {len(images)} images."
                )
            return forward(encoder, images)

        monkeypatch.setattr(SmallCNN, "forward", bounded)


def marks(store, links, name="accumulation"):
    return [store.record(link.key).get(name) for link in links]


# --- chunks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n_chunks", [1, 2, 3, 8, 16, 32])
@pytest.mark.parametrize("n", [1, 2, 3, 14, 31, 32, 33])
def test_chunks_hold_each_image_once_and_are_no_larger_than_those_of_a_full_batch(
    n, n_chunks, training
):
    found = chunks(n, 32, n_chunks, training)
    assert [i for chunk in found for i in range(n)[chunk.rows]] == list(range(n))
    sizes = [chunk.rows.stop - chunk.rows.start for chunk in found]
    assert [chunk.share for chunk in found] == [size / n for size in sizes]
    assert [chunk.later for chunk in found] == [sum(sizes[i + 1 :]) / n for i in range(len(sizes))]
    if n_chunks == 1:
        assert sizes == [n]  # also of a batch that a last single image has joined
    elif n_chunks <= most_chunks(32, training):
        assert max(sizes) <= math.ceil(32 / n_chunks) + (training and 32 / n_chunks == 2)
        assert min(sizes) >= min(n, 2 if training else 1)


@pytest.mark.parametrize("rule", ["decoupled", "pcgrad"])
@pytest.mark.parametrize("n_chunks", [2, 5, 512])
def test_with_frozen_batchnorm_a_step_in_chunks_is_that_of_the_whole_batch(
    n_chunks, rule, warmed, monkeypatch
):
    found = []
    for n in (1, n_chunks):
        at_the_thaw = trial_at_the_thaw(warmed, routing=rule, batchnorm="frozen")
        at_the_thaw.learner.n_chunks = n
        found.append(step(at_the_thaw, monkeypatch))
    for whole, split in zip(*found):
        assert_near(split, whole, tolerance=2e-6)


def images_and_encoder(n=13):
    gen = torch.Generator().manual_seed(0)
    encoder = build_encoder("small-cnn", 1).train()
    images, gradient = torch.randn(n, 1, 8, 8, generator=gen), torch.randn(n, 64, generator=gen)
    with torch.no_grad():
        encoder(images + 1)  # running statistics that are not the initial ones
    return images, gradient, encoder


def test_batchnorm_that_trains_takes_its_statistics_chunk_by_chunk_and_the_gradient_is_that_of_this_network():
    images, gradient, encoder = images_and_encoder()
    reference = copy.deepcopy(encoder)
    latents = torch.cat([reference(images[:4]), reference(images[4:8]), reference(images[8:])])
    latents.backward(gradient)
    passes = Passes(Forward(encoder, config_of(JOINT | {"batch_size": 13})), images, 3)
    assert [chunk.rows.stop for chunk in passes.chunks] == [4, 8, 13]
    assert torch.equal(passes.latents, latents) and not passes.latents.requires_grad
    passes.backward(gradient)
    for own, other in zip(encoder.parameters(), reference.parameters()):
        assert torch.allclose(own.grad, other.grad, rtol=1e-5, atol=1e-6)


def test_running_statistics_move_once_a_batch_by_the_mean_of_the_chunks():
    images, gradient, encoder = images_and_encoder()
    norm, conv = encoder.norms[0], copy.deepcopy(encoder.convs[0])
    mean, var, n_tracked = (
        norm.running_mean.clone(),
        norm.running_var.clone(),
        int(norm.num_batches_tracked),
    )
    passes = Passes(Forward(encoder, config_of(JOINT | {"batch_size": 13})), images, 3)
    passes.backward(gradient)
    with torch.no_grad():
        parts = [conv(images[rows]) for rows in (slice(0, 4), slice(4, 8), slice(8, 13))]
    for found, before, of_chunks in [
        (norm.running_mean, mean, [p.mean((0, 2, 3)) for p in parts]),
        (norm.running_var, var, [p.var((0, 2, 3)) for p in parts]),
    ]:
        expected = 0.9 * before + 0.1 * sum(
            len(p) / 13 * value for p, value in zip(parts, of_chunks)
        )
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert norm.num_batches_tracked == n_tracked + 1
    assert norm.momentum == 0.1 and norm.track_running_stats


@pytest.mark.parametrize("mixup", [0, 0.4])
def test_pretraining_in_chunks_learns_from_the_mean_over_the_batch(mixup, monkeypatch):
    config = config_of(JOINT | {"pretraining.batch_size": 33, "pretraining.mixup": mixup})
    train = sources.load(config.data).train
    monkeypatch.setattr(
        SmallCNN, "train", lambda encoder, mode=True: encoder
    )  # batch normalisation stays frozen
    found = []
    for n_chunks in (1, 4):
        learned = pretraining.Pretraining(config, 0, 1, 10, n_chunks)
        for module in learned.encoder.modules():
            module.training = False
        found.append(
            (
                learned.epoch(train, 1, 0.1),
                torch.cat(
                    [
                        p.detach().flatten()
                        for p in [*learned.encoder.parameters(), *learned.fc.parameters()]
                    ]
                ),
            )
        )
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert (found[1][1] - found[0][1]).norm() < 1e-5 * found[0][1].norm()


# --- trials that run out of memory


@pytest.mark.parametrize("batchnorm", ["frozen", "updating"])
def test_a_trial_goes_on_in_chunks_that_fit_and_its_records_say_so(batchnorm, monkeypatch):
    settings = JOINT | {"batchnorm": batchnorm, "pretraining.batch_size": 16}
    links, whole = chain(settings), run(settings)
    device, store = Device(monkeypatch, room=9), MemoryStore()
    ran = advance(settings, store)
    assert ran == [link.key for link in links]  # each reported once, and no phase before run again
    assert marks(store, links) == [2, 2, None, None, 4, 4, 4]
    assert device.n_failed == 3  # 16, 32, 16
    found, expected = (s.record(links[-1].key)["metrics"] for s in (store, whole))
    assert found.keys() == expected.keys() and all(map(math.isfinite, found.values()))


def test_with_frozen_batchnorm_what_a_trial_learns_in_chunks_is_what_it_learns_otherwise(
    monkeypatch,
):
    settings = JOINT | {"batchnorm": "frozen"}
    links, whole, store = chain(settings), run(settings), MemoryStore()
    advance(settings, store, until=links[3].key)  # up to the thaw with all the memory
    Device(monkeypatch, room=5)
    advance(settings, store)
    assert marks(store, links) == [None] * 4 + [8] * 3
    for link in links[4:]:
        for name, value in whole.record(link.key)["metrics"].items():
            if name.startswith(("train/", "grad/", "diag/")):
                assert store.record(link.key)["metrics"][name] == pytest.approx(
                    value, rel=2e-3, abs=1e-4
                ), name


def test_an_epoch_in_the_midst_of_a_phase_goes_back_to_the_last_checkpoint(monkeypatch):
    links, store, device = chain(JOINT), MemoryStore(), Device(monkeypatch)
    reported = []

    def report(key, record):
        reported.append(key)
        if key == links[4].key:  # another process takes half of the memory
            device.room = 16

    SUBJECT.advance(JOINT, 0, None, store, report)
    assert reported == [link.key for link in links]
    assert marks(store, links) == [None] * 4 + [2] * 3  # from the thaw
    assert device.n_failed == 1


def test_a_resumed_trial_goes_on_with_the_chunks_that_it_had_and_ends_the_same(monkeypatch):
    links, device, store, whole = (
        chain(JOINT),
        Device(monkeypatch, room=9),
        MemoryStore(),
        MemoryStore(),
    )
    advance(JOINT, whole)
    advance(JOINT, store, until=links[4].key)
    device.n_failed = 0
    assert advance(JOINT, store) == [link.key for link in links[5:]]
    assert device.n_failed == 0
    assert records(store, links) == records(whole, links)
    assert store.load("state", links[-1].key) == whole.load("state", links[-1].key)


def test_nothing_of_the_failed_try_is_left_when_the_next_begins(monkeypatch):
    made, left = [], []

    class Watched(trial.Trial):
        def __init__(self, *args):
            left.append(sum(ref() is not None for ref in made))
            super().__init__(*args)
            made.append(weakref.ref(self.learner if args[4].done >= 2 else self.pretraining))

    monkeypatch.setattr(trial, "Trial", Watched)
    monkeypatch.setattr(trial, "release", lambda: None)
    Device(monkeypatch, room=9)
    gc.disable()
    try:
        advance(JOINT, MemoryStore())
    finally:
        gc.enable()
    assert left == [0] * 5


@pytest.mark.parametrize(
    ("settings", "phase", "most"),
    [(JOINT, "pretrain", 16), (JOINT | {"batchnorm": "frozen"}, "joint", 32), (JOINT, "joint", 16)],
)
def test_chunks_that_cannot_be_smaller_are_the_end_of_it(settings, phase, most, monkeypatch):
    links, store = chain(settings), MemoryStore()
    n_done = [link.phase for link in links].index(phase)
    if n_done:
        advance(settings, store, until=links[n_done - 1].key)
    device = Device(monkeypatch, room=0)
    with pytest.raises(
        torch.OutOfMemoryError,
        match=rf"^out of memory in {phase} epoch \d, even with .* in {most} chunks: CUDA out of memory. Tried to hold \d images.$",
    ):
        advance(settings, store)
    assert device.n_failed == math.log2(most) + 1
    assert [store.holds("record", link.key) for link in links].count(True) == n_done


@pytest.mark.parametrize(
    ("settings", "phase"), [(JOINT, "warmup"), (STAGED, "diffusion"), (STAGED, "head")]
)
def test_where_no_batch_passes_through_the_encoder_there_is_nothing_to_split(
    settings, phase, monkeypatch
):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(trial, f"{phase}_epoch", full)
    with pytest.raises(
        torch.OutOfMemoryError, match=rf"^out of memory in {phase} epoch \d, where no batch"
    ):
        advance(settings, MemoryStore())


def test_other_errors_are_not_tried_again(monkeypatch):
    n_calls = []

    def broken(*_):
        n_calls.append(1)
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(SmallCNN, "forward", broken)
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        advance(JOINT, MemoryStore())
    assert len(n_calls) == 1


def test_a_recording_that_broke_off_for_memory_is_known_by_what_it_came_from():
    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert is_out_of_memory(error)
    assert is_out_of_memory(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert not is_out_of_memory(
        RuntimeError("CUDA error: an illegal memory access was encountered")
    )


# --- encoding


def test_encoding_goes_on_with_as_many_images_as_fit_and_says_so(monkeypatch):
    settings = JOINT | {"pretraining.epochs": 1, "epochs": 2, "warmup.epochs": 1}
    links, whole = chain(settings), run(settings)
    device, store = Device(monkeypatch, room_in_eval=30), MemoryStore()
    advance(settings, store)
    assert (
        marks(store, links, "encoding_batch") == [None, 25, 25]
        and marks(store, links) == [None] * 3
    )
    assert device.n_failed > 0
    for link in links:
        assert store.record(link.key)["metrics"] == pytest.approx(
            whole.record(link.key)["metrics"], rel=1e-3, abs=1e-4
        )


def test_a_smaller_encoding_batch_is_found_once_and_encodes_the_same(monkeypatch):
    config, encoder = config_of(JOINT), build_encoder("small-cnn", 1)
    images = torch.randint(256, (150, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        expected = encoder.eval()(normalise(images, config.data.mean, config.data.std))
    device = Device(monkeypatch, room_in_eval=7)
    assert torch.allclose(encoding.encode(encoder, images, config), expected, rtol=1e-5, atol=1e-5)
    assert device.n_failed == 4 and encoding.fitting_batch(encoder) == 6  # 100, 50, 25, 12
    encoding.encode(encoder, images, config)
    assert device.n_failed == 4
    device.room_in_eval = 0
    with pytest.raises(torch.OutOfMemoryError):
        encoding.encode(encoder, images, config)
