"""A project as it should be, and what may be wrong with it: files, options, images, archives, checkpoints.

Each case: a name, a command, what it must say, and the files that differ from PROJECT (a path below the project's
folder -> its content, or a function that makes it). Whatever would be executed leaves a file CANARY.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
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
    """A member that says it is a terabyte; its content need not be there to be refused."""
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


def for_grid(name: str, content: Content, *said: str) -> Case:
    return Case(name, RUN, ("grid.yaml", *said), {"grid.yaml": content})


def in_grid(name: str, old: str, new: str, *said: str) -> Case:
    return for_grid(name, GRID.replace(old, new), *said)


def for_experiment(name: str, content: Content, *said: str) -> Case:
    return Case(name, RUN, ("digits.yaml", *said), {"digits.yaml": content})


YAML = [
    for_grid(
        "code in a grid", f"study: {CALL}\n" + GRID[11:], "line 1", "python/object/apply:os.system"
    ),
    for_experiment(
        "code in an experiment",
        f"title: {CALL}\n" + DIGITS,
        "line 1",
        "python/object/apply:os.system",
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
    in_grid("a name of Python's", "bad", "!!python/name:os.system", "python/name:os.system"),
    for_grid("a billion laughs", laughs(), "line 1", "anchors (&) and aliases (*)"),
    for_experiment("a billion laughs in an experiment", laughs(), "anchors (&) and aliases (*)"),
    in_grid("an alias", "seeds: 1", "seeds: *n", "line 4", "anchors (&)"),
    in_grid("a merge key", "slow:", "<<:", "factors.rate.<<"),
    for_grid("a key twice", GRID + "seeds: 2\n", "seeds", "line 7", "twice"),
    in_grid("a level twice", "fast:", "slow:", "factors.rate.slow", "twice"),
    for_grid(
        "deep nesting", GRID + "settings: " + "{a: " * 5000 + "1" + "}" * 5000, "nested deeper than"
    ),
    for_experiment(
        "deep nesting in blocks",
        "".join(f"{' ' * i}a:\n" for i in range(400)),
        "nested deeper than",
    ),
    in_grid("an endless number", "seeds: 1", "seeds: " + "9" * 5000, "seeds", "18 digits"),
    for_experiment(
        "not a number", DIGITS.replace("epochs: 2", "epochs: .nan"), "settings.epochs", ".nan"
    ),
    for_grid("a NUL byte", GRID + "question: a\0b\n", "U+0000"),
    for_experiment(
        "an escaped NUL in a path", IMAGES.replace("DATA", '"images\\0"'), "settings.data.path"
    ),
    for_grid("an escape sequence of terminals", GRID + "question: \x1b[2J\n", "U+001B"),
    for_grid("not UTF-8", GRID.encode() + b"question: \xff\xfe\n", "line 7", "not UTF-8"),
    for_grid("UTF-16", GRID.encode("utf-16"), "not UTF-8"),
    in_grid("a tab", "  rate", "\trate", "line 6", "tab"),
    for_grid("two documents", GRID + "---\n" + GRID, "single document"),
    for_grid("an empty grid", "", "empty"),
    for_grid("a large grid", GRID + "#" * 10**6, "larger than"),
    for_grid("a list", "- study: bad\n", "must hold a mapping"),
    for_grid("an image for a grid", png(), "not UTF-8"),
    for_grid("a folder for a grid", folder, "directory"),
    for_grid("a pipe for a grid", pipe, "is no file"),
    for_experiment("a pipe for an experiment", pipe, "is no file"),
    for_grid("a link to itself", link("grid.yaml"), "cannot be read"),
    for_grid("a link to nothing", link("nowhere.yaml"), "no such file"),
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
    in_grid("a study that leaves the folder", "bad", "../../bad", "study", "'../../bad'"),
    in_grid("an absolute study", "bad", "/tmp/bad", "study", "'/tmp/bad'"),
    in_grid("a study called dots", "bad", "..", "study", "'..'"),
    in_grid("a study with a line break", "bad", '"bad\\n"', "study"),
    in_grid("a factor with a slash", "rate:", "../rate:", "'../rate'"),
    in_grid("a level with a slash", "fast:", "../fast:", "factors.rate", "'../fast'"),
    in_grid("a level called dots", "fast:", "..:", "factors.rate", "'..'"),
    for_grid("an arm with a slash", GRID + "arms: {../../more: {epochs: 3}}\n", "'../../more'"),
    in_grid("an endless name", "bad", "b" * 300, "study"),
    for_experiment("a data set with a slash", "dataset: ../x\n" + DIGITS, "dataset", "'../x'"),
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
    for_experiment(
        "a subject that is an expression",
        DIGITS + f"subject: \"__import__('os').system('touch {CANARY}')\"\n",
        "subject",
        "__import__",
    ),
    for_experiment(
        "a subject that is no function of Python's",
        DIGITS + "subject: os:environ\n",
        "subject",
        "os:environ",
    ),
    for_experiment(
        "a subject that is not there", DIGITS + "subject: nowhere:train\n", "subject", "'nowhere'"
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
    Case(
        "a function that takes other arguments",
        RUN,
        ("digits.yaml", "subject", "called with (config, seed, report), and takes (config)"),
        {
            "digits.yaml": DIGITS + "subject: own_narrow:train\n",
            "own_narrow.py": "def train(config): ...\n",
        },
    ),
    Case(
        "a level of a function's grid that is mistyped",
        RUN,
        ("grid.yaml", "factors.rate.fast.optim.lr.haed", "did you mean 'optim.lr.head'?"),
        {
            "grid.yaml": GRID.replace("fast: {optim.lr.head", "fast: {optim.lr.haed"),
            "digits.yaml": "settings: {optim.lr.head: 1}\nsubject: own_plain:train\n",
            "own_plain.py": "def train(config, seed, report): ...\n",
        },
    ),
]


def for_command(name: str, subject: str, *said: str, **files: Content) -> Case:
    """A command that leaves a canary if it is run; said: of the experiment file."""
    text = f"settings: {{optim.lr.head: 1}}\nsubject: {subject}\n"
    script = f"open({CANARY!r}, 'w')\n"
    return Case(name, RUN, said, {"digits.yaml": text, "own.py": script, **files})


COMMANDS_TO_ABLATE = [
    for_command(
        "a mapping that is no command", "{comand: x}", "digits.yaml: subject.comand", "'command'?"
    ),
    for_command("a list for a command", "{command: [a, b]}", "digits.yaml: subject.command"),
    for_command(
        "a shell's line",
        '{command: "python own.py {optim.lr.head} {seed} | tee log"}',
        "digits.yaml: subject.command",
        "has '|', and no shell runs it",
    ),
    for_command(
        "a quote that is not closed",
        '{command: "python own.py \'a {optim.lr.head} {seed}"}',
        "digits.yaml: subject.command",
        "No closing quotation",
    ),
    for_command(
        "a placeholder that is a format",
        '{command: "python own.py {optim.lr.head:.3f} {seed}"}',
        "digits.yaml: subject.command",
        "a placeholder is {key}",
    ),
    for_command(
        "a placeholder that looks inside",
        '{command: "python own.py {optim.__class__!r} {seed}"}',
        "digits.yaml: subject.command",
        "a placeholder is {key}",
    ),
    for_command(
        "a command without a seed",
        '{command: "python own.py {optim.lr.head}"}',
        "digits.yaml: subject.command",
        "does not mention {seed}",
    ),
    for_command(
        "a placeholder without a setting",
        '{command: "python own.py {optim.lr.haed} {optim.lr.head} {seed}"}',
        "digits.yaml: settings.optim.lr.haed",
        "did you mean 'optim.lr.head'?",
    ),
    for_command(
        "a level that the command does not mention",
        '{command: "python own.py {seed}"}',
        "grid.yaml: factors.rate.fast.optim.lr.head",
        "the command does not mention it",
    ),
    for_command(
        "a program that is not there",
        '{command: "./own {optim.lr.head} {seed}"}',
        "digits.yaml: subject",
        "there is no program './own'",
    ),
    for_command(
        "a script that is not there",
        f'{{command: "{sys.executable} onw.py {{optim.lr.head}} {{seed}}"}}',
        "digits.yaml: subject",
        "there is no file 'onw.py'",
        "did you mean 'own.py'?",
    ),
    for_command(
        "a script that lies in the working directory and not in that folder",
        f'{{command: "{sys.executable} src/onw.py {{optim.lr.head}} {{seed}}"}}',
        "digits.yaml: subject",
        "there is no file 'src/onw.py'",
        "did you mean 'own.py'?",
    ),
    for_command(
        "a flag as an empty text",
        f'{{command: "{sys.executable} own.py --seed {{seed}} {{optim.lr.head}}"}}',
        "grid.yaml: factors.rate.slow.optim.lr.head: {optim.lr.head} would be an empty argument",
        "as the lists [] and [--flag]",
        **{"grid.yaml": GRID.replace("1.0e-3", '""').replace("1.0e-2", "--reweight")},
    ),
    for_command(
        "a metric's name as the script prints it",
        f'{{command: "{sys.executable} own.py {{optim.lr.head}} {{seed}}"}}',
        "grid.yaml: metric.name: 'test acc' is not a metric's name",
        'a script\'s "test acc: 95" is read as test/acc',
        **{"grid.yaml": GRID.replace("test/top1", "test acc")},
    ),
    for_command(
        "metrics from nowhere",
        '{command: "python own.py {optim.lr.head} {seed}", metrics: wandb}',
        "digits.yaml: subject.metrics",
        "'wandb' is not allowed",
    ),
    for_command(
        "metrics from a file that it cannot know of",
        '{command: "python own.py {optim.lr.head} {seed}", metrics: csv}',
        "digits.yaml: subject.command",
        "does not mention {folder}",
    ),
    for_command(
        "a NUL in an argument",
        f'{{command: "{sys.executable} own.py {{optim.lr.head}} {{seed}}"}}',
        "factors.rate.slow.optim.lr.head",
        "NUL",
        **{"grid.yaml": GRID.replace("1.0e-3", '"a\\0b"')},
    ),
    for_command(
        "a variable that is none",
        '{command: "python own.py {optim.lr.head} {seed}", env: {"A=B": 1}}',
        "digits.yaml: subject.env.A=B",
        "is not a variable's name",
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
    Case("nothing to decide", RUN + " --until-decided", ("grid.yaml", "seeds", "no claims")),
    Case(
        "seeds to add, max first", RUN + " --seeds '{start: 5, max: 3}'", ("--seeds", "at least 5")
    ),
    Case("a budget of fixed seeds", RUN + " --max-trials 9", ("--max-trials", "--until-decided")),
    Case("a budget of no hours", RUN + " --max-hours nan", ("--max-hours", "nan")),
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
    Case("a command that is none", "rnu", ("rnu", "No such command")),
]


def torn(name: str, command: str, content: Content) -> Case:
    manifest = "runs/torn/study.json"
    return Case(name, command, (manifest, "damaged"), {manifest: content})


def of_table(name: str, command: str, content: Content) -> Case:
    table = "reports/own/results.csv"
    return Case(name, command, table, {table: content})


COMMANDS = [
    Case("status of no study", "status bda", ("bda", "no such study")),
    Case("status outside", "status ../../etc", ("../../etc", "no such study")),
    Case("status without any", "status", ("STUDY", "no study in runs/")),
    Case("report of no study", "report bda", ("bda", "no such study")),
    Case("report outside", "report ../images", ("../images", "no such study")),
    Case("sync of no study", "sync bda", ("bda", "no such study")),
    torn("a damaged manifest, status", "status torn", '{"study": "torn", '),
    torn("a damaged manifest, report", "report torn", "[" * 10**5),
    torn("a damaged manifest, sync", "sync torn", b"\xff\xfe\0"),
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
    of_table("a table of anything", "table own", png()),
    of_table("a table of nothing", "table own", ""),
    of_table("a table of other columns", "table own", "a,b\n1,2\n"),
    of_table("a comparison of anything", "compare own:a own:b", "a,b\n1,2\n"),
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


def odd_image(name: str, content: Content, *said: str) -> list[Case]:
    return both(name, ("images.yaml", "data", "train/cat/1.png", *said), {ODD: content})


def odd_folder(name: str, files: Mapping[str, Content], *said: str) -> list[Case]:
    return both(name, ("images.yaml", "settings.data.path", *said), files)


DATA = [
    *odd_image("a truncated image", png(size=64)[:60]),
    *odd_image("a text for an image", "cat"),
    *odd_image("an empty image", b""),
    *odd_image("an image of another size", png(size=9), "data.size"),
    *odd_image("an image of 16 bits", png("I;16"), "8 bits"),
    *odd_image("an image that would fill the memory", huge_png()),
    *odd_image(
        "a program for an image",
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(canary) (w) file\n",
    ),
    *odd_folder("an empty class", {"images/train/cow": folder}, "train/cow/"),
    *odd_folder("a class without test images", {"images/train/cow/0.png": png()}, "'cow'"),
    *odd_folder("a class without training images", {"images/test/cow/0.png": png()}, "'cow'"),
    *odd_folder(
        "a class of texts",
        {"images/train/cow/0.txt": "moo", "images/test/cow/0.png": png()},
        "train/cow/",
    ),
    *odd_folder(
        "a file for a class", {"images/train/cow": "moo", "images/test/cow/0.png": png()}, "'cow'"
    ),
    *odd_folder("an image of no class", {"images/train/0.png": png()}, "train/0.png"),
    *odd_folder(
        "a pipe for an image",
        {"images/train/cow/0.png": pipe, "images/test/cow/0.png": png()},
        "train/cow/0.png",
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


def weights_pt(name: str, content: Content, *said: str) -> Case:
    return Case(name, PT, (*SAID_PT, *said), {"weights.pt": content})


def safe_tensors(name: str, content: Content, *said: str) -> Case:
    return Case(name, ST, (*SAID_ST, *said), {"weights.safetensors": content})


CHECKPOINTS = [
    weights_pt("code in a pickle", pickle.dumps(Code())),
    weights_pt("code in an old pickle", pickle.dumps({"state_dict": Code()}, protocol=0)),
    weights_pt("code in a checkpoint", zipped_pickle(Code())),
    weights_pt("code beside weights", zipped_pickle({"state_dict": {"model": {}}, "more": Code()})),
    safe_tensors("code behind the ending of safe tensors", pickle.dumps(Code())),
    Case("a checkpoint that is not there", PT, (*SAID_PT, "is not there; looked for")),
    weights_pt("a folder for a checkpoint", folder, "is not a file"),
    weights_pt("a pipe for a checkpoint", pipe, "is not a file"),
    weights_pt("an empty checkpoint", b""),
    weights_pt("a text for a checkpoint", "weights"),
    weights_pt("a truncated checkpoint", saved(encoder())[:5000]),
    weights_pt("a checkpoint of anything", saved([1, 2]), "no dictionary of tensors"),
    weights_pt(
        "weights of another shape",
        saved(encoder(convs_0_weight=torch.zeros(16, 3, 3, 3))),
        "convs.0.weight",
    ),
    weights_pt(
        "weights that are not all there", saved(encoder(convs_0_weight=None)), "convs.0.weight"
    ),
    Case(
        "weights without a head",
        PT + " -S head.start=pretrained -S head.name=linear",
        (*SAID_PT, "no linear head"),
        {"weights.pt": saved(encoder())},
    ),
    safe_tensors("empty safe tensors", b""),
    safe_tensors("safe tensors that are none", b"\xff" * 100),
    safe_tensors("a header beyond the file", struct.pack("<Q", 2**62) + b"{}"),
    safe_tensors("truncated safe tensors", safetensors.torch.save(encoder())[:-100]),
    safe_tensors(
        "safe tensors of another shape",
        safetensors.torch.save(encoder(convs_0_weight=torch.zeros(1))),
        "convs.0.weight",
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

CASES = [
    *YAML,
    *NAMES,
    *SUBJECTS,
    *COMMANDS_TO_ABLATE,
    *OPTIONS,
    *COMMANDS,
    *DATA,
    *ARCHIVES,
    *CHECKPOINTS,
]
IN_A_PROCESS_OF_ITS_OWN = {
    "code in a grid",
    "a truncated image, run",
    "code in a checkpoint",
    "a link outside, unpacked",
    "an unknown setting",
}
