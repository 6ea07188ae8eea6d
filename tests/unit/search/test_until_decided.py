"""Seeds are added to the arms of undecided claims alone, and to the same ones however often the study is killed."""

import json
import math
import os
import random
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from toy_study import ToyStudy
from toy_subject import Toy

from ablation.analysis.first_plan import changed_seeds
from ablation.analysis.results import load, load_scores
from ablation.errors import InputError
from ablation.formatting import MISSING
from ablation.grid.load import load_study
from ablation.planning import plan as planning
from ablation.planning.forecast import Listener
from ablation.reporting.tables import looks_table
from ablation.search import seeds as module
from ablation.search.seeds import Budget, UntilDecided
from ablation.study import opening
from ablation.study.closing import Closing
from ablation.study.opening import PlannedStudy
from ablation.study.running import RunOptions, forget_failures, train

SEEDS = "{start: 3, max: 8}"
CLAIMS = """
claims:
  - {id: faster, says: Fast is better., contrast: {arm: rate=fast, minus: reference}, expects: [{metric: top1, direction: up}]}
  - {id: settled, says: Settling helps., contrast: {arm: warmup=settling, minus: reference}, expects: [{metric: top1, direction: up}]}
"""
FAST, ASKING = {"rate=fast", "reference"}, {"warmup=settling", "reference"}


class Killed(BaseException):
    """As by Ctrl-C, or worse."""


class StopAfter(Listener):
    """Kills the study when so many trials have ended."""

    def __init__(self, n_trials):
        self.n_left = n_trials

    def finished(self, spec, outcome):
        self.n_left -= 1
        if self.n_left <= 0:
            raise Killed


class Noisy(Toy):
    """The fast rate is 9 points better; warm-ups are alike but for noise. `breaks`: seeds of the fast arm that fail."""

    breaks: frozenset[int] = frozenset()

    def top1(self, link, seed):
        if seed in self.breaks and link.key.endswith("2"):
            raise ArithmeticError("it breaks")
        return 9.0 * link.key.endswith("2") + random.Random(link.key).gauss(0, 0.3)


pytestmark = pytest.mark.usefixtures("few_paths")


class Study(ToyStudy):
    """A toy study that looks at its seeds, and what it has said of its looks."""

    def __init__(self, root, monkeypatch, claims=CLAIMS, seeds=SEEDS):
        super().__init__(root, Noisy(), seeds)
        with (root / "grid.yaml").open("a") as file:
            file.write(claims)
        monkeypatch.setattr(opening, "provenance", dict)
        self.monkeypatch, self.said = monkeypatch, []

    def planner(self, option=None, **budget):
        budget = Budget(**budget)
        return UntilDecided(self.study(option), self.store, self.folder, budget, self.said.append)

    def go(self, stop_after=math.inf, retry_failed=False, option=None, **budget):
        """`ablate run --offline`; None if it was killed. option: `--seeds`"""
        self.said.clear()
        self.ran.clear()
        planner = self.planner(option, **budget)
        planned = PlannedStudy(
            planner.study, "toy", planner.due(), self.places, Path("published.yaml")
        )
        if retry_failed:
            forget_failures(planned)
            planner = self.planner(**budget)
            planned = replace(planned, plan=planner.due())
        self.work_here(self.monkeypatch)
        try:
            return train(planned, RunOptions(), StopAfter(stop_after), 2, planner=planner)
        except Killed:
            return None

    def seeds(self):
        """Arm -> the seeds of its trials, by study.json."""
        found = {}
        for spec in self.folder.manifest().trials:
            found.setdefault(spec.arm, []).append(spec.seed)
        return found

    def outcomes(self):
        """Trial -> its metrics, of all that are in the folder."""
        specs = self.folder.manifest().trials
        return {spec.trial: self.folder.outcome(spec.trial).metrics for spec in specs}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return Study(tmp_path, monkeypatch)


def test_only_the_arms_of_undecided_claims_get_more_seeds(toy):
    toy.go()
    assert {arm: len(seeds) for arm, seeds in toy.seeds().items()} == {
        "reference": 8,
        "warmup=settling": 8,
        "rate=fast": 3,
        "warmup=settling+rate=fast": 3,
    }
    assert all(seeds == list(range(len(seeds))) for seeds in toy.seeds().values())
    assert toy.folder.manifest().seeds == list(range(8))
    assert toy.said == [
        "after 3 seeds: 1 of 2 claims decided; 2 arms go on to 5 seeds",
        "after 5 seeds: 1 of 2 claims decided; 2 arms go on to 8 seeds",
        "after 8 seeds: 1 of 2 claims decided; no more seeds are planned",
    ]


def test_a_study_whose_claims_are_decided_at_the_first_look_ends_there(tmp_path, monkeypatch):
    toy = Study(tmp_path, monkeypatch, "\n".join(CLAIMS.splitlines()[:3]))
    toy.go()
    assert {len(seeds) for seeds in toy.seeds().values()} == {3}
    assert toy.said == ["after 3 seeds: 1 of 1 claims decided"]


def test_a_finished_study_that_is_run_again_does_nothing(toy):
    toy.go()
    before = toy.outcomes()
    done = toy.go()
    assert (done.n_trained, toy.ran, toy.outcomes()) == (0, [], before)


@pytest.fixture
def replays(monkeypatch):
    """How many trials each look had that was judged anew."""
    found, replayed = [], module._replayed
    monkeypatch.setattr(
        module,
        "_replayed",
        lambda folder, manifest: found.append(len(manifest.trials)) or replayed(folder, manifest),
    )
    return found


def test_what_looks_came_to_is_read_and_not_judged_again(toy, replays):
    toy.go()
    assert replays == [12, 16, 22]
    expected = toy.said[-1]
    for _ in range(2):
        toy.go()
        assert toy.said == [expected]
    assert len(toy.planner().due().trials) == 22 and len(replays) == 3


def damaged(toy):
    (toy.folder.path / ".looks.json").write_text('{"a": 3, ')


def of_another_shape(toy):
    path = toy.folder.path / ".looks.json"
    path.write_text(json.dumps({digest: [1, 2] for digest in json.loads(path.read_text())}))


def with_another_result(toy):
    outcome = toy.folder.outcome("warmup=settling--s7")
    toy.folder.write_outcome("warmup=settling--s7", replace(outcome, metrics={"top1": 90.0}))


@pytest.mark.parametrize(
    ("change", "n_judged"), [(damaged, 3), (of_another_shape, 3), (with_another_result, 1)]
)
def test_looks_are_judged_again_where_a_file_is_another(toy, replays, change, n_judged):
    toy.go()
    replays.clear()
    change(toy)
    toy.go()
    assert replays == [12, 16, 22][-n_judged:]
    toy.go()
    assert len(replays) == n_judged


def test_looks_are_judged_again_by_another_grid_and_other_code(toy, replays, monkeypatch):
    toy.go()
    replays.clear()
    text = (toy.root / "grid.yaml").read_text()
    (toy.root / "grid.yaml").write_text(text.replace("direction: up", "direction: down"))
    toy.planner().due()
    assert replays[0] == 12
    replays.clear()
    monkeypatch.setattr(module, "PACKAGE", Path(toy.root))
    (toy.root / "analysis").mkdir()
    (toy.root / "analysis" / "looks.py").write_text("another")
    toy.planner().due()
    assert replays[0] == 12


def test_a_folder_that_cannot_be_written_is_read_all_the_same(toy, monkeypatch):
    toy.go()
    damaged(toy)

    def refuses(*arguments):
        raise PermissionError

    monkeypatch.setattr(module, "write_atomically", refuses)
    assert len(toy.planner().due().trials) == 22


def test_to_see_what_is_due_plans_each_trial_once_and_needs_no_heavy_library(toy):
    toy.go()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from toy_subject import Toy\n"
        "from ablation.grid.load import load_study\n"
        "from ablation.planning import plan\n"
        "from ablation.search.seeds import UntilDecided\n"
        "from ablation.storage.project import ProjectPaths\n"
        "names, planned = [], plan.plan_trial\n"
        "plan.plan_trial = lambda *args: names.append(args[2]) or planned(*args)\n"
        "study = load_study(Path('grid.yaml'), None, [], None, lambda name: Toy())\n"
        "places = ProjectPaths()\n"
        "planner = UntilDecided(study, places.store, places.runs('toy'))\n"
        "due = planner.due()\n"
        "assert planner.is_over and sorted(names) == sorted(due.trials)\n"
        "print(len(names), {'pandas', 'scipy', 'statsmodels'} & set(sys.modules))"
    )
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(module.PACKAGE).parent)])
    said = subprocess.check_output(
        [sys.executable, "-c", code], text=True, cwd=toy.root, env=os.environ | {"PYTHONPATH": path}
    )
    assert said.strip() == "22 set()"


@pytest.mark.parametrize(
    "stop_after", [11, *(pytest.param(n, marks=pytest.mark.long) for n in (1, 5, 12, 13, 16))]
)
def test_a_study_that_is_killed_again_and_again_gets_the_same_trials(
    toy, tmp_path_factory, monkeypatch, stop_after
):
    toy.go()
    other = Study(tmp_path_factory.mktemp("killed"), monkeypatch)
    n_kills = 0
    while other.go(stop_after) is None:
        n_kills += 1
        assert n_kills < 30
    assert n_kills > 0
    assert other.outcomes() == toy.outcomes()
    assert other.folder.manifest() == toy.folder.manifest()


def test_a_budget_lets_no_further_look_begin_and_more_of_it_goes_on(toy):
    toy.go(trials=13)
    assert len(toy.outcomes()) == 4 * 3 + 2 * 2
    assert toy.said[-1] == (
        "after 5 seeds: 1 of 2 claims decided; the budget is spent, so 2 arms do not go on to 8 seeds"
    )
    assert toy.go(trials=16).n_trained == 0
    toy.go()
    assert len(toy.outcomes()) == 4 * 3 + 2 * 5


def test_hours_that_are_spent_let_no_further_look_begin(toy):
    toy.go(seconds=0.0)
    assert {len(seeds) for seeds in toy.seeds().values()} == {3}


def test_what_is_due_is_planned_without_the_budget(toy):
    toy.go(trials=1)
    due = {spec.trial for spec in toy.planner().due().specs} - set(toy.outcomes())
    assert due == {f"{arm}--s{seed}" for arm in ASKING for seed in (3, 4)}


def test_a_look_ends_with_trials_that_fail_and_their_claim_goes_on(toy):
    toy.subject.breaks = frozenset({1, 2})
    done = toy.go()
    assert len(done.failed) == 4
    assert len(toy.seeds()["rate=fast"]) == 5


def test_an_arm_without_any_result_asks_for_no_more_seeds(toy):
    toy.subject.breaks = frozenset(range(8))
    toy.go()
    assert toy.seeds()["rate=fast"] == [0, 1, 2]
    assert toy.said[-1].startswith("after 8 seeds: 0 of 2 claims decided")


def test_failed_trials_that_are_run_again_are_looked_at_anew(toy):
    toy.subject.breaks = frozenset({1, 2})
    toy.go()
    toy.subject.breaks = frozenset()
    toy.go(retry_failed=True)
    assert toy.seeds()["rate=fast"] == [0, 1, 2]


def test_the_most_that_a_study_may_take_is_all_seeds_of_what_claims_compare(toy):
    planner = toy.planner()
    plan = planner.due()
    counted = {}
    for spec in planner.longest(plan).specs:
        counted[spec.arm] = counted.get(spec.arm, 0) + 1
    assert counted == dict.fromkeys(FAST | ASKING, 8) | {"warmup=settling+rate=fast": 3}
    toy.go(trials=1)
    planner = toy.planner()
    longest = planner.longest(planner.due())
    assert sum(spec.arm == "rate=fast" for spec in longest.specs) == 3
    toy.go()
    planner = toy.planner()
    plan = planner.due()
    assert planner.longest(plan) is plan


def test_main_effects_are_decided_where_the_grid_asks_for_it(tmp_path, monkeypatch):
    toy = Study(tmp_path, monkeypatch, "", "{start: 3, max: 5, effects: true}")
    toy.go()
    assert {len(seeds) for seeds in toy.seeds().values()} == {5}
    assert toy.said == [
        "after 3 seeds: 1 of 2 main effects decided; 4 arms go on to 5 seeds",
        "after 5 seeds: 1 of 2 main effects decided; no more seeds are planned",
    ]


def test_fixed_seeds_become_the_start_of_ones_until_decided(tmp_path, monkeypatch):
    toy = Study(tmp_path, monkeypatch, seeds="[7, 2]")
    study = load_study(
        toy.root / "grid.yaml", None, [], None, lambda name: toy.subject, until_decided=True
    )
    assert study.grid.looks == (2, 3, 5, 8, 12, 20)
    assert study.grid.seeds == (7, 2, 0, 1, 3, 4, 5, 6, *range(8, 20))
    toy.root.joinpath("grid.yaml").write_text(
        toy.root.joinpath("grid.yaml").read_text().partition("claims:")[0]
    )
    with pytest.raises(InputError, match="there is nothing to decide: the grid has no claims"):
        load_study(
            toy.root / "grid.yaml", None, [], None, lambda name: toy.subject, until_decided=True
        )


def test_a_report_while_main_effects_wait_for_their_first_look(tmp_path, monkeypatch):
    toy = Study(tmp_path, monkeypatch, seeds="{start: 3, max: 5, effects: true}")
    toy.go()
    (other,) = toy.seeds().keys() - FAST - ASKING
    for path in toy.folder.path.glob(f"{other}--*/outcome.json"):
        path.unlink()
    table = looks_table(load(toy.folder, toy.folder.manifest()))
    assert f"| 3 | 1 of 2 | {MISSING} |" in " ".join(table.split())


def test_scores_judge_as_all_results_do(toy):
    toy.go()
    whole, scores = load(toy.folder), load_scores(toy.folder, toy.folder.manifest())
    pd.testing.assert_frame_equal(whole.trials, scores.trials)
    assert all(scores.digest_of(one) == whole.digest_of(one) for one in whole.trials["trial"])
    assert scores.history.empty
    assert whole.digest("reference", 2) == scores.digest("reference", 2)
    assert whole.digest("rate=fast", 7) is None and scores.digest("rate=fast", 7) is None


def changed(toy, seeds, budget=None, stop_after=math.inf):
    """Runs the study with these seeds; returns what its manifest says of changed ones."""
    path = toy.root / "grid.yaml"
    path.write_text(re.sub(r"(?m)^seeds: .*$", f"seeds: {seeds}", path.read_text()))
    if "start" in seeds:
        toy.go(stop_after, **(budget or {}))
    else:
        toy.work_here(toy.monkeypatch)
        with suppress(Killed):
            train(toy.planned(), RunOptions(), StopAfter(stop_after), 2)
    return changed_seeds(toy.folder.manifest())


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (SEEDS, "{start: 3, max: 12}", "(first looks at 3, 5 and 8 seeds, now looks at 3, 5, 8 and 12 seeds)"),
        pytest.param(SEEDS, "{start: 3, max: 5}", "(first looks at 3, 5 and 8 seeds, now looks at 3 and 5 seeds)", marks=pytest.mark.long),
        pytest.param(SEEDS, "{looks: [3, 4, 8]}", "(first looks at 3, 5 and 8 seeds, now looks at 3, 4 and 8 seeds)", marks=pytest.mark.long),
        (SEEDS, "5", "(first looks at 3, 5 and 8 seeds, now 5 seeds)"),
        ("3", "{start: 3, max: 8}", "(first 3 seeds, now looks at 3, 5 and 8 seeds)"),
        ("3", "5", "(first 3 seeds, now 5 seeds)"),
        pytest.param("3", "1", "(first 3 seeds, now 1 seed)", marks=pytest.mark.long),
        ("2", "[5, 6]", "(first seeds 0 and 1, now seeds 5 and 6)"),
    ],
)  # fmt: skip
def test_seeds_changed_after_results_were_seen_are_told_until_they_are_as_first(
    toy, first, then, said
):
    assert changed(toy, first) == ""
    assert said in changed(toy, then)
    toy.planned()
    assert said in changed(toy, then), "it is forgotten by the next run"
    if (first, then) == (SEEDS, "5"):
        assert "(first looks at 3, 5 and 8 seeds, now 6 seeds)" in changed(toy, "6")
    assert changed(toy, first) == ""


def test_a_plan_is_made_again_only_where_records_tell_how_long_a_trial_is(toy, monkeypatch):
    toy.go()
    plan, asked, plan_trial = toy.planner().due(), [], planning.plan_trial
    monkeypatch.setattr(
        planning, "plan_trial", lambda *given: asked.append(given[2]) or plan_trial(*given)
    )
    assert toy.planner().due(plan) == plan
    undecided = {name for name, one in plan.trials.items() if one.undecided}
    assert set(asked) == undecided and 0 < len(undecided) < len(plan.trials)


@pytest.mark.parametrize("option", ["3", "0,1,2"])
def test_seeds_of_the_command_line_that_are_a_look_of_the_plan_are_run_as_that_look(toy, option):
    toy.go(option=option)
    first = toy.folder.manifest()
    assert (first.looks, first.seeds) == ([3, 5, 8], [0, 1, 2])
    seeds = "with --seeds 3, 2 arms do not go on to 5 seeds"
    assert toy.said == [f"after 3 seeds: 1 of 2 claims decided; {seeds}"]
    toy.go()
    assert toy.folder.manifest().seeds == list(range(8))
    assert changed_seeds(toy.folder.manifest()) == ""
    ran_again = {trial for trial, _ in toy.ran} & {spec.trial for spec in first.trials}
    assert not ran_again


def with_option(toy, option):
    """Runs the study with these seeds of the command line; as `changed`."""
    toy.work_here(toy.monkeypatch)
    planned = toy.planned(seeds=option)
    train(planned, RunOptions(), Listener(), 2)
    return changed_seeds(toy.folder.manifest())


def test_fixed_seeds_may_be_run_a_part_at_a_time(toy):
    assert changed(toy, "5", stop_after=1) == ""
    assert with_option(toy, "2") == "" == with_option(toy, "1,2,4") == changed(toy, "5")
    assert "(first 5 seeds, now 7 seeds)" in with_option(toy, "7")
    assert "(first 5 seeds, now 6 seeds)" in changed(toy, "6")


def test_seeds_of_the_command_line_that_are_no_look_of_the_plan_are_another_plan(toy):
    assert with_option(toy, "2") == ""
    assert "(first 2 seeds, now looks at 3, 5 and 8 seeds)" in changed(toy, SEEDS)


def test_the_end_of_a_run_its_plan_and_its_report_tell_of_changed_seeds(toy, monkeypatch):
    monkeypatch.setattr("ablation.reporting.figures.draw", lambda *_: [])
    changed(toy, SEEDS)
    places, warning = toy.places, changed(toy, "{start: 3, max: 12}")
    said = Closing(places, "toy").write()
    assert said[-1] == f"Warning: {warning}." and "supported" in said[-2]
    report = places.report("toy").joinpath("report.md").read_text()
    assert f"- Warning: {warning}." in report.partition("## ")[0]
    assert "not changed after results were seen, as they were here" in report
    plan = toy.planner().due()
    planned = PlannedStudy(toy.study(), "toy", plan, places, toy.root / "published.yaml")
    assert planned.warnings == [warning]
    changed(toy, SEEDS)
    assert "Warning" not in " ".join(Closing(places, "toy").write())


def test_seeds_may_be_changed_before_two_seeds_have_results(toy):
    assert changed(toy, SEEDS, stop_after=1) == ""
    assert len({path.parent.name[-1] for path in toy.folder.path.glob("*/outcome.json")}) == 1
    assert changed(toy, "{start: 3, max: 5}") == ""


def test_a_budget_and_more_of_it_change_no_plan(toy):
    assert changed(toy, SEEDS, {"trials": 1}) == "" == changed(toy, SEEDS)


def test_seeds_may_be_changed_where_all_trials_have_changed(toy):
    changed(toy, SEEDS)
    grid = toy.root / "grid.yaml"
    grid.write_text(
        grid.read_text().replace("{rate: 1}", "{rate: 3}").replace("{rate: 2}", "{rate: 4}")
    )
    assert changed(toy, "{start: 3, max: 5}") == ""
