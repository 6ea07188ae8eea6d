"""What several test files need."""

from pathlib import Path

import postgresql
import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the repository; not part of it, so tests that need it skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the reference data of {folder}, which are not there")
    return folder


@pytest.fixture(scope="session")
def cluster():
    """A running PostgreSQL server."""
    if postgresql.programs() is None:
        pytest.skip("needs the programs of a PostgreSQL server (Debian: postgresql), which are not here")
    with postgresql.Cluster() as running:
        yield running
