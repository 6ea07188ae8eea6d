"""Serving MLflow's interface: what is refused before a server is started, and what is printed."""

import os
import signal
import socket
from typing import ClassVar

import pytest
from mlflow import MlflowClient

from ablation.errors import InputError
from ablation.tracking import mlflow_store, mlflow_ui
from ablation.tracking.mlflow_places import TrackingUnavailable

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # inside MLflow


class Server:
    """Takes the place of the server's process, and answers at once."""

    started: ClassVar[list[list[str]]] = []
    pid, returncode = -1, None

    def __init__(self, command, **_options):
        self.started.append(command)

    def poll(self):
        return None

    def wait(self, *_):
        os.kill(os.getpid(), self.signal)
        return 0

    signal = signal.SIGINT


@pytest.fixture(autouse=True)
def started(monkeypatch) -> list[list[str]]:
    """The commands of the servers that were started."""
    monkeypatch.setattr(Server, "started", [])
    monkeypatch.setattr(mlflow_ui.subprocess, "Popen", Server)
    monkeypatch.setattr(mlflow_ui, "_answers", lambda address: True)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    return Server.started


@pytest.fixture
def ended(monkeypatch) -> list[tuple[int, int]]:
    """The signals that were sent to the server's group."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(mlflow_ui.os, "killpg", lambda *told: sent.append(told))
    monkeypatch.setattr(mlflow_ui, "_end", lambda process: sent.append((process.pid, 0)))
    return sent


@pytest.fixture
def taken() -> int:
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_port_that_was_asked_for_and_is_taken_is_refused_with_one_that_is_free(taken, started):
    with pytest.raises(
        InputError,
        match=f"--port: cannot serve at 127.0.0.1:{taken}: Address already in use; "
        r"choose another port, e.g. \d+",
    ) as raised:
        mlflow_ui.serve(taken)
    free = int(str(raised.value).rpartition(" ")[2])
    with socket.create_server(("127.0.0.1", free)):
        assert not started


def test_where_no_port_is_asked_for_the_next_free_one_is_taken(
    uri, taken, started, ended, monkeypatch, capsys
):
    monkeypatch.setattr(mlflow_ui, "PORT", taken)
    mlflow_ui.serve()
    [command] = started
    port = int(command[command.index("--port") + 1])
    assert taken < port < taken + mlflow_ui.MAX_TRIED
    said = capsys.readouterr().out
    assert said.startswith(
        f"port {taken} is in use, {port} is free\nMLflow is served at http://127.0.0.1:{port} "
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_a_request_and_a_closed_terminal_end_the_server(uri, ended, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr(Server, "signal", number)
    mlflow_ui.serve()
    assert ended == [(Server.pid, 0)] and signal.getsignal(number) is before


def test_a_server_that_is_to_outlive_its_terminal_does(uri, ended, monkeypatch):
    """As under nohup, where SIGHUP is ignored."""
    monkeypatch.setattr(Server, "signal", signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(TrackingUnavailable, match="ended with status 0"):
            mlflow_ui.serve()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_empty_folder_stays_empty_and_it_is_said_what_to_do(tmp_path, monkeypatch, started):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="there is no MLflow database here; `ablate run --grid"):
        mlflow_ui.serve()
    assert not list(tmp_path.iterdir()) and not started


def test_a_study_that_was_not_delivered_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs" / "fixes").mkdir(parents=True)
    (tmp_path / "runs" / "fixes" / "study.json").write_text("{}")
    with pytest.raises(InputError, match="`ablate sync fixes` makes it from runs/"):
        mlflow_ui.serve()


def test_links_lead_to_the_views_that_a_study_has(uri, ended, capsys):
    client = MlflowClient(uri)
    ids = {name: client.create_experiment(name) for name in ("plain", "fixes")}
    for key in ("ablate-arms", "ablate-curves"):
        client.set_experiment_tag(ids["fixes"], f"mlflow.sharedViewState.{key}", "{}")
    mlflow_ui.serve()
    lines = capsys.readouterr().out.splitlines()
    runs = "runs?workflowType=machine_learning"
    fixes = f"{lines[0].split()[4]}/#/experiments/{ids['fixes']}/{runs}"
    assert lines[1:] == [
        f"  fixes: {fixes}&viewStateShareKey=ablate-arms",
        f"    learning curves: {fixes}&compareRunsMode=CHART&viewStateShareKey=ablate-curves",
        "    (a reload of the curves loses their groups: open the link again)",
        f"  plain: {fixes.replace(ids['fixes'] + '/runs', ids['plain'] + '/runs')}",
    ]


@pytest.mark.parametrize(("port", "option"), [("22", ""), ("2222", " -p 2222")])
def test_on_a_server_the_tunnel_to_it_is_printed(uri, ended, monkeypatch, capsys, port, option):
    monkeypatch.setenv("SSH_CONNECTION", f"10.0.0.9 50000 10.0.0.1 {port}")
    monkeypatch.setattr(mlflow_ui.getpass, "getuser", lambda: "ada")
    mlflow_ui.serve()
    said = capsys.readouterr().out
    served = said.split("127.0.0.1:")[1].split()[0]
    assert said.endswith(f"  ssh -N -L {served}:127.0.0.1:{served}{option} ada@10.0.0.1\n")


def test_store_that_cannot_be_read_is_said_without_credentials(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlserver://ada:secret@127.0.0.1:9/mlflow")
    with pytest.raises(TrackingUnavailable) as raised:
        mlflow_ui.serve(port=0)
    assert "secret" not in str(raised.value)


SERVED = "MLflow is already served at https://***@mlflow.example.org\n"


def test_server_elsewhere_is_pointed_to_without_credentials(monkeypatch, capsys):
    class Known:
        experiment_id, name, tags = "7", "fixes", {"mlflow.sharedViewState.ablate-arms": ""}

    monkeypatch.setattr(mlflow_store, "experiments", lambda uri, n: [Known])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example.org")
    mlflow_ui.serve()
    assert capsys.readouterr().out == (
        f"{SERVED}  fixes: https://mlflow.example.org/#/experiments/7/"
        "runs?workflowType=machine_learning&viewStateShareKey=ablate-arms\n"
    )


def test_server_elsewhere_that_does_not_answer_is_pointed_to(monkeypatch, capsys):
    def fail(uri, n):
        raise TrackingUnavailable(uri, "it is down")

    monkeypatch.setattr(mlflow_store, "experiments", fail)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example.org")
    mlflow_ui.serve()
    assert capsys.readouterr().out == SERVED
