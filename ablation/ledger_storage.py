"""Optuna's database as the ledger uses it: opened for several processes."""

from __future__ import annotations

from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError

from ablation.database import let_several_write, making, require_usable
from ablation.shared_database import CONNECTING

SQLITE_TIMEOUT_SECONDS = 60


class Storage(optuna.storages.RDBStorage):
    """One that can be closed."""

    def close(self) -> None:
        self.remove_session()
        self.engine.dispose()


def open_storage(url: str) -> Storage:
    """The storage at `url`; on SQLite, one that several processes can write to."""
    require_usable(url)
    address = sqlalchemy.make_url(url)
    if address.get_backend_name() != "sqlite":
        return _storage(url)
    with making(url):
        storage = _storage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}})
    let_several_write(storage.engine)
    storage.engine.dispose()  # the constructor has opened connections without these
    return storage


def _storage(url: str, **options: Any) -> Storage:
    if url.startswith("postgresql"):
        options["engine_kwargs"] = {"pool_pre_ping": True, "connect_args": CONNECTING}
    try:
        return Storage(url, **options)
    except RuntimeError as error:  # another version of Optuna has made the tables
        raise StorageInternalError(str(error)) from None
