"""A project as it should be, and what may be wrong with it: files, options, images, archives, checkpoints.

Each case: a name, a command, what it must say, and the files that differ from PROJECT (a path below the project's
folder -> its content, or a function that makes it). Whatever would be executed leaves a file CANARY.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from PIL import Image

CANARY = "canary"
Content = str | bytes | Callable[[Path], object]

GRID = """\
study: bad
experiment: digits
metric: {name: test/top1, goal: maximize}
seeds: 1
factors:
  rate: {slow: {optim.lr.head: 1.0e-3}, fast: {optim.lr.head: 1.0e-2}}
"""
SETTINGS = "method: joint, epochs: 2, encoder.name: small-cnn"
DIGITS = f"settings: {{{SETTINGS}, pretraining.epochs: 1, data: {{channels: gray}}}}\n"
IMAGES = f"settings: {{{SETTINGS}, pretraining.epochs: 1, data: {{source: folder, path: DATA}}}}\n"
WEIGHTS = f"settings: {{{SETTINGS}, encoder: {{checkpoint: FILE, channels: gray}}, data: {{channels: gray}}}}\n"


class Case(NamedTuple):
    name: str
    command: str
    said: str | tuple[str, ...]  # all of these, file and key or value
    files: Mapping[str, Content] = {}


def png(mode: str = "RGB", size: int = 8, shade: int = 9) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size), shade).save(file, "PNG")
    return file.getvalue()


def images(*without: str) -> dict[str, bytes]:
    """Two classes, two images each for training and testing."""
    names = [
        f"{part}/{label}/{i}.png"
        for part in ("train", "test")
        for label in ("cat", "dog")
        for i in range(2)
    ]
    return {
        name: png(shade=i) for i, name in enumerate(names) if not name.startswith(without or "/")
    }


PROJECT: dict[str, Content] = {
    "grid.yaml": GRID,
    "digits.yaml": DIGITS,
    "images.yaml": IMAGES.replace("DATA", "images"),
    "packed.yaml": IMAGES.replace("DATA", "images.tar.gz"),
    "pt.yaml": WEIGHTS.replace("FILE", "weights.pt"),
    "st.yaml": WEIGHTS.replace("FILE", "weights.safetensors"),
    **{f"images/{name}": content for name, content in images().items()},
}

# --- what the files may hold


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in images().items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def bomb() -> bytes:
    """A member that says it is a terabyte, behind honest ones; its content need not be there to be refused."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in images().items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
        tar.fileobj.write(member("train/cat/bomb.png", size=10**12).tobuf(tar.format))
    return file.getvalue()


def huge_png() -> bytes:
    """A header that asks for 30,000 x 30,000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", len(header))
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    return b"\x89PNG\r\n\x1a\n" + chunk


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {CANARY}",)


def zipped_pickle(content: object) -> bytes:
    """As torch.save writes, with any pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("weights/version", "3\n")
        archive.writestr("weights/byteorder", "little")
    return file.getvalue()


def saved(weights: object) -> bytes:
    file = io.BytesIO()
    torch.save(weights, file)
    return file.getvalue()


def encoder(**changed: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Weights of the small CNN for gray images, some of them changed or (None) left out."""
    from core.networks.encoders import build_encoder

    weights = build_encoder("small-cnn", 1).state_dict() | {
        name.replace("_", ".", 2): tensor for name, tensor in changed.items()
    }
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


def laughs(n: int = 9) -> str:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    return (
        "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, n)])
        + "\n"
    )


# --- the cases

RUN = "run --grid grid.yaml"
CALL = f'!!python/object/apply:os.system ["touch {CANARY}"]'

YAML = [
    Case(
        "code in a grid",
        RUN,
        ("grid.yaml", "line 1", "python/object/apply:os.system"),
        {"grid.yaml": f"study: {CALL}\n" + GRID[11:]},
    ),
    Case(
        "code in an experiment",
        RUN,
        ("digits.yaml", "line 1", "python/object/apply:os.system"),
        {"digits.yaml": f"title: {CALL}\n" + DIGITS},
    ),
    Case(
        "code in published numbers",
        RUN,
        ("published.yaml", "python/object/apply:os.system"),
        {"published.yaml": f"a: {CALL}\n"},
    ),
    Case(
        "code in an option",
        RUN + f" -S epochs={CALL.split(' ')[0]}",
        ("-S: epochs", "python/object/apply:os.system"),
    ),
    Case(
        "a name of Python's",
        RUN,
        ("grid.yaml", "python/name:os.system"),
        {"grid.yaml": GRID.replace("bad", "!!python/name:os.system")},
    ),
    Case(
        "a billion laughs",
        RUN,
        ("grid.yaml", "line 1", "anchors (&) and aliases (*)"),
        {"grid.yaml": laughs()},
    ),
    Case(
        "a billion laughs in an experiment",
        RUN,
        ("digits.yaml", "anchors (&) and aliases (*)"),
        {"digits.yaml": laughs()},
    ),
    Case(
        "an alias",
        RUN,
        ("grid.yaml", "line 4", "anchors (&)"),
        {"grid.yaml": GRID.replace("seeds: 1", "seeds: *n")},
    ),
    Case(
        "a merge key",
        RUN,
        ("grid.yaml", "factors.rate.<<"),
        {"grid.yaml": GRID.replace("slow:", "<<:")},
    ),
    Case(
        "a key twice",
        RUN,
        ("grid.yaml", "seeds", "line 7", "twice"),
        {"grid.yaml": GRID + "seeds: 2\n"},
    ),
    Case(
        "a level twice",
        RUN,
        ("grid.yaml", "factors.rate.slow", "twice"),
        {"grid.yaml": GRID.replace("fast:", "slow:")},
    ),
    Case(
        "deep nesting",
        RUN,
        ("grid.yaml", "nested deeper than"),
        {"grid.yaml": GRID + "settings: " + "{a: " * 5000 + "1" + "}" * 5000},
    ),
    Case(
        "deep nesting in blocks",
        RUN,
        ("digits.yaml", "nested deeper than"),
        {"digits.yaml": "".join(f"{' ' * i}a:\n" for i in range(400))},
    ),
    Case(
        "an endless number",
        RUN,
        ("grid.yaml", "seeds", "18 digits"),
        {"grid.yaml": GRID.replace("seeds: 1", "seeds: " + "9" * 5000)},
    ),
    Case(
        "not a number",
        RUN,
        ("digits.yaml", "settings.epochs", ".nan"),
        {"digits.yaml": DIGITS.replace("epochs: 2", "epochs: .nan")},
    ),
    Case("a NUL byte", RUN, ("grid.yaml", "U+0000"), {"grid.yaml": GRID + "question: a\0b\n"}),
    Case(
        "an escaped NUL in a path",
        RUN,
        ("digits.yaml", "settings.data.path"),
        {"digits.yaml": IMAGES.replace("DATA", '"images\\0"')},
    ),
    Case(
        "an escape sequence of terminals",
        RUN,
        ("grid.yaml", "U+001B"),
        {"grid.yaml": GRID + "question: \x1b[2J\n"},
    ),
    Case(
        "not UTF-8",
        RUN,
        ("grid.yaml", "line 7", "not UTF-8"),
        {"grid.yaml": GRID.encode() + b"question: \xff\xfe\n"},
    ),
    Case("UTF-16", RUN, ("grid.yaml", "not UTF-8"), {"grid.yaml": GRID.encode("utf-16")}),
    Case(
        "a tab",
        RUN,
        ("grid.yaml", "line 6", "tab"),
        {"grid.yaml": GRID.replace("  rate", "\trate")},
    ),
    Case(
        "two documents", RUN, ("grid.yaml", "single document"), {"grid.yaml": GRID + "---\n" + GRID}
    ),
    Case("an empty grid", RUN, ("grid.yaml", "empty"), {"grid.yaml": ""}),
    Case("a large grid", RUN, ("grid.yaml", "larger than"), {"grid.yaml": GRID + "#" * 10**6}),
    Case("a list", RUN, ("grid.yaml", "must hold a mapping"), {"grid.yaml": "- study: bad\n"}),
    Case("an image for a grid", RUN, ("grid.yaml", "not UTF-8"), {"grid.yaml": png()}),
    Case("a folder for a grid", RUN, ("grid.yaml", "directory"), {"grid.yaml": folder}),
    Case("a pipe for a grid", RUN, ("grid.yaml", "is no file"), {"grid.yaml": pipe}),
    Case("a pipe for an experiment", RUN, ("digits.yaml", "is no file"), {"digits.yaml": pipe}),
    Case(
        "a link to itself", RUN, ("grid.yaml", "cannot be read"), {"grid.yaml": link("grid.yaml")}
    ),
    Case(
        "a link to nothing", RUN, ("grid.yaml", "no such file"), {"grid.yaml": link("nowhere.yaml")}
    ),
    Case("an endless device", "run --grid /dev/zero", ("zero", "is no file")),
    Case("no such grid", "plan --grid gird.yaml", ("gird.yaml", "did you mean 'grid.yaml'?")),
    Case(
        "an experiment for a grid",
        "plan --grid digits.yaml",
        ("digits.yaml", "is an experiment, not a grid"),
    ),
    Case(
        "a grid for an experiment",
        RUN + " --experiment grid",
        ("grid.yaml", "is a grid, not an experiment"),
    ),
    Case(
        "broken published numbers",
        RUN,
        ("published.yaml", "digits[0].top1", "101"),
        {"published.yaml": "digits: [{method: CE, top1: 101, protocol: a, source: b}]\n"},
    ),
]

NAMES = [
    Case(
        "a study that leaves the folder",
        RUN,
        ("grid.yaml", "study", "'../../bad'"),
        {"grid.yaml": GRID.replace("bad", "../../bad")},
    ),
    Case(
        "an absolute study",
        RUN,
        ("grid.yaml", "study", "'/tmp/bad'"),
        {"grid.yaml": GRID.replace("bad", "/tmp/bad")},
    ),
    Case(
        "a study called dots",
        RUN,
        ("grid.yaml", "study", "'..'"),
        {"grid.yaml": GRID.replace("bad", "..")},
    ),
    Case(
        "a study with a line break",
        RUN,
        ("grid.yaml", "study"),
        {"grid.yaml": GRID.replace("bad", '"bad\\n"')},
    ),
    Case(
        "a factor with a slash",
        RUN,
        ("grid.yaml", "'../rate'"),
        {"grid.yaml": GRID.replace("rate:", "../rate:")},
    ),
    Case(
        "a level with a slash",
        RUN,
        ("grid.yaml", "factors.rate", "'../fast'"),
        {"grid.yaml": GRID.replace("fast:", "../fast:")},
    ),
    Case(
        "a level called dots",
        RUN,
        ("grid.yaml", "factors.rate", "'..'"),
        {"grid.yaml": GRID.replace("fast:", "..:")},
    ),
    Case(
        "an arm with a slash",
        RUN,
        ("grid.yaml", "'../../more'"),
        {"grid.yaml": GRID + "arms: {../../more: {epochs: 3}}\n"},
    ),
    Case(
        "an endless name",
        RUN,
        ("grid.yaml", "study"),
        {"grid.yaml": GRID.replace("bad", "b" * 300)},
    ),
    Case(
        "a data set with a slash",
        RUN,
        ("digits.yaml", "dataset", "'../x'"),
        {"digits.yaml": "dataset: ../x\n" + DIGITS},
    ),
    Case(
        "an experiment that is not there",
        RUN,
        ("shadow.yaml", "no such file"),
        {"grid.yaml": GRID.replace("digits", "../../../etc/shadow.yaml")},
    ),
    Case(
        "an experiment called like no file",
        RUN + " --experiment ../bad/own",
        ("own", "no such file"),
    ),
    Case("an alias that leaves the folder", RUN + " --as ../x", ("--as", "../x")),
    Case("an absolute alias", RUN + " --as /tmp/x", ("--as", "/tmp/x")),
    Case("a hidden alias", RUN + " --as .x", ("--as", ".x")),
    Case("an empty alias", RUN + " --as=", ("--as", "a name")),
    Case("an endless alias", RUN + " --as " + "a" * 300, ("--as", "at most 100")),
]

SUBJECTS = [
    Case(
        "a subject that is an expression",
        RUN,
        ("digits.yaml", "subject", "__import__"),
        {"digits.yaml": DIGITS + f"subject: \"__import__('os').system('touch {CANARY}')\"\n"},
    ),
    Case(
        "a subject that is no function of Python's",
        RUN,
        ("digits.yaml", "subject", "os:environ"),
        {"digits.yaml": DIGITS + "subject: os:environ\n"},
    ),
    Case(
        "a subject that is not there",
        RUN,
        ("digits.yaml", "subject", "'nowhere'"),
        {"digits.yaml": DIGITS + "subject: nowhere:train\n"},
    ),
    Case(
        "a subject without that function",
        RUN,
        ("digits.yaml", "subject", "'trian'"),
        {
            "digits.yaml": DIGITS + "subject: own_code:trian\n",
            "own_code.py": "def train(config, seed, report): ...\n",
        },
    ),
    Case(
        "a subject that does not parse",
        RUN,
        ("digits.yaml", "subject", "'own_syntax'"),
        {"digits.yaml": DIGITS + "subject: own_syntax:train\n", "own_syntax.py": "def train(:\n"},
    ),
    Case(
        "a subject that fails to load",
        RUN,
        ("digits.yaml", "subject", "'own_failing'", "ZeroDivisionError"),
        {"digits.yaml": DIGITS + "subject: own_failing:train\n", "own_failing.py": "1 / 0\n"},
    ),
]

OPTIONS = [
    Case("an unknown setting", RUN + " -S epohcs=3", ("-S: epohcs", "did you mean 'epochs'?")),
    Case("no value", RUN + " -S epochs=", ("-S: epochs", "no value")),
    Case("no equals sign", RUN + " -S epochs", ("-S: epochs", "is not key=value")),
    Case("a setting twice", RUN + " -S epochs=1 -S epochs=2", ("-S: epochs", "twice")),
    Case("a value of another type", RUN + " -S epochs=many", ("-S: epochs", "'many'")),
    Case("half an epoch", RUN + " -S epochs=1.5", ("-S: epochs", "1.5")),
    Case("too small a value", RUN + " -S epochs=-1", ("-S: epochs", "-1 is too small")),
    Case("an infinite value", RUN + " -S optim.lr.encoder=.inf", ("-S: optim.lr.encoder", ".inf")),
    Case("a list for a value", RUN + " -S epochs=[1,2]", ("-S: epochs", "[1, 2]")),
    Case("a mapping for a choice", RUN + " -S routing={a:1}", ("-S: routing",)),
    Case(
        "a choice that is none",
        RUN + " -S routing=decuopled",
        ("-S: routing", "did you mean 'decoupled'?"),
    ),
    Case("unclosed", RUN + " -S epochs=[1", ("-S: epochs", "line 1")),
    Case("an empty key", RUN + " -S =1", ("-S", "empty")),
    Case("a section", RUN + " -S optim=1", ("-S: optim", "is a section")),
    Case("no seeds", RUN + " --seeds 0", ("--seeds", "0 is not a number of seeds")),
    Case("seeds below zero", RUN + " --seeds=-1,2", ("--seeds", "-1 is not a seed")),
    Case("a seed twice", RUN + " --seeds 3,3", ("--seeds", "3 is there twice")),
    Case("seeds in words", RUN + " --seeds three", ("--seeds", "'three'")),
    Case("too many seeds", RUN + " --seeds 1001", ("--seeds", "1001")),
    Case("endless seeds", RUN + " --seeds " + "9" * 400, ("--seeds", "18 digits")),
    Case("seeds that are no YAML", RUN + " --seeds [1", ("--seeds", "line 1")),
    Case("no jobs", RUN + " --jobs 0", ("--jobs", "0 is not in the range")),
    Case("jobs in words", RUN + " --jobs all", ("--jobs", "'all'")),
    Case("no size", RUN + " --cache-size abc", ("--cache-size", "abc")),
    Case("a size below zero", RUN + " --cache-size=-1GB", ("--cache-size", "-1GB")),
    Case(
        "an endless size",
        RUN + " --cache-size " + "9" * 400 + "TB",
        ("--cache-size", "is not a size"),
    ),
    Case("a size in other digits", RUN + " --cache-size ٣GB", ("--cache-size", "is not a size")),
    Case("an unknown option", RUN + " --job 3", ("--job", "No such option")),
    Case("no grid", "run", ("--grid", "Missing option")),
    Case("a command that is none", "rnu", ("rnu", "No such command")),
]

COMMANDS = [
    Case("status of no study", "status bda", ("bda", "no such study")),
    Case("status outside", "status ../../etc", ("../../etc", "no such study")),
    Case("status without any", "status", ("STUDY", "no study in runs/")),
    Case("report of no study", "report bda", ("bda", "no such study")),
    Case("report outside", "report ../images", ("../images", "no such study")),
    Case("sync of no study", "sync bda", ("bda", "no such study")),
    Case(
        "a damaged manifest, status",
        "status torn",
        ("runs/torn/study.json", "damaged"),
        {"runs/torn/study.json": '{"study": "torn", '},
    ),
    Case(
        "a damaged manifest, report",
        "report torn",
        ("runs/torn/study.json", "damaged"),
        {"runs/torn/study.json": "[" * 10**5},
    ),
    Case(
        "a damaged manifest, sync",
        "sync torn",
        ("runs/torn/study.json", "damaged"),
        {"runs/torn/study.json": b"\xff\xfe\0"},
    ),
    Case(
        "a damaged manifest, compare",
        "compare torn torn",
        ("torn", "damaged"),
        {"runs/torn/study.json": "{}"},
    ),
    Case("a table of no study", "table bda", ("bda", "no such report")),
    Case("a table outside", "table ../images", ("../images", "no such report")),
    Case(
        "a part that is none",
        "table own arsm",
        ("own", "arsm", "did you mean 'arms'?"),
        {"reports/own/results.csv": "trial,arm,seed,state,test/top1\n"},
    ),
    Case(
        "a table of anything",
        "table own",
        ("reports/own/results.csv",),
        {"reports/own/results.csv": png()},
    ),
    Case(
        "a table of nothing",
        "table own",
        ("reports/own/results.csv",),
        {"reports/own/results.csv": ""},
    ),
    Case(
        "a table of other columns",
        "table own",
        ("reports/own/results.csv",),
        {"reports/own/results.csv": "a,b\n1,2\n"},
    ),
    Case(
        "a comparison of anything",
        "compare own:a own:b",
        ("reports/own/results.csv",),
        {"reports/own/results.csv": "a,b\n1,2\n"},
    ),
    Case("a check of nothing", "table --check", ("--check", "needs --into")),
    Case(
        "a study beside a file",
        "table own --into README.md",
        ("--into", "README.md"),
        {"README.md": ""},
    ),
    Case("into no file", "table --into nowhere.md", ("nowhere.md", "No such file")),
    Case("into a folder", "table --into images", ("images", "cannot be read or written")),
    Case(
        "into an image",
        "table --into images/train/cat/0.png",
        ("images/train/cat/0.png", "not UTF-8"),
    ),
    Case(
        "a block that is not closed",
        "table --into README.md",
        ("README.md: line 1", "not closed"),
        {"README.md": "<!-- ablate table own -->\n"},
    ),
    Case(
        "a block outside",
        "table --into README.md",
        ("README.md: line 1", "no such report"),
        {"README.md": "<!-- ablate table ../../etc -->\n<!-- /ablate table -->\n"},
    ),
    Case("a comparison of no studies", "compare bda bad", ("bda", "no study 'bda'")),
    Case("a comparison outside", "compare ../../etc:a ../../etc:b", ("../../etc", "no study")),
    Case("a comparison in no study", "compare a b --study bda", ("--study", "bda")),
    Case("a comparison of numbers", "compare published:a published:b", ("published:a",)),
    Case("one side", "compare a", ("Missing argument", "B")),
    Case("no port", "ui --port 0", ("--port", "0 is not in the range")),
    Case("too large a port", "ui --port 65536", ("--port", "65536 is not in the range")),
    Case("a port in words", "ui --port http", ("--port", "'http'")),
    Case("a cache of no size", "cache trim --size little", ("--size", "little")),
    Case("a cache without a size", "cache trim", ("--size", "Missing option")),
    Case("data of nothing", "data describe nowhere.yaml", ("nowhere.yaml", "no such file")),
    Case("data of a grid", "data verify grid.yaml", ("grid.yaml", "is a grid")),
    Case(
        "data under a wrong setting",
        "data verify digits.yaml -S data.n_tset=3",
        ("-S: data.n_tset", "did you mean 'data.n_test'?"),
    ),
    Case(
        "too many test images",
        "data describe digits.yaml -S data.n_test=500",
        ("-S: data.n_test", "500"),
    ),
    Case("a file for a folder of runs", RUN, ("runs", "is a file"), {"runs": "", "reports": ""}),
]

LOOK, IMAGE_RUN = "data verify images.yaml", RUN + " --experiment images"
ODD = "images/train/cat/1.png"


def both(name: str, said: tuple[str, ...], files: Mapping[str, Content]) -> list[Case]:
    """Found by whoever looks at the data, and by whoever would train on it."""
    return [
        Case(f"{name}, {word}", command, said, files)
        for word, command in (("looked at", LOOK), ("run", IMAGE_RUN))
    ]


DATA = [
    *both(
        "a truncated image", ("images.yaml", "data", "train/cat/1.png"), {ODD: png(size=64)[:60]}
    ),
    *both("a text for an image", ("images.yaml", "data", "train/cat/1.png"), {ODD: "cat"}),
    *both("an empty image", ("images.yaml", "data", "train/cat/1.png"), {ODD: b""}),
    *both(
        "an image of another size",
        ("images.yaml", "data", "train/cat/1.png", "data.size"),
        {ODD: png(size=9)},
    ),
    *both(
        "an image of 16 bits",
        ("images.yaml", "data", "train/cat/1.png", "8 bits"),
        {ODD: png("I;16")},
    ),
    *both(
        "an image that would fill the memory",
        ("images.yaml", "data", "train/cat/1.png"),
        {ODD: huge_png()},
    ),
    *both(
        "a program for an image",
        ("images.yaml", "data", "train/cat/1.png"),
        {ODD: "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(canary) (w) file\n"},
    ),
    *both(
        "an empty class",
        ("images.yaml", "settings.data.path", "train/cow/", "'cow'"),
        {"images/train/cow": folder},
    ),
    *both(
        "a class without test images",
        ("images.yaml", "settings.data.path", "'cow'"),
        {"images/train/cow/0.png": png()},
    ),
    *both(
        "a class without training images",
        ("images.yaml", "settings.data.path", "'cow'"),
        {"images/test/cow/0.png": png()},
    ),
    *both(
        "a class of texts",
        ("images.yaml", "settings.data.path", "'cow'"),
        {"images/train/cow/0.txt": "moo", "images/test/cow/0.png": png()},
    ),
    *both(
        "a file for a class",
        ("images.yaml", "settings.data.path", "'cow'"),
        {"images/train/cow": "moo", "images/test/cow/0.png": png()},
    ),
    *both(
        "an image of no class",
        ("images.yaml", "settings.data.path", "train/0.png"),
        {"images/train/0.png": png()},
    ),
    *both(
        "a pipe for an image",
        ("images.yaml", "settings.data.path", "'cow'"),
        {"images/train/cow/0.png": pipe, "images/test/cow/0.png": png()},
    ),
    Case(
        "no folder of images",
        IMAGE_RUN,
        ("images.yaml", "settings.data.path", "'nowhere'"),
        {"images.yaml": IMAGES.replace("DATA", "nowhere")},
    ),
    Case(
        "a folder without images",
        IMAGE_RUN,
        ("images.yaml", "settings.data.path", "'empty'"),
        {"images.yaml": IMAGES.replace("DATA", "empty"), "empty/README": ""},
    ),
    Case(
        "a file for a folder of images",
        IMAGE_RUN,
        ("images.yaml", "settings.data.path", "'digits.yaml'"),
        {"images.yaml": IMAGES.replace("DATA", "digits.yaml")},
    ),
]


def archived(name: str, said: str, content: bytes) -> list[Case]:
    """Unpacked, looked at, and trained on."""
    commands = {
        "unpacked": "data unpack images.tar.gz unpacked",
        "looked at": "data describe packed.yaml",
        "run": RUN + " --experiment packed",
    }
    return [
        Case(f"{name}, {word}", command, ("images.tar.gz", said), {"images.tar.gz": content})
        for word, command in commands.items()
    ]


ARCHIVES = [
    *archived("no archive", "not a tar archive", b"images"),
    *archived("an empty archive", "not a tar archive", b""),
    *archived("a truncated archive", "not a tar archive", packed()[:200]),
    *archived("a damaged archive", "not a tar archive", packed()[:-8] + b"checksum"),
    *archived(
        "a member that leaves the folder",
        "'../../etc/train/cat/0.png'",
        packed((member("../../etc/train/cat/0.png"), b"")),
    ),
    *archived(
        "a member that leaves it later",
        "'train/cat/../../../x'",
        packed((member("train/cat/../../../x"), b"")),
    ),
    *archived(
        "an absolute member",
        "'/etc/train/cat/0.png'",
        packed((member("/etc/train/cat/0.png"), b"")),
    ),
    *archived(
        "a link outside",
        "'train/cat/2.png' is a link to '/etc/passwd'",
        packed((member("train/cat/2.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")),
    ),
    *archived(
        "a hard link outside",
        "'x' is a link to '../../x'",
        packed((member("x", type=tarfile.LNKTYPE, linkname="../../x"), b"")),
    ),
    *archived(
        "a device",
        "'train/cat/2.png' is a device",
        packed((member("train/cat/2.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b"")),
    ),
    *archived(
        "a pipe",
        "'train/cat/2.png' is a device",
        packed((member("train/cat/2.png", type=tarfile.FIFOTYPE), b"")),
    ),
    *archived("a bomb", "'train/cat/bomb.png' has 1000000000000 bytes", bomb()),
    Case(
        "an archive of something else",
        "data unpack images.tar.gz unpacked",
        ("images.tar.gz", "no folder train/"),
        {"images.tar.gz": lambda path: tarfile.open(path, "w:gz").close()},
    ),
    Case(
        "no such archive",
        "data unpack nowhere.tar.gz unpacked",
        ("nowhere.tar.gz", "is not a file"),
    ),
    Case(
        "into a file",
        "data unpack images.tar.gz grid.yaml",
        ("grid.yaml", "cannot be written"),
        {"images.tar.gz": packed()},
    ),
]

PT, ST = RUN + " --experiment pt", RUN + " --experiment st"
SAID_PT, SAID_ST = (
    ("pt.yaml", "settings.encoder.checkpoint", "'weights.pt'"),
    ("st.yaml", "settings.encoder.checkpoint", "'weights.safetensors'"),
)

CHECKPOINTS = [
    Case("code in a pickle", PT, SAID_PT, {"weights.pt": pickle.dumps(Code())}),
    Case(
        "code in an old pickle",
        PT,
        SAID_PT,
        {"weights.pt": pickle.dumps({"state_dict": Code()}, protocol=0)},
    ),
    Case("code in a checkpoint", PT, SAID_PT, {"weights.pt": zipped_pickle(Code())}),
    Case(
        "code beside weights",
        PT,
        SAID_PT,
        {"weights.pt": zipped_pickle({"state_dict": {"model": {}}, "more": Code()})},
    ),
    Case(
        "code behind the ending of safe tensors",
        ST,
        SAID_ST,
        {"weights.safetensors": pickle.dumps(Code())},
    ),
    Case("a checkpoint that is not there", PT, (*SAID_PT, "is not there; looked for")),
    Case("a folder for a checkpoint", PT, (*SAID_PT, "is not a file"), {"weights.pt": folder}),
    Case("a pipe for a checkpoint", PT, (*SAID_PT, "is not a file"), {"weights.pt": pipe}),
    Case("an empty checkpoint", PT, SAID_PT, {"weights.pt": b""}),
    Case("a text for a checkpoint", PT, SAID_PT, {"weights.pt": "weights"}),
    Case("a truncated checkpoint", PT, SAID_PT, {"weights.pt": saved(encoder())[:5000]}),
    Case(
        "a checkpoint of anything",
        PT,
        (*SAID_PT, "no dictionary of tensors"),
        {"weights.pt": saved([1, 2])},
    ),
    Case(
        "weights of another shape",
        PT,
        (*SAID_PT, "convs.0.weight"),
        {"weights.pt": saved(encoder(convs_0_weight=torch.zeros(16, 3, 3, 3)))},
    ),
    Case(
        "weights that are not all there",
        PT,
        (*SAID_PT, "convs.0.weight"),
        {"weights.pt": saved(encoder(convs_0_weight=None))},
    ),
    Case(
        "weights without a head",
        PT + " -S head.start=pretrained -S head.name=linear",
        (*SAID_PT, "no linear head"),
        {"weights.pt": saved(encoder())},
    ),
    Case("empty safe tensors", ST, SAID_ST, {"weights.safetensors": b""}),
    Case("safe tensors that are none", ST, SAID_ST, {"weights.safetensors": b"\xff" * 100}),
    Case(
        "a header beyond the file",
        ST,
        SAID_ST,
        {"weights.safetensors": struct.pack("<Q", 2**62) + b"{}"},
    ),
    Case(
        "truncated safe tensors",
        ST,
        SAID_ST,
        {"weights.safetensors": safetensors.torch.save(encoder())[:-100]},
    ),
    Case(
        "safe tensors of another shape",
        ST,
        (*SAID_ST, "convs.0.weight"),
        {"weights.safetensors": safetensors.torch.save(encoder(convs_0_weight=torch.zeros(1)))},
    ),
    Case(
        "a checkpoint of unknown channels",
        PT,
        ("pt.yaml", "settings.encoder.channels"),
        {
            "pt.yaml": WEIGHTS.replace("FILE", "weights.pt").replace(
                ", channels: gray}, data", "}, data"
            ),
            "weights.pt": saved(encoder()),
        },
    ),
]

CASES = [*YAML, *NAMES, *SUBJECTS, *OPTIONS, *COMMANDS, *DATA, *ARCHIVES, *CHECKPOINTS]
IN_A_PROCESS_OF_ITS_OWN = {
    "code in a grid",
    "a truncated image, run",
    "code in a checkpoint",
    "a link outside, unpacked",
    "an unknown setting",
}
