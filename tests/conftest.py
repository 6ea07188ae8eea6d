"""What several test files need."""

import os
import signal
from pathlib import Path

import postgresql
import pytest

if os.environ.get("ABLATE_DATA", "").strip():
    os.environ["ABLATE_DATA"] = str(
        Path(os.environ["ABLATE_DATA"]).resolve()
    )  # for tests that work elsewhere


# A shell lets the background jobs of a script ignore these, and so would every study that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


LONG = {"chaos", "slow", "parallel", "ray", "wheel", "fuzz", "gpu", "data"}  # markers
LONGEST_SECONDS = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test ends within the `timeout` of setup.cfg; one of whole studies, within an hour."""
    for item in items:
        if LONG & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))


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
