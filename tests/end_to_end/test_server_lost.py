"""An MLflow server that dies while a study reports to it. `pytest -m chaos`."""

import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))
from chains_project import WAIT_SECONDS, Project  # noqa: E402
from mlflow_server import MlflowServer  # noqa: E402

pytestmark = pytest.mark.chaos


class Tracked(Project):
    """A project whose runs go to a server."""

    uri = ""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"MLFLOW_TRACKING_URI": self.uri}

    def runs(self) -> dict[str, tuple[str, dict[str, float]]]:
        """State and last metrics by the run's name. Of each metric the number of its values, too."""
        client = MlflowClient(self.uri)
        if (experiment := client.get_experiment_by_name(self.study)) is None:
            return {}
        runs = client.search_runs([experiment.experiment_id])
        assert len({run.info.run_name for run in runs}) == len(runs)
        return {run.info.run_name: (run.info.status, self.metrics(client, run)) for run in runs}

    @staticmethod
    def metrics(client: MlflowClient, run) -> dict[str, float]:
        lengths = {f"{name}, values": len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics if "time" not in name}
        return lengths | {name: value for name, value in run.data.metrics.items() if name.startswith(("test/", "train/"))}


def test_an_mlflow_server_that_is_killed_costs_no_trial_and_is_brought_up_to_date_later(tmp_path):
    (tmp_path / "server").mkdir()
    undisturbed, project = Tracked(tmp_path / "undisturbed"), Tracked(tmp_path / "project", pause=1.0)
    undisturbed.uri = f"sqlite:///{tmp_path}/undisturbed.db"
    undisturbed.run()
    with MlflowServer(tmp_path / "server") as server:
        project.uri = server.uri
        process = project.start()
        end = time.monotonic() + WAIT_SECONDS
        while not project.runs():
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
            assert project.runs() == undisturbed.runs()
