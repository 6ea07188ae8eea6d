"""What several unit test files need."""

import functools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_power_cuts() -> Iterator[None]:
    """Nothing here has to outlast a power cut, and waiting for the disk takes longer than the rest of a toy study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def minima_of_few_paths() -> Callable:
    from ablation.analysis import sequential

    return functools.cache(sequential._null_minima.__wrapped__)


@pytest.fixture
def few_paths(minima_of_few_paths, monkeypatch) -> None:
    """The limits of looks are found by a tenth of the paths, once for all tests."""
    from ablation.analysis import sequential

    monkeypatch.setattr(sequential, "N_PATHS", 100_000)
    monkeypatch.setattr(sequential, "_null_minima", minima_of_few_paths)


@pytest.fixture(scope="session")
def latest_schemas() -> Iterator[None]:
    """Optuna and MLflow read all their migrations, at each database that they open, to learn the latest one: once will do."""
    from mlflow.store.db import utils
    from optuna.storages._rdb.storage import _VersionManager

    head, known = _VersionManager.get_head_version, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            utils, "_get_latest_schema_revision", functools.cache(utils._get_latest_schema_revision)
        )
        patch.setattr(
            _VersionManager,
            "get_head_version",
            lambda manager: known.get("head") or known.setdefault("head", head(manager)),
        )
        yield


@pytest.fixture(scope="session")
def migrated(latest_schemas, tmp_path_factory) -> Iterator[Path]:
    """An empty MLflow database. Making its tables takes seconds: others that are begun are copies."""
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            utils, "_initialize_tables", lambda engine: shutil.copyfile(path, engine.url.database)
        )
        yield path


@pytest.fixture(scope="session")
def empty_ledger(latest_schemas, tmp_path_factory) -> Path:
    """An Optuna database without studies."""
    from ablation.tracking.ledger import opened

    path = tmp_path_factory.mktemp("optuna") / "optuna.db"
    with opened(f"sqlite:///{path}"):
        pass
    return path


@pytest.fixture
def uri(migrated, tmp_path, monkeypatch) -> str:
    """An empty MLflow database in the working directory, which the tracker writes to by default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def made_toy(
    root: Path, migrated: Path, empty_ledger: Path, stop_after: float, is_running: bool
) -> Path:
    """`root` as a toy project whose study was run, killed after so many epochs, and delivered."""
    from toy_project import ToyProject

    shutil.copy(migrated, root / "mlflow.db")
    (root / ".ablate").mkdir()
    shutil.copy(empty_ledger, root / ".ablate" / "optuna.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        toy = ToyProject(root, patch)
        toy.go(stop_after=stop_after)
        toy.deliver(is_running)
    return root


@pytest.fixture(scope="session")
def killed_toys(migrated, empty_ledger, tmp_path_factory) -> Path:
    return made_toy(tmp_path_factory.mktemp("killed"), migrated, empty_ledger, 3, True)


@pytest.fixture(scope="session")
def finished_toys(migrated, empty_ledger, tmp_path_factory) -> Path:
    return made_toy(tmp_path_factory.mktemp("finished"), migrated, empty_ledger, math.inf, False)


@pytest.fixture
def copied_toy(tmp_path, monkeypatch):
    """Makes a project of the test's own of one that tests share."""
    from toy_project import ToyProject

    def copy(root: Path) -> ToyProject:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copytree(root, tmp_path, dirs_exist_ok=True)
        return ToyProject(tmp_path, monkeypatch)

    return copy


@pytest.fixture
def killed(killed_toys, copied_toy):
    """A project whose toy study was interrupted with some trials begun, and last delivered while it ran."""
    return copied_toy(killed_toys)


@pytest.fixture
def toy(finished_toys, copied_toy):
    """One whose study is complete, reported and delivered."""
    return copied_toy(finished_toys)
