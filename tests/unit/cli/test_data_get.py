"""`ablate data get`, from a git repository on this machine that has the shape of LDMLR's."""

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from ablation.cli.main import main
from ablation.errors import InputError, Unavailable
from ablation.grid import sources as data_sources
from ablation.grid.load import load_study
from ablation.grid.sources import read_sources
from ablation.subject.loading import load_subject
from core.config.schema import Config, Data
from core.data import sources
from core.planning.fingerprint import data_fingerprint

CLASSES = ("cat", "dög")
SHAPE = {"LT": 5, "TEST": 2, "OTHER": 3}  # images of each class in a folder of the repository


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory) -> Path:
    """A repository with images in a folder a class, an encoder, and much else."""
    root = tmp_path_factory.mktemp("upstream")
    seed = 0
    for folder, n in SHAPE.items():
        for label in CLASSES:
            for i in range(n):
                path = root / "data" / folder / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(seed := seed + 1))
    (root / "models").mkdir()
    (root / "models" / "net.checkpoint").write_bytes(b"weights" * 100)
    git(root, "init", "--quiet")
    git(root, "add", "-A")
    git(root, "commit", "--quiet", "-m", "all")
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    return root


def images(upstream: Path) -> dict[str, bytes]:
    """The files that are to come out, by their place in the archive."""
    parts = {"train": "LT", "test": "TEST"}
    return {
        f"{part}/{path.parent.name}/{path.name}": path.read_bytes()
        for part, folder in parts.items()
        for path in (upstream / "data" / folder).glob("*/*")
    }


def checksum(files: dict[str, bytes]) -> str:
    """As `sha256sum` and `sort` make it, by themselves."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n".encode() for name in files]
    return hashlib.sha256(b"".join(sorted(lines, key=lambda line: line[66:]))).hexdigest()


def described(upstream: Path) -> dict:
    files = images(upstream)
    weights = (upstream / "models" / "net.checkpoint").read_bytes()
    return {
        "title": "Cats and dogs",
        "repository": upstream.as_uri(),
        "revision": git(upstream, "rev-parse", "HEAD"),
        "licence": "ours",
        "files": {
            "data/pets.tar.gz": {
                "folders": {"train": "data/LT", "test": "data/TEST"},
                "n_files": len(files),
                "n_bytes": sum(map(len, files.values())),
                "sha256": checksum(files),
            },
            "pretrained/net.checkpoint": {
                "file": "models/net.checkpoint",
                "n_bytes": len(weights),
                "sha256": hashlib.sha256(weights).hexdigest(),
            },
        },
    }


@pytest.fixture
def source(upstream) -> dict:
    """What sources.yaml says of it; tests change it."""
    return described(upstream)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ABLATE_DATA", raising=False)
    (tmp_path / "experiments").mkdir()
    return tmp_path


def bring(project: Path, source: dict, name: str = "pets", say=lambda text: None) -> list[str]:
    said: list[str] = []
    (project / "experiments" / "sources.yaml").write_text(
        yaml.safe_dump({"pets": source}), encoding="utf-8"
    )
    data_sources.get(name, Path(), lambda text: (said.append(text), say(text)))
    return said


def left(project: Path) -> set[str]:
    """Files of the project but for its own sources.yaml."""
    return {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()} - {
        "experiments/sources.yaml"
    }


def test_the_files_come_out_whole_and_checked_and_nothing_else_is_left(project, upstream, source):
    said = bring(project, source)
    assert left(project) == {"data/pets.tar.gz", "pretrained/net.checkpoint"}
    assert sum("checksum right" in line for line in said) == 2
    with tarfile.open("data/pets.tar.gz") as archive:
        found = {m.name.removeprefix("pets/"): archive.extractfile(m).read() for m in archive}
    assert found == images(upstream)
    assert Path("pretrained/net.checkpoint").read_bytes() == b"weights" * 100
    loaded = sources.load(Data(source="folder", path="data/pets.tar.gz"))
    assert (loaded.class_names, loaded.class_counts.tolist()) == (list(CLASSES), [5, 5])


def test_it_is_below_the_folder_that_the_environment_names_and_experiments_find_it_there(
    project, source, tmp_path_factory, monkeypatch
):
    (project / "experiments" / "sources.yaml").write_text(
        yaml.safe_dump({"pets": source}), encoding="utf-8"
    )
    root = tmp_path_factory.mktemp("big disk")
    monkeypatch.setenv("ABLATE_DATA", str(root))
    done = CliRunner().invoke(main, ["data", "get", "pets"])
    assert done.exit_code == 0, done.output
    assert (root / "data" / "pets.tar.gz").is_file() and left(project) == set()
    assert sources.load(Data(source="folder", path="data/pets.tar.gz")).class_counts.tolist() == [
        5,
        5,
    ]


def test_the_archive_is_the_same_bytes_wherever_it_is_made(project, source):
    bring(project, source)
    first = Path("data/pets.tar.gz").read_bytes()
    Path("data/pets.tar.gz").unlink()
    bring(project, source)
    assert Path("data/pets.tar.gz").read_bytes() == first


def test_an_archive_of_other_making_with_the_same_images_is_there_already_and_has_the_same_fingerprint(
    project, upstream, source
):
    bring(project, source)
    config = Config(data=Data(source="folder", path="data/pets.tar.gz"))
    fingerprint = data_fingerprint(config)
    Path("data/pets.tar.gz").unlink()
    with tarfile.open("data/pets.tar.gz", "w:gz") as archive:
        for name, content in reversed(images(upstream).items()):
            member = tarfile.TarInfo(f"elsewhere/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    before = Path("data/pets.tar.gz").read_bytes()
    assert "data/pets.tar.gz: is there already, checksum right" in bring(project, source)
    assert Path("data/pets.tar.gz").read_bytes() == before
    assert data_fingerprint(config) == fingerprint


def test_only_what_was_asked_for_is_transferred(project, upstream, source, monkeypatch):
    monkeypatch.setattr(
        data_sources.shutil, "rmtree", lambda *_, **__: None
    )  # the clone stays, to be looked at
    bring(project, source)
    clone = project / ".ablate" / "downloads" / "pets" / "git"
    listing = ["rev-list", "--objects", "--missing=print", "--no-object-names", "HEAD"]
    listing[-1] = source["revision"]
    absent = {line[1:] for line in git(clone, *listing).splitlines() if line.startswith("?")}
    others = git(upstream, "ls-tree", "-r", "HEAD", "data/OTHER").splitlines()
    assert absent == {line.split()[2] for line in others}


@pytest.mark.parametrize("n_before", [1, 2, 3])
def test_a_transfer_that_was_stopped_goes_on_where_it_was(project, source, monkeypatch, n_before):
    monkeypatch.setattr(data_sources, "PER_TRANSFER", 4)
    at = f"getting pets: {4 * n_before} of 15 files"

    def stop(text):
        if text == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(project, source, say=stop)
    assert not any(name.startswith(("data", "pretrained")) for name in left(project))
    again = [text for text in bring(project, source) if text.startswith("getting")]
    assert again[0] == at and again[-1] == "getting pets: 15 of 15 files"
    assert left(project) == {"data/pets.tar.gz", "pretrained/net.checkpoint"}


@pytest.mark.parametrize("file", ["data/pets.tar.gz", "pretrained/net.checkpoint"])
def test_what_has_another_checksum_is_not_kept(project, source, file):
    source["files"][file]["sha256"] = "0" * 64
    with pytest.raises(
        InputError, match=f"^{file}: came from the repository with the checksum .* it was not kept"
    ):
        bring(project, source)
    assert file not in left(project) and not any(
        name.startswith(".ablate") and "git" in name for name in left(project)
    )


def test_a_folder_that_holds_other_files_than_published_is_named(project, source):
    source["files"]["data/pets.tar.gz"]["n_files"] = 13
    says = "pets.files.data/pets.tar.gz: data/\\w+, data/\\w+ of file://.* hold 14 files, and 13 are expected"
    with pytest.raises(InputError, match=says):
        bring(project, source)


@pytest.mark.parametrize("content", [b"mine", b"", b"\x1f\x8b"])
@pytest.mark.parametrize("file", ["data/pets.tar.gz", "pretrained/net.checkpoint"])
def test_another_file_in_the_way_is_left_and_named(project, source, file, content):
    path = project / file
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{file}: is there already and is another file"):
        bring(project, source)
    assert path.read_bytes() == content


def test_an_unknown_name_is_told_the_nearest(project, source):
    with pytest.raises(InputError, match="^pet: no such data set; did you mean 'pets'"):
        bring(project, source, "pet")


def no_repository(project, source, monkeypatch):
    source["repository"] = (project / "gone").as_uri()


def no_server(project, source, monkeypatch):
    source["repository"] = "http://127.0.0.1:9/repository"


def no_such_commit(project, source, monkeypatch):
    source["revision"] = "abcdef0123" * 4


def no_git(project, source, monkeypatch):
    monkeypatch.setenv("PATH", str(project))


def old_git(project, source, monkeypatch):
    (project / "git").write_text("#!/bin/sh\necho git version 2.11.0\n")
    (project / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (no_repository, "could not be fetched: .*; what has arrived is kept"),
        (no_server, "http://127.0.0.1:9/repository could not be fetched: .*(connect|refused)"),
        (no_such_commit, "could not be fetched"),
        (no_git, "git is not installed"),
        (old_git, r"git 2\.11 is too old; 2\.30 or newer"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_trouble_is_told_in_one_sentence_and_leaves_nothing_half_done(
    project, source, monkeypatch, trouble, says
):
    trouble(project, source, monkeypatch)
    with pytest.raises(Unavailable, match=says) as raised:
        bring(project, source)
    assert "\n" not in str(raised.value)
    assert not any(name.startswith(("data", "pretrained")) for name in left(project))


def test_the_command_lists_what_there_is_and_says_what_is_here(project, source):
    bring(project, source)
    Path("pretrained/net.checkpoint").unlink()
    done = CliRunner().invoke(main, ["data", "get"])
    assert done.exit_code == 0
    assert "pets  Cats and dogs" in done.output
    assert "  data/pets.tar.gz\n" in done.output
    assert "  pretrained/net.checkpoint  (not here)\n" in done.output


def test_an_experiment_whose_files_are_missing_says_where_it_looked_and_which_command_brings_them(
    project, source
):
    (project / "experiments" / "sources.yaml").write_text(
        yaml.safe_dump({"pets": source}), encoding="utf-8"
    )
    encoder = "{name: small-cnn, channels: rgb, checkpoint: pretrained/net.checkpoint}"
    settings = f"  data: {{source: folder, path: data/pets.tar.gz}}\n  encoder: {encoder}\n"
    Path("experiments/pets.yaml").write_text(
        f"title: Pets\nsettings:\n{settings}", encoding="utf-8"
    )
    grid = "study: g\nexperiment: pets\nseeds: 2\nfactors:\n  head:\n    a: {head.name: linear}\n    b: {head.name: cosine}\n"
    Path("experiments/g.yaml").write_text(grid, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_study("experiments/g.yaml", None, [], None, load_subject)
    for key, file in (
        ("data.path", "data/pets.tar.gz"),
        ("encoder.checkpoint", "pretrained/net.checkpoint"),
    ):
        looked = f"'{file}' is not there; looked for '{project / file}'"
        assert f"pets.yaml: settings.{key}: {looked}; `ablate data get pets` brings it" in str(
            raised.value
        )
    done = CliRunner().invoke(main, ["plan", "--grid", "g"])
    assert done.exit_code == 0 and "the study cannot be run yet" in done.output, done.output
    assert CliRunner().invoke(main, ["run", "--grid", "g", "--dry-run"]).exit_code == 2
    done = CliRunner().invoke(main, ["run", "--grid", "g"])
    assert done.exit_code == 2 and "ablate data get pets" in done.output
    assert not Path("runs").exists()


WRONG = [
    (
        {"repository": "ext::sh -c evil"},
        "pets.repository: 'ext::sh -c evil' is not the address of a git repository",
    ),
    ({"repository": "-uevil"}, "pets.repository: '-uevil' is not the address"),
    ({"revision": "main"}, "pets.revision: 'main' is not the 40 hex digits of a commit"),
    ({"revison": "x"}, "pets.revison: unknown key 'revison'; did you mean 'revision'?"),
    ({"files": {}}, "pets.files: is missing"),
    (
        {"files": {"../x": {"file": "a", "n_bytes": 1, "sha256": "0" * 64}}},
        "'../x' is not a relative path",
    ),
    (
        {"files": {"x": {"file": "../a", "n_bytes": 1, "sha256": "0" * 64}}},
        "'../a' is not a path inside the repository",
    ),
    (
        {"files": {"x": {"n_bytes": 1, "sha256": "0" * 64}}},
        "pets.files.x: needs either file or folders",
    ),
    (
        {"files": {"x": {"file": "a", "n_bytes": 0, "sha256": "0" * 64}}},
        "pets.files.x.n_bytes: 0 is not a number of bytes",
    ),
    (
        {"files": {"x": {"file": "a", "n_bytes": 1, "sha256": "abc"}}},
        "pets.files.x.sha256: 'abc' is not a SHA-256",
    ),
]


@pytest.mark.parametrize(
    ("change", "says"), WRONG, ids=lambda case: case if isinstance(case, str) else ""
)
def test_a_wrong_file_of_sources_is_named_key_by_key(project, source, change, says):
    Path("sources.yaml").write_text(yaml.safe_dump({"pets": source | change}), encoding="utf-8")
    with pytest.raises(InputError) as raised:
        read_sources(Path("sources.yaml"))
    assert f"sources.yaml: {says}" in str(raised.value) or says in str(raised.value)
