"""An arm's run in MLflow: means over all seeds, whatever the interface has loaded."""

import math
import statistics
from dataclasses import replace

import fabricate
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from ablation.storage.asked import SearchLog, trial_name
from ablation.storage.runs import Outcome, RunFolder, failure
from ablation.tracking.mlflow_sync import Tracker

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

FACTORS = {"lr_split": fabricate.FACTORS["lr_split"]}
METRIC = "test/top1"


def study(tmp_path, seeds, **manifest) -> RunFolder:
    path = tmp_path / "runs" / "fixes"
    return fabricate.study(path, FACTORS, ["ce"], seeds=seeds, **manifest)


def runs_of(uri: str, arm: str, view: int = ViewType.ACTIVE_ONLY) -> list:
    client = MlflowClient(uri)
    id_ = client.get_experiment_by_name("fixes").experiment_id
    return client.search_runs([id_], f"tags.kind = 'summary' AND tags.arm = '{arm}'", view)


def run_of(uri: str, arm: str):
    (run,) = runs_of(uri, arm)
    return run


def values(folder: RunFolder, arm: str, metric: str = METRIC) -> list[float]:
    outcomes = [folder.outcome(s.trial) for s in folder.manifest().trials if s.arm == arm]
    return [each.metrics[metric] for each in outcomes if each and each.state == "COMPLETE"]


def test_an_arm_has_the_mean_and_deviation_over_its_seeds(uri, tmp_path):
    folder = study(tmp_path, range(4))
    Tracker().sync(folder, is_running=False)
    for arm in ("reference", "lr_split", "ce"):
        run, found = run_of(uri, arm), values(folder, arm)
        assert run.info.run_name == arm and run.info.status == "FINISHED"
        assert run.data.metrics[METRIC] == pytest.approx(statistics.fmean(found), abs=5e-5)
        std = run.data.metrics[f"std/{METRIC}"]
        assert std == pytest.approx(statistics.stdev(found), abs=5e-5)
        assert run.data.metrics["arm/seeds"] == len(found) == 4
    assert run_of(uri, "lr_split").data.params == {"arm": "lr_split", "lr_split": "on"}


def test_failed_trials_do_not_count_and_one_seed_has_no_deviation(uri, tmp_path):
    folder = study(tmp_path, (0, 1))
    error = failure("ValueError", "no")
    folder.write_outcome("ce--s1", Outcome("FAILED", {METRIC: 1.0}, 1.0, error, "", ""))
    Tracker().sync(folder, is_running=False)
    run = run_of(uri, "ce")
    assert run.data.metrics[METRIC] == pytest.approx(values(folder, "ce")[0], abs=5e-5)
    assert run.data.metrics["arm/seeds"] == 1 and f"std/{METRIC}" not in run.data.metrics


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_further_seed_is_a_further_step_of_the_same_run(uri, tmp_path, is_new_process):
    folder = study(tmp_path, (0, 1, 2))
    later = folder.outcome("ce--s2")
    (folder.trial_path("ce--s2") / "outcome.json").unlink()
    tracker = Tracker()
    tracker.sync(folder)
    before = run_of(uri, "ce")
    assert (before.info.status, before.data.metrics["arm/seeds"]) == ("RUNNING", 2)
    folder.write_outcome("ce--s2", later)
    tracker = Tracker() if is_new_process else tracker
    tracker.sync(folder)
    after = run_of(uri, "ce")
    assert after.info.run_id == before.info.run_id and after.info.status == "FINISHED"
    history = MlflowClient(uri).get_metric_history(after.info.run_id, METRIC)
    assert [point.step for point in history] == [2, 3]
    mean = statistics.fmean(values(folder, "ce"))
    assert after.data.metrics[METRIC] == history[-1].value == pytest.approx(mean, abs=5e-5)


def test_more_seeds_of_other_code_are_no_further_step(uri, tmp_path):
    folder = study(tmp_path, (0, 1, 2))
    later = folder.outcome("ce--s2")
    (folder.trial_path("ce--s2") / "outcome.json").unlink()
    Tracker().sync(folder)
    before = run_of(uri, "ce")
    manifest = folder.manifest()
    specs = [replace(spec, key=f"new {spec.key}") for spec in manifest.trials]
    folder.write_manifest(replace(manifest, trials=specs))
    for spec in specs:
        outcome = later if spec.trial == "ce--s2" else folder.outcome(spec.trial)
        folder.write_outcome(spec.trial, replace(outcome, key=spec.key))
    Tracker().sync(folder, is_running=False)
    after = run_of(uri, "ce")
    assert after.info.run_id != before.info.run_id
    history = MlflowClient(uri).get_metric_history(after.info.run_id, METRIC)
    assert [point.step for point in history] == [3]


def test_a_result_that_is_replaced_makes_the_arm_anew_and_keeps_what_people_wrote(uri, tmp_path):
    folder = study(tmp_path, (0, 1))
    Tracker().sync(folder, is_running=False)
    before = run_of(uri, "ce")
    MlflowClient(uri).set_tag(before.info.run_id, "mine", "looked at")
    outcome = folder.outcome("ce--s0")
    folder.write_outcome("ce--s0", replace(outcome, metrics={**outcome.metrics, METRIC: 1.0}))
    Tracker().sync(folder, is_running=False)
    after = run_of(uri, "ce")
    assert after.info.run_id != before.info.run_id and after.data.tags["mine"] == "looked at"
    mean = statistics.fmean(values(folder, "ce"))
    assert after.data.metrics[METRIC] == pytest.approx(mean, abs=5e-5)


def test_a_second_import_changes_no_arm_and_two_at_once_make_one_run_of_it(uri, tmp_path):
    folder = study(tmp_path, (0,))
    first, second = Tracker(), Tracker()
    (folder.trial_path("ce--s0") / "outcome.json").rename(tmp_path / "later")
    first.sync(folder)
    second.sync(folder)
    (tmp_path / "later").rename(folder.trial_path("ce--s0") / "outcome.json")
    first.sync(folder)
    second.sync(folder)
    Tracker().sync(folder)
    (only,) = runs_of(uri, "ce", ViewType.ALL)
    assert len(MlflowClient(uri).get_metric_history(only.info.run_id, METRIC)) == 1


def test_an_arm_that_leaves_the_grid_is_said_to_have_and_is_back_with_it(uri, tmp_path):
    folder = study(tmp_path, (0,))
    Tracker().sync(folder)
    manifest = folder.manifest()
    kept = [spec for spec in manifest.trials if spec.arm != "ce"]
    for trials, said in ((kept, "no"), (manifest.trials, "yes")):
        folder.write_manifest(replace(manifest, trials=trials))
        Tracker().sync(folder)
        assert run_of(uri, "ce").data.tags["ablate.in_grid"] == said


def search(path, goal: str, found: dict[int, tuple[str, float, float]]) -> RunFolder:
    """A search of one arm under two seeds. found: number -> its state, and its metric by seed."""
    arms = {"ce": {"space": {}, "digest": "d"}}
    metric = {"name": METRIC, "goal": goal}
    folder = fabricate.study(path, {}, ["ce"], [0], metric=metric, state=lambda spec: "WAITING")
    manifest, log = folder.manifest(), SearchLog(path, "ce", "d")
    first, specs = manifest.trials[-1], []
    for number, (state, *values) in found.items():
        log.append({"ask": number, "values": {}})
        log.append({"end": number, "state": state, "value": statistics.fmean(values)})
        for seed, value in enumerate(values):
            name = trial_name("ce", number, seed)
            specs.append(replace(first, trial=name, key=name, seed=seed))
            folder.write_outcome(name, Outcome("COMPLETE", {METRIC: value}, 1.0, key=name))
    told = {"of": "fixes", "arms": arms}
    folder.write_manifest(replace(manifest, trials=specs, seeds=[0, 1], search=told))
    return folder


@pytest.mark.parametrize(("goal", "sign"), [("maximize", 1), ("minimize", -1)])
def test_an_arm_of_a_search_has_the_mean_of_its_best_trial(uri, tmp_path, goal, sign):
    found = {
        0: ("COMPLETE", 50 + sign, 50 + sign),
        1: ("COMPLETE", 50 + 9 * sign, 50 - 9 * sign),
        # metrics that get worse with the epochs are at their best where a trial is ended early
        2: ("PRUNED", 50 + 9 * sign, 50 + 9 * sign),
    }
    Tracker().sync(search(tmp_path / "runs" / "fixes", goal, found))
    metrics = run_of(uri, "ce").data.metrics
    assert metrics == {METRIC: 50 + sign, "arm/trials": 6}


def test_values_whose_sum_is_beyond_the_largest_float_leave_a_gap(uri, tmp_path):
    folder = study(tmp_path, (0, 1))
    for trial in ("ce--s0", "ce--s1"):
        outcome = folder.outcome(trial)
        folder.write_outcome(trial, replace(outcome, metrics={**outcome.metrics, "loss": 1.2e308}))
    Tracker().sync(folder)
    metrics = run_of(uri, "ce").data.metrics
    assert math.isnan(metrics["loss"]) and metrics["arm/seeds"] == 2
