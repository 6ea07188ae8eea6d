"""An MLflow server that dies while a study reports to it. `pytest -m chaos`."""

import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import WAIT_SECONDS, Project
from mlflow_server import MlflowServer

pytestmark = pytest.mark.chaos


class Tracked(Project):
    """A project whose runs go to a server."""

    uri = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"MLFLOW_TRACKING_URI": self.uri}

    def has_runs(self) -> bool:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name(self.study)
        return experiment is not None and bool(client.search_runs([experiment.experiment_id]))


def test_an_mlflow_server_that_is_killed_costs_no_trial_and_is_brought_up_to_date_later(tmp_path):
    (tmp_path / "server").mkdir()
    undisturbed, project = (
        Tracked(tmp_path / "undisturbed"),
        Tracked(tmp_path / "project", pause=1.0),
    )
    undisturbed.uri = f"sqlite:///{tmp_path}/undisturbed.db"
    undisturbed.run()
    with MlflowServer(tmp_path / "server") as server:
        project.uri = server.uri
        process = project.start()
        end = time.monotonic() + WAIT_SECONDS
        while not project.has_runs():
            assert process.poll() is None and time.monotonic() < end, "nothing is delivered"
            time.sleep(0.2)
        server.kill()
        n_records = project.n_records()
        said = process.communicate(timeout=2 * WAIT_SECONDS)[0]
        assert process.returncode == 0, said
        assert project.n_records() > n_records, "killed too late to tell"
        assert "`ablate sync chains` delivers them later" in said
        assert project.tables() == undisturbed.tables()
        server.start()
        for _ in range(2):
            project.command("sync", "chains")
            assert project.points() == undisturbed.points()
