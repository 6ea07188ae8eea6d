"""What several test files need."""

import gc
import os
import signal
from pathlib import Path

import postgresql
import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

if os.environ.get("ABLATE_DATA", "").strip():
    os.environ["ABLATE_DATA"] = str(
        Path(os.environ["ABLATE_DATA"]).resolve()
    )  # for tests that work elsewhere

# NumPy's threads wait for each other in a busy loop, beside a second process of tests most of all.
# pytest's plugins have imported NumPy by now, so that it is too late for OPENBLAS_NUM_THREADS.
threadpool_limits(1, user_api="blas")

# Python looks for cycles after every 700 objects, which takes a fifth of the time to import torch and MLflow.
gc.set_threshold(100_000, 50, 100)


# A shell lets the background jobs of a script ignore these, and so would every study that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Of tests that do not set their number of examples.
settings.register_profile("ci", max_examples=30, deadline=None)
settings.register_profile("full", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


LONG = {"chaos", "slow", "parallel", "ray", "wheel", "fuzz", "gpu", "data"}  # markers
LONGEST_SECONDS = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test ends within the `timeout` of setup.cfg; one of whole studies, within an hour."""
    for item in items:
        if LONG & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.timeout(LONGEST_SECONDS))


@pytest.fixture(scope="module", autouse=True)
def _few_objects_to_collect() -> None:
    """Exempt what is loaded by now from garbage collection, which takes 0.4 s in a process with torch and MLflow."""
    gc.freeze()


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
