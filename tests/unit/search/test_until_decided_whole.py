"""A whole study of a function of its own, from `ablate run` to report, ledger and MLflow: one claim is decided at the
first look, another never."""

import re

import optuna
import pytest
from click.testing import CliRunner

import ablation
from ablation.analysis.results import read_claims, read_effects, read_trials
from ablation.cli.main import main
from ablation.reporting import figures
from ablation.storage.project import ProjectPaths
from ablation.study.opening import changes_since

FUNCTION = """
import random

def train(config, seed, report):
    luck = random.Random(seed).gauss(0, 2) + random.Random(f"{seed} {sorted(config.items())}").gauss(0, 0.5)
    return {"accuracy": 50 + config["gain"] + luck}
"""
EXPERIMENT = "title: Own\nsubject: planted:train\nsettings: {gain: 0.0, nothing: 0.0}\n"
GRID = """
study: own
experiment: planted
metric: {name: accuracy}
seeds: 3
factors:
  gain: {off: {gain: 0.0}, on: {gain: 20.0}}
  nothing: {off: {nothing: 0.0}, on: {nothing: 1.0}}
claims:
  - {id: gains, says: Gain helps., contrast: {arm: gain, minus: reference}, expects: [{metric: accuracy, direction: up}]}
  - {id: idle, says: Nothing helps., contrast: {arm: nothing, minus: reference}, expects: [{metric: accuracy, direction: up}]}
"""

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow


@pytest.fixture
def project(uri, few_paths, tmp_path, monkeypatch):
    """The project in the working directory; figures are not drawn, and limits are found by fewer paths."""
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    (tmp_path / "planted.py").write_text(FUNCTION)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "planted.yaml").write_text(EXPERIMENT)
    (tmp_path / "experiments" / "own.yaml").write_text(GRID)
    return ProjectPaths()


@pytest.mark.long
def test_seeds_go_to_what_is_not_decided_until_the_budget_ends_it(project, capsys):
    done = ablation.run_study("own", until_decided=True, jobs=1, max_trials=17)
    said = capsys.readouterr().out
    assert (done.n_trained, done.failed) == (4 * 3 + 2 * 2 + 2 * 3, {})
    assert "after 3 seeds: 1 of 2 claims decided; 2 arms go on to 5 seeds" in said
    assert "the budget is spent, so 2 arms do not go on to 12 seeds" in said
    assert re.search(
        r"1 not decided\. To decide the rest: about \d+ seeds for `idle` \(8 so far\)", said
    )

    report = project.report("own")
    claims = read_claims(report).set_index("claim")
    assert claims["claim_verdict"].to_dict() == {"gains": "supported", "idle": "not decided"}
    assert claims["n_seeds"].to_dict() == {"gains": 3, "idle": 8}
    assert claims.loc["gains", "claim_decided_at"] == 3 and claims.loc["idle", "seeds_needed"] > 8
    trials, *_ = read_trials(report, read_effects(report))
    counts = {"reference": 8, "nothing": 8, "gain": 3, "gain+nothing": 3}
    assert trials["arm"].value_counts().to_dict() == counts
    text = (report / "report.md").read_text()
    accuracy = text.partition("## Results")[2].partition("\n## ")[0]
    for arm, n in counts.items():
        row = next(line for line in accuracy.splitlines() if line.startswith(f"| `{arm}` "))
        assert f" {n}/{n} " in row

    study = optuna.load_study(study_name="own", storage=project.ledger_url)
    assert len(study.trials) == 22

    # a study that is opened again is the same one, and its next look is what `ablate run` would do
    found = changes_since(project, "own")
    assert found.description == ""
    assert len(found.plan.trials) == 22 + 2 * 4
    before = (report / "report.md").read_text()
    for command in ("status own", "report own", "plan --grid own --until-decided"):
        result = CliRunner().invoke(main, command.split())
        assert result.exit_code == 0, result.output
    assert "at most, with 20 seeds: 46 trials" in result.output
    assert (report / "report.md").read_text() == before

    # with as much to spend as before, there is nothing to do
    again = ablation.run_study("own", until_decided=True, jobs=1, max_trials=17, offline=True)
    assert again.n_trained == 0
