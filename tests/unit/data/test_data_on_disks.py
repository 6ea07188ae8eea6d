"""Data as they lie on disks: classes, images, what is left out, what is said of other layouts."""

import io
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from bad_inputs import images, png
from click.testing import CliRunner

from ablation.cli.main import main
from ablation.study import opening, placement
from core.config.schema import Config, Data
from core.data import listing, sources
from core.data.counting import class_counts
from core.data.layout import class_names, notes
from core.planning.fingerprint import data_files, data_fingerprint
from core.subject import SUBJECT

FORMS = ["folder", "archive"]
ENDINGS = ".bmp, .jpeg, .jpg, .png, .ppm, .webp"
WHERE = "images belong in train/<class>/ and test/<class>/"
NOT_UTF8 = os.fsdecode(b"caf\xe9")
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
SETTINGS = "method: joint, epochs: 2, encoder.name: small-cnn, pretraining.epochs: 1"
GRID = """\
study: own
experiment: own
metric: {name: test/top1, goal: maximize}
seeds: 1
factors:
  rate: {slow: {optim.lr.head: 1.0e-3}, fast: {optim.lr.head: 1.0e-2}}
"""


def written(path: Path, files) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def both(*names: str) -> dict[str, bytes]:
    """An image under each of these names in both parts."""
    return {f"{part}/{name}": png() for part in ("train", "test") for name in names}


def packed(path: Path, files) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def looked_at_in_this_process(monkeypatch):
    """What reads images before a study runs is no process of its own here; nothing is trained."""
    monkeypatch.setattr(opening, "_ask", opening.inspect)
    monkeypatch.setattr(placement, "Workers", lambda *_: pytest.fail("something is being trained"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(params=FORMS)
def on_disk(request, tmp_path, monkeypatch):
    """Put files on disk in this form, as d or d.tar.gz in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABLATE_DATA", raising=False)
    if request.param == "folder":
        return lambda files: written(Path("d"), files)
    return lambda files: packed(Path("d.tar.gz"), files)


def data(path: Path) -> Data:
    return Data(source="folder", path=str(path))


def counted(path: Path) -> list[int]:
    return class_counts(data(path), data_files(Config(data=data(path))))


def fingerprint(path: Path) -> str:
    return data_fingerprint(Config(data=data(path)))


def called(*command: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in command])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done.exit_code, done.output


def experiment(path: Path) -> str:
    data = f"{{source: folder, path: {path}}}"
    Path("own.yaml").write_text(f"settings: {{{SETTINGS}, data: {data}}}\n")
    Path("grid.yaml").write_text(GRID)
    return "own.yaml"


def refused(path: Path) -> str:
    """What is said of the data by all that reads them: the same, on one line, with exit code 2."""
    file = experiment(path)
    said = []
    commands = ["data", "describe", file], ["data", "verify", file], ["run", "--grid", "grid.yaml"]
    for command in commands:
        code, output = called(*command)
        line = output.removeprefix(f"{file}: settings.data.path: ")
        assert code == 2 and line != output and line.count("\n") == 1, output
        said.append(line)
    assert not Path("runs").exists()
    if path.is_file():
        code, line = called("data", "unpack", path, "unpacked")
        assert code == 2 and not Path("unpacked").exists()
        said.append(line)
    with pytest.raises(ValueError) as loading:
        sources.load(data(path))
    assert {*said, f"{loading.value}\n"} == {said[0]}
    return said[0].rstrip("\n")


def below(folder: str) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in images().items()}


# --- what is no class and no image

HIDDEN = {
    "folders of notebooks": ["train/.ipynb_checkpoints/0.png", "test/.ipynb_checkpoints/0.png"],
    "a folder of notebooks in one part": ["train/.ipynb_checkpoints/0.png"],
    "a folder of notebooks in a class": ["train/cat/.ipynb_checkpoints/0.png"],
    "what macOS leaves": ["train/cat/._0.png", "train/._cat", "train/.DS_Store", "._train"],
    "what macOS leaves in archives": ["__MACOSX/train/cat/._0.png", "train/__MACOSX/0.png"],
    "a repository": ["train/.git/0.png", ".git/train/cat/0.png"],
    "what a disk station leaves": ["train/@eaDir/0.png", "test/cat/@eaDir/0.png/thumb.jpg"],
}


@pytest.mark.parametrize("names", HIDDEN.values(), ids=HIDDEN)
def test_hidden_files_and_folders_are_no_classes_and_no_images(on_disk, names):
    plain = fingerprint(written(Path("plain"), images()))
    path = on_disk(images() | dict.fromkeys(names, b"\0\5\x16\7"))
    assert counted(path) == [2, 2] and fingerprint(path) == plain
    loaded = sources.load(data(path))
    assert loaded.class_names == ["cat", "dog"] and loaded.class_counts.tolist() == [2, 2]
    code, output = called("data", "describe", experiment(path))
    table = output[output.index("\nclass ") :].split("\n")
    assert code == 0
    assert [line.split() for line in table[2:]] == [["cat", "2", "2"], ["dog", "2", "2"], []]
    if path.is_file():
        assert called("data", "unpack", path, "unpacked") == (0, "8 images in unpacked\n")
        files = (file for file in Path("unpacked").rglob("*") if file.is_file())
        assert {file.relative_to("unpacked").as_posix() for file in files} == set(images())


def test_a_class_of_hidden_files_holds_no_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = written(Path("d"), images() | {"train/cow/._0.png": b"", "test/cow/0.png": png()})
    assert refused(path) == "'d': no images in train/cow/"


def test_an_archive_of_a_hidden_folder_is_read(tmp_path):
    path = packed(tmp_path / "d.tar", below(".cache/d"))
    assert counted(path) == [2, 2]


# --- files that are not looked for

LEFT_OUT = {
    "1 .tif, such as train/cat/2.tif": ["train/cat/2.tif"],
    "1 .tiff, such as train/cat/2.TIFF": ["train/cat/2.TIFF"],
    "2 .gif, 1 .npy, such as train/cat/2.gif": [
        "train/cat/2.gif",
        "train/cat/3.gif",
        "train/dog/4.npy",
    ],
    "1 without ending, such as test/dog/2": ["test/dog/2"],
    "1 '.png ', such as test/dog/2.png ": ["test/dog/2.png "],
}


@pytest.mark.parametrize("said", LEFT_OUT)
def test_files_that_are_not_looked_for_are_counted_by_ending(on_disk, said):
    path = on_disk(images() | dict.fromkeys(LEFT_OUT[said], b"pixels"))
    assert counted(path) == sources.load(data(path)).class_counts.tolist() == [2, 2]
    n = len(LEFT_OUT[said])
    files = "1 file is" if n == 1 else f"{n} files are"
    note = f"{files} left out, as images end in {ENDINGS}: {said}"
    file = experiment(path)
    for command in ("describe", "verify"):
        code, output = called("data", command, file)
        assert code == 0 and note in output
    if path.is_file():
        code, output = called("data", "unpack", path, "unpacked")
        assert code == 0
        assert output.startswith("8 images in unpacked, and files that are read as no images: ")
        assert notes(listing.listed(Path("unpacked"))) == notes(listing.listed(path))


@pytest.mark.parametrize("name", ["2.JPEG", "2.Jpg", "2.WEBP"])
def test_endings_are_looked_for_in_capitals_too(on_disk, name):
    path = on_disk(images() | {f"train/cat/{name}": png()})
    assert counted(path) == sources.load(data(path)).class_counts.tolist() == [3, 2]
    assert notes(listing.listed(path)) == []


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["0.tif", "1.tif"], "2 .tif are left out"),
        (["0.gif"], "1 .gif is left out"),
        (["0.npy", "1.npy", "a"], "2 .npy, 1 without ending are left out"),
    ],
)
def test_a_class_of_such_files_is_refused_with_their_endings(on_disk, names, what):
    files = {"train/cow/0.png": png()} | {f"test/cow/{name}": b"pixels" for name in names}
    path = on_disk(images() | files)
    said = f"'{path}': no images in test/cow/; {what}"
    assert refused(path) == f"{said}, as images end in {ENDINGS}"


def test_all_classes_of_such_files_are_named(on_disk):
    path = on_disk(images() | both("ant/0.gif", "bee/0.gif"))
    said = f"'{path}': no images in test/ant/, test/bee/, train/ant/ and train/bee/; 4 .gif are left out"
    assert refused(path) == f"{said}, as images end in {ENDINGS}"


@pytest.mark.parametrize(
    ("ending", "what"), [(".tif", "4 .tif"), (".npy", "4 .npy"), ("", "4 without ending")]
)
def test_a_data_set_of_such_files_is_refused_with_their_endings(on_disk, ending, what):
    path = on_disk(both(f"cat/0{ending}", f"dog/0{ending}"))
    folders = "test/cat/, test/dog/, train/cat/ and train/dog/"
    said = f"'{path}': no images in {folders}; {what} are left out"
    assert refused(path) == f"{said}, as images end in {ENDINGS}"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (png(size=64)[:60], "truncated"),
        (b"II*\0", "its content is not PNG, JPEG, BMP, WEBP or PPM"),
        (b"<html>", "its content is not PNG, JPEG, BMP, WEBP or PPM"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a pointer of Git LFS"),
    ],
    ids=["empty", "truncated", "TIFF", "a web page", "a pointer"],
)
@pytest.mark.parametrize(
    "name", ["1.png", "a\nb.png", NOT_UTF8 + ".png"], ids=["plain", "a line break", "not UTF-8"]
)
def test_an_image_that_cannot_be_read_is_named_on_one_line(on_disk, content, why, name):
    path = on_disk(images() | {f"train/cat/{name}": content})
    file, escaped = experiment(path), repr(name)[1:-1]
    said = {called("data", command, file) for command in ("describe", "verify")}
    [(code, output)] = said | {called("run", "--grid", "grid.yaml")}
    where = f"own.yaml: settings.data.path: '{path}': train/cat/{escaped}"
    assert code == 2 and output.startswith(f"{where}: not an image that can be read (")
    assert why in output and "0x" not in output and output.isascii() and output.count("\n") == 1


# --- folders inside classes, images outside, links, names


@pytest.mark.parametrize("inner", ["sub/0.png", "a/b/0.png", "9.png/1.png"])
def test_folders_inside_a_class_belong_to_it_as_for_torchvision(on_disk, inner):
    path = on_disk(images() | {f"train/cat/{inner}": png(shade=77)})
    assert counted(path) == sources.load(data(path)).class_counts.tolist() == [3, 2]
    note = "images in folders inside a class's folder count for the class: 1, such as train/cat"
    assert notes(listing.listed(path)) == [f"{note}/{inner}"]
    if path.is_file():
        assert called("data", "unpack", path, "unpacked")[0] == 0
        assert fingerprint(Path("unpacked")) == fingerprint(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/0.png"], "train/0.png is"),
        (["test/a b.JPG"], "test/a b.JPG is"),
        (["train/0.png", "test/1.png"], "test/1.png and train/0.png are"),
    ],
)
def test_images_beside_the_classes_are_refused(on_disk, names, said):
    path = on_disk(images() | dict.fromkeys(names, png()))
    assert refused(path) == f"'{path}': {said} in no class's folder; {WHERE}"


LINKS = {
    "to nothing": ("train/cat/2.png", "a", " is a link to 'a', which is not there"),
    "to no class": ("train/cow", "../cow", " is a link to '../cow', which is not there"),
    "to what it is in": ("train/cat/up", "../../train", " is a link to a folder that it stands in"),
    "to its own folder": ("test/dog/here", ".", " is a link to a folder that it stands in"),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_links_that_lead_nowhere_are_refused(tmp_path, monkeypatch, link):
    monkeypatch.chdir(tmp_path)
    name, target, said = link
    written(Path("d"), images())
    (Path("d") / name).symlink_to(target)
    assert refused(Path("d")) == f"'d/{name}'{said}"


def test_links_to_files_and_folders_are_followed(tmp_path):
    path, pool = tmp_path / "d", written(tmp_path / "pool", images())
    (path / "train" / "cat").mkdir(parents=True)
    (path / "test").symlink_to(pool / "test")
    (path / "train" / "dog").symlink_to(pool / "train" / "dog")
    for name in ("0.png", "1.png"):
        (path / "train" / "cat" / name).symlink_to(pool / "train" / "cat" / name)
    (path / "train" / ".#lock").symlink_to("nowhere")
    assert counted(path) == [2, 2] and fingerprint(path) == fingerprint(pool)
    assert sources.load(data(path)).class_counts.tolist() == [2, 2]


@pytest.mark.parametrize("name", ["d", "d/train", "d/test/cat", "d/train/cat/1.png"])
def test_what_may_not_be_read_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    file = experiment(written(Path("d"), images()))

    def guarded(original):
        def call(path, *rest):
            if Path(path) == Path(name):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *rest)

        return call

    monkeypatch.setattr(os, "scandir", guarded(os.scandir))
    monkeypatch.setattr("builtins.open", guarded(open))
    said = f"own.yaml: settings.data.path: '{name}' cannot be read: Permission denied\n"
    for command in (["data", "verify", file], ["run", "--grid", "grid.yaml"]):
        assert called(*command) == (2, said)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (NOT_UTF8, r"'test/caf\udce9'"),
        ("a\nb", r"'test/a\nb'"),
        ("a\x1b[2J", r"'test/a\x1b[2J'"),
        ("a\tb", r"'test/a\tb'"),
    ],
    ids=["not UTF-8", "a line break", "an escape sequence", "a tab"],
)
def test_a_class_whose_name_cannot_be_printed_is_refused(on_disk, label, said):
    path = on_disk(images() | both(f"{label}/0.png"))
    what = "holds a character that cannot be printed; rename it"
    assert refused(path) == f"'{path}': the name of the folder {said} {what}"


@pytest.mark.parametrize("label", [" cat ", "c" * 255, "naïve 猫", "it's", "-1", "a:b", "train"])
def test_other_odd_names_of_classes_work(on_disk, label):
    path = on_disk(images() | both(f"{label}/0.png"))
    loaded = sources.load(data(path))
    assert loaded.class_names == sorted(["cat", "dog", label])
    assert sources.from_bytes(sources.to_bytes(loaded)).class_names == loaded.class_names
    code, output = called("data", "describe", experiment(path))
    assert code == 0 and f"\n{label} " in output


@pytest.mark.parametrize("name", [NOT_UTF8 + ".png", "a\nb.png", " 0.png", "c" * 251 + ".png"])
def test_odd_names_of_images_work(on_disk, name):
    path = on_disk(images() | {f"train/cat/{name}": png()})
    assert counted(path) == sources.load(data(path)).class_counts.tolist() == [3, 2]
    if path.is_file():
        assert called("data", "unpack", path, "unpacked")[0] == 0
        assert fingerprint(Path("unpacked")) == fingerprint(path)


@pytest.mark.parametrize("name", ["train/cat/0.png", "./train/cat/0.png", "train/./cat/0.png"])
def test_of_two_members_with_one_name_the_last_counts_as_for_tar(tmp_path, name):
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        for called_so, content in [*images().items(), (name, png(shade=200))]:
            member = tarfile.TarInfo(called_so)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    loaded = sources.load(data(path))
    assert counted(path) == loaded.class_counts.tolist() == [2, 2]
    assert (loaded.train.images[0] == 200).any()
    code, _ = called("data", "unpack", path, tmp_path / "unpacked")
    assert code == 0 and fingerprint(tmp_path / "unpacked") == fingerprint(path)


# --- other layouts


def renamed(**parts: str) -> dict[str, bytes]:
    """Images with the parts' folders called otherwise."""
    split = {(*name.split("/", 1), content) for name, content in images().items()}
    return {f"{parts.get(part, part)}/{rest}": content for part, rest, content in split}


NEITHER = "no folder train/ and no folder test/ in '{}'"
PARTS = {
    "no folder test/ in '{}'; there is val/: rename it to test/": renamed(test="val"),
    "no folder test/ in '{}'; there is valid/: rename it to test/": renamed(test="valid"),
    "no folder test/ in '{}'; there is validation/: rename it to test/": renamed(test="validation"),
    "no folder test/ in '{}'; there is Test/: rename it to test/": renamed(test="Test"),
    "no folder test/ in '{}'; there is testing/: rename it to test/": renamed(test="testing"),
    "no folder train/ in '{}'; there is Train/: rename it to train/": renamed(train="Train"),
    "no folder train/ in '{}'; there is training/: rename it to train/": renamed(train="training"),
    f"{NEITHER}; there is TRAIN/: rename it to train/; there is VAL/: rename it to test/": (
        renamed(train="TRAIN", test="VAL")
    ),
    "no folder test/ in '{}'; there are Test/ and val/: rename one of them to test/": (
        renamed(test="val") | renamed(test="Test")
    ),
    f"no folder test/ in '{{}}'; it holds train/; {WHERE}": images("test"),
    f"{NEITHER}; it holds cat/ and dog/; {WHERE}": {
        name.removeprefix("train/"): content for name, content in images("test").items()
    },
    f"{NEITHER}; it holds no folders; {WHERE}": {},
}


@pytest.mark.parametrize("said", PARTS)
def test_a_part_that_is_missing_is_named_with_what_stands_in_its_place(on_disk, said):
    path = on_disk(PARTS[said])
    assert refused(path) == said.format(path)


def test_folders_that_are_not_read_are_noted(on_disk):
    path = on_disk(images() | renamed(test="val"))
    assert counted(path) == [2, 2]
    assert notes(listing.listed(path)) == [f"val/ is not read; {WHERE}"]


@pytest.mark.parametrize(
    ("files", "path", "where"),
    [
        (below("imagenet"), "d", "'d/imagenet': set data.path to this folder"),
        (below("a/b"), "d", "'d/a/b': set data.path to this folder"),
        (below("a") | below("b"), "d", "'d/a' and 'd/b': set data.path to one of these"),
        (images(), "d/train", "'d': set data.path to this folder"),
        (images(), "d/test/cat", "'d': set data.path to this folder"),
    ],
)
def test_a_path_above_or_below_the_data_set_says_where_it_is(
    tmp_path, monkeypatch, files, path, where
):
    monkeypatch.chdir(tmp_path)
    written(Path("d"), files)
    assert refused(Path(path)) == f"{NEITHER.format(path)}; train/ is in {where}"


@pytest.mark.parametrize("names", [["a.tar.gz"], ["a.tar", "b.tgz"], ["a.tar.xz"]])
def test_a_folder_that_holds_archives_names_them(tmp_path, monkeypatch, names):
    monkeypatch.chdir(tmp_path)
    written(Path("d"), dict.fromkeys(names, b"") | {"README": b""})
    archives = " and ".join(f"'d/{name}'" for name in names)
    said = f"it holds {archives}: set data.path to an archive"
    assert refused(Path("d")) == f"{NEITHER.format('d')}; {said}"


@pytest.mark.parametrize("name", ["d.zip", "d.tar.gz", "d"])
def test_a_zip_archive_is_named_as_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(name, "w") as archive:
        for file, content in images().items():
            archive.writestr(file, content)
    assert refused(Path(name)) == f"'{name}' is a zip archive; unpack it, or pack it as .tar.gz"


@pytest.mark.parametrize("prefix", ["imagenet", "a/b/c", "train", "test/data"])
def test_an_archive_is_read_wherever_in_it_the_parts_are(tmp_path, prefix):
    path = packed(tmp_path / "d.tar.gz", below(prefix))
    assert counted(path) == [2, 2]
    assert fingerprint(path) == fingerprint(packed(tmp_path / "plain.tar.gz", images()))


@pytest.mark.parametrize("places", [("a", "b"), ("a/x", "b"), ("v1/data", "v2/data")])
def test_an_archive_of_two_data_sets_is_refused(tmp_path, monkeypatch, places):
    monkeypatch.chdir(tmp_path)
    path = packed(Path("d.tar.gz"), below(places[0]) | below(places[1]))
    where = f"'{places[0]}/' and '{places[1]}/'"
    said = f"'d.tar.gz' holds more than one data set: train/ or test/ stand in {where}"
    assert refused(path) == said


ONE_EACH = "'{}' is in train/ alone; '{}' is in test/ alone"
FORMS_OF_CAFE = r"'cafe\u0301' and 'caf\xe9'"
ALONE = {
    "'zebra' is in test/ alone; a class needs images in both": ([], ["zebra"]),
    "'ant' and 'bee' are in train/ alone; 'zebra' is in test/ alone; a class needs images in both": (
        ["ant", "bee"],
        ["zebra"],
    ),
    "'0', '1', '2', '3', '4' and 4 more are in train/ alone; a class needs images in both": (
        list("012345678"),
        [],
    ),
    f"{ONE_EACH.format('Cow', 'cow')}; 'Cow' and 'cow' look alike: rename one": (["Cow"], ["cow"]),
    f"{ONE_EACH.format(' c', 'c')}; ' c' and 'c' look alike: rename one": ([" c"], ["c"]),
    f"{ONE_EACH.format(NFC, NFD)}; {FORMS_OF_CAFE} look alike: rename one": ([NFC], [NFD]),
}


@pytest.mark.parametrize("said", ALONE)
def test_classes_in_one_part_alone_are_named_with_the_part(on_disk, said):
    train, test = ALONE[said]
    names = [f"train/{label}/0.png" for label in train] + [f"test/{label}/0.png" for label in test]
    path = on_disk(images() | dict.fromkeys(names, png()))
    assert refused(path) == f"'{path}': {said}"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Cow", "cow"], "'Cow' and 'cow' look alike"),
        ([NFC, NFD], f"{FORMS_OF_CAFE} look alike"),
        (["cow", " cow"], "' cow' and 'cow' look alike"),
    ],
)
def test_classes_that_look_alike_are_noted(on_disk, names, said):
    path = on_disk(images() | both(*(f"{name}/0.png" for name in names)))
    assert len(class_names(listing.listed(path))) == 4
    assert notes(listing.listed(path)) == [f"the classes {said}"]
    assert f"note   the classes {said}\n" in called("data", "verify", experiment(path))[1]


def test_files_that_change_between_two_looks_are_listed_anew(tmp_path):
    path = written(tmp_path / "d", images())
    settings = {"data.source": "folder", "data.path": str(path)}
    assert SUBJECT.check(settings) == []
    (path / "train" / "cow").mkdir()
    assert [fault.key for fault in SUBJECT.check(settings)] == ["data.path"]


# --- a folder is looked at once for a whole study


def test_a_folder_is_listed_as_often_for_a_study_of_many_trials_as_for_one_of_two(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    experiment(written(Path("d"), images()))
    walked = []
    walk = listing._walk
    monkeypatch.setattr(listing, "_walk", lambda path: walked.append(path) or walk(path))
    opening.open_study(Path("grid.yaml"))
    n_two = len(walked)
    levels = ", ".join(f"r{n}: {{optim.lr.head: {n}.0e-3}}" for n in range(1, 6))
    Path("grid.yaml").write_text(f"{GRID.rpartition('  rate:')[0]}  rate: {{{levels}}}\n")
    planned = opening.open_study(Path("grid.yaml"), seeds="4")
    assert len(planned.plan.trials) == 20
    assert len(walked) == 2 * n_two


def test_images_that_change_between_two_plans_of_one_process_are_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment(written(Path("d"), images()))

    def keys() -> set[str]:
        return {spec.key for spec in opening.open_study(Path("grid.yaml")).plan.specs}

    before = keys()
    assert keys() == before
    Path("d/train/cat/new.png").write_bytes(png())
    assert not keys() & before
