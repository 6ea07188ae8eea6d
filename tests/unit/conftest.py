"""What several unit test files need."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """An empty MLflow database: making its tables takes a second."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(migrated, tmp_path, monkeypatch) -> str:
    """An empty MLflow database in the working directory, which the tracker writes to by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def finished_toy(migrated, tmp_path_factory) -> Path:
    """The folder of a toy project whose study is complete, reported and delivered. Copy it before it changes."""
    from toy_project import ToyProject

    root = tmp_path_factory.mktemp("finished")
    shutil.copy(migrated, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        toy = ToyProject(root, patch)
        toy.go()
        toy.deliver()
    return root


@pytest.fixture
def toy(finished_toy, tmp_path, monkeypatch):
    """A project of its own whose toy study is complete, reported and delivered."""
    from toy_project import ToyProject

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(finished_toy, tmp_path, dirs_exist_ok=True)
    return ToyProject(tmp_path, monkeypatch)


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request, tmp_path) -> str:
    """The URL of an empty database that hosts can share."""
    return f"sqlite:///{tmp_path / 'shared.db'}" if request.param == "sqlite" else request.getfixturevalue("cluster").database()


@pytest.fixture
def engine(storage):
    """The same with our tables in it, and a study."""
    from ablation.shared_database import enroll, open_database, storage_url

    engine = open_database(storage_url(storage))
    enroll(engine, "study")
    yield engine
    engine.dispose()
