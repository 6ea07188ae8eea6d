"""Studies on a lent machine: what travels, what is run there, and what comes back; see `benchmarks/on_gpu.py`."""

import argparse
import importlib.util
import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from toy_project import ToyProject

from ablation.errors import InputError
from ablation.storage.runs import RunFolder
from ablation.study import opening

FILE = Path(__file__).parents[2] / "benchmarks" / "on_gpu.py"
COMMITTED = sorted(FILE.parents[1].glob("docs/results/*/*.tar.gz"))
N_TRIALS = 4  # of a seed
TRIAL = "rate=fast--s0"


@pytest.fixture
def on_gpu():
    spec = importlib.util.spec_from_file_location("on_gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path, monkeypatch, on_gpu):
    (tmp_path / "home").mkdir()
    project = ToyProject(tmp_path / "home", monkeypatch)
    # which looks through all modules of the tests
    monkeypatch.setattr(opening, "load_subject", lambda name: project.subject)
    project.prepare = lambda **options: prepare(on_gpu, project, monkeypatch, **options)
    return project


def prepare(on_gpu, project, monkeypatch, overrides=(), seeds="3", retry_failed=False):
    monkeypatch.chdir(project.root)
    on_gpu.prepare(["grid.yaml"], list(overrides), seeds, "cpu", retry_failed)
    return json.loads(on_gpu.PLAN.read_text())


@pytest.fixture
def lent(home, on_gpu, tmp_path, monkeypatch):
    """Another machine, bare at each call, on which `stop_after` epochs of a pass are computed; returns what comes back.

    `passes`: (seeds, trials at a time) that `ablate run` was called with there.
    """

    def call(n=0, stop_after=float("inf"), failing=(), keep=False, minutes=10.0, told=None):
        root, out = tmp_path / f"lent{n}", tmp_path / f"out{n}"
        root.mkdir(exist_ok=keep)
        shutil.rmtree(root / ".gpu", ignore_errors=True)
        shutil.copytree(home.root / ".gpu", root / ".gpu")
        there = ToyProject(root, monkeypatch)
        if told is not None:
            monkeypatch.setattr(
                opening, "provenance", lambda: {"commit": None, "dirty": None} | told
            )

        def ablate(arguments, deadline, log):
            parser = argparse.ArgumentParser()
            for name in ("--grid", "--seeds", "--jobs"):
                parser.add_argument(name)
            parser.add_argument("-S", action="append")
            parser.add_argument("--offline", action="store_true")
            asked = parser.parse_args(arguments)
            call.passes.append((asked.seeds, int(asked.jobs)))
            done = there.go(asked.seeds, asked.S, stop_after)
            call.ran += there.ran
            asked = {"grid": "grid.yaml", "seeds": asked.seeds}
            there.folder.write_manifest(replace(there.folder.manifest(), asked=asked))
            for trial in failing:
                told = json.loads((there.folder.trial_path(trial) / "outcome.json").read_text())
                error = {"type": "Planted", "message": "no GPU", "traceback": ""}
                told |= {"state": "FAILED", "metrics": {}, "error": error}
                (there.folder.trial_path(trial) / "outcome.json").write_text(json.dumps(told))
            return 130 if done is None else int(bool(failing))

        monkeypatch.setattr(on_gpu, "_ablate", ablate)
        on_gpu.run(minutes, 12, out)
        monkeypatch.chdir(home.root)
        return out

    call.passes, call.ran = [], []
    return call


def ended(project) -> set[str]:
    specs = project.folder.manifest().trials
    return {spec.trial for spec in specs if project.folder.ending(spec) is not None}


def test_seeds_are_run_one_after_another_and_come_back_whole(home, lent, on_gpu, capsys):
    home.prepare()
    on_gpu.unpack(lent())
    assert [seeds for seeds, _ in lent.passes] == ["[0]", "[0,1]", "[0,1,2]"]
    assert len(ended(home)) == 3 * N_TRIALS and all(
        home.folder.records(trial) for trial in ended(home)
    )
    assert not any(home.folder.damage(trial) for trial in ended(home))
    said = capsys.readouterr().out
    assert f"toy {TRIAL}: COMPLETE, top1: 40.0" in said
    assert "toy: 12 trials arrived; 12 of 12 have ended" in said
    assert not [path for path in Path("runs").iterdir() if path.name != "toy"]


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_what_has_ended_is_not_run_again(home, lent, on_gpu, n_seeds):
    home.prepare(seeds=str(n_seeds))
    on_gpu.unpack(lent(1))
    before = {
        trial: (home.folder.trial_path(trial) / "metrics.jsonl").read_bytes()
        for trial in ended(home)
    }
    known = home.folder.manifest().trials
    lent.passes.clear()
    lent.ran.clear()
    home.prepare()
    on_gpu.unpack(lent(2))
    listed = ["[0]", "[0,1]", "[0,1,2]"][n_seeds:]
    assert [seeds for seeds, _ in lent.passes] == listed
    assert not any(trial.endswith(f"--s{seed}") for trial, _ in lent.ran for seed in range(n_seeds))
    assert len(ended(home)) == 3 * N_TRIALS and before.keys() < ended(home)
    assert all(
        (home.folder.trial_path(trial) / "metrics.jsonl").read_bytes() == content
        for trial, content in before.items()
    )
    # where a warm-up ended at a plateau, and what is shared then, is known from records alone
    assert known == [spec for spec in home.folder.manifest().trials if spec.seed < n_seeds]


def test_a_study_that_has_ended_asks_for_nothing(home, lent, on_gpu, capsys):
    home.prepare(seeds="1")
    on_gpu.unpack(lent(1))
    lent.passes.clear()
    home.prepare(seeds="1")
    out = lent(2)
    assert not lent.passes and not list(out.glob("*.gz"))
    assert "toy: 4 of 4 trials have ended; nothing is open" in (said := capsys.readouterr().out)
    assert "toy: nothing to bring back" in said


def test_a_trial_that_was_stopped_stays_there_and_is_said(home, lent, on_gpu, capsys):
    home.prepare(seeds="1")
    on_gpu.unpack(lent(1, stop_after=9))
    said = capsys.readouterr().out
    stopped = [line for line in said.splitlines() if "which do not come back" in line]
    assert stopped and 0 < len(ended(home)) < N_TRIALS
    assert {path.name for path in home.folder.path.iterdir() if path.is_dir()} == ended(home)
    home.prepare(seeds="1")
    on_gpu.unpack(lent(2))
    assert len(ended(home)) == N_TRIALS


def test_a_second_call_to_a_machine_goes_on_with_what_was_stopped(home, lent, on_gpu):
    home.prepare(seeds="1")
    lent(1, stop_after=9)
    n_first = len(lent.ran)
    on_gpu.unpack(lent(1, keep=True))
    assert len(ended(home)) == N_TRIALS
    assert n_first > 0 and len(set(lent.ran)) == len({key for _, key in lent.ran})  # nothing twice


def test_a_second_call_to_a_machine_that_has_done_all_brings_all_again(home, lent, on_gpu):
    home.prepare(seeds="1")
    on_gpu.unpack(lent(1))
    home.prepare(seeds="2")
    lent(2)
    n_passes = len(lent.passes)
    on_gpu.unpack(lent(2, keep=True))
    assert len(lent.passes) == n_passes
    assert len(ended(home)) == 2 * N_TRIALS and len(home.folder.manifest().trials) == 2 * N_TRIALS


def test_failed_trials_are_run_again_on_request_alone(home, lent, on_gpu):
    home.prepare(seeds="1")
    on_gpu.unpack(lent(1, failing=[TRIAL]))
    assert home.folder.outcome(TRIAL).state == "FAILED"
    lent.passes.clear()
    home.prepare(seeds="1")
    lent(2)
    assert not lent.passes
    home.prepare(seeds="1", retry_failed=True)
    on_gpu.unpack(lent(3))
    assert lent.passes and home.folder.outcome(TRIAL).state == "COMPLETE"


def test_a_machine_that_fails_every_trial_of_a_seed_is_given_up(home, lent, capsys):
    home.prepare()
    trials = [
        f"{arm}--s0"
        for arm in ("reference", "warmup=settling", "rate=fast", "warmup=settling+rate=fast")
    ]
    lent(failing=trials)
    assert len(lent.passes) == 1 and "given up" in capsys.readouterr().out


def test_nothing_is_begun_when_no_time_is_left(home, lent, capsys):
    home.prepare()
    lent(minutes=1.0)
    assert not lent.passes and "seed 0 is not begun" in capsys.readouterr().out


def test_an_older_archive_brings_its_trials_and_not_its_manifest(home, lent, on_gpu):
    outs = []
    for n, seeds in ((1, "1"), (2, "2")):
        home.prepare(seeds=seeds)
        outs.append(lent(n, told={"when": f"2026-01-0{n}"}))
    for out in reversed(outs):
        on_gpu.unpack(out)
    assert len(ended(home)) == 2 * N_TRIALS and len(home.folder.manifest().seeds) == 2


def test_a_study_of_other_settings_is_refused_before_and_after(home, lent, on_gpu):
    home.prepare(overrides=["size=1"], seeds="1")
    out = lent()
    home.go("1", ["device=cpu", "size=2"])
    with pytest.raises(InputError, match="size"):
        on_gpu.unpack(out)
    with pytest.raises(InputError, match="size"):
        home.prepare(overrides=["size=1"], seeds="1")


def test_the_manifest_that_comes_back_names_the_commit_and_no_grid_of_the_other_machine(
    home, lent, on_gpu
):
    plan = home.prepare(seeds="1")
    on_gpu.unpack(lent(told={"commit": None, "dirty": None, "when": "2026-01-01"}))
    manifest = home.folder.manifest()
    assert plan["provenance"].items() <= manifest.provenance.items() and manifest.asked == {}


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "toy/../../out.txt"])
def test_an_archive_writes_nothing_outside_its_place(home, on_gpu, tmp_path, name):
    (home.root / "in").mkdir()
    with tarfile.open(home.root / "in" / "toy.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises((tarfile.FilterError, FileNotFoundError)):
        on_gpu.unpack(home.root / "in")
    assert not (tmp_path / "out.txt").exists() and not list(home.root.rglob("out.txt"))


@pytest.mark.parametrize(
    "costs, seconds, pace, expected",
    [
        ([10.0] * 20, 500.0, None, 12),  # not known: as many as asked for
        ([10.0] * 20, 500.0, 1.0, 12),  # 200 of 400: time suffices for all
        ([10.0] * 20, 100.0, 1.0, 8),
        ([10.0, 1.0, 1.0], 13.0 / 0.8, 1.0, 0),  # less than is begun with
        ([40.0, 1.0, 1.0], 50.0, 1.0, 1),
        ([50.0, 1.0, 1.0], 50.0, 1.0, 0),
    ],
)
def test_no_more_trials_are_run_at_a_time_than_end_in_time(on_gpu, costs, seconds, pace, expected):
    assert on_gpu.n_at_a_time(costs, seconds, pace, 12) == expected


@pytest.mark.parametrize(
    "n_data, n_results, is_refused, is_said",
    [(10, 10, False, False), (60, 10, False, True), (70, 10, True, False)],
)
def test_what_travels_is_weighed(
    home, on_gpu, monkeypatch, capsys, n_data, n_results, is_refused, is_said
):
    """Sizes in KiB, of 64."""
    monkeypatch.setattr(on_gpu, "LARGEST", 64 * 2**10)
    subprocess.run(["git", "init", "-q", "."], check=True)
    Path(".gitignore").write_text("*\n!/docs/\n!/docs/results/\n!/docs/results/*\n")
    Path("docs/results").mkdir(parents=True)
    Path("docs/results/history.csv").write_bytes(bytes(n_results * 2**10))
    Path("data.tar.gz").write_bytes(bytes(n_data * 2**10))
    config = {"data": {"path": "data.tar.gz"}}
    monkeypatch.setattr(
        type(home.subject), "resolve", lambda self, settings: {**settings, **config}
    )
    if is_refused:
        with pytest.raises(SystemExit, match="too large, even without docs/results"):
            home.prepare()
        return
    home.prepare()
    assert ("git rm -rq docs/results" in capsys.readouterr().out) == is_said
    assert Path(".gpu/data.tar.gz").stat().st_size == n_data * 2**10


@pytest.mark.parametrize("path", ["/data/x.tar.gz", "../other/x.tar.gz", "data/../../x.tar.gz"])
def test_data_that_cannot_stand_below_the_carried_folder_are_named(on_gpu, path):
    with pytest.raises(SystemExit, match="cannot be carried"):
        on_gpu._carry_inputs({"data": {"path": path}})


@pytest.mark.parametrize("archive", COMMITTED, ids=lambda path: path.parent.name)
def test_trials_that_are_committed_are_those_of_the_report_beside_them(
    archive, on_gpu, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    on_gpu.unpack(archive.parent)
    folder = RunFolder(tmp_path / "runs" / archive.parent.name)
    manifest = folder.manifest()
    metric = manifest.metric["name"]
    found = {
        spec.trial: outcome.metrics[metric]
        for spec in manifest.trials
        if (outcome := folder.ending(spec)) is not None
    }
    reported = pd.read_csv(archive.parent / "results.csv").set_index("trial")[metric].dropna()
    assert found and found == pytest.approx(reported.to_dict())
