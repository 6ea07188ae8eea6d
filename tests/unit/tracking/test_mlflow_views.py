"""The views of a study that MLflow opens: what they show, and in which form they are kept."""

import base64
import json
import math
import zlib
from dataclasses import replace

import fabricate
import pytest
from counting import Tracker
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from ablation.storage.runs import Manifest, Outcome, RunFolder, failure
from ablation.tracking import mlflow_views as views

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow

MEASURED = [
    "train/loss", "test/few", "test/top1", "best/test/top1", "test/many", "diag/drift", "head/scale",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    factors = {name: fabricate.FACTORS[name] for name in list(fabricate.FACTORS)[:1]}
    fabricate.study(tmp_path / "runs" / "fixes", factors, ["ce"], seeds=[0])
    return RunFolder(tmp_path / "runs" / "fixes")


@pytest.fixture
def manifest(folder) -> Manifest:
    return folder.manifest()


def states(tags: dict[str, str]) -> dict[str, dict]:
    """Key of a view -> its state, as MLflow 3.17 reads it."""
    found = {}
    for name, text in tags.items():
        view = json.loads(text)
        header, payload = view["state"].split(";")
        assert header == "deflate" and isinstance(view["createdAt"], int)
        key = name.removeprefix("mlflow.sharedViewState.")
        assert view["name"] == views.NAMES[key]
        found[key] = json.loads(zlib.decompress(base64.b64decode(payload)))
    return found


def shared(uri: str) -> dict[str, str]:
    tags = MlflowClient(uri).get_experiment_by_name("fixes").tags
    return {name: text for name, text in tags.items() if name.startswith(views.SHARED)}


def test_arms_are_shown_with_their_means_sorted_by_the_headline_metric(manifest):
    state = states(views.view_tags(manifest, MEASURED, 5))[views.ARMS]
    assert (
        state["groupBy"] is None
    )  # MLflow's own means are over the hundred runs that it has loaded
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`test/top1`", False)
    names = ("test/top1", "std/test/top1", "arm/seeds", "test/many", "test/few", "best/test/top1")
    columns = [f"metrics.`{name}`" for name in names]
    columns += [f"params.`{name}`" for name in manifest.factors]
    assert state["selectedColumns"] == columns


def test_curves_are_means_of_whole_seeds_and_not_of_the_best_trials(manifest):
    state = states(views.view_tags(manifest, MEASURED, 5))[views.CURVES]
    assert state["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "param", "groupByData": "arm"}],
    }
    assert (state["orderByKey"], state["orderByAsc"]) == ("params.`seed`", True)
    arms = {spec.arm for spec in manifest.trials}
    assert state["groupsExpanded"] == {f"param.arm.{arm}": False for arm in arms}


def test_trials_are_not_grouped_and_show_their_seed(manifest):
    state = states(views.view_tags(manifest, MEASURED, 5))[views.TRIALS]
    columns = [f"params.`{name}`" for name in (*manifest.factors, "seed")]
    assert state["groupBy"] is None and state["selectedColumns"][-len(columns) :] == columns


def test_charts_begin_with_the_headline_metric(manifest):
    state = states(views.view_tags(manifest, MEASURED, 5))[views.CURVES]
    shown = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert shown == ["test/top1", "test/many", "test/few", "train/loss", "diag/drift"]
    (section,) = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {section["uuid"]}


def test_charts_are_not_smoothed_and_follow_the_page_s_own_setting(manifest):
    state = states(views.view_tags(manifest, MEASURED, 5))[views.CURVES]
    assert state["globalLineChartConfig"]["lineSmoothness"] == 0
    assert all(chart["useGlobalLineSmoothing"] for chart in state["compareRunCharts"])


def test_a_metric_that_is_minimised_is_sorted_upwards(manifest):
    changed = replace(manifest, metric={"name": "loss", "goal": "minimize"})
    state = states(views.view_tags(changed, ["loss"], 5))[views.ARMS]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`loss`", True)


def test_a_search_shows_how_many_trials_an_arm_has_and_what_is_searched(manifest):
    arms = {"none": {"space": {"lr": {}}}, "lr": {"space": {"lr": {}, "depth": {}}}}
    search = {"of": "fixes", "arms": arms}
    metric = {"name": "v/top1", "goal": "maximize"}
    changed = replace(manifest, metric=metric, factors={}, search=search)
    found = states(views.view_tags(changed, ["v/top1"], 5))
    of_arms = ["metrics.`v/top1`", "metrics.`arm/trials`"]
    assert found[views.ARMS]["selectedColumns"] == of_arms
    columns = ["metrics.`v/top1`", "params.`lr`", "params.`depth`", "params.`seed`"]
    assert found[views.TRIALS]["selectedColumns"] == columns
    # a setting called like a factor
    of_factor = replace(changed, factors={"depth": {"flat": {}, "deep": {}}})
    found = states(views.view_tags(of_factor, ["v/top1"], 5))
    columns[1:3] = ["params.`depth`", "params.`lr`", "params.`setting/depth`"]
    assert found[views.TRIALS]["selectedColumns"] == columns


def test_an_earlier_mlflow_reads_the_same_state_beside_the_name(manifest):
    tags = views.view_tags(manifest, MEASURED, 5)
    for (name, text), state in zip(tags.items(), states(tags).values(), strict=True):
        assert state.items() <= json.loads(text).items(), name
        assert len(text) <= views.MAX_TEXT


def test_of_long_names_as_many_charts_are_shown_as_fit_into_a_tag(manifest):
    measured = [f"test/{index:02}{'x' * 100}" for index in range(40)]
    tags = views.view_tags(manifest, measured, 5)
    n_charts = len(states(tags)[views.CURVES]["compareRunCharts"])
    assert 1 < n_charts < views.MAX_CHARTS
    assert len(tags[f"{views.SHARED}{views.CURVES}"]) <= views.MAX_TEXT


def test_a_view_that_fits_into_no_tag_is_left_out_and_its_link_too(manifest):
    measured = [f"{index:03}{'x' * 2000}" for index in range(40)]
    changed = replace(manifest, metric={"name": measured[0], "goal": "maximize"})
    tags = views.view_tags(changed, measured, 5)
    assert all(len(text) <= views.MAX_TEXT for text in tags.values())
    assert f"{views.SHARED}{views.ARMS}" in views.view_tags(manifest, MEASURED, 5)
    named = {
        name
        for name, key in zip(views.NAMES.values(), views.NAMES, strict=True)
        if f"{views.SHARED}{key}" in tags
    }
    assert set(views.links("http://x", "1", tags)) == (named or {""})


def test_views_are_written_once_and_again_when_the_metric_changes(uri, folder, monkeypatch):
    Tracker().sync(folder)
    before = shared(uri)
    assert states(before)[views.ARMS]["orderByKey"] == "metrics.`test/top1`"
    with monkeypatch.context() as patch:
        patch.delattr(MlflowClient, "set_experiment_tag")
        Tracker().sync(folder)
    changed = replace(folder.manifest(), metric={"name": "test/few", "goal": "maximize"})
    folder.write_manifest(changed)
    Tracker().sync(folder)
    assert states(shared(uri))[views.ARMS]["orderByKey"] == "metrics.`test/few`"


def test_what_a_person_changes_in_a_view_stays(uri, folder):
    Tracker().sync(folder)
    client = MlflowClient(uri)
    id_ = client.get_experiment_by_name("fixes").experiment_id
    name = f"{views.SHARED}{views.ARMS}"
    client.set_experiment_tag(id_, name, "mine")
    Tracker().sync(folder)
    assert shared(uri)[name] == "mine"


def test_an_mlflow_that_refuses_views_holds_the_study(uri, folder, monkeypatch):
    def refuse(self, *_):
        raise MlflowException("Tag value too long", error_code=INVALID_PARAMETER_VALUE)

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    assert Tracker().sync(folder).n_created == len(folder.manifest().trials)
    assert not shared(uri)


def test_the_filters_find_what_is_of_the_grid_alone(uri, folder):
    Tracker().sync(folder)
    client = MlflowClient(uri)
    id_ = client.get_experiment_by_name("fixes").experiment_id
    manifest = folder.manifest()
    _left, *kept = manifest.trials
    folder.write_manifest(replace(manifest, trials=kept))
    Tracker().sync(folder)
    client.create_run(id_, run_name="not ours")
    for key, state in states(shared(uri)).items():
        found = client.search_runs([id_], state["searchFilter"])
        names = {spec.arm if key == views.ARMS else spec.trial for spec in kept}
        assert {run.info.run_name for run in found} == names


def test_curves_are_means_of_trials_that_have_not_failed(uri, folder):
    *_, spec = folder.manifest().trials
    failed = Outcome("FAILED", {}, 1.0, failure("ValueError", "no"), key=spec.key)
    folder.write_outcome(spec.trial, failed)
    Tracker().sync(folder)
    client = MlflowClient(uri)
    id_ = client.get_experiment_by_name("fixes").experiment_id
    (run,) = client.search_runs([id_], f"attributes.run_name = '{spec.trial}'")
    gap = client.get_metric_history(run.info.run_id, "test/top1")[-1]
    last_epoch = folder.records(spec.trial)[-1]["epoch"]
    assert (math.isnan(gap.value), gap.step) == (True, last_epoch)
    shown = {
        key: {one.info.run_name for one in client.search_runs([id_], state["searchFilter"])}
        for key, state in states(shared(uri)).items()
    }
    assert shown[views.TRIALS] - shown[views.CURVES] == {spec.trial}
