"""How far a study has come, and how long it still takes, is told from its files while it runs and after."""

import io
import json
import math
import re
import time
from dataclasses import asdict

import pytest
from fabricate import FACTORS, N_EPOCHS, study
from rich.console import Console
from toy_study import ToyStudy
from toy_subject import Toy

from ablation import interruption
from ablation.execution.executor import Execution
from ablation.planning.forecast import Listener, Timings, forecast
from ablation.storage.files import folder_lock
from ablation.storage.project import ProjectPaths
from ablation.study import live
from ablation.study.live import Progress, ProgressNote, read_note, time_left
from ablation.study.views import describe_status, status_of

STATES = {
    "lr_split--s0": "RUNNING",
    "lr_split--s1": "FAILED",
    "lr_split--s2": "WAITING",
    "reference--s2": "RUNNING",
}


@pytest.fixture
def folder(tmp_path):
    places = ProjectPaths(tmp_path)
    factors = {"lr_split": FACTORS["lr_split"]}
    return study(
        places.runs("fixes").path,
        factors=factors,
        baselines=["ce"],
        detail=True,
        state=lambda spec: STATES.get(spec.trial, "COMPLETE"),
    )


def said(root) -> dict[str, list[str]]:
    """First word of each line -> the others."""
    console = Console(file=io.StringIO(), width=250)
    describe_status("fixes", ProjectPaths(root), console)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_every_trial_is_in_one_state(folder):
    arms = status_of(folder, {"lr_split--s0"})
    assert dict(arms["reference"].states) == {"done": 2, "begun": 1}
    assert dict(arms["lr_split"].states) == {"running": 1, "failed": 1, "waiting": 1}
    assert dict(arms["ce"].states) == {"done": 3}
    assert dict(status_of(folder, None)["reference"].states) == {"done": 2, "running": 1}


def test_epochs_and_accuracy_are_those_of_the_records(folder):
    half = N_EPOCHS // 2
    arm = status_of(folder, None)["lr_split"]
    assert (arm.epochs, arm.epochs_planned) == (half, 3 * N_EPOCHS)
    assert (
        arm.left == (15 - (half - 5)) + 15
    )  # of 20 epochs, 5 are shared with an earlier trial; the failed one is not run again
    assert arm.current == [(half, folder.records("lr_split--s0")[-1]["metrics"]["test/top1"])]
    done = [folder.outcome(f"reference--s{seed}").metrics["test/top1"] for seed in (0, 1)]
    assert status_of(folder, None)["reference"].finished == done


def test_a_study_that_nobody_runs_is_interrupted(folder, tmp_path):
    lines = said(tmp_path)
    assert "interrupted" in lines["arm"] and "running" not in lines["arm"]
    assert (
        lines["5/9"]
        == "trials done, 1 failed; 35 epochs left to train; not running: `ablate run` goes on where it stopped".split()
    )
    assert lines["lr_split"][-3:] == ["at", "epoch", "10"]


def test_a_study_that_is_run_says_who_runs_and_how_long_it_takes(folder, tmp_path):
    with folder_lock(folder.path):
        assert "how long that takes is known once" in " ".join(said(tmp_path)["5/9"])
        file = ProjectPaths(tmp_path).progress("fixes")
        file.parent.mkdir(parents=True)
        note = ProgressNote(9000.0, time.time() - 3600, 2, ["reference--s2"])
        file.write_text(json.dumps(asdict(note)))
        lines = said(tmp_path)
    assert lines["reference"][:2] == ["2", "1"] and lines["arm"][:3] == ["done", "running", "begun"]
    assert " ".join(lines["5/9"]).endswith("about 1.5 h left with 2 jobs")


def test_a_forecast_is_counted_down_to_its_end():
    notes = [ProgressNote(3600.0, time.time() - since, 1, []) for since in (0.1, 1800.0, 4000.0)]
    assert list(map(time_left, notes)) == [
        "about 60.0 min left",
        "about 30.0 min left",
        "longer than forecast",
    ]
    assert time_left(ProgressNote(None, 0.0, 1, [])) == time_left(None) == ""


@pytest.fixture
def toy(tmp_path):
    return ToyStudy(tmp_path, Toy(settles_after={0: 1, 1: 2}))


def progress(toy, **options) -> Progress:
    console = Console(file=io.StringIO(), width=200)
    timings = Timings(toy.root / "timings.json", "nothing", {})
    return Progress(toy.planned(), console, timings, 1, **options)


def test_trials_that_an_earlier_run_finished_are_counted(toy, monkeypatch):
    toy.run(monkeypatch)
    (toy.folder.path / "rate=fast--s1" / "outcome.json").unlink()
    last = toy.plan().trials["rate=fast--s1"].links[-1]
    toy.store.path("record", last.key).unlink()
    shown = progress(toy)
    Execution(toy.study(), toy.plan(), toy.store, toy.folder, shown)
    arm = shown.arms["rate=fast"]
    assert (arm.epochs["rate=fast--s1"], arm.latest["rate=fast--s1"]) == (3, 31.0)
    shown = progress(toy)
    toy.run(monkeypatch, listener=shown)
    assert shown.summary().startswith(
        "8/8 trials (7 before), 2 epochs trained, "
    )  # from the checkpoint where joint training began
    assert all(
        arm.n_complete == arm.n_trials and sum(arm.epochs.values()) == arm.n_epochs
        for arm in shown.arms.values()
    )


def test_trials_that_failed_before_count_as_failed(toy, monkeypatch):
    subject, advance = toy.subject, toy.subject.advance

    def brittle(settings, seed, *rest):
        if settings["rate"] == 2 and seed == 1:
            raise ArithmeticError("too fast")
        advance(settings, seed, *rest)

    monkeypatch.setattr(subject, "advance", brittle)
    toy.run(monkeypatch)
    shown = progress(toy)
    toy.run(monkeypatch, listener=shown)
    assert shown.summary().startswith("8/8 trials (8 before), 2 failed, 0 epochs trained")


def test_the_table_tells_the_mean_so_far_with_the_decimals_that_its_spread_allows(toy):
    shown, specs = progress(toy), {spec.trial: spec for spec in toy.plan().specs}
    for trial, top1 in (("reference--s0", 71.234), ("reference--s1", 75.678)):
        for epoch in (60.0, top1):
            record = {"phase": "joint", "epoch": 3, "metrics": {"top1": epoch}}
            shown.recorded([specs[trial]], record)
    console = Console(file=io.StringIO(), width=100)
    console.print(shown.view())
    lines = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    rows = {line[0]: line[1:] for line in lines}
    assert rows["reference"] == ["0/2", "4/8", "73.5", "±", "3.1"]
    assert (
        rows["rate=fast"] == ["0/2", "0/8"]
        and rows["0/8"][:4] == "trials, 4 epochs trained,".split()
    )


def test_the_mean_so_far_is_of_complete_trials_once_there_is_one(toy, monkeypatch):
    toy.run(monkeypatch)
    (toy.folder.path / "reference--s1" / "outcome.json").unlink()
    shown, specs = progress(toy), {spec.trial: spec for spec in toy.plan().specs}
    shown.recorded([specs["reference--s1"]], {"phase": "joint", "epoch": 3, "metrics": {"top1": 1}})
    shown.found(specs["reference--s0"], toy.folder.ending(specs["reference--s0"]))
    cells = {str(column.header): list(column.cells) for column in shown.table().columns}
    row = cells["arm"].index("reference")
    assert cells["done"][row] == "1/2"
    assert float(cells["top1 so far"][row]) == shown.arms["reference"].results["reference--s0"] > 1


def bars(shown) -> dict[str, str]:
    """Phase -> what stands beside its bar."""
    console = Console(file=io.StringIO(), width=120)
    console.print(shown.bars())
    lines = console.file.getvalue().splitlines()
    return {line.split()[0]: re.search(r"\d+/.*", line)[0].strip() for line in lines}


def test_a_bar_counts_a_shared_epoch_once_and_chains_that_become_shorter(toy, monkeypatch):
    shown, seen = progress(toy), []
    # of each seed: three epochs of warm-up at most, in which all share the first two; of the rates,
    # two of joint training after the two, and one after three
    assert bars(shown) == {
        "warmup": "0/6 epochs, 6 left",
        "joint": "0/12 epochs, 12 left",
    }
    tick = shown.tick
    monkeypatch.setattr(shown, "tick", lambda: (tick(), seen.append(bars(shown))))
    toy.run(monkeypatch, jobs=1, listener=shown)
    # seed 0 settles after the first epoch, seed 1 after the second
    assert bars(shown) == {"warmup": "4/4 epochs", "joint": "14/14 epochs"}
    assert any("left" in one["joint"] and "left" not in one["warmup"] for one in seen)
    again = progress(toy)
    toy.run(monkeypatch, listener=again)
    assert bars(again) == bars(shown)


def test_without_sharing_every_trial_has_its_own_epochs(toy, monkeypatch):
    shown = progress(toy, share=False)
    toy.run(monkeypatch, share=False, listener=shown)
    assert bars(shown) == {"warmup": "14/14 epochs", "joint": "18/18 epochs"}


def test_what_is_left_of_a_trial_that_failed_is_not_waited_for(toy, monkeypatch):
    advance = toy.subject.advance

    def brittle(settings, seed, *rest):
        if settings["rate"] == 2:
            raise ArithmeticError("too fast")
        advance(settings, seed, *rest)

    monkeypatch.setattr(toy.subject, "advance", brittle)
    shown = progress(toy)
    toy.run(monkeypatch, jobs=1, listener=shown)
    n_failed = sum(arm.n_failed for arm in shown.arms.values())
    assert n_failed and not any("left" in text for text in bars(shown).values())


def test_a_failure_is_told_once_with_the_file_that_says_more(toy, monkeypatch):
    def brittle(settings, seed, *rest):
        raise ArithmeticError("too fast")

    monkeypatch.setattr(toy.subject, "advance", brittle)
    shown = progress(toy)
    toy.run(monkeypatch, listener=shown)
    said = shown._console.file.getvalue()
    outcome = toy.folder.trial_path("reference--s0") / "outcome.json"
    line = f"FAILED reference--s0: ArithmeticError: too fast ({outcome})"
    assert said.count("FAILED reference--s0") == 1 and line in said
    assert shown.failed_before == []
    (outcome.parent / "stdout.log").touch()
    again = progress(toy)
    toy.run(monkeypatch, listener=again)
    assert "FAILED" not in again._console.file.getvalue()
    (told,) = again.failed_before
    assert told.startswith(
        "FAILED 8 trials alike: reference--s0, reference--s1, warmup=settling--s0, "
    )
    assert told.endswith(f"; the first: ArithmeticError: too fast ({outcome.parent}/stdout.log)")


def test_what_takes_seconds_is_shown_and_a_request_to_stop_at_once(toy, monkeypatch):
    shown = progress(toy)
    shown.began([next(iter(toy.plan().specs))])
    assert shown.summary().endswith("starting workers: no epoch has ended yet")
    with shown.doing("bringing MLflow up to date"):
        assert shown.summary().endswith(", bringing MLflow up to date")
        monkeypatch.setattr(interruption, "requested", lambda: True)
        assert shown.summary().endswith(
            "stopping: bringing MLflow up to date first, then the workers finish the epoch in hand, "
            "the same command goes on from there; a second signal (Ctrl-C) stops at once"
        )
    shown.stopping(1)
    assert "stopping: 1 worker finishes the epoch in hand, the same" in shown.summary()


def test_an_epoch_that_own_code_reports_ends_the_start_of_workers(toy):
    shown, spec = progress(toy), next(iter(toy.plan().specs))
    shown.began([spec])
    shown.reported([spec], {"phase": "train", "epoch": 1, "metrics": {}})
    assert "starting workers" not in shown.summary()


def test_the_time_left_reaches_to_the_end_of_the_report(toy, monkeypatch):
    monkeypatch.setattr(live, "FORECAST_SECONDS", 0.0)
    shown = progress(toy)
    for phase in ("warmup", "joint"):
        shown.timings.recorded([], {"phase": phase, "seconds": 60.0})
    shown.tick()
    training = shown.note.seconds
    assert shown.summary().endswith(" left, then the report")
    shown.timings.closed(30.0)
    shown.timings.save()
    shown = progress(toy)
    shown.tick()
    assert shown.note.seconds == training + 30.0
    assert shown.summary().endswith("min left")


def test_what_is_left_is_forecast_written_and_removed(toy, monkeypatch):
    monkeypatch.setattr(live, "FORECAST_SECONDS", 0.0)
    monkeypatch.setattr(live, "FORECAST_SHARE", math.inf)
    file, seen = toy.places.progress("toy"), []
    shown = progress(toy)
    for phase in ("warmup", "joint"):
        shown.timings.recorded([], {"phase": phase, "seconds": 3600.0})
    tick = shown.tick
    monkeypatch.setattr(shown, "tick", lambda: (tick(), seen.append(read_note(file))))
    with shown:
        toy.run(monkeypatch, jobs=1, listener=shown)
        assert seen[0].jobs == 1 and seen[0].seconds > seen[-1].seconds == 0.0
        assert [one.seconds for one in seen] == sorted((one.seconds for one in seen), reverse=True)
        assert seen[-1].in_hand == []
    assert not file.exists() and read_note(file) is None


def test_every_segment_that_begins_is_left_and_is_of_the_trials_that_it_is_run_for(
    toy, monkeypatch
):
    heard, most = [], []

    class Hands(Listener):
        def began(self, specs):
            heard.append({spec.trial for spec in specs})
            most.append(len(heard))

        def left(self, specs):
            heard.remove({spec.trial for spec in specs})

    toy.run(monkeypatch, jobs=2, listener=Hands())
    assert heard == [] and max(most) == 2 and len(most) > 4


def test_while_a_segment_runs_its_recorded_epochs_are_not_left(toy):
    trial = toy.plan().trials["reference--s0"]
    for link in trial.links[:3]:
        toy.store.save("record", link.key, b"{}")
    known = {"warmup": 1.0, "joint": 1.0}
    assert forecast({"a": trial.links}, toy.store, known, 1) == len(
        trial.links
    )  # no checkpoint: from the start
    assert (
        forecast({"a": trial.links}, toy.store, known, 1, is_running=True) == len(trial.links) - 3
    )


def test_in_a_notebook_plain_lines_are_printed_and_no_blocks_of_html(monkeypatch, capsys):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    live.output().print("reference--s0: accuracy 82.6 " + 20 * "and more ")
    assert capsys.readouterr().out == "reference--s0: accuracy 82.6 " + 20 * "and more " + "\n"
