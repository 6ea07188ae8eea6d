"""A run folder as tables: nothing is lost, nothing depends on anything but the folder."""

import csv
import io
import json
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from fabricate import N_EPOCHS, study

from ablation.analysis.results import load, write_csv
from ablation.storage.files import folder_lock
from ablation.storage.runs import RunFolder

STATES = {"warmup--s1": "FAILED", "reference--s0": "RUNNING", "ldmlr--s2": "WAITING"}


@pytest.fixture
def folder(tmp_path):
    return study(tmp_path, state=lambda spec: STATES.get(spec.trial, "COMPLETE"), detail=True)


@pytest.fixture
def results(folder):
    with folder_lock(folder.path):  # as the process that runs it does
        return load(folder)


def written(table: pd.DataFrame, path) -> list[dict[str, str]]:
    write_csv(table, path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_trial_is_a_row_whatever_became_of_it(results, tmp_path):
    rows = {row["trial"]: row for row in written(results.trials, tmp_path / "results.csv")}
    assert len(rows) == 12 * 3
    assert {
        trial: row["state"] for trial, row in rows.items() if row["state"] != "COMPLETE"
    } == STATES
    assert rows["warmup--s1"]["error"] == "ValueError: the loss is NaN at epoch 3"
    for trial in STATES:
        assert rows[trial]["test/top1"] == rows[trial]["epochs_trained"] == ""


def test_a_trial_that_has_begun_and_that_nobody_runs_waits(folder):
    states = load(folder).trials.set_index("trial")["state"]
    assert states["reference--s0"] == "WAITING" and "RUNNING" not in set(states)


def test_columns_are_those_of_the_contract(results):
    columns = list(results.trials.columns)
    lead = [
        "trial",
        "arm",
        "kind",
        "seed",
        "state",
        "lr_split",
        "warmup",
        "gradient_decoupling",
        "test/top1",
    ]
    assert columns[: len(lead)] == lead
    assert columns[-4:] == ["epochs_trained", "epochs_shared", "wall_seconds", "error"]
    assert results.metrics[0] == "test/top1"
    assert results.metrics[1:] == sorted(results.metrics[1:])
    assert list(results.history.columns[:5]) == ["trial", "arm", "seed", "phase", "epoch"]


def test_numbers_are_those_of_the_outcomes_to_the_bit(results, tmp_path):
    folder = RunFolder(tmp_path)
    rows = {row["trial"]: row for row in written(results.trials, tmp_path / "results.csv")}
    for trial in ["lr_split+warmup--s2", "ce--s0"]:
        for name, value in folder.outcome(trial).metrics.items():
            assert float(rows[trial][name]) == value


def test_history_says_which_epochs_made_do_with_little_memory(tmp_path):
    folder = study(tmp_path, detail=True, seeds=[0])
    assert not {"accumulation", "encoding_batch"} & set(load(folder).history.columns)
    records = folder.records("warmup--s0")
    folder.write_records(
        "warmup--s0",
        [
            record | ({"accumulation": 4} if record["phase"] == "joint" else {})
            for record in records
        ],
    )
    rows = [row for row in written(load(folder).history, tmp_path / "history.csv")]
    assert [row["accumulation"] for row in rows if row["trial"] == "warmup--s0"] == [""] * 5 + [
        "4"
    ] * (N_EPOCHS - 5)
    assert (
        not any(row["accumulation"] for row in rows if row["trial"] != "warmup--s0")
        and "encoding_batch" not in rows[0]
    )


def test_history_has_a_row_per_record(results, tmp_path):
    history = written(results.history, tmp_path / "history.csv")
    rows = [row for row in history if row["trial"] == "lr_split--s1"]
    records = RunFolder(tmp_path).records("lr_split--s1")
    assert [int(row["epoch"]) for row in rows] == list(range(1, N_EPOCHS + 1))
    assert [float(row["test/top1"]) for row in rows] == [
        record["metrics"]["test/top1"] for record in records
    ]
    counts = Counter(row["trial"] for row in history)
    assert (counts["ce--s0"], counts["ldmlr--s2"]) == (1, 0)


def test_cells_hold_finished_trials_only(results):
    cells = results.cells("test/top1")
    assert list(cells.index) == [0, 1, 2]
    assert cells.isna().sum().sum() == len(STATES)
    assert (
        cells.loc[1, "lr_split"]
        == results.trials.set_index("trial").loc["lr_split--s1", "test/top1"]
    )


def test_per_class_carries_the_number_of_training_images(results):
    rows = results.per_class[results.per_class["trial"] == "ce--s0"]
    assert list(rows["n_train"]) == results.manifest.facts["class_counts"]


def test_the_same_folder_gives_the_same_bytes(tmp_path):
    texts = []
    for name in ["a", "b"]:
        buffer = io.StringIO()
        load(study(tmp_path / name)).trials.to_csv(buffer)
        texts.append(buffer.getvalue())
    assert texts[0] == texts[1]


def digests_of(folder):
    results = load(folder)
    return {trial: results.digest_of(trial) for trial in results.trials["trial"]}


def test_digests_tell_bit_identical_trials_by_everything_but_time(tmp_path):
    folder = study(tmp_path, seeds=[0])
    before = digests_of(folder)
    records = folder.records("ce--s0")
    folder.write_records(
        "ce--s0", [{**record, "seconds": 99.0, "time": 1.7e9} for record in records]
    )
    assert digests_of(folder) == before
    records[0]["metrics"]["test/top1"] += 1e-13
    folder.write_records("ce--s0", records)
    assert digests_of(folder)["ce--s0"] != before["ce--s0"]


def test_hits_make_a_difference_to_the_bits_and_their_absence_none(tmp_path):
    folder = study(tmp_path, seeds=[0])
    assert load(folder).hits == {}
    before = digests_of(folder)
    path = folder.trial_path("ce--s0") / "outcome.json"
    written = json.loads(path.read_text())
    assert written.pop("hits") == ""  # as of before they were kept
    path.write_text(json.dumps(written))
    assert digests_of(folder) == before
    digests = {before["ce--s0"]}
    for hits in ("3:a0", "3:e0"):
        folder.write_outcome("ce--s0", replace(folder.outcome("ce--s0"), hits=hits))
        assert load(folder).hits == {"ce--s0": hits}
        digests.add(digests_of(folder)["ce--s0"])
    folder.write_records(
        "ce--s0", [{**record, "hits": "3:a0"} for record in folder.records("ce--s0")]
    )
    assert len(digests | {digests_of(folder)["ce--s0"]}) == 4


def test_what_a_trial_left_before_it_changed_is_not_its_result(tmp_path):
    folder = study(tmp_path, seeds=[0])
    folder.write_outcome("ce--s0", replace(folder.outcome("ce--s0"), key="of other settings"))
    results = load(folder)
    assert results.trials.set_index("trial").loc["ce--s0", "state"] == "WAITING"
    assert results.cells("test/top1")["ce"].isna().all() and "ce--s0" not in set(
        results.history["trial"]
    )


def test_a_study_without_any_result_has_empty_tables(tmp_path):
    results = load(study(tmp_path, state=lambda spec: "WAITING"))
    assert results.metrics == ["test/top1"]
    assert results.cells("test/top1").isna().all(axis=None)
    assert results.history.empty and results.per_class.empty
