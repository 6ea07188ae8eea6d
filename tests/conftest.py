"""What several test files need."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data beside the repository; not part of it, so tests that need it skip elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip(f"needs the reference data of {folder}, which are not there")
    return folder
