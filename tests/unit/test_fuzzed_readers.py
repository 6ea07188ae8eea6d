"""Whoever reads a file gets what it holds, or is told what is wrong with it: never another exception, for any content.

YAML files and grids are fuzzed in test_reading.py and test_grid.py.
"""

import io
import json
import math
import pickle
import struct
import tarfile
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from bad_inputs import CANARY, DIGITS, GRID, Code, encoder, images, packed, png, saved
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.results import read_claims, read_effects, read_trials
from ablation.cli.data import unpack_data
from ablation.errors import InputError
from ablation.formatting import redacted
from ablation.grid.file import read_experiment
from ablation.grid.load import load_study
from ablation.planning.forecast import Timings
from ablation.storage.cache import HEADER, MAGIC, DiskStore
from ablation.storage.files import warn_once
from ablation.storage.runs import Damaged, Manifest, Outcome, RunFolder, TrialSpec
from ablation.study.live import ProgressNote, read_note
from ablation.subject.loading import load_subject
from core.config.parsing import parse
from core.config.schema import Data
from core.data import sources
from core.networks.encoders import build_encoder, load_checkpoint

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SPEC = TrialSpec("a--s0", "a", "arm", {"rate": "slow"}, 0, "k", {"epochs": 1}, 2, 2, 0)
GOAL = {"name": "top1", "goal": "maximize"}
MANIFEST = Manifest(
    *("s", "e", "t", "q", "d", ["factorial"]), GOAL, {}, [0], [], None, [], [SPEC], [], {}, {}
)
OUTCOME = Outcome("COMPLETE", {"top1": 1.0}, 1.0, key="k")
RECORD = {"phase": "joint", "epoch": 1, "seconds": 1.0, "metrics": {"top1": 1.0}, "vectors": {}}


def fuzz(n: int):
    return settings(max_examples=n, deadline=None)


def garbled(*contents: bytes) -> st.SearchStrategy[bytes]:
    """Anything; and these, cut off, with a few bytes changed, put in or taken out."""

    @st.composite
    def change(draw) -> bytes:
        content = bytearray(draw(st.sampled_from(contents)))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(content)))
            content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
        return bytes(content[: draw(st.sampled_from([None, draw(st.integers(0, len(content)))]))])

    return st.binary(max_size=200) | change()


def changed(whole: dict) -> st.SearchStrategy[bytes]:
    """JSON of anything; and of this, with some of its values another thing, or gone."""
    some = st.dictionaries(st.sampled_from([*whole, "more"]), JSON, max_size=3)
    less = st.sets(st.sampled_from([*whole]), max_size=2)
    near = st.tuples(some, less).map(
        lambda both: {
            key: value for key, value in {**whole, **both[0]}.items() if key not in both[1]
        }
    )
    return (JSON | near).map(lambda value: json.dumps(value).encode()) | garbled(
        json.dumps(whole).encode()
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def forget_what_was_said(monkeypatch):
    monkeypatch.setattr(
        "ablation.storage.runs.warn_once", lambda message: None
    )  # every example would be said
    yield
    warn_once.cache_clear()


# --- experiments and settings

KEYS = st.sampled_from(
    [
        *"epochs warmup warmup.plateau warmup.fraction optim.lr optim.lr.head data.mean data.channels "
        "data.n_test routing encoder.checkpoint pretraining.milestones head.scale end_to_end a epochs.b "
        ".".split(" "),
        "",
    ]
)
VALUES = (
    JSON
    | st.integers(-(10**400), 10**400)
    | st.sampled_from([math.inf, math.nan, "none", "on", {}, [], [[]], 1e308, -0.0, 10**18])
)


@fuzz(150)
@given(st.dictionaries(KEYS | st.text(max_size=6), VALUES, max_size=4))
def test_any_settings_are_parsed_or_their_faults_are_told(given_settings):
    _, faults = parse(given_settings)
    assert all(isinstance(fault.key, str) and fault.message for fault in faults)


@fuzz(100)
@given(
    garbled(
        DIGITS.encode(),
        b"title: a\ndataset: b\nsubject: core\nsettings: {epochs: 3, optim: {lr.head: 1}}\n",
    )
)
def test_any_experiment_is_read_or_refused(place, data):
    (place / "digits.yaml").write_bytes(data)
    problems = []
    assert read_experiment(place / "digits.yaml", problems) is not None or problems
    (place / "grid.yaml").write_text(GRID)
    try:
        load_study(place / "grid.yaml", None, [], None, load_subject)
    except InputError as error:
        assert error.problems


@fuzz(100)
@given(
    st.text(max_size=12),
    st.text(max_size=12),
    st.sampled_from(["epochs", "data.mean", "warmup", "optim"]),
)
def test_any_options_are_taken_or_refused(place, value, seeds, key):
    (place / "digits.yaml").write_text(DIGITS)
    (place / "grid.yaml").write_text(GRID)
    try:
        load_study(place / "grid.yaml", None, [f"{key}={value}", value], seeds, load_subject)
    except InputError as error:
        assert error.problems


# --- what studies leave


@fuzz(100)
@given(changed(asdict(MANIFEST)))
def test_any_manifest_is_read_or_damaged(place, data):
    (place / "study.json").write_bytes(data)
    folder = RunFolder(place)
    try:
        assert isinstance(folder.manifest(), Manifest) and folder.exists()
    except Damaged as error:
        assert str(place / "study.json") in str(error) and not folder.exists()


@fuzz(100)
@given(changed(asdict(OUTCOME)))
def test_any_outcome_is_read_or_damaged(place, data):
    (place / SPEC.trial).mkdir(exist_ok=True)
    (place / SPEC.trial / "outcome.json").write_bytes(data)
    folder = RunFolder(place)
    outcome = folder.outcome(SPEC.trial)
    assert isinstance(outcome, Outcome) or (
        outcome is None and "outcome.json" in folder.damage(SPEC.trial)
    )
    folder.ending(SPEC)


@fuzz(100)
@given(st.lists(changed(RECORD), max_size=4))
def test_any_records_are_read_up_to_the_damaged_one(place, lines):
    (place / SPEC.trial).mkdir(exist_ok=True)
    (place / SPEC.trial / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    records = RunFolder(place).records(SPEC.trial)
    assert all(
        isinstance(record["phase"], str)
        and isinstance(record["epoch"], int)
        and isinstance(record["metrics"], dict)
        for record in records
    )


@fuzz(100)
@given(changed(asdict(ProgressNote(1.0, 0.0, 2, ["a--s0"]))))
def test_any_note_of_what_is_left_is_read_or_counts_as_none(place, data):
    (place / "progress.json").write_bytes(data)
    left = read_note(place / "progress.json")
    assert left is None or (
        isinstance(left.at, (int, float))
        and isinstance(left.jobs, int)
        and isinstance(left.in_hand, list)
    )


@fuzz(100)
@given(changed({"digits": {"joint": 1.0}}))
def test_any_timings_are_read_or_forgotten(place, data):
    (place / "timings.json").write_bytes(data)
    known = Timings(place / "timings.json", "digits", {}).known()
    assert all(isinstance(seconds, (int, float)) for seconds in known.values())


ENTRY = HEADER.pack(MAGIC, 1.0, b"") + b"content"


@fuzz(100)
@given(garbled(ENTRY, HEADER.pack(MAGIC, math.nan, bytes(32)) + b"content"))
def test_any_entry_of_the_cache_is_whole_or_counts_as_absent(place, data):
    store = DiskStore(place / "cache")
    store.save("state", "aa", b"content", 1.0)
    path = store.path("state", "aa")
    if data != path.read_bytes():
        path.write_bytes(data)
        list(store.entries()), list(store.damaged())
        assert store.load("state", "aa") is None and not path.exists()


TABLES = (
    b"trial,arm,kind,seed,state,rate,test/top1,error\na--s0,a,arm,0,COMPLETE,slow,9.5,\n",
    b"effect,metric,estimate,low,high,p,p_holm,n_seeds,verdict\na,test/top1,1,0,2,0.5,1,3,none\n",
    b"claim,says,contrast,metric,direction,estimate,low,high,p,p_holm,n_seeds,verdict,claim_verdict,level_by_level\na,A.,b,c,up,1,0,2,0.5,1,3,d,e,\n",
)


NO_EFFECTS = pd.DataFrame({"metric": []})


@fuzz(100)
@given(garbled(*TABLES))
def test_any_table_of_a_report_is_read_or_refused(place, data):
    for name, read in {
        "results": lambda folder: read_trials(folder, NO_EFFECTS),
        "effects": read_effects,
        "claims": read_claims,
    }.items():
        (place / f"{name}.csv").write_bytes(data)
        try:
            read(place)
        except InputError as error:
            assert f"{name}.csv" in str(error)


# --- images, archives, checkpoints


def tar(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{mode}") as archive:
        for name, content in images().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


ARCHIVES = (packed(), tar(""), tar("bz2"), tar("xz"))


@fuzz(100)
@given(garbled(*ARCHIVES))
def test_any_archive_is_read_or_refused(place, data):
    path, folder = place / "a.tar.gz", place / "unpacked"
    path.write_bytes(data)
    for read in (
        lambda: sources.load(Data(source="folder", path=str(path))),
        lambda: unpack_data(path, folder),
    ):
        try:
            read()
        except (ValueError, InputError) as error:
            assert "a.tar.gz" in str(error) or str(folder) in str(error)
    assert {entry.name for entry in folder.glob("*")} <= {"train", "test"}


@fuzz(100)
@given(garbled(png(), png("P"), png("1"), png("LA", shade=(1, 2))))
def test_any_image_is_decoded_or_named(place, data):
    root = place / "images"
    for name, content in (images() | {"train/cat/1.png": data}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    try:
        assert sources.load(Data(source="folder", path=str(root), size=8)).train.images.shape == (
            4,
            3,
            8,
            8,
        )
    except ValueError as error:
        assert "train/cat/1.png" in str(error)


WEIGHTS = encoder()
CHECKPOINTS = (
    saved(WEIGHTS),
    safetensors.torch.save(WEIGHTS),
    pickle.dumps({"a": 1}),
    pickle.dumps(Code()),
    struct.pack("<Q", 99) + b"{}",
    saved({"state_dict": [torch.zeros(1)]}),
)


@fuzz(100)
@given(garbled(*CHECKPOINTS), st.sampled_from(["a.pt", "a.safetensors"]))
def test_any_checkpoint_is_loaded_or_named_and_its_code_is_not_run(place, data, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / name).write_bytes(data)
        try:
            load_checkpoint(str(place / name), build_encoder("small-cnn", 1))
        except ValueError as error:
            assert name in str(error)
    assert not (place / CANARY).exists()


# --- credentials

SECRET = st.text("abcXYZ019-_.~!$*+", min_size=6, max_size=12).filter(
    lambda text: text not in "***" and len(set(text)) > 2
)


@fuzz(150)
@given(
    SECRET,
    st.sampled_from(["", "@", "/", "%40", ":", "#", "?"]),
    SECRET,
    st.sampled_from(
        [
            "postgresql://ada:{}@host/db",
            "http://ada:{}@host:5000",
            "see http://x/ and mysql+driver://ada:{}@h/d?a=1",
            "postgresql://host/db?user=a&password={}",
        ]
    ),
)
def test_no_password_of_a_url_is_shown(first, between, last, url):
    secret = first + ("" if "password=" in url else between + last)
    text = redacted(url.format(secret))
    assert first not in text and ("password=" in url or last not in text)
    assert "host" in text or "h/d" in text
