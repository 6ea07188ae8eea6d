"""Data sets: which images, how many of each class, in which order, and what is said of files that cannot be used."""

import dataclasses
import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from tiny_trials import MemoryStore

from core.config.schema import Config, Data
from core.data import counting, sources
from core.data.counting import class_counts, exponential_counts
from core.data.listing import PARTS, Listing, Place
from core.planning.fingerprint import data_files, data_fingerprint
from core.subject import SUBJECT
from core.trial import inspection
from core.trial import run as trial

CIFAR10_LT = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
DIGITS = Data(channels="gray", n_max=60, imbalance_factor=10, n_test=20)


def counted(data):
    """Training images per class, nothing decoded."""
    return class_counts(data, data_files(Config(data=data)))


def assert_equal(a, b):
    for part in ("train", "test"):
        assert torch.equal(getattr(a, part).images, getattr(b, part).images)
        assert torch.equal(getattr(a, part).labels, getattr(b, part).labels)
    assert a.class_names == b.class_names


def as_set(images):
    return {image.numpy().tobytes() for image in images}


# --- digits


def test_digits_follow_the_profile():
    loaded = sources.load(DIGITS)
    expected = [int(60 * 10 ** (-c / 9) + 1e-6) for c in range(10)]
    assert expected[0] == 60 and expected[-1] == 6
    assert loaded.class_counts.tolist() == expected == counted(DIGITS)
    assert loaded.train.labels.tolist() == sorted(loaded.train.labels.tolist())
    assert loaded.train.images.dtype == torch.uint8 and loaded.train.images.shape[1:] == (1, 8, 8)
    assert loaded.train.images.min() == 0 and loaded.train.images.max() == 255


def test_digits_without_a_profile_are_all_that_the_test_set_leaves():
    data = Data(channels="gray", n_test=50)
    from sklearn.datasets import load_digits

    everything = Counter(load_digits().target.tolist())
    assert (
        sources.load(data).class_counts.tolist()
        == [everything[c] - 50 for c in range(10)]
        == counted(data)
    )


def test_the_digits_test_set_is_balanced_and_apart_from_training():
    from sklearn.datasets import load_digits

    loaded = sources.load(Data(channels="gray", n_test=20))
    assert torch.bincount(loaded.test.labels).tolist() == [20] * 10
    # every image of the package is in exactly one part
    parts = Counter(
        image.numpy().tobytes() for split in (loaded.train, loaded.test) for image in split.images
    )
    raw = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert parts == Counter(image.tobytes() for image in raw)
    assert not as_set(loaded.train.images) & as_set(loaded.test.images)


def test_validation_images_come_from_the_training_images_and_the_test_set_is_not_looked_at():
    data = dataclasses.replace(DIGITS, validation=0.2)
    all_of_them, loaded = sources.load(DIGITS), sources.load(data)
    expected = [max(1, round(0.2 * n)) for n in all_of_them.class_counts.tolist()]
    assert expected[-1] == 1 and expected[0] == 12
    assert torch.bincount(loaded.test.labels).tolist() == expected
    assert (
        loaded.class_counts.tolist()
        == counted(data)
        == [n - held for n, held in zip(all_of_them.class_counts.tolist(), expected)]
    )
    for c in range(10):  # each image is in one of the two parts, under its own label
        parts = [split.images[split.labels == c] for split in (loaded.train, loaded.test)]
        assert not as_set(parts[0]) & as_set(parts[1])
        assert as_set(torch.cat(parts)) == as_set(
            all_of_them.train.images[all_of_them.train.labels == c]
        )
    assert_equal(loaded, sources.load(data))
    assert data_fingerprint(Config(data=data)) != data_fingerprint(Config(data=DIGITS))


def test_validation_that_leaves_a_class_empty_is_named():
    data = dataclasses.replace(DIGITS, n_max=10, imbalance_factor=10, validation=0.2)
    with pytest.raises(ValueError, match=r"0\.2 of the 1 training images of class 7 leaves none"):
        sources.load(data)
    found = SUBJECT.check(
        {
            f"data.{name}": getattr(data, name)
            for name in ("channels", "n_max", "imbalance_factor", "n_test", "validation")
        }
    )
    assert [fault.key for fault in found] == ["data.validation"]


def test_the_digits_test_set_does_not_depend_on_the_profile_and_the_profiles_are_nested():
    wide, long = sources.load(Data(channels="gray", n_test=20)), sources.load(DIGITS)
    assert torch.equal(wide.test.images, long.test.images)
    longer = sources.load(dataclasses.replace(DIGITS, imbalance_factor=20))
    assert as_set(longer.train.images) < as_set(long.train.images) < as_set(wide.train.images)


def test_the_digits_are_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = sources.load(DIGITS)
    torch.manual_seed(2)
    assert_equal(first, sources.load(DIGITS))


@pytest.mark.parametrize(
    ("changes", "images", "fingerprint"),
    [
        ({}, "64e452ee03d8babb8542365de5893b75", "bf381332fa688e5ab94916873c5b6063"),
        (
            {"validation": 0.2},
            "c88ea4274480a547555cba04701f7d28",
            "294becb1a6bfb44a53a8c8d30b8fde77",
        ),
    ],
)
def test_a_fixed_split_holds_the_images_that_it_held_before_there_was_another(
    changes, images, fingerprint
):
    data = dataclasses.replace(DIGITS, **changes)
    for seed in (0, 7):
        content = hashlib.sha256()
        for split in sources.load(data, seed)[:2]:
            content.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
        assert content.hexdigest()[:32] == images
    assert data_fingerprint(Config(data=data)) == fingerprint
    per_seed = dataclasses.replace(data, split="seed")
    assert data_fingerprint(Config(data=per_seed)) != fingerprint


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_split_per_seed_draws_training_and_test_images_anew_with_the_same_counts(validation):
    data = dataclasses.replace(DIGITS, validation=validation, split="seed")
    first, second = sources.load(data, 1), sources.load(data, 2)
    assert_equal(first, sources.load(data, 1))  # whatever was drawn in between
    assert first.class_counts.tolist() == second.class_counts.tolist() == counted(data)
    assert torch.equal(first.test.labels, second.test.labels)
    for loaded in (first, second):
        assert not as_set(loaded.train.images) & as_set(loaded.test.images)
    for part in ("train", "test"):
        seen, other = (as_set(getattr(loaded, part).images) for loaded in (first, second))
        # chance alone draws some images twice
        assert len(seen & other) < 0.6 * len(seen)


def test_validation_images_of_a_split_per_seed_come_from_its_training_images():
    data = dataclasses.replace(DIGITS, split="seed")
    whole = sources.load(data, 5)
    loaded = sources.load(dataclasses.replace(data, validation=0.2), 5)
    assert as_set(torch.cat([loaded.train.images, loaded.test.images])) == as_set(
        whole.train.images
    )


def test_a_split_per_seed_draws_the_long_tail_of_a_folder_and_leaves_its_test_images(tmp_path):
    files = tree_of(train=(("ant", 20), ("bee", 20)), n_test=4)
    data = folder(written(tmp_path / "images", files), n_max=8, imbalance_factor=4.0, split="seed")
    first, second = sources.load(data, 1), sources.load(data, 2)
    assert first.class_counts.tolist() == second.class_counts.tolist() == [8, 2] == counted(data)
    assert as_set(first.train.images) != as_set(second.train.images)
    assert torch.equal(first.test.images, second.test.images)


def test_a_split_per_seed_of_a_profile_that_takes_every_image_is_refused(tmp_path):
    files = tree_of(train=(("ant", 5), ("bee", 5)), n_test=1)
    given = {
        "data.source": "folder",
        "data.path": str(written(tmp_path / "images", files)),
        "data.n_max": 5,
        "data.split": "seed",
    }
    (fault,) = SUBJECT.check(given)
    assert fault.key == "data.split"
    assert fault.message == (
        "seed, and no images are drawn: the profile takes all that there are; set data.split: fixed"
    )
    assert not SUBJECT.check(given | {"data.n_max": 4})
    assert not SUBJECT.check(given | {"data.validation": 0.2})


def test_the_description_of_a_split_per_seed_says_whose_images_they_are():
    config = Config(data=dataclasses.replace(DIGITS, split="seed"))
    (note,) = inspection.describe(config, sources.load(config.data)).notes
    assert note == "every seed draws its own training and test images; these are those of seed 0"


def test_too_many_digits_asked_for_is_said():
    with pytest.raises(
        ValueError, match="^data.n_test: 174 leaves a class without training images$"
    ):
        sources.load(Data(channels="gray", n_test=174))
    with pytest.raises(
        ValueError,
        match="^data.n_max: class 0 has 158 training images and the profile asks for 500$",
    ):
        sources.load(dataclasses.replace(DIGITS, n_max=500))
    with pytest.raises(
        ValueError,
        match="^data.imbalance_factor: 5 images of the largest class and an imbalance factor of 10 leave the smallest class empty$",
    ):
        sources.load(dataclasses.replace(DIGITS, n_max=5))


# --- folders and archives of images


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def tree_of(seed=0, size=4, train=(("zebra", 3), ("ant", 5), ("Bee", 2)), n_test=2):
    """name -> content of a small ImageFolder pair with random pixels."""
    rng = np.random.default_rng(seed)
    names = [f"train/{c}/{i}.png" for c, n in train for i in range(n)] + [
        f"test/{c}/{i}.png" for c, _ in train for i in range(n_test)
    ]
    return {name: png(rng.integers(0, 256, (size, size, 3))) for name in names}


def written(root: Path, files) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def packed(path: Path, files, prefix="") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder(path, **changes):
    return Data(source="folder", path=str(path), **changes)


def test_classes_are_the_folders_in_sorted_order(tmp_path):
    files = tree_of()
    data = folder(written(tmp_path / "images", files))
    loaded = sources.load(data)
    assert loaded.class_names == [
        "Bee",
        "ant",
        "zebra",
    ]  # by code point, as torchvision's ImageFolder
    assert (
        loaded.class_names
        == torchvision.datasets.ImageFolder(tmp_path / "images" / "train").classes
    )
    assert loaded.class_counts.tolist() == [2, 5, 3] == counted(data)
    assert loaded.train.labels.tolist() == [0] * 2 + [1] * 5 + [2] * 3
    assert loaded.test.labels.tolist() == [0] * 2 + [1] * 2 + [2] * 2
    first = np.asarray(Image.open(io.BytesIO(files["train/Bee/0.png"])))
    assert torch.equal(loaded.train.images[0], torch.from_numpy(first.copy()).permute(2, 0, 1))


def test_a_folder_and_an_archive_of_it_are_the_same_data(tmp_path):
    files = tree_of()
    unpacked = sources.load(folder(written(tmp_path / "images", files)))
    shuffled = dict(reversed(files.items()))  # the order within an archive does not count
    for prefix in ("", "./", "cifar/"):
        data = folder(packed(tmp_path / "images.tar.gz", shuffled, prefix))
        assert_equal(unpacked, sources.load(data))
        assert counted(data) == [2, 5, 3]


def test_files_that_are_no_images_by_name_are_passed_over(tmp_path):
    files = tree_of()
    extra = files | {
        "train/ant/notes.txt": b"five ants",
        "train/list.txt": b"",
        "README": b"",
        "val/ant/0.png": png(np.zeros((9, 9, 3))),
    }
    expected = sources.load(folder(written(tmp_path / "plain", files)))
    for path in (written(tmp_path / "extra", extra), packed(tmp_path / "extra.tar.gz", extra)):
        assert_equal(expected, sources.load(folder(path)))
        assert counted(folder(path)) == [2, 5, 3]


def test_images_are_counted_in_as_many_passes_for_many_classes_as_for_few(monkeypatch):
    class Images(dict):
        n_passes = 0

        def __iter__(self):
            self.n_passes += 1
            return super().__iter__()

    def passes(n_classes: int) -> int:
        places = [
            Place(part, f"{c:03d}", f"{i}.png")
            for part in PARTS
            for c in range(n_classes)
            for i in range(c + 1)
        ]
        images, folders = Images.fromkeys(places, Path()), frozenset(place[:2] for place in places)
        monkeypatch.setattr(
            counting, "listed", lambda path: Listing(path, images, {}, folders, (), PARTS)
        )
        assert class_counts(folder("images"), []) == list(range(1, n_classes + 1))
        return images.n_passes

    assert passes(30) == passes(3)


def test_a_profile_is_applied_to_a_folder(tmp_path):
    data = folder(
        written(tmp_path / "images", tree_of(train=(("a", 8), ("b", 8), ("c", 8)))),
        imbalance_factor=4,
    )
    loaded = sources.load(data)
    assert loaded.class_counts.tolist() == [8, 4, 2] == counted(data)
    assert torch.bincount(loaded.test.labels).tolist() == [2, 2, 2]  # the test set is left as it is


def test_flipping_the_channels_swaps_red_and_blue(tmp_path):
    path = written(tmp_path / "images", tree_of())
    plain, flipped = sources.load(folder(path)), sources.load(folder(path, flip_channels=True))
    for part in ("train", "test"):
        assert torch.equal(getattr(flipped, part).images, getattr(plain, part).images[:, [2, 1, 0]])
        assert torch.equal(getattr(flipped, part).labels, getattr(plain, part).labels)


def test_gray_folders_have_one_channel(tmp_path):
    loaded = sources.load(folder(written(tmp_path / "images", tree_of()), channels="gray"))
    assert loaded.train.images.shape == (10, 1, 4, 4)


def broken(kind):
    """A tree with one fault, and what is said of it after the name of the data set."""
    files = tree_of()
    if kind == "broken image":
        return files | {
            "train/ant/1.png": files["train/ant/1.png"][:40]
        }, r"train/ant/1\.png: not an image that can be read"
    if kind == "not an image":
        return files | {
            "test/zebra/0.png": b"zebra"
        }, r"test/zebra/0\.png: not an image that can be read"
    if kind == "differing sizes":
        return files | {
            "train/zebra/1.png": png(np.zeros((4, 5, 3)))
        }, r"train/zebra/1\.png: \(4, 5\) pixels where the others have \(4, 4\); set data\.size"
    raise AssertionError(kind)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("kind", ["broken image", "not an image", "differing sizes"])
def test_images_that_cannot_be_used_are_named(tmp_path, kind, form):
    files, message = broken(kind)
    path = (
        written(tmp_path / "mine", files)
        if form == "folder"
        else packed(tmp_path / "mine.tar.gz", files)
    )
    with pytest.raises(ValueError, match=f"^'{path}': {message}"):
        sources.load(folder(path))


def test_images_of_differing_sizes_can_be_resized(tmp_path):
    files, _ = broken("differing sizes")
    assert sources.load(folder(written(tmp_path / "mine", files), size=6)).train.images.shape == (
        10,
        3,
        6,
        6,
    )


@pytest.mark.parametrize(
    "content", [b"", b"not an archive", "truncated"], ids=["empty", "text", "truncated"]
)
def test_a_file_that_is_no_archive_is_named(tmp_path, content):
    if content == "truncated":
        content = packed(tmp_path / "whole.tar.gz", tree_of(size=30)).read_bytes()
        content = content[: len(content) // 2]
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^'{path}' is not a tar archive that can be read"):
        sources.load(folder(path))


def test_names_in_an_archive_cannot_leave_a_folder(tmp_path):
    path = packed(tmp_path / "mine.tar.gz", tree_of(), prefix="../../outside/")
    with pytest.raises(
        ValueError,
        match=r"mine.tar.gz' is not read: its member '../../outside/train/zebra/0.png' would be unpacked outside the folder$",
    ):
        sources.load(folder(path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.tar.gz"]


# --- CIFAR through torchvision


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    """Stands in for torchvision's CIFAR10: 50 training images of each class, in no order."""

    class Fake:
        classes = tuple(f"class {c}" for c in range(10))

        def __init__(self, root, train, download):
            rng = np.random.default_rng(int(train))
            self.targets = rng.permutation(np.repeat(np.arange(10), 50 if train else 3)).tolist()
            self.data = rng.integers(0, 256, (len(self.targets), 32, 32, 3), dtype=np.uint8)
            self.data[:, 0, 0, 0] = self.targets  # the label stands in the first red value
            asked.append((Path(root), train, download))

    asked = []
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Fake)
    written(tmp_path, {"cifar-10-batches-py/data_batch_1": b"images"})
    return Data(source="cifar10", path=str(tmp_path)), asked


def test_cifar_is_made_long_tailed_by_the_usual_profile(cifar):
    data, asked = cifar
    data = dataclasses.replace(data, imbalance_factor=10.0, n_max=40)
    loaded = sources.load(data)
    assert (
        loaded.class_counts.tolist()
        == [int(40 * 10 ** (-c / 9) + 1e-6) for c in range(10)]
        == counted(data)
    )
    assert torch.bincount(loaded.test.labels).tolist() == [3] * 10
    for split in (loaded.train, loaded.test):
        assert split.labels.tolist() == sorted(split.labels.tolist())
        assert split.images.shape[1:] == (3, 32, 32) and split.images.dtype == torch.uint8
        assert torch.equal(
            split.images[:, 0, 0, 0].long(), split.labels
        )  # images went with their labels, channels first
    assert loaded.class_names == [f"class {c}" for c in range(10)]
    assert asked == [(Path(data.path), True, False), (Path(data.path), False, False)]


def test_cifar_counts_are_known_without_its_files():
    data = Data(source="cifar10", path="elsewhere", download=True, imbalance_factor=100.0)
    assert counted(data) == CIFAR10_LT
    data = Data(source="cifar100", path="elsewhere", download=True, imbalance_factor=100.0)
    counts = counted(data)
    assert (counts[0], counts[-1], len(counts)) == (500, 5, 100)
    assert sum(counts) == 10847  # Cao et al. 2019


def test_the_profile_of_cifar10_lt():
    assert exponential_counts(5000, 10, 100) == CIFAR10_LT
    assert exponential_counts(5000, 10, 1) == [5000] * 10
    assert exponential_counts(7, 1, 100) == [7]


@pytest.mark.data
def test_the_counts_of_the_long_tailed_cifar10_archive(reference_data):
    assert counted(folder(Path("data/cifar10-lt-if100.tar.gz"))) == CIFAR10_LT


# --- bytes, cache, fingerprint


def test_a_data_set_survives_its_bytes():
    loaded = sources.load(DIGITS)
    loaded = loaded._replace(class_names=[f"zahl {c} äöü" for c in range(10)])
    assert_equal(sources.from_bytes(sources.to_bytes(loaded)), loaded)


def test_decoded_images_are_kept_in_the_store_and_decoded_once(tmp_path, monkeypatch):
    config = Config(data=folder(written(tmp_path / "images", tree_of())))
    store = MemoryStore()
    monkeypatch.setattr(trial, "_datasets", {})
    first = trial.load_dataset(config, 0, store)
    monkeypatch.setattr(trial, "_datasets", {})  # another process
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("decoded again"))
    assert_equal(trial.load_dataset(config, 1, store), first)  # a fixed split serves all seeds


def test_a_process_and_a_store_that_serve_two_seeds_give_each_its_own_split(tmp_path, monkeypatch):
    files = tree_of(train=(("ant", 9), ("bee", 9)), n_test=2)
    data = folder(written(tmp_path / "images", files), n_max=4, split="seed")
    expected = [sources.load(data, seed) for seed in (0, 1)]
    assert as_set(expected[0].train.images) != as_set(expected[1].train.images)
    config, store = Config(data=data), MemoryStore()
    monkeypatch.setattr(trial, "_datasets", {})
    for seed in (0, 1, 1, 0):
        assert_equal(trial.load_dataset(config, seed, store), expected[seed])
    monkeypatch.setattr(trial, "_datasets", {})  # another process
    monkeypatch.setattr(sources, "load", lambda *_: pytest.fail("decoded again"))
    for seed in (1, 0):
        assert_equal(trial.load_dataset(config, seed, store), expected[seed])


def test_the_fingerprint_of_the_data_follows_content_and_selection_not_the_place(tmp_path):
    def fingerprint(path, **changes):
        return data_fingerprint(Config(data=folder(path, **changes)))

    here, there = written(tmp_path / "here", tree_of()), written(tmp_path / "there", tree_of())
    assert fingerprint(here) == fingerprint(there)
    same = fingerprint(here)
    assert fingerprint(here, imbalance_factor=2.0) != same
    assert fingerprint(here, flip_channels=True) != same
    assert fingerprint(here, mean=(0.4,)) != same
    assert fingerprint(here, augmentation="none") == same  # augmentation is a setting of the epochs
    assert fingerprint(written(tmp_path / "other", tree_of(seed=1))) != same
    (there / "train" / "ant").rename(there / "train" / "wasp")
    assert fingerprint(there) != same
