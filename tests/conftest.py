"""What several test files need."""

import os
from pathlib import Path

import postgresql
import pytest

if os.environ.get("ABLATE_DATA", "").strip():
    os.environ["ABLATE_DATA"] = str(
        Path(os.environ["ABLATE_DATA"]).resolve()
    )  # for tests that work elsewhere


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder that ABLATE_DATA names, with the CIFAR-LT archives, LDMLR's encoders and outputs of the original code.

    They are no part of the repository: tests that need them (`-m data`) are skipped where it is not set.
    """
    given = os.environ.get("ABLATE_DATA", "").strip()
    folder = Path(given)
    if not given or not (folder / "golden").is_dir():
        pytest.skip(
            "needs the reference data: a folder with data/, pretrained/ and golden/, named by ABLATE_DATA"
        )
    return folder


@pytest.fixture(scope="session")
def cluster():
    """A running PostgreSQL server."""
    if postgresql.programs() is None:
        pytest.skip(
            "needs the programs of a PostgreSQL server (Debian: postgresql), which are not here"
        )
    with postgresql.Cluster() as running:
        yield running
