"""Serving MLflow's interface: what is refused before a server is started."""

import socket

import pytest

from ablation.errors import InputError
from ablation.tracking import mlflow_store
from ablation.tracking.mlflow_store import TrackingUnavailable


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    def start(*_arguments, **_options):
        pytest.fail("a server was started")

    monkeypatch.setattr(mlflow_store.subprocess, "Popen", start)


def test_port_that_is_taken_is_an_input_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=f"--port: cannot serve at 127.0.0.1:{port}: Address already in use"
        ):
            mlflow_store.serve("sqlite:///unused.db", port=port)


def test_store_that_cannot_be_read_is_said_without_credentials():
    with pytest.raises(TrackingUnavailable) as raised:
        mlflow_store.serve("sqlserver://ada:secret@127.0.0.1:9/mlflow", port=0)
    assert "secret" not in str(raised.value)


def test_server_elsewhere_is_pointed_to(capsys):
    mlflow_store.serve("https://ada:secret@mlflow.example.org")
    assert capsys.readouterr().out == "MLflow is already served at https://***@mlflow.example.org\n"
