"""A pruner ends trials of own code by the epochs that they report, while they run."""

from __future__ import annotations

import io
import itertools
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_tuning import Killed, kill_after

from ablation.doctor.files import trial_checks
from ablation.errors import InputError
from ablation.reporting import figures
from ablation.storage.runs import RunFolder
from ablation.study import opening, running
from ablation.study.closing import Closing
from ablation.study.repair import TrialFiles
from ablation.study.views import show_plan
from ablation.subject.own import Place

TRAIN = """
import math, sys, time

SECONDS, EVERY, BEST = 0.0, 1, {"a": 0.1, "b": 0.01}


def train(config, seed, report):
    run(config, report)
    return {"acc": value(config, 20)}


def run(config, report):
    for epoch in range(1, 21):
        time.sleep(SECONDS)
        measured = {"acc": value(config, epoch)} if epoch % EVERY == 0 else {}
        report(epoch, {"loss": 1 / epoch, **measured})


def value(config, epoch):
    top = 90 - 20 * abs(math.log10(config["rate"] / BEST[config["x"]]))
    return top * (1 - math.exp(-epoch / 4))


def fail_when_stopped(config, seed, report):
    try:
        run(config, report)
    except BaseException:
        raise ValueError("the report was not sent")
    return {"acc": value(config, 20)}


def quiet(config, seed, report):
    return {"acc": value(config, 20)}


if __name__ == "__main__":
    run({"rate": float(sys.argv[1]), "x": sys.argv[2]}, lambda epoch, metrics: print(
        f"epoch {epoch} acc: {metrics['acc']} loss: {metrics['loss']}", flush=True))
"""
NUMBERS = itertools.count()
PRUNER = "pruner: {name: successive-halving, min_epochs: 3}"
GRID = f"""
study: own
experiment: mine
metric: {{name: acc, goal: maximize}}
seeds: 2
factors: {{x: {{a: {{x: a}}, b: {{x: b}}}}}}
search:
  space: {{rate: {{low: 1.0e-4, high: 1.0, log: true}}}}
  trials: 8
  metric: acc
  {PRUNER}
"""


class Project:
    """Own code in a folder, with a search; its workers are real."""

    def __init__(
        self,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        subject: str = "MODULE:train",
        reports: bool = False,
    ):
        root.mkdir()
        # this process imports it
        self.module = f"pruned_{next(NUMBERS)}"
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.chdir(root)
        monkeypatch.setattr(opening, "provenance", dict)
        monkeypatch.setattr(figures, "draw", lambda *arguments: [])
        if not reports:
            monkeypatch.setattr(Closing, "write", lambda closing: [])
        self.root, self.grid = root, root / "grid.yaml"
        (root / f"{self.module}.py").write_text(TRAIN)
        (root / "mine.yaml").write_text(
            f"title: Mine\nsubject: {subject.replace('MODULE', self.module)}\nsettings: {{rate: 0.1, x: a}}\n"
        )
        self.grid.write_text(GRID)
        self.folder = RunFolder(root / "runs" / "own.search")

    def rewrite(self, file: str, before: str, after: str) -> None:
        path = self.root / file.replace("MODULE", self.module)
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    def sleep(self, seconds: float) -> None:
        """Let each epoch take so long."""
        self.rewrite("MODULE.py", "SECONDS, EVERY, BEST = 0.0", f"SECONDS, EVERY, BEST = {seconds}")

    def run(self, jobs: int = 2) -> running.RunResult:
        options = running.RunOptions(jobs=jobs, offline=True)
        return running.run(opening.open_study(self.grid), options)

    @property
    def events(self) -> dict[str, list]:
        return {
            file.name: [json.loads(line) for line in file.read_text().splitlines()]
            for file in sorted(self.folder.path.glob("*.asked.jsonl"))
        }

    @property
    def known(self) -> list[list]:
        """The events of each arm, but for the digest of the search: modules have their own names."""
        return [events[1:] for events in self.events.values()]

    @property
    def pruned(self) -> dict[str, int]:
        """Trial -> the epoch that it was ended with."""
        return {
            f"{name.removesuffix('.asked.jsonl')}--t{event['of']:03d}--s100": event["step"]
            for name, events in self.events.items()
            for event in events
            if event.get("prune")
        }

    @property
    def reported(self) -> dict[str, list]:
        """Trial of the search -> what stands in its metrics.jsonl."""
        return {
            path.parent.name: [
                (record["epoch"], record["metrics"])
                for record in self.folder.records(path.parent.name)
            ]
            for path in sorted(self.folder.path.glob("*/metrics.jsonl"))
        }

    @property
    def told(self) -> str:
        """The report's section on the search."""
        text = (self.root / "reports" / "own" / "report.md").read_text()
        return text[text.index("## Search") : text.index("## Effects")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    return Project(tmp_path / "project", monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A project whose study has been run."""
    with pytest.MonkeyPatch.context() as patch:
        project = Project(tmp_path_factory.mktemp("undisturbed") / "project", patch)
        project.run()
        return project


def test_a_trial_ends_with_the_epoch_that_condemned_it(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path / "project", monkeypatch, reports=True)
    project.run()
    assert project.pruned and set(project.pruned.values()) <= {3, 9}
    for trial, reported in project.reported.items():
        n = project.pruned.get(trial, 20)
        outcome = project.folder.outcome(trial)
        assert [epoch for epoch, _ in reported] == list(range(1, n + 1)), trial
        assert outcome.state == "COMPLETE"
        assert outcome.metrics["acc"] == reported[-1][1]["acc"], trial
    assert "16 trials trained" in capsys.readouterr().out
    n_pruned = sum(name.startswith("reference") for name in project.pruned)
    assert f"{8 - n_pruned} / {n_pruned} / 0" in project.told
    assert (
        "| epochs |" not in project.told and "ended early" not in project.told.split("\n\n", 2)[2]
    )


@pytest.mark.long
def test_a_trial_that_is_ended_does_not_run_on(project):
    project.sleep(0.1)
    project.rewrite("MODULE.py", "time.sleep(SECONDS)", "time.sleep(SECONDS); print(epoch)")
    project.rewrite("grid.yaml", "trials: 8", "trials: 4")
    project.run()
    assert project.pruned
    for trial in project.pruned:
        printed = (project.folder.trial_path(trial) / "stdout.log").read_text().split()
        assert "20" not in printed, trial


@pytest.mark.parametrize(
    ("seconds", "jobs"),
    [
        (0.0, 1),
        pytest.param(0.02, 1, marks=pytest.mark.long),
        pytest.param(0.0, 4, marks=pytest.mark.long),
        pytest.param(0.02, 4, marks=pytest.mark.long),
    ],
)
def test_the_same_trials_end_at_the_same_epochs_however_fast_they_are(
    project, seconds, jobs, undisturbed
):
    """Those that come to their end before they are stopped, too."""
    project.sleep(seconds)
    project.run(jobs)
    assert project.known == undisturbed.known
    assert project.reported == undisturbed.reported


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # of the trials before there are whole records, or outcomes of pruned ones
        pytest.param("pruner: none", PRUNER, id="from none"),
        pytest.param(PRUNER, "pruner: none", id="to none", marks=pytest.mark.long),
    ],
)
def test_another_pruner_judges_what_is_in_the_cache_as_if_it_ran(
    project, before, after, undisturbed, tmp_path, monkeypatch
):
    project.rewrite("grid.yaml", PRUNER, before)
    project.run()
    project.rewrite("grid.yaml", before, after)
    project.run()
    fresh = undisturbed
    if after != PRUNER:
        fresh = Project(tmp_path / "fresh", monkeypatch)
        fresh.rewrite("grid.yaml", PRUNER, after)
        fresh.run()
    assert project.known == fresh.known
    assert project.reported == fresh.reported


def test_files_of_a_pruned_trial_that_ran_on_are_as_they_should_be(project):
    project.run()
    planned = opening.open_study(project.grid)
    manifest = project.folder.manifest()
    files = TrialFiles(project.folder, planned.store, manifest, planned.study.subject)
    trial = next(iter(project.pruned))
    spec = next(spec for spec in manifest.trials if spec.trial == trial)
    # it came to its end before it was stopped, or could have
    subject = planned.study.subject
    (link,) = subject.chain(spec.settings, spec.seed, lambda key: None)
    place = Place(trial, project.root / "work")
    subject.advance(spec.settings, spec.seed, None, planned.store, lambda *_: None, place)
    assert len(planned.store.record(link.key)["history"]) == 20
    assert files.wrong(spec) == {}
    before = project.reported[trial]
    (project.folder.trial_path(trial) / "metrics.jsonl").write_bytes(b"lost")
    assert files.restore() and project.reported[trial] == before
    assert files.wrong(spec) == {}


def test_lost_trials_of_a_finished_search_are_not_said_to_be_run_again(project):
    project.run()
    planned, manifest = opening.open_study(project.grid), project.folder.manifest()
    files = TrialFiles(project.folder, planned.store, manifest, planned.study.subject)
    planned.store.clear()
    lost = project.folder.trial_path(manifest.trials[0].trial)
    (lost / "metrics.jsonl").write_bytes(b"lost")
    found = trial_checks(files)[0].look()
    assert found.remedy.endswith("`ablate run` runs what neither has, unless the search is over")
    assert found.mend().startswith("1 to be run again by `ablate run`, unless the search is over")
    project.run()
    assert not (lost / "outcome.json").exists()


@pytest.mark.parametrize(
    "n", [24, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 8, 15, 30, 40, 60))]
)
def test_a_killed_search_of_own_code_goes_on_with_the_same_trials(
    project, n, undisturbed, monkeypatch
):
    with monkeypatch.context() as patch:
        kill_after(n, patch)
        with pytest.raises(Killed):
            project.run(jobs=1)
    project.run(jobs=1)
    assert project.reported == undisturbed.reported
    assert project.pruned == undisturbed.pruned


def test_a_command_is_ended_by_what_it_prints(tmp_path, monkeypatch):
    project = Project(
        tmp_path / "project", monkeypatch, '{command: "python MODULE.py {rate} {x} {seed}"}'
    )
    project.sleep(0.01)
    project.rewrite("grid.yaml", "trials: 8", "trials: 4")
    project.run()
    assert project.pruned and set(project.pruned.values()) <= {3, 9}
    for trial, reported in project.reported.items():
        assert [epoch for epoch, _ in reported] == list(range(1, project.pruned.get(trial, 20) + 1))


@pytest.mark.long
def test_a_metric_that_is_measured_now_and_then_decides_at_the_next_time(project):
    project.rewrite("MODULE.py", "EVERY, BEST = 0.0, 1", "EVERY, BEST = 0.0, 2")
    project.run()
    assert project.pruned and set(project.pruned.values()) <= {4, 10}


@pytest.mark.long
def test_a_trial_that_fails_as_it_is_stopped_is_pruned_all_the_same(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path / "project", monkeypatch, "MODULE:fail_when_stopped", reports=True)
    project.sleep(0.01)
    project.rewrite("grid.yaml", "trials: 8", "trials: 4")
    result = project.run()
    assert project.pruned and not result.failed
    assert "FAILED" not in capsys.readouterr().out
    assert " / 0 |" in project.told


@pytest.mark.parametrize("pruner", ["median", pytest.param("hyperband", marks=pytest.mark.long)])
def test_every_pruner_ends_trials_of_own_code(project, pruner):
    project.rewrite("grid.yaml", "successive-halving", pruner)
    project.rewrite("grid.yaml", "trials: 8", "trials: 14")
    project.run()
    assert project.pruned


@pytest.mark.long
def test_hyperband_waits_for_a_complete_trial_as_long_as_its_first_bracket(project):
    """One that stops early, as that with an arm's own settings here, gives it no brackets."""
    project.rewrite("MODULE.py", "range(1, 21)", "range(1, 3 if config['rate'] == 0.1 else 21)")
    project.rewrite("grid.yaml", "successive-halving, min_epochs: 3", "hyperband, min_epochs: 4")
    project.rewrite("grid.yaml", "trials: 8", "trials: 14")
    project.run()
    assert project.pruned


def test_what_reports_no_epochs_is_told_that_nothing_was_pruned(tmp_path, monkeypatch, capsys):
    project = Project(tmp_path / "project", monkeypatch, "MODULE:quiet", reports=True)
    project.run()
    why = "could be ended early: none measured acc at an epoch from 3 on that was not its last"
    assert f"warning: no trial of reference and x=b {why}" in capsys.readouterr().out
    assert f"No trial of `reference` and `x=b` {why}." in project.told


def test_the_plan_counts_trials_and_no_epochs(project):
    console = Console(file=io.StringIO(), width=150)
    show_plan(console, opening.open_study(project.grid), {}, 2)
    text = console.file.getvalue()
    left = "at most 16 trials are left to train; pruning ends some of them early"
    assert left in text and "epochs" not in text


def test_a_budget_of_epochs_is_refused_as_own_code_has_an_unknown_number(project):
    project.rewrite("grid.yaml", "trials: 8", "budget: 100")
    with pytest.raises(InputError) as refused:
        opening.open_study(project.grid)
    assert "search.budget: counts epochs, and how many a function or command has is not known" in (
        str(refused.value)
    )


def test_a_trial_that_ends_in_nan_is_known_as_a_bad_one(project):
    """As one that diverges: the sampler is to learn from it."""
    project.rewrite("grid.yaml", PRUNER, "pruner: none")
    end = 'return {"acc": value(config, 20)}'
    project.rewrite(
        "MODULE.py", f"    run(config, report)\n    {end}", f"    {end.replace('20', 'math.nan')}"
    )
    project.rewrite("grid.yaml", "trials: 8", "trials: 2")
    project.run()
    assert [event["state"] for events in project.known for event in events if "end" in event] == [
        "PRUNED"
    ] * 4
