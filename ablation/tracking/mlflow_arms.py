"""What MLflow gets of an arm as a whole: a run with its means over seeds.

MLflow's interface can group trials by arm, but takes means over the runs that it has loaded, the
first hundred: of a study with more trials these would be means of the best seeds.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ablation.storage.asked import SearchLog, trial_name
from ablation.storage.runs import Manifest
from ablation.tracking.mlflow_content import (
    FORMAT,
    FORMAT_VERSION,
    IN_GRID,
    MAX_PARAM,
    MAX_TAG,
    Point,
    TrialContent,
    finite,
    fitted_labels,
    point,
    short_digest,
    status_of,
)

# tag `kind` of an arm's run
SUMMARY = "summary"
# tag: the key of the arm's first trial, which another code or other settings change
FIRST_KEY = "ablate.first_key"
# the metric's standard deviation over seeds; how many trials the arm's values are of
STD, N_SEEDS, N_TRIALS = "std/", "arm/seeds", "arm/trials"


@dataclass
class ArmContent:
    """What MLflow is to hold of an arm."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    # means over its complete trials, and how many these are, which is the points' step
    points: list[Point]
    n_complete: int
    status: str
    # milliseconds since 1970 of the first start; of all its trials together
    start: int
    milliseconds: int

    @property
    def digest(self) -> str:
        """A hash of the points, times excluded."""
        held = [(each.name, each.value, each.step) for each in self.points]
        return short_digest(repr(held))


def arm_contents(
    manifest: Manifest, trials: Sequence[TrialContent], is_running: bool
) -> list[ArmContent]:
    """What MLflow is to hold of each arm that has a complete trial.

    Of a search, an arm's values are those of its best trial, means over the search's seeds.
    """
    members = defaultdict(list)
    for trial in trials:
        members[trial.spec.arm].append(trial)
    found = []
    for arm, own in members.items():
        complete = [t for t in own if t.outcome and t.outcome.state == "COMPLETE"]
        if not complete:
            continue
        end = max(t.finished or 0 for t in complete)
        levels = own[0].spec.levels
        tags = {"study": manifest.study, "arm": arm, "kind": SUMMARY} | {
            f"factor.{factor}": level for factor, level in levels.items()
        }
        values = _values(manifest, complete)
        found.append(
            ArmContent(
                arm,
                fitted_labels("setting", {"arm": arm} | levels, MAX_PARAM),
                fitted_labels("tag", tags, MAX_TAG)
                | {FORMAT: FORMAT_VERSION, IN_GRID: "yes", FIRST_KEY: own[0].spec.key},
                [point(name, value, end, len(complete)) for name, value in values.items()],
                len(complete),
                status_of(own, is_running),
                min(t.start() for t in complete),
                round(1000 * sum(t.outcome.wall_seconds for t in complete if t.outcome)),
            )
        )
    return found


def _values(manifest: Manifest, trials: Sequence[TrialContent]) -> dict[str, float]:
    """The metrics of an arm: means over the trials that have them; of a search, over the best's."""
    metric, is_search = manifest.metric["name"], bool(manifest.search.get("of"))
    of_metric = defaultdict(list)
    for trial in _of_best(manifest, trials) if is_search else trials:
        for name, value in trial.outcome.metrics.items() if trial.outcome else ():
            of_metric[name].append(finite(value))
    values = {name: _or_nan(statistics.fmean, each) for name, each in of_metric.items()}
    if is_search:
        return values | {N_TRIALS: float(len(trials))}
    if len(of_metric[metric]) > 1:
        values[STD + metric] = _or_nan(statistics.stdev, of_metric[metric])
    return values | {N_SEEDS: float(len(trials))}


def _of_best(manifest: Manifest, trials: Sequence[TrialContent]) -> list[TrialContent]:
    """Of an arm's trials in a search, the best one's under each seed; no pruned one is best."""
    arm = trials[0].spec.arm
    log = SearchLog(trials[0].folder.path, arm, manifest.search["arms"][arm]["digest"])
    best = log.best(manifest.metric["goal"])
    names = [trial_name(arm, best.number, seed) for seed in manifest.seeds] if best else []
    return [trial for trial in trials if trial.name in names]


def _or_nan(of: Callable[[list[float]], float], values: list[float]) -> float:
    """What a function makes of values; NaN where that is beyond the largest float."""
    try:
        return of(values)
    except OverflowError:
        return math.nan
