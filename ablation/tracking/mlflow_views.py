"""Views of a study in MLflow's interface: which runs, columns, order, groups and charts it shows.

MLflow keeps a view that is shared in a tag of the experiment, and opens it where the link names its
key (`viewStateShareKey`). Nothing else reads these tags. Seen in the interfaces of 3.10 and 3.17.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ablation.storage.runs import Manifest
from ablation.tracking.mlflow_arms import N_SEEDS, N_TRIALS, STD, SUMMARY
from ablation.tracking.mlflow_content import IN_GRID, fitted_name, param_name

# tag of the experiment: this and the view's key
SHARED = "mlflow.sharedViewState."
ARMS, TRIALS, CURVES = "ablate-arms", "ablate-trials", "ablate-curves"
NAMES = {ARMS: "Arms", TRIALS: "Trials", CURVES: "Learning curves"}
"""Key of a view -> its name in MLflow's menu of views."""
OF_GRID = f'tags.`{IN_GRID}` = "yes"'
OF_TRIALS = f'tags.kind != "study" AND tags.kind != "{SUMMARY}" AND {OF_GRID}'
# A failed trial ends with a gap, see `mlflow_content`, which would be one in the mean of its arm.
OF_CURVES = f'{OF_TRIALS} AND attributes.status != "FAILED"'
# arms whose trials are folded away
MAX_FOLDED = 100
# the columns that stand before all others; their widths in pixels leave room for three metrics in a
# window of 1400, of which MLflow's menu and its assistant take half
RUN_NAME, CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
WIDTHS = {RUN_NAME: 240, CREATED: 140}
# characters of an experiment's tag in MLflow 3.10
MAX_TEXT = 5000
# metrics in the tables, charts of curves
MAX_COLUMNS, MAX_CHARTS = 8, 12
# groups of metrics whose curves are shown, after that of the primary metric
CURVE_GROUPS = ("train", "diag", "gen", "grad")
# order within a group; the others follow by name
FIRST = ("top1", "many", "medium", "few", "top1_compensated", "balanced_accuracy", "ece")

State = dict[str, Any]

DEFAULTS: State = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}
"""What MLflow's own state has besides; 3.10 shows an error where one is missing."""


def view_tags(manifest: Manifest, measured: Collection[str], created: int) -> dict[str, str]:
    """Tag of the experiment -> its text, for each view that fits into a tag.

    measured: metrics of the trials that have ended.
    created: when the study was begun, in milliseconds since 1970.
    """
    metric = manifest.metric["name"]
    about_mean = [N_TRIALS] if manifest.search.get("of") else [STD + metric, N_SEEDS]
    arms = _table(manifest, measured, about_mean, manifest.factors)
    states = {
        ARMS: arms | {"searchFilter": f'tags.kind = "{SUMMARY}" AND {OF_GRID}'},
        TRIALS: _table(manifest, measured, params=_params(manifest)),
    }
    texts = {key: _text(NAMES[key], state, created) for key, state in states.items()}
    for n_charts in range(MAX_CHARTS, 0, -1):
        # MLflow draws the first hundred trials: whole seeds, and not the best of each arm.
        by_seed = {"orderByKey": "params.`seed`", "orderByAsc": True}
        curves = _table(manifest, measured) | by_seed | _by_arm(manifest)
        state = curves | {"searchFilter": OF_CURVES} | _charts(manifest, measured, n_charts)
        texts[CURVES] = _text(NAMES[CURVES], state, created)
        if len(texts[CURVES]) <= MAX_TEXT:
            break
    return {f"{SHARED}{key}": text for key, text in texts.items() if len(text) <= MAX_TEXT}


def address_of(server: str) -> str:
    """The address of a server's pages: its URI without credentials, which a link must not show."""
    parts = urlsplit(server)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def links(address: str, experiment_id: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Name of a view -> its link, of those that the experiment's tags hold.

    Without any, one link to the experiment's runs, named "".
    """
    runs = f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    found = {
        name: f"{runs}{'&compareRunsMode=CHART' * (key == CURVES)}&viewStateShareKey={key}"
        for key, name in NAMES.items()
        if f"{SHARED}{key}" in tags
    }
    return found or {"": runs}


def _text(name: str, state: State, created: int) -> str:
    """A view as MLflow keeps it.

    MLflow 3.17 reads name, times and the compressed `state`. 3.10 knows no names, and reads the
    state from beside them.
    """
    state = DEFAULTS | state
    compressed = base64.b64encode(zlib.compress(_json(state).encode(), 9)).decode()
    view = {"name": name, "createdAt": created, "updatedAt": created}
    return _json({**view, "state": f"deflate;{compressed}", **state})


def _json(state: State) -> str:
    """Without spaces, so that more charts fit into a tag."""
    return json.dumps(state, separators=(",", ":"))


def _table(
    manifest: Manifest,
    measured: Collection[str],
    about_mean: Sequence[str] = (),
    params: Collection[str] = (),
) -> State:
    """Filter, order and columns of a table: the primary metric, what is known of it, its group."""
    metric = manifest.metric["name"]
    beside = [name for name in measured if name != metric and _group(name) == _group(metric)]
    names = [metric, *about_mean, *sorted(beside, key=_place)[: MAX_COLUMNS - 1]]
    best = f"best/{metric}"
    names += [best] if best in measured else []
    columns = [f"metrics.`{fitted_name(name)}`" for name in names]
    columns += [f"params.`{fitted_name(name)}`" for name in params]
    return {
        "searchFilter": OF_TRIALS,
        "orderByKey": columns[0],
        "orderByAsc": manifest.metric["goal"] == "minimize",
        "selectedColumns": columns,
        "columnOrder": [*WIDTHS, *columns],
        "columnWidths": WIDTHS,
        "runsHiddenMode": "SHOW_ALL",
    }


def _params(manifest: Manifest) -> list[str]:
    """What tells trials apart."""
    arms = manifest.search["arms"].values() if manifest.search.get("of") else ()
    searched = dict.fromkeys(key for arm in arms for key in arm["space"])
    return [*manifest.factors, *(param_name(key, manifest) for key in searched), "seed"]


def _by_arm(manifest: Manifest) -> State:
    """Groups of an arm's trials, whose curves are drawn as their mean."""
    arms = dict.fromkeys(spec.arm for spec in manifest.trials)
    return {
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": "arm"}],
        },
        "groupsExpanded": {f"param.arm.{arm}": False for arm in list(arms)[:MAX_FOLDED]},
    }


def _charts(manifest: Manifest, measured: Collection[str], n_charts: int) -> State:
    """Learning curves: the primary metric first, then its group, then what explains them."""
    metric = manifest.metric["name"]
    groups = list(dict.fromkeys([_group(metric), *CURVE_GROUPS]))
    beside = [name for name in measured if name != metric and _group(name) in groups]
    beside.sort(key=lambda name: (groups.index(_group(name)), *_place(name)))
    section = "ablate-curves"
    charts = [
        {
            "type": "LINE",
            "uuid": f"ablate-{index}",
            "metricSectionId": section,
            "isGenerated": True,
            "metricKey": fitted_name(name),
            "displayName": name,
            # that of `globalLineChartConfig`; a card without it is smoothed
            "useGlobalLineSmoothing": True,
        }
        for index, name in enumerate([metric, *beside[: n_charts - 1]])
    ]
    about = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": section, "name": NAMES[CURVES], **about}],
        "isAccordionReordered": True,
    }


def _group(metric: str) -> str:
    """What stands before the name's last part: `test` of `test/top1`."""
    return metric.rpartition("/")[0]


def _place(metric: str) -> tuple[int, str]:
    """Where a metric stands among those of its group."""
    last = metric.rpartition("/")[2]
    return (FIRST.index(last) if last in FIRST else len(FIRST), metric)
