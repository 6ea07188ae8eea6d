"""Whole studies through the command line: trained, tracked, resumed, grown, and the same whoever computes."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ablation.storage.project import ProjectPaths
from ablation.storage.runs import RunFolder
from ablation.study.opening import open_study

GRID = """
study: tiny
question: Does a tiny study work?
experiment: tiny-digits
design: factorial
seeds: 2
factors:
  lr_split: {off: {optim.lr.encoder: 1.0e-3}, on: {optim.lr.encoder: 1.0e-5}}
  warmup: {off: {warmup.epochs: 1}, on: {warmup: {plateau: {window: 1, min_epochs: 2, tolerance: 0.9}}}}
baselines: [ce, ldmlr, balanced-head]
"""

EXPERIMENT = """
title: Digits in miniature
settings:
  epochs: 4
  batch_size: 64
  data: {source: digits, channels: gray, n_max: 30, imbalance_factor: 10, augmentation: crop, padding: 1}
  encoder.name: small-cnn
  pretraining: {epochs: 2, batch_size: 64}
  denoiser: {width: 16, blocks: 1}
  generation: {steps: 2, every: 1}
"""

BRITTLE = """
import os

def train(config, seed, report):
    if config["how"] == "raises" and seed == 1 and not os.path.exists("mended"):
        raise ArithmeticError("planted: it diverged")
    if config["how"] == "dies" and seed == 0:
        os._exit(7)
    for epoch in (1, 2, 3):
        report(epoch, {"test/top1": 10.0 * epoch + seed})
    return {"test/top1": 30.0 + seed, "loss": 1.0}
"""


WITHOUT_FIGURES = """
from ablation.reporting import figures
from ablation.cli.main import main

figures.draw = lambda *_: []
main()
"""


def ablate(folder: Path, *arguments: str, expect: int = 0, draws: bool = True) -> str:
    program = ["-m", "ablation"] if draws else ["-c", WITHOUT_FIGURES]
    # -P: with the import path of the `ablate` script
    command = [sys.executable, "-P", *program, *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def project(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(GRID)
    (folder / "tiny-digits.yaml").write_text(EXPERIMENT)
    return folder


def results(folder: Path, study: str = "tiny") -> pd.DataFrame:
    """results.csv without what a clock measured."""
    return pd.read_csv(folder / "reports" / study / "results.csv").drop(columns="wall_seconds")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A project whose tiny study has run, with one worker: each takes 5 s to import PyTorch and the rest."""
    folder = project(tmp_path_factory.mktemp("study") / "project")
    ablate(folder, "run", "--grid", "tiny.yaml", "--jobs", "1")
    return folder


def test_a_study_leaves_a_report_and_a_row_per_trial(finished):
    table = results(finished)
    assert list(table["state"]) == ["COMPLETE"] * 14  # (4 arms + 3 baselines) x 2 seeds
    assert table["test/top1"].between(0, 100).all()
    text = (finished / "reports" / "tiny" / "report.md").read_text()
    assert (
        "Does a tiny study work?" in text
        and "`lr_split+warmup=on`" not in text
        and "`lr_split+warmup`" in text
    )
    assert (finished / "reports" / "tiny" / "figures" / "effects.png").stat().st_size > 1000


def test_a_finished_study_run_again_trains_nothing_and_says_so(finished):
    before = results(finished)
    assert "nothing to train" in ablate(finished, "run", "--grid", "tiny.yaml")
    pd.testing.assert_frame_equal(results(finished), before)


def test_optuna_has_every_trial_complete(finished):
    import optuna

    storage = f"sqlite:///{finished}/.ablate/optuna.db"
    arms, baselines = (
        optuna.load_study(study_name=name, storage=storage).trials
        for name in ("tiny", "tiny/baselines")
    )
    assert [trial.state.name for trial in arms] == ["COMPLETE"] * 8 and [
        trial.state.name for trial in baselines
    ] == ["COMPLETE"] * 6


def test_mlflow_has_one_parent_and_a_finished_child_per_trial(finished):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    arms = [run for run in runs if run.data.tags["kind"] == "summary"]
    assert len(parents) == 1 and len(runs) - len(arms) == 15 and len(arms) == 7
    assert {run.info.status for run in runs} == {"FINISHED"}
    child = next(run for run in runs if run.info.run_name == "lr_split+warmup--s1")
    assert child.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    row = results(finished).set_index("trial").loc["lr_split+warmup--s1"]
    assert child.data.metrics["test/top1"] == pytest.approx(row["test/top1"], abs=5e-5)
    assert len(client.get_metric_history(child.info.run_id, "test/top1")) >= 4
    assert "report.md" in [item.path for item in client.list_artifacts(parents[0].info.run_id)]


@pytest.mark.long
def test_sharing_and_the_number_of_workers_change_no_bit(finished, tmp_path):
    """Every metric of every epoch of a seed, shared by two workers, by one, or computed alone by one."""
    two, alone = project(tmp_path / "two"), project(tmp_path / "alone")
    one_seed = ("run", "--grid", "tiny.yaml", "--seeds", "1", "--offline")
    ablate(two, *one_seed, "--jobs", "2")
    ablate(alone, *one_seed, "--jobs", "1", "--no-share")
    for folder, name in itertools.product((two, alone), ("results", "history")):
        own, shared = (
            pd.read_csv(project / "reports" / "tiny" / f"{name}.csv")
            for project in (folder, finished)
        )
        shared = shared[shared["trial"].str.endswith("--s0")].reset_index(drop=True)
        clocks = [column for column in own if column == "wall_seconds"]
        pd.testing.assert_frame_equal(
            own.drop(columns=clocks), shared.drop(columns=clocks), check_exact=True
        )


@pytest.mark.long
def test_one_more_seed_trains_that_seed_alone(finished, tmp_path):
    before = results(finished)
    ablate(finished, "run", "--grid", "tiny.yaml", "--seeds", "3", "--offline")
    after = results(finished)
    assert len(after) == 21
    pd.testing.assert_frame_equal(
        after[after["seed"] < 2].reset_index(drop=True), before, check_exact=True
    )


GROWN_GRID = """
study: grown
experiment: tiny-digits
design: factorial
seeds: 4
factors:
  lr_split: {off: {optim.lr.encoder: 1.0e-3}, on: {optim.lr.encoder: 1.0e-5}}
  gradient_decoupling: {off: {routing: summed}, on: {routing: decoupled}}
settings: {warmup.epochs: 1}
baselines: [ce]
"""


def recorded(folder: Path) -> dict[str, int]:
    """Key of every epoch in the cache -> when it was written."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in (folder / ".ablate" / "cache" / "record").glob("*/*")
    }


@pytest.mark.long
def test_a_later_study_trains_the_epochs_that_the_earlier_one_did_not_leave_and_no_others(
    finished, tmp_path, monkeypatch
):
    """One more factor and two more seeds, in a grid file of its own."""
    folder = tmp_path / "grown"
    shutil.copytree(finished, folder)
    (folder / "grown.yaml").write_text(GROWN_GRID)
    monkeypatch.chdir(folder)
    before, plan = recorded(folder), open_study(Path("grown.yaml")).plan
    new = set(plan.unique()) - set(before)
    assert 0 < len(new) < len(plan.unique()) < plan.n_naive()
    said = ablate(folder, "run", "--grid", "grown.yaml", "--jobs", "2", "--offline")
    assert f"{len(new)} epochs trained, {len(plan.unique()) - len(new)} reused" in said
    after = recorded(folder)
    assert set(after) - set(before) == new
    assert {key: after[key] for key in before} == before  # nothing was trained again


CROWDED = """
study: {name}
experiment: tiny-digits
design: factorial
seeds: 2
factors:
  {factor}
settings: {{warmup.epochs: 1, optim.lr.encoder: 1.0e-3}}
baselines: [{baselines}]
"""


@pytest.mark.parallel
def test_two_studies_at_once_that_evict_each_other_s_checkpoints_get_the_results_that_each_gets_alone(
    finished, tmp_path
):
    """On one cache, which is too small for a single checkpoint and trimmed all the time."""
    folder = project(tmp_path / "crowded")
    lr_split, warmup = GRID.split("factors:\n  ")[1].split("\nbaselines")[0].split("\n  ")
    studies = {"first": (lr_split, "ldmlr"), "second": (warmup, "ce, balanced-head")}
    code = "import ablation.study.running; ablation.study.running.TRIM_SECONDS = 0; from ablation.cli.main import main; main()"
    running = []
    for name, (factor, baselines) in studies.items():
        (folder / f"{name}.yaml").write_text(
            CROWDED.format(name=name, factor=factor, baselines=baselines)
        )
        command = [
            sys.executable,
            "-P",
            "-c",
            code,
            "run",
            "--grid",
            f"{name}.yaml",
            "--jobs",
            "1",
            "--offline",
            "--cache-size",
            "1kB",
        ]
        running.append(
            subprocess.Popen(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert not list((folder / ".ablate" / "cache" / "state").glob("*/*"))
    alone = pd.read_csv(finished / "reports" / "tiny" / "history.csv").set_index("trial")
    for name in studies:
        assert set(results(folder, name)["state"]) == {"COMPLETE"}
        history = pd.read_csv(folder / "reports" / name / "history.csv").set_index("trial")
        expected = alone.loc[history.index.unique()]
        pd.testing.assert_frame_equal(history, expected[history.columns], check_exact=True)


def test_the_dry_run_says_what_is_shared_and_runs_nothing(tmp_path):
    folder = project(tmp_path / "dry")
    said = ablate(folder, "run", "--grid", "tiny.yaml", "--dry-run")
    naive, unique = map(
        int, re.search(r"14 trials: (\d+) epochs one by one, (\d+) unique", said).groups()
    )
    assert naive == 2 * (
        4 * 6 + 3 + (2 + 8) + (2 + 4)
    )  # arms, ce, ldmlr, balanced-head; 2 epochs of pre-training each
    assert unique < naive
    assert "pretrain 1–2" in said and "joint 2–4: lr_split" in said  # the forest
    assert not (folder / "runs").exists() and not (folder / "mlflow.db").exists()


@pytest.fixture
def brittle(tmp_path) -> Path:
    return brittle_project(tmp_path)


def brittle_project(tmp_path: Path) -> Path:
    """A project that ablates a plain function, of which some trials raise and some kill their worker."""
    (tmp_path / "brittle.py").write_text(BRITTLE)
    (tmp_path / "fragile.yaml").write_text(
        "title: A function\nsubject: brittle:train\nsettings: {how: works}\n"
    )
    levels = "{works: {how: works}, raises: {how: raises}, dies: {how: dies}}"
    (tmp_path / "grid.yaml").write_text(
        f"study: brittle\nexperiment: fragile\nmetric: test/top1\ndesign: factorial\nseeds: 2\nfactors:\n  how: {levels}\n"
    )
    return tmp_path


@pytest.fixture(scope="module")
def failed(tmp_path_factory) -> tuple[Path, str]:
    """That project once it has run, and what was printed."""
    folder = brittle_project(tmp_path_factory.mktemp("failed"))
    command = ("run", "--grid", "grid.yaml", "--jobs", "2", "--offline")
    return folder, ablate(folder, *command, expect=1, draws=False)


def test_failed_trials_are_recorded_with_their_reason_and_the_others_go_on(failed):
    brittle, said = failed
    table = results(brittle, "brittle").set_index("trial")
    assert dict(table["state"]) == {
        "reference--s0": "COMPLETE", "reference--s1": "COMPLETE", "how=raises--s0": "COMPLETE",
        "how=raises--s1": "FAILED", "how=dies--s0": "FAILED", "how=dies--s1": "COMPLETE",
    }  # fmt: skip
    assert "planted: it diverged" in table.loc["how=raises--s1", "error"]
    assert "exit code 7" in table.loc["how=dies--s0", "error"]
    assert "FAILED how=raises--s1: ArithmeticError: planted: it diverged" in said
    assert "planted: it diverged" in (brittle / "reports" / "brittle" / "report.md").read_text()
    assert "planted" in (brittle / "runs" / "brittle" / "how=raises--s1" / "stdout.log").read_text()


@pytest.mark.long
def test_failed_trials_are_rerun_on_request_alone(brittle):
    ablate(brittle, "run", "--grid", "grid.yaml", "--offline", expect=1)
    (brittle / "mended").touch()
    said = ablate(brittle, "run", "--grid", "grid.yaml", "--offline", expect=1)
    assert (
        "0 trials trained, 4 reused" in said
        and "2 trials that had failed before were not run again; --retry-failed does that" in said
    )
    assert "1 trials trained" in ablate(
        brittle, "run", "--grid", "grid.yaml", "--offline", "--retry-failed", expect=1
    )
    states = dict(results(brittle, "brittle").set_index("trial")["state"])
    assert states["how=raises--s1"] == "COMPLETE" and states["how=dies--s0"] == "FAILED"


def test_a_plain_function_reports_its_own_epochs(failed):
    brittle, _ = failed
    records = RunFolder(ProjectPaths(brittle).runs("brittle").path).records("reference--s1")
    assert [(r["epoch"], r["metrics"]["test/top1"]) for r in records] == [
        (1, 11.0),
        (2, 21.0),
        (3, 31.0),
    ]


def test_another_experiment_under_the_same_name_is_refused(finished):
    said = ablate(finished, "run", "--grid", "tiny.yaml", "-S", "batch_size=32", expect=2)
    assert "batch_size: was 64, is 32" in said and "--as" in said


def test_wrong_input_exits_with_2_and_every_problem(tmp_path):
    folder = project(tmp_path / "wrong")
    (folder / "tiny.yaml").write_text(
        GRID.replace("seeds: 2", "sedes: 2").replace(
            "optim.lr.encoder: 1.0e-5", "optim.lr.encodr: 1.0e-5"
        )
    )
    said = ablate(folder, "run", "--grid", "tiny.yaml", expect=2)
    assert "did you mean 'seeds'" in said and "did you mean 'optim.lr.encoder'" in said
    assert not (folder / "runs").exists()
