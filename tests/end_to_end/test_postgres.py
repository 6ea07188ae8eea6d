"""Optuna's ledger in a team's PostgreSQL (`--storage`), on a server of the test's own. `pytest -m postgres`."""

import sys
from pathlib import Path

import optuna
import pytest

from ablation.tracking.ledger import SUFFIXES, storage_url

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import Project, workers_of

pytestmark = pytest.mark.postgres
SECRET = "s3cret"  # part of the password, however it is written


class Team(Project):
    """A project whose ledger is in a team's database."""

    storage = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | ({"ABLATE_STORAGE": self.storage} if self.storage else {})

    def ledger(self, url: str | None = None) -> dict[str, tuple]:
        """Trial -> state, value, parameters, metrics and values by epoch, of arms and baselines, in the database or in `url`."""
        url = storage_url(url or self.storage)
        names = [self.study + suffix for suffix in SUFFIXES.values()]
        found = [
            trial
            for name in set(names) & set(optuna.get_all_study_names(url))
            for trial in optuna.load_study(study_name=name, storage=url).trials
        ]
        known = {
            trial.user_attrs["trial"]: (
                trial.state.name,
                trial.value,
                trial.params,
                trial.user_attrs.get("metrics"),
                trial.intermediate_values,
            )
            for trial in found
        }
        assert len(known) == len(found)  # each is there once
        return known


@pytest.fixture
def team(tmp_path, cluster) -> Team:
    project = Team(tmp_path / "team", pause=0.0)
    project.storage = cluster.database()
    return project


@pytest.fixture
def alone(tmp_path) -> Team:
    """The same study with its ledger in the project's own file."""
    project = Team(tmp_path / "alone", pause=0.0)
    project.run()
    return project


def test_a_ledger_in_a_teams_database_holds_what_the_projects_own_file_would(team, alone):
    said = team.run()
    mine = alone.ledger(f"sqlite:///{alone.root}/.ablate/optuna.db")
    assert team.tables() == alone.tables() and team.ledger() == mine and len(mine) == 8
    assert not (team.root / ".ablate" / "optuna.db").exists()
    team.command("sync", "chains")  # twice is harmless
    assert team.ledger() == mine
    doctor = team.command("doctor", "chains")
    assert (
        f"{storage_url(team.storage).partition('//')[0]}//***@" in doctor
        and "has the trials that have ended as the files have them" in doctor
    )
    files = [path for path in team.root.rglob("*") if path.is_file()]
    assert (
        SECRET not in said + doctor
        and [path for path in files if SECRET.encode() in path.read_bytes()] == []
    )


def test_a_study_that_grows_grows_in_the_database_and_no_worker_has_the_password(team):
    team.run("--seeds", "1")
    assert len(team.ledger()) == 4
    (team.root / "chains.yaml").write_text(
        (team.root / "chains.yaml").read_text().replace("pause: 0.0", "pause: 0.1")
    )
    process = team.start("--as", "slow")
    team.wait_for(team.n_records() + 4, process)
    seen = [
        Path(f"/proc/{pid}/{file}").read_text()
        for pid in workers_of(process)
        for file in ("cmdline", "environ")
    ]
    assert seen and SECRET not in "".join(seen)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0, said
    assert set(optuna.get_all_study_names(storage_url(team.storage))) == {"chains", "slow"}


def test_a_server_that_is_away_costs_no_trial_and_sync_delivers_later(team, alone, cluster):
    cluster.stop()
    try:
        said = team.run()
    finally:
        cluster.start()
    assert (
        "is not available" in said
        and "`ablate sync chains` delivers them later" in said
        and SECRET not in said
    )
    assert team.tables() == alone.tables()
    team.command("sync", "chains", "--storage", team.storage)
    assert team.ledger() == alone.ledger(f"sqlite:///{alone.root}/.ablate/optuna.db")


def test_another_projects_study_of_the_same_name_is_left_alone_and_said(team, tmp_path):
    team.run()
    before = team.ledger()
    other = Team(tmp_path / "other", pause=0.0, seeds=1)
    other.storage = team.storage
    said = other.run()
    assert (
        f":{team.root / 'runs' / 'chains'}; keep this one under another name with --as NAME" in said
    )
    assert "delivers them later" not in said and team.ledger() == before
    other.run("--as", "others")
    assert len(optuna.get_all_study_names(storage_url(team.storage))) == 2
